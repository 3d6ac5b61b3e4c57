//! Two gateways behind the real nginx with the configuration of `deploy/nginx`, restarted one after the other under load: nobody
//! notices.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use kronos_testkit::{http, wait_up_to};
use serde_json::json;
use tokio::process::Child;

use crate::{
    harness::{Instance, World, free},
    nginx::Nginx,
};

const CONFIGURATION: &str = include_str!("../../../../deploy/nginx/nginx.conf");

struct Replica {
    api: SocketAddr,
    operations: SocketAddr,
    process: Child,
}

impl Replica {
    async fn start(world: &World) -> Self {
        let (api, operations) = (free(), free());
        let process = Self::spawn(world, api, operations);
        let mut replica = Self { api, operations, process };
        replica.ready().await;
        replica
    }

    fn spawn(world: &World, api: SocketAddr, operations: SocketAddr) -> Child {
        world
            .process()
            .env("KRONOS_HTTP__BIND", api.to_string())
            .env("KRONOS_HTTP__OPERATIONS_BIND", operations.to_string())
            .env("KRONOS_GATEWAY__WORKERS", "1")
            .env("KRONOS_TELEMETRY__LOG_LEVEL", "error")
            .spawn()
            .unwrap()
    }

    async fn ready(&mut self) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://{}/ready", self.operations);
        wait_up_to(Duration::from_secs(60), "the gateway is ready", async || {
            client.get(&url).send().await.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
    }

    /// Ends it with SIGTERM, waits, and starts it again at the same address.
    async fn restart(&mut self, world: &World) {
        let pid = self.process.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let ended = tokio::time::timeout(Duration::from_secs(40), self.process.wait()).await.expect("it ends").unwrap();
        assert_eq!(ended.code(), Some(0));
        self.process = Self::spawn(world, self.api, self.operations);
        self.ready().await;
    }
}

/// The configuration of `deploy/nginx`, in front of these.
async fn in_front_of(replicas: &[&Replica]) -> Nginx {
    let servers: String =
        replicas.iter().map(|replica| format!("server {} max_fails=2 fail_timeout=2s;", replica.api)).collect();
    Nginx::start(|address, folder| {
        let mut text = CONFIGURATION.to_owned();
        for (from, to) in [
            ("server router-service:8080 max_fails=2 fail_timeout=2s;", servers.as_str()),
            ("listen 8080 reuseport;", &format!("listen {address} reuseport;")),
            ("/tmp/nginx", &format!("{}/nginx", folder.display())),
            ("/dev/stderr warn", &format!("{}/error.log warn", folder.display())),
            ("access_log /dev/stdout kronos;", "access_log off;"),
            ("worker_processes auto;", "worker_processes 1;"),
        ] {
            assert!(text.contains(from), "deploy/nginx has no `{from}`");
            text = text.replace(from, to);
        }
        text
    })
    .await
}

#[tokio::test]
async fn a_rolling_restart_behind_nginx_fails_no_request() {
    let (world, echo) = (World::new().await, Instance::start("a"));
    let (mut first, mut second) = (Replica::start(&world).await, Replica::start(&world).await);
    let admin = http(first.api).bearer(world.issuer.token("admin", &["routes:write"]));
    admin.post("/upstreams", &json!({"name": "echo", "instances": [{"url": echo.url()}]})).await.expect(201);
    let route =
        json!({"name": "echo", "match": {"path": {"prefix": "/echo"}}, "upstream": "echo", "authentication": ["none"]});
    admin.post("/routes", &route).await.expect(201);
    let nginx = in_front_of(&[&first, &second]).await;
    let url = format!("http://{}/echo/x", nginx.address);
    let (ending, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let callers: Vec<_> = (0..8)
        .map(|caller| {
            let (url, ending, served) = (url.clone(), Arc::clone(&ending), Arc::clone(&served));
            tokio::spawn(async move {
                let client = reqwest::Client::builder().no_proxy().build().unwrap();
                let mut failures = Vec::new();
                while !ending.load(SeqCst) {
                    let request =
                        if caller % 2 == 0 { client.get(&url) } else { client.post(&url).body("not to be sent twice") };
                    match request.send().await {
                        Ok(answer) if answer.status() == 200 => drop(served.fetch_add(1, SeqCst)),
                        Ok(answer) => failures.push(format!("caller {caller}: {}", answer.status())),
                        Err(error) => failures.push(format!("caller {caller}: {error:?}")),
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                failures
            })
        })
        .collect();
    wait_up_to(Duration::from_secs(20), "the load flows", async || served.load(SeqCst) > 200).await;
    for replica in [&mut first, &mut second] {
        replica.restart(&world).await;
        // nginx tries a gateway that was away again after its fail_timeout.
        let before = served.load(SeqCst);
        tokio::time::sleep(Duration::from_millis(2500)).await;
        assert!(served.load(SeqCst) > before, "the load flows on");
    }
    ending.store(true, SeqCst);
    let mut failures = Vec::new();
    for caller in callers {
        failures.extend(caller.await.unwrap());
    }
    let log = nginx.wrote("error.log");
    assert!(failures.is_empty(), "{} of {} failed: {failures:?}\n{log}", failures.len(), served.load(SeqCst));
}
