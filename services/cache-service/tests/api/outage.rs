//! Redis dies and comes back; the service does not.

use std::time::{Duration, Instant};

use kronos_testkit::{OwnRedis, http, wait_until, wait_up_to};

use crate::harness::Service;

async fn assert_unavailable(service: &Service) {
    let begun = Instant::now();
    for answer in [
        service.put("/cache/a/k", "x").await,
        service.client.get("/cache/a/k").await,
        service.client.delete("/cache/a/k").await,
        service.client.delete("/cache/a/tags/t").await,
    ] {
        let answer = answer.expect_problem(503, "store_unavailable");
        assert_eq!(answer.header("retry-after"), Some("1"), "{answer}");
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "no caller waits long: {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_killed_redis_is_a_503_until_it_is_back() {
    let mut redis = OwnRedis::new();
    redis.start();
    let service = Service::start_on(redis.config()).await;
    wait_until("Redis is up", async || service.put("/cache/a/k", "before").await.status < 300).await;
    assert_eq!(service.client.get("/cache/a/k").await.expect(200).text(), "before");

    redis.kill();
    assert_unavailable(&service).await;
    let operations = http(service.running.operations);
    operations.get("/live").await.expect(200);
    wait_up_to(Duration::from_secs(10), "/ready names Redis and what hangs on it", async || {
        let ready = operations.get("/ready").await.expect(200).json();
        let dependencies = ready["dependencies"].as_array().unwrap();
        ["redis", "revocations"]
            .iter()
            .all(|name| dependencies.iter().any(|one| one["name"] == *name && one["up"] == false))
    })
    .await;

    redis.start();
    wait_until("it works again", async || service.put("/cache/a/k", "after").await.status < 300).await;
    assert_eq!(service.client.get("/cache/a/k").await.expect(200).text(), "after");
    service.client.delete("/cache/a/tags/t").await.expect(204);
}

#[tokio::test]
async fn a_service_that_starts_before_redis_works_when_redis_comes() {
    let mut redis = OwnRedis::new();
    let service = Service::start_on(redis.config()).await;
    assert_unavailable(&service).await;
    redis.start();
    wait_until("it works", async || service.put("/cache/a/k", "x").await.status == 201).await;
}
