//! What auth-service bears: tokens, logins, an overload of them, and how fast a revocation is felt everywhere.

use std::{
    cell::{Cell, RefCell},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::StatusCode;
use kronos_e2e::api::{Api, text};
use serde_json::{Value, json};

use crate::{
    Platform, Quantiles,
    load::{Call, Connection, Outcome, own_processor_time, run},
    verification::{Spread, verification},
};

const ROUND: Duration = Duration::from_secs(3);
const ROUNDS: usize = 3;
const WARM_UP: Duration = Duration::from_millis(500);
pub(crate) const USERS: usize = 40;
pub(crate) const PASSWORD: &str = "a long enough password 7 for a bench";
/// Different tokens that are verified and asked about.
pub(crate) const TOKENS: usize = 1_000;
const REVOCATIONS: usize = 100;
/// Ten times what is wanted of logins.
const OVERLOAD_PER_SECOND: f64 = 800.0;
/// A call that every service refuses without a good token, whoever's it is.
const GUARDED: [(&str, &str); 7] = [
    ("auth-service", "/auth/sessions"),
    ("user-service", "/users"),
    ("log-service", "/logs"),
    ("cache-service", "/cache/bench/revocation"),
    ("messaging-service", "/topics"),
    ("database-admin", "/db/status"),
    ("router-service", "/routes"),
];

/// What is compared with a rival: good answers per second, and megabytes after all of them.
pub(crate) struct Figures {
    pub(crate) client_credentials: f64,
    pub(crate) introspection: f64,
    pub(crate) logins: f64,
    pub(crate) memory: f64,
}

/// One kind of load.
pub(crate) struct Load<'a> {
    pub(crate) base: &'a str,
    pub(crate) what: &'a str,
    pub(crate) connections: usize,
    pub(crate) warm_up: Duration,
}

/// Measures it.
pub(crate) async fn auth(platform: &Platform) -> anyhow::Result<Figures> {
    let base = platform.service("auth-service")?.url();
    let client = platform.target.clients.get("ouranos-crm").context("no client ouranos-crm")?;
    let basic = format!("Basic {}", STANDARD.encode(format!("{}:{}", client.id, client.secret)));
    let mut one = Connection::open(&base).await?;

    let ask_for_token = Call::form("/oauth/token", "grant_type=client_credentials".into()).authorized(&basic);
    let mut tokens = Vec::with_capacity(TOKENS);
    for _ in 0..TOKENS {
        tokens.push(member(&good(one.send(&ask_for_token).await?)?, "access_token")?);
    }
    let keys = good(one.send(&Call::get("/.well-known/jwks.json")).await?)?;
    verification(&tokens, &serde_json::from_value(keys)?).await?;

    println!("\nauth-service over HTTP, {ROUNDS} rounds of {} s; good answers per second:", ROUND.as_secs());
    let ask = ask_for_token.clone();
    let load = |what, connections| Load { base: &base, what, connections, warm_up: WARM_UP };
    let by_client = async |connection: &mut Connection, _: usize| Ok(connection.send(&ask).await?.0);
    let client_credentials = measure(load("client credentials", 32), Some(4_000.0), by_client).await?;
    let questions: Vec<Call> = tokens
        .iter()
        .map(|token| Call::form("/oauth/introspect", format!("token={token}")).authorized(&basic))
        .collect();
    let next = Cell::new(0);
    let introspect = async |connection: &mut Connection, _: usize| {
        next.set((next.get() + 1) % questions.len());
        Ok(connection.send(&questions[next.get()]).await?.0)
    };
    let introspection = measure(load("introspection (p99 of 38 ms wanted)", 100), Some(8_000.0), introspect).await?;

    let users = users(platform).await?;
    let logins: Vec<Call> = users.iter().enumerate().map(|(index, name)| login(name, index)).collect();
    let mut refresh_tokens = Vec::new();
    for login in &logins {
        refresh_tokens.push(RefCell::new(member(&good(one.send(login).await?)?, "refreshToken")?));
    }
    let refresh = async |connection: &mut Connection, index: usize| {
        let call = Call::json("/auth/refresh", &json!({ "refreshToken": *refresh_tokens[index].borrow() }));
        let (status, body) = connection.send(&call).await?;
        if status.is_success() {
            *refresh_tokens[index].borrow_mut() = member(&serde_json::from_slice(&body)?, "refreshToken")?;
        }
        Ok(status)
    };
    measure(load("refresh", 32), Some(2_000.0), refresh).await?;
    let log_in = async |connection: &mut Connection, index: usize| Ok(connection.send(&logins[index]).await?.0);
    let alone = hashes_per_second()?;
    let logins_per_second = measure(load("logins", 8), Some(80.0), log_in).await?;
    println!(
        "    argon2 alone, on one idle core: {alone:.1}/s; logins {:.2} × that, on all cores, stores included",
        logins_per_second / alone
    );

    let bearer = format!("Bearer {}", tokens.first().context("no tokens")?);
    let verify = |token: &String| Call::json("/auth/verify", &json!({ "token": token })).authorized(&bearer);
    let probes: Vec<Call> = tokens.iter().take(2).map(verify).collect();
    overload(platform, &base, &probes, &logins).await?;
    revocation(platform, &logins).await?;
    let (auth, user) = (platform.service("auth-service")?, platform.service("user-service")?);
    let (auth, user) = (mb(auth.resident_kib()?), mb(user.resident_kib()?));
    println!(
        "\nResident after all that: auth-service {auth:.1} MB, user-service {user:.1} MB, together {:.1} MB (at most 100 wanted)",
        auth + user
    );
    Ok(Figures { client_credentials, introspection, logins: logins_per_second, memory: auth + user })
}

/// The median of the rounds.
pub(crate) async fn measure(
    load: Load<'_>,
    wanted: Option<f64>,
    work: impl AsyncFn(&mut Connection, usize) -> anyhow::Result<StatusCode>,
) -> anyhow::Result<f64> {
    let Load { base, what, connections, warm_up } = load;
    let mut connections = Connection::several(base, connections).await?;
    run(&mut connections, warm_up, &work).await?;
    let (begun, processor) = (Instant::now(), own_processor_time()?);
    let mut outcomes = Vec::new();
    for _ in 0..ROUNDS {
        outcomes.push(run(&mut connections, ROUND, &work).await?);
    }
    let own = (own_processor_time()? - processor).as_secs_f64() / begun.elapsed().as_secs_f64();
    let rates = Spread::of(outcomes.iter().map(Outcome::rate).collect());
    let others: Vec<String> = outcomes
        .iter()
        .flat_map(|outcome| &outcome.others)
        .map(|(status, count)| format!("{count} × {status}"))
        .collect();
    let times = Quantiles::of(outcomes.iter().flat_map(|outcome| outcome.times.iter().copied()).collect());
    let wanted = wanted.map(|wanted| format!(", {:.2} × the {wanted} wanted", rates.median / wanted));
    println!(
        "  {what:<36} {rates}{}; {} connections, {times}; the caller takes {:.0} % of a core {}",
        wanted.unwrap_or_default(),
        connections.len(),
        own * 100.0,
        others.join(", ")
    );
    Ok(rates.median)
}

/// What the parameters themselves allow: one thread, nothing else running.
fn hashes_per_second() -> anyhow::Result<f64> {
    let params = Params::new(7168, 5, 1, Some(32)).map_err(|error| anyhow::anyhow!("argon2: {error}"))?;
    let mut memory = vec![Block::new(); params.block_count()];
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let begun = Instant::now();
    let mut hashes = 0.0;
    while begun.elapsed() < WARM_UP {
        argon2
            .hash_password_into_with_memory(PASSWORD.as_bytes(), b"sixteen bytes of", &mut [0; 32], &mut memory)
            .map_err(|error| anyhow::anyhow!("argon2: {error}"))?;
        hashes += 1.0;
    }
    Ok(hashes / begun.elapsed().as_secs_f64())
}

/// Others' requests while ten times as many log in as can be served, against the same requests before.
async fn overload(platform: &Platform, base: &str, calls: &[Call], logins: &[Call]) -> anyhow::Result<()> {
    let service = platform.service("auth-service")?;
    let probe = async |time: Duration| {
        let mut probes = Connection::several(base, 2).await?;
        let outcome = run(&mut probes, time, async |connection: &mut Connection, index| {
            tokio::time::sleep(Duration::from_millis(4)).await;
            let begun = Instant::now();
            let (status, _) = connection.send(&calls[index]).await?;
            TIMES.with_borrow_mut(|times| times.push(begun.elapsed()));
            Ok(status)
        })
        .await?;
        ensure!(outcome.others.is_empty(), "the probes were refused: {:?}", outcome.others);
        anyhow::Ok(Quantiles::of(TIMES.take()))
    };
    let idle = probe(Duration::from_secs(5)).await?;
    let before = mb(service.resident_kib()?);
    let mut flood = Connection::several(base, 100).await?;
    let pace = Duration::from_secs_f64(flood.len() as f64 / OVERLOAD_PER_SECOND);
    let sent = Cell::new(0_u64);
    let flooding = run(&mut flood, Duration::from_secs(10), async |connection: &mut Connection, index| {
        let begun = Instant::now();
        sent.set(sent.get() + 1);
        let status = connection.send(&logins[index % logins.len()]).await?.0;
        tokio::time::sleep(pace.saturating_sub(begun.elapsed())).await;
        Ok(status)
    });
    let probing = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let early = mb(service.resident_kib()?);
        let loaded = probe(Duration::from_secs(8)).await?;
        anyhow::Ok((loaded, early, mb(service.resident_kib()?)))
    };
    let (flooded, probed) = tokio::join!(flooding, probing);
    let (flooded, (loaded, early, late)) = (flooded?, probed?);
    println!(
        "\nOverload: {:.0} logins/s sent, {:.0}/s served, others {:?}",
        sent.get() as f64 / 10.0,
        flooded.rate(),
        flooded.others
    );
    let ratio = loaded.p99.as_secs_f64() / idle.p99.as_secs_f64();
    println!("  others' questions about tokens: idle {idle}; overloaded {loaded}: p99 {ratio:.2} × (at most 2 wanted)");
    println!(
        "  auth-service: {before:.1} MB before, {early:.1} MB after 1 s of it, {late:.1} MB after 9 s (flat wanted)"
    );
    Ok(())
}

thread_local! {
    /// Times of the probes, without their pauses.
    static TIMES: RefCell<Vec<Duration>> = const { RefCell::new(Vec::new()) };
}

/// From the logout to the refusal, at each of the seven services' own ports.
async fn revocation(platform: &Platform, logins: &[Call]) -> anyhow::Result<()> {
    let mut auth = Connection::open(&platform.service("auth-service")?.url()).await?;
    let mut services = Vec::new();
    for (name, path) in GUARDED {
        services.push((Connection::open(&platform.service(name)?.url()).await?, path));
    }
    let mut felt = Vec::new();
    for index in 0..REVOCATIONS {
        let token = member(&good(auth.send(&logins[index % logins.len()]).await?)?, "accessToken")?;
        let bearer = format!("Bearer {token}");
        for (connection, path) in &mut services {
            let (status, _) = connection.send(&Call::get(path).authorized(&bearer)).await?;
            ensure!(status != StatusCode::UNAUTHORIZED, "{path} refuses a good token");
        }
        let logout = Call { method: http::Method::POST, ..Call::get("/auth/logout").authorized(&bearer) };
        let begun = Instant::now();
        let refusals = services.iter_mut().map(|(connection, path)| {
            let call = Call::get(path).authorized(&bearer);
            async move {
                loop {
                    if connection.send(&call).await?.0 == StatusCode::UNAUTHORIZED {
                        return anyhow::Ok(begun.elapsed());
                    }
                    ensure!(begun.elapsed() < Duration::from_secs(10), "{} never refuses", call.path);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        });
        let (ended, refusals) = tokio::join!(auth.send(&logout), futures::future::try_join_all(refusals));
        ensure!(ended?.0 == StatusCode::NO_CONTENT, "the logout failed");
        felt.push(refusals?.into_iter().max().context("no services")?);
    }
    let felt = Quantiles::of(felt);
    println!("\nRevocation, from the call to the refusal by the last of seven services, {REVOCATIONS} times:");
    println!("  {felt} (p99 of at most 250 ms wanted)");
    Ok(())
}

/// People who can log in.
async fn users(platform: &Platform) -> anyhow::Result<Vec<String>> {
    let admin = Api::administrator(&platform.target).await?;
    let mut names = Vec::with_capacity(USERS);
    for _ in 0..USERS {
        let name = format!("bench-{}", uuid::Uuid::now_v7().simple());
        let user = json!({
            "username": name, "email": format!("{name}@example.com"), "displayName": "Bench", "password": PASSWORD,
        });
        admin.post("/users", &user).await?.expect(201)?;
        names.push(name);
    }
    Ok(names)
}

/// Each from a network of its own, as people are.
fn login(username: &str, index: usize) -> Call {
    let call = Call::json("/auth/login", &json!({ "username": username, "password": PASSWORD }));
    Call { forwarded_for: Some(format!("203.0.{index}.1")), ..call }
}

pub(crate) fn good((status, body): (StatusCode, bytes::Bytes)) -> anyhow::Result<Value> {
    ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).context("read an answer")
}

pub(crate) fn member(value: &Value, name: &str) -> anyhow::Result<String> {
    text(value, name)
}

pub(crate) fn mb(kib: u64) -> f64 {
    kib as f64 / 1_024.0
}
