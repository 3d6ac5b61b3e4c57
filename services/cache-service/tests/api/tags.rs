//! Tags: many values gone at once, and what Redis keeps of it.

use futures::future::join_all;

use crate::harness::Service;

#[tokio::test]
async fn an_invalidated_tag_takes_all_its_values_and_no_others() {
    let service = Service::start().await;
    let puts = (0..100).map(|n| {
        let request = service.put(&format!("/cache/a/both-{n}"), "x").header("cache-tags", "robot:R-42,fleet");
        async move { request.await.expect(201) }
    });
    join_all(puts).await;
    service.put("/cache/a/other-tag", "x").header("cache-tags", "robot:R-43").await.expect(201);
    service.put("/cache/a/no-tag", "x").await.expect(201);
    service.put("/cache/b/other-namespace", "x").header("cache-tags", "robot:R-42").await.expect(201);
    service.client.delete("/cache/a/tags/robot:R-42").await.expect(204);
    for n in 0..100 {
        service.client.get(&format!("/cache/a/both-{n}")).await.expect_problem(404, "not_found");
    }
    for kept in ["a/other-tag", "a/no-tag", "b/other-namespace"] {
        service.client.get(&format!("/cache/{kept}")).await.expect(200);
    }
}

#[tokio::test]
async fn a_value_written_after_the_invalidation_stays_until_the_next() {
    let service = Service::start().await;
    for _ in 0..3 {
        service.put("/cache/a/k", "x").header("cache-tags", "t").await.expect(201);
        service.client.get("/cache/a/k").await.expect(200);
        service.client.delete("/cache/a/tags/t").await.expect(204);
        service.client.get("/cache/a/k").await.expect_problem(404, "not_found");
    }
}

#[tokio::test]
async fn a_tag_nobody_uses_can_be_invalidated() {
    let service = Service::start().await;
    service.client.delete("/cache/a/tags/unused").await.expect(204);
    service.put("/cache/a/k", "x").header("cache-tags", "unused").await.expect(201);
    service.client.get("/cache/a/k").await.expect(200);
}

#[tokio::test]
async fn an_invalidated_value_counts_as_absent_for_conditions() {
    let service = Service::start().await;
    let etag =
        service.put("/cache/a/k", "x").header("cache-tags", "t").await.expect(201).header("etag").unwrap().to_owned();
    service.client.delete("/cache/a/tags/t").await.expect(204);
    service.put("/cache/a/k", "y").header("if-match", &etag).await.expect_problem(412, "precondition_failed");
    service.put("/cache/a/k", "y").header("if-none-match", "*").await.expect(201);
}

#[tokio::test]
async fn sixteen_tags_each_invalidate() {
    let service = Service::start().await;
    let tags: Vec<String> = (0..16).map(|n| format!("t{n}")).collect();
    for tag in &tags {
        service.put("/cache/a/k", "x").header("cache-tags", tags.join(", ")).await.expect(201);
        service.client.delete(&format!("/cache/a/tags/{tag}")).await.expect(204);
        service.client.get("/cache/a/k").await.expect_problem(404, "not_found");
    }
}

#[tokio::test]
async fn values_whose_tags_redis_forgot_are_not_served() {
    let service = Service::start().await;
    service.put("/cache/a/tagged", "x").header("cache-tags", "t").await.expect(201);
    service.put("/cache/a/plain", "x").await.expect(201);
    let mut connection = service.connection().await;
    let lost: i64 = redis::cmd("DEL").arg(service.tags_key("a")).query_async(&mut connection).await.unwrap();
    assert_eq!(lost, 1);
    service.client.get("/cache/a/tagged").await.expect_problem(404, "not_found");
    service.client.get("/cache/a/plain").await.expect(200);
    service.put("/cache/a/tagged", "y").header("cache-tags", "t").await.expect(201);
    service.client.get("/cache/a/tagged").await.expect(200);
}

#[tokio::test]
async fn redis_keeps_one_hash_for_all_tags_and_forgets_old_versions() {
    let service = Service::start().await;
    let mut connection = service.connection().await;
    for n in 0..50 {
        service.put(&format!("/cache/a/{n}"), "x").header("cache-tags", format!("tag-{n}")).await.expect(201);
    }
    let pattern = format!("{}cache:{{a}}*", service.redis.prefix);
    let keys: Vec<String> = redis::cmd("KEYS").arg(pattern).query_async(&mut connection).await.unwrap();
    assert_eq!(keys.len(), 51, "one for each value, one for all tags");
    let _: () = redis::cmd("HSET")
        .arg(service.tags_key("a"))
        .arg("ancient")
        .arg("1:0")
        .query_async(&mut connection)
        .await
        .unwrap();
    service.client.delete("/cache/a/tags/fresh").await.expect(204);
    let names: Vec<String> = redis::cmd("HKEYS").arg(service.tags_key("a")).query_async(&mut connection).await.unwrap();
    assert!(names.contains(&"fresh".to_owned()), "{names:?}");
    assert!(!names.contains(&"ancient".to_owned()), "{names:?}");
}

#[tokio::test]
async fn every_key_begins_with_the_prefix_and_every_value_has_a_time_to_live() {
    let service = Service::start().await;
    service.put("/cache/a/k?ttl=60", "x").header("cache-tags", "t").await.expect(201);
    let key = format!("{}cache:{{a}}:entry:k", service.redis.prefix);
    let mut connection = service.connection().await;
    let left: i64 = redis::cmd("PTTL").arg(key).query_async(&mut connection).await.unwrap();
    assert!((50_000..=60_000).contains(&left), "{left}");
}
