//! Redis dies and comes back; the service does not.

use std::{
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use kronos_common::config::Redis;
use kronos_testkit::{http, unique, wait_until, wait_up_to};

use crate::harness::Service;

/// A Redis server of this test alone, without persistence.
struct OwnRedis {
    port: u16,
    folder: PathBuf,
    process: Option<Child>,
}

impl OwnRedis {
    fn new() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = std::env::temp_dir().join(unique("kronos-cache-test-"));
        std::fs::create_dir(&folder).unwrap();
        Self { port, folder, process: None }
    }

    fn start(&mut self) {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--save", "", "--appendonly", "no"]);
        command.current_dir(&self.folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(command.spawn().expect("redis-server is installed"));
    }

    /// SIGKILL, to this process only.
    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    fn config(&self) -> Redis {
        Redis {
            url: format!("redis://127.0.0.1:{}", self.port).into(),
            prefix: "kronos:".into(),
            max_connections: 4,
            timeout_ms: 500,
        }
    }
}

impl Drop for OwnRedis {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

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
