//! What a request costs at the gateway, against nginx, and Envoy if it is named, in the same run. The proxy under test has one
//! core to itself; nginx as the instance, and wrk as the callers, have the other. Rounds alternate; requests per second of the
//! proxy's own processor time are compared, so that what else the machine does counts little.

mod envoy;
mod issuer;
mod machine;
mod proxies;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use self::{
    envoy::Envoy,
    issuer::Issuer,
    machine::{Load, cores, load},
    proxies::{INSTANCE, Kronos, NGINX, NGINX_POLICIES, Nginx},
};
use crate::{
    Platform, Quantiles,
    load::{Call, Connection},
    verification::Spread,
};

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(3);
/// For the comparison with many routes.
const ROUTES: usize = 5_000;
/// Paced requests, for what the gateway adds to one of them.
const PACED: usize = 6_000;
const PACE: Duration = Duration::from_micros(500);

const ENVOY: &str = "Envoy, plain";
const ENVOY_POLICIES: &str = "Envoy, jwt_authn, remembered, and a limit";

/// What is measured, in the order of a round.
struct Case {
    name: &'static str,
    base: String,
    path: &'static str,
    token: bool,
    pids: Vec<u32>,
}

/// What else takes part.
pub(crate) struct Programs {
    /// The gateway to measure, if it is not the platform's own.
    pub(crate) binary: Option<PathBuf>,
    /// Envoy, to be measured too.
    pub(crate) envoy: Option<PathBuf>,
}

/// Measures it.
pub(crate) async fn gateway(platform: &Platform, programs: Programs) -> anyhow::Result<()> {
    let (proxy_core, load_core) = cores()?;
    let issuer = Issuer::start().await?;
    let instance = Nginx::start("instance", INSTANCE, load_core)?;
    let plain = Nginx::start("plain", NGINX, proxy_core)?;
    let policies = Nginx::start("policies", NGINX_POLICIES, proxy_core)?;
    let model = platform.service("router-service")?;
    let start = async |more: usize| {
        Kronos::start(model, programs.binary.as_deref(), &issuer, proxy_core, &table(&instance.url, more)).await
    };
    let few = start(0).await?;
    let case = |name, base: &str, path, token, pids: &[u32]| Case {
        name,
        base: base.to_owned(),
        path,
        token,
        pids: pids.to_vec(),
    };
    let mut cases = vec![
        case("nginx, plain", &plain.url, "/plain", false, &plain.pids()?),
        case("Kronos, plain", &few.url, "/bench-plain", false, &[few.pid()]),
        case("nginx, auth_request and limit_req", &policies.url, "/plain", false, &policies.pids()?),
        case("Kronos, token, permission, two limits", &few.url, "/bench-full", true, &[few.pid()]),
    ];
    let rivals = match &programs.envoy {
        Some(program) => vec![
            (ENVOY, false, Envoy::plain(program, proxy_core, &instance.url)?),
            (ENVOY_POLICIES, true, Envoy::with_policies(program, proxy_core, &instance.url, &issuer)?),
        ],
        None => Vec::new(),
    };
    cases.extend(rivals.iter().map(|(name, token, envoy)| case(name, &envoy.url, "/plain", *token, &[envoy.pid()])));
    let token = issuer.token("bench", &["bench:read"]);
    println!("Gateway on core {proxy_core}; instance and callers on core {load_core}: 64 connections, 1 KiB.");
    let figures = rounds(&cases, &token, load_core)?;
    let of = |name: &str| figures.get(name).map(|spread| spread.median).unwrap_or_default();
    println!("Requests per second of the proxy's processor time, median of {ROUNDS} rounds (least to most):");
    for case in &cases {
        let ratio = of(case.name) / of("nginx, plain");
        println!("  {:<40} {}   {ratio:.2} × plain nginx", case.name, figures[case.name]);
    }
    let full = of("Kronos, token, permission, two limits");
    println!("Kronos plain: {:.2} × nginx plain (0.95 wanted)", of("Kronos, plain") / of("nginx, plain"));
    println!("Kronos full: {:.2} × nginx plain (0.85 wanted)", full / of("nginx, plain"));
    println!("Kronos full: {:.2} × nginx with policies (1.5 wanted)", full / of("nginx, auth_request and limit_req"));
    if !rivals.is_empty() {
        println!("Kronos plain: {:.2} × Envoy plain (3 wanted)", of("Kronos, plain") / of(ENVOY));
        println!("Kronos full: {:.2} × Envoy with its token cache (3 wanted)", full / of(ENVOY_POLICIES));
    }
    added(&instance, &few).await?;
    many_routes(&few, &start(ROUTES).await?, load_core)
}

/// The routes that are measured, and some `more`, as a gateway keeps them on disk.
fn table(instance: &str, more: usize) -> Value {
    let identified = |spec: Value| json!({"id": uuid::Uuid::now_v7(), "spec": spec});
    let plain = json!({"name": "bench-plain", "match": {"path": {"prefix": "/bench-plain"}}, "upstream": "bench",
                       "authentication": ["none"]});
    let full = json!({"name": "bench-full", "match": {"path": {"prefix": "/bench-full"}}, "upstream": "bench",
                      "permission": "bench:read",
                      "limits": [{"by": ["ip"], "requests": 1_000_000, "perSeconds": 1},
                                 {"by": ["token"], "requests": 1_000_000, "perSeconds": 1}]});
    let many = (0..more).map(|index| {
        json!({"name": format!("bench-many-{index}"), "upstream": "bench",
               "match": {"path": {"prefix": format!("/bench-many/{}/{index}", index % 70)}}})
    });
    let routes: Vec<Value> = [plain, full].into_iter().chain(many).map(identified).collect();
    json!({
        "version": 1,
        "routes": routes,
        "upstreams": [identified(json!({"name": "bench", "instances": [{"url": instance}]}))],
    })
}

fn rounds(cases: &[Case], token: &str, core: usize) -> anyhow::Result<BTreeMap<&'static str, Spread>> {
    let mut figures: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for round in 0..=ROUNDS {
        for case in cases {
            let (url, token) = (format!("{}{}", case.base, case.path), case.token.then_some(token));
            let Load { requests, failed, processor, per_second } = load(&url, token, ROUND, core, &case.pids)?;
            ensure!(failed == 0, "{}: {failed} requests failed", case.name);
            // The first round warms up.
            if round > 0 {
                println!(
                    "  {:<40} {per_second:>9.0}/s, {:>4.0} % of a core",
                    case.name,
                    processor / ROUND.as_secs_f64() * 100.0
                );
                figures.entry(case.name).or_default().push(requests as f64 / processor);
            }
        }
    }
    Ok(figures.into_iter().map(|(name, values)| (name, Spread::of(values))).collect())
}

/// What the gateway adds to a request at 2,000 a second.
async fn added(instance: &Nginx, kronos: &Kronos) -> anyhow::Result<()> {
    let direct = paced(&instance.url, "/plain").await?;
    let through = paced(&kronos.url, "/bench-plain").await?;
    let millis = |quantiles: &Quantiles| quantiles.p99.as_secs_f64() * 1e3;
    println!("At 2,000 requests per second: direct {direct}; through the gateway {through};");
    println!("  added to the p99: {:.3} ms (at most 0.5 wanted)", millis(&through) - millis(&direct));
    Ok(())
}

async fn paced(base: &str, path: &str) -> anyhow::Result<Quantiles> {
    let mut connection = Connection::open(base).await?;
    let call = Call::get(path);
    let mut times = Vec::with_capacity(PACED);
    let begun = std::time::Instant::now();
    for index in 0..PACED {
        let due = PACE * u32::try_from(index)?;
        // A timer is too coarse for half a millisecond.
        while begun.elapsed() < due {
            tokio::task::yield_now().await;
        }
        let sent = std::time::Instant::now();
        let (status, _) = connection.send(&call).await?;
        ensure!(status.is_success(), "{base}{path}: {status}");
        times.push(sent.elapsed());
    }
    Ok(Quantiles::of(times))
}

/// The same request beside thousands of routes.
fn many_routes(few: &Kronos, many: &Kronos, core: usize) -> anyhow::Result<()> {
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let each = |kronos: &Kronos| {
            let url = format!("{}/bench-plain", kronos.url);
            let load = load(&url, None, ROUND, core, &[kronos.pid()])?;
            anyhow::Ok(load.requests as f64 / load.processor)
        };
        ratios.push((1.0 - each(many)? / each(few)?) * 100.0);
    }
    let grown = machine::resident_kib(many.pid())? as f64 - machine::resident_kib(few.pid())? as f64;
    println!("With {ROUTES} routes more:");
    println!("  {} % fewer requests per processor second (at most 5 wanted)", Spread::of(ratios));
    println!("  {:.1} MB more memory (at most 64 wanted)", grown / 1024.0);
    Ok(())
}

/// The only value of a header-like line, such as `Requests/sec:  100.0`.
fn figure<'a>(text: &'a str, name: &str) -> anyhow::Result<&'a str> {
    text.lines()
        .find_map(|line| line.trim().strip_prefix(name))
        .map(str::trim)
        .with_context(|| format!("no `{name}` in:\n{text}"))
}
