//! Values: written, read, replaced, expired, deleted.

use futures::future::join_all;
use kronos_testkit::wait_until;

use crate::harness::Service;

#[tokio::test]
async fn a_value_comes_back_as_it_was_written() {
    let service = Service::start().await;
    let bytes: Vec<u8> = (0..=255).collect();
    let written = service
        .put("/cache/robots/R-42?ttl=60", bytes.clone())
        .header("content-type", "image/png")
        .header("cache-tags", "robot:R-42, firmware")
        .await
        .expect(201);
    let read = service.client.get("/cache/robots/R-42").await.expect(200);
    assert_eq!(read.body, bytes);
    assert_eq!(read.header("content-type"), Some("image/png"));
    assert_eq!(read.header("cache-tags"), Some("robot:R-42,firmware"));
    assert_eq!(read.header("cache-control"), Some("private, max-age=60"));
    assert_eq!(read.header("age"), Some("0"));
    assert_eq!(read.header("etag"), written.header("etag"));
    assert!(read.header("etag").unwrap().starts_with('"'));
    assert_eq!(read.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(read.header("content-security-policy"), Some("default-src 'none'; sandbox"));
}

#[tokio::test]
async fn a_value_without_a_media_type_or_bytes_or_ttl_is_a_value() {
    let service = Service::start().await;
    service.put("/cache/a/empty", []).await.expect(201);
    let read = service.client.get("/cache/a/empty").await.expect(200);
    assert!(read.body.is_empty());
    assert_eq!(read.header("content-type"), Some("application/octet-stream"));
    assert_eq!(read.header("cache-control"), Some("private, max-age=3600"), "the configured default");
    assert_eq!(read.header("cache-tags"), None);
}

#[tokio::test]
async fn a_second_write_replaces_everything() {
    let service = Service::start().await;
    service.put("/cache/a/k?ttl=60", "one").header("cache-tags", "old").await.expect(201);
    let first = service.client.get("/cache/a/k").await.expect(200);
    service.put("/cache/a/k?ttl=90", "two").header("content-type", "text/plain").await.expect(204);
    let read = service.client.get("/cache/a/k").await.expect(200);
    assert_eq!(read.text(), "two");
    assert_eq!(read.header("cache-tags"), None);
    assert_eq!(read.header("cache-control"), Some("private, max-age=90"));
    assert_ne!(read.header("etag"), first.header("etag"));
    service.client.delete("/cache/a/tags/old").await.expect(204);
    service.client.get("/cache/a/k").await.expect(200);
}

#[tokio::test]
async fn a_value_expires_and_its_age_grows_until_then() {
    let service = Service::start().await;
    service.put("/cache/a/long?ttl=60", "x").await.expect(201);
    service.put("/cache/a/short?ttl=1", "x").await.expect(201);
    service.client.get("/cache/a/short").await.expect(200);
    wait_until("the short one expires", async || service.client.get("/cache/a/short").await.status == 404).await;
    let read = service.client.get("/cache/a/long").await.expect(200);
    let age: u64 = read.header("age").unwrap().parse().unwrap();
    assert!((1..60).contains(&age), "{age}");
    service.put("/cache/a/short?ttl=1", "x").await.expect(201);
}

#[tokio::test]
async fn a_deleted_value_is_gone_and_deleting_again_is_no_error() {
    let service = Service::start().await;
    service.put("/cache/a/k", "x").await.expect(201);
    service.client.delete("/cache/a/k").await.expect(204);
    service.client.get("/cache/a/k").await.expect_problem(404, "not_found");
    service.client.delete("/cache/a/k").await.expect(204);
    service.put("/cache/a/k", "x").await.expect(201);
}

#[tokio::test]
async fn who_has_the_value_gets_no_bytes_again() {
    let service = Service::start().await;
    let etag = service.put("/cache/a/k", "x").await.expect(201).header("etag").unwrap().to_owned();
    let answer = service.client.get("/cache/a/k").header("if-none-match", &etag).await.expect(304);
    assert!(answer.body.is_empty());
    assert_eq!(answer.header("etag"), Some(etag.as_str()));
    assert_eq!(answer.header("cache-control"), Some("private, max-age=3600"));
    let weak = format!("\"other\", W/{etag}");
    service.client.get("/cache/a/k").header("if-none-match", weak).await.expect(304);
    service.client.get("/cache/a/k").header("if-none-match", "\"other\"").await.expect(200);
    service.put("/cache/a/k", "y").await.expect(204);
    assert_eq!(service.client.get("/cache/a/k").header("if-none-match", &etag).await.expect(200).text(), "y");
}

#[tokio::test]
async fn head_says_all_but_the_bytes() {
    let service = Service::start().await;
    service.put("/cache/a/k?ttl=60", "four").header("content-type", "text/plain").await.expect(201);
    let head = service.client.request(axum::http::Method::HEAD, "/cache/a/k").await.expect(200);
    assert!(head.body.is_empty());
    assert_eq!(head.header("content-length"), Some("4"));
    assert_eq!(head.header("content-type"), Some("text/plain"));
    assert_eq!(head.header("cache-control"), Some("private, max-age=60"));
    assert!(head.header("etag").is_some());
    assert_eq!(service.client.request(axum::http::Method::HEAD, "/cache/a/none").await.status, 404);
}

#[tokio::test]
async fn a_lost_race_changes_nothing() {
    let service = Service::start().await;
    let old = service.put("/cache/a/k", "one").await.expect(201).header("etag").unwrap().to_owned();
    let new = service.put("/cache/a/k", "two").header("if-match", &old).await.expect(204);
    let new = new.header("etag").unwrap().to_owned();
    service.put("/cache/a/k", "three").header("if-match", &old).await.expect_problem(412, "precondition_failed");
    service.client.delete("/cache/a/k").header("if-match", &old).await.expect_problem(412, "precondition_failed");
    service.put("/cache/a/k", "three").header("if-none-match", "*").await.expect_problem(412, "precondition_failed");
    assert_eq!(service.client.get("/cache/a/k").await.expect(200).text(), "two");
    service.client.delete("/cache/a/k").header("if-match", &new).await.expect(204);
    service.put("/cache/a/k", "four").header("if-match", "*").await.expect_problem(412, "precondition_failed");
    service.put("/cache/a/k", "four").header("if-none-match", "*").await.expect(201);
}

#[tokio::test]
async fn of_many_who_would_be_first_one_is() {
    let service = Service::start().await;
    let all = join_all((0..20).map(|n| {
        let request = service.put("/cache/a/lock", n.to_string()).header("if-none-match", "*");
        async move { (n, request.await.status) }
    }))
    .await;
    let won: Vec<_> = all.iter().filter(|(_, status)| *status == 201).collect();
    assert_eq!(won.len(), 1, "{all:?}");
    assert!(all.iter().all(|(_, status)| matches!(status, 201 | 412)), "{all:?}");
    assert_eq!(service.client.get("/cache/a/lock").await.expect(200).text(), won[0].0.to_string());
}

#[tokio::test]
async fn any_text_is_a_key_and_namespaces_are_apart() {
    let service = Service::start().await;
    let longest = "k".repeat(512);
    let keys =
        ["a%2Fb", "%E2%82%AC", "a%20b", "%7Bother%7D", "%00%0A", "..%2F..%2Fetc", "%25", "tags", longest.as_str()];
    for key in keys {
        service.put(&format!("/cache/one/{key}"), key).await.expect(201);
    }
    for key in keys {
        assert_eq!(service.client.get(&format!("/cache/one/{key}")).await.expect(200).text(), key);
        service.client.get(&format!("/cache/two/{key}")).await.expect_problem(404, "not_found");
    }
}

#[tokio::test]
async fn a_value_may_have_the_greatest_size_and_no_more() {
    let service = Service::start().await;
    let greatest = vec![7u8; 1024 * 1024];
    service.put("/cache/a/big", greatest.clone()).await.expect(201);
    assert!(service.client.get("/cache/a/big").await.expect(200).body == greatest);
    let larger = vec![8u8; 1024 * 1024 + 1];
    service.put("/cache/a/big", larger).await.expect_problem(413, "body_too_large");
    assert!(service.client.get("/cache/a/big").await.expect(200).body == greatest, "nothing was changed");
}

#[tokio::test]
async fn reads_are_counted_by_outcome() {
    let service = Service::start().await;
    service.put("/cache/a/k", "x").header("cache-tags", "t").await.expect(201);
    service.client.get("/cache/a/k").await.expect(200);
    service.client.get("/cache/a/none").await.expect(404);
    service.client.delete("/cache/a/tags/t").await.expect(204);
    service.client.get("/cache/a/k").await.expect(404);
    let metrics = kronos_testkit::http(service.running.operations).get("/metrics").await.expect(200).text();
    for outcome in ["hit", "miss", "invalidated"] {
        assert!(metrics.contains(&format!("kronos_cache_reads_total{{outcome=\"{outcome}\"}} 1")), "{metrics}");
    }
    assert!(metrics.contains("kronos_revocations_age_seconds"), "{metrics}");
}
