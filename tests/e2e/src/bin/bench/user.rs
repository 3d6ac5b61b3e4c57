//! What user-service bears with a million people: checks beside a raw GET of Redis, cold checks beside a primary-key SELECT, lists
//! and searches at any depth, a role change that touches many, and whether a write of rights is ever read stale.

mod people;

use std::{
    cell::{Cell, RefCell},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use http::StatusCode;
use kronos_e2e::api::{Api, text};
use serde_json::{Value, json};
use sqlx::{PgPool, postgres::PgPoolOptions};

use self::people::{PEOPLE, POPULAR, POPULAR_HOLDERS, id_of, permission_of, remove, seed};
use crate::{
    Platform, Quantiles,
    load::{Call, Connection, Outcome, run},
};

const ROUND: Duration = Duration::from_secs(5);
const CONNECTIONS: usize = 64;
/// People who are asked about again and again.
const WARM: u32 = 10_000;
const CHANGES: usize = 5;
/// Grants, revocations and checks that follow each other.
const INTERLEAVED: usize = 100_000;
const WRITERS: usize = 16;

/// Measures it; the people are made and removed by SQL.
pub(crate) async fn user(platform: &Platform) -> anyhow::Result<()> {
    let store = |name: &str| platform.stores.get(name).with_context(|| format!("no {name}"));
    let mut url = reqwest::Url::parse(&store("postgres")?.url).context("read the URL of PostgreSQL")?;
    url.set_path("/kronos");
    let pool = PgPoolOptions::new().max_connections(4).connect(url.as_str()).await.context("connect to PostgreSQL")?;
    seed(&pool).await?;
    let admin = Api::administrator(&platform.target).await?;
    let measured = async {
        checks(platform, &store("redis")?.url, &pool).await?;
        lists(platform).await?;
        change(platform, &admin).await?;
        interleaved(platform).await
    };
    let outcome = measured.await;
    remove(&pool).await?;
    outcome
}

/// A caller of user-service itself.
async fn caller(platform: &Platform) -> anyhow::Result<(String, String)> {
    let admin = &platform.target.admin;
    let call = Call::json("/auth/login", &json!({ "username": admin.username, "password": admin.password }));
    let mut auth = Connection::open(&platform.service("auth-service")?.url()).await?;
    let (status, body) = auth.send(&call).await?;
    ensure!(status.is_success(), "log in: {status}");
    let token = text(&serde_json::from_slice::<Value>(&body)?, "accessToken")?;
    Ok((platform.service("user-service")?.url(), format!("Bearer {token}")))
}

fn check(person: u32, bearer: &str, min_epoch: Option<i64>) -> Call {
    let permission = permission_of(person);
    let min_epoch = min_epoch.map(|epoch| format!("&minEpoch={epoch}")).unwrap_or_default();
    Call::get(&format!("/users/{}/access?permission={permission}{min_epoch}", id_of(person))).authorized(bearer)
}

async fn checks(platform: &Platform, redis: &str, pool: &PgPool) -> anyhow::Result<()> {
    let (base, bearer) = caller(platform).await?;
    println!("\nChecks, {CONNECTIONS} connections:");
    let mut connections = Connection::several(&base, CONNECTIONS).await?;
    let next = Cell::new(0);
    let turn = |of: u32| {
        next.set((next.get() + 1) % of);
        next.get()
    };
    let ask =
        async |connection: &mut Connection, _: usize| Ok(connection.send(&check(turn(WARM), &bearer, None)).await?.0);
    run(&mut connections, ROUND, &ask).await?;
    let raw = raw_gets(redis).await?;
    let warm = run(&mut connections, ROUND, &ask).await?;
    ensure!(warm.others.is_empty(), "checks were refused: {:?}", warm.others);
    let (rate, warm) = (warm.rate(), Quantiles::of(warm.times));
    println!("  raw Redis GET       {:>7.0}/s, {}", raw.0, raw.1);
    println!(
        "  check over HTTP     {rate:>7.0}/s ({:.2} × the 10000 wanted), {warm}: p99 {:.2} × Redis's (at most 3 wanted)",
        rate / 10_000.0,
        warm.p99.as_secs_f64() / raw.1.p99.as_secs_f64()
    );

    // One at a time, so that what is compared is the work and not the waiting.
    let mut one = Connection::several(&base, 1).await?;
    let warm = timed(&mut one, async |connection: &mut Connection| {
        Ok(connection.send(&check(turn(WARM), &bearer, None)).await?.0)
    });
    let warm = warm.await?;
    let far = Cell::new(WARM);
    let cold = timed(&mut one, async |connection: &mut Connection| {
        far.set(far.get() + 97);
        Ok(connection.send(&check(far.get(), &bearer, None)).await?.0)
    });
    let cold = cold.await?;
    let mut selects = Vec::new();
    let begun = Instant::now();
    let mut person = WARM;
    while begun.elapsed() < ROUND {
        person += 89;
        let sent = Instant::now();
        sqlx::query("select * from users.users where id = $1::uuid")
            .bind(id_of(person % PEOPLE))
            .fetch_one(pool)
            .await?;
        selects.push(sent.elapsed());
    }
    let select = Quantiles::of(selects);
    let added = cold.p50.saturating_sub(warm.p50);
    println!("  one SELECT by primary key: {select}; check warm {warm}, cold {cold}");
    println!(
        "  a cold check takes {added:?} more than a warm one: {:.2} × the SELECT (at most 2 wanted)",
        added.as_secs_f64() / select.p50.as_secs_f64()
    );
    Ok(())
}

async fn timed(
    connections: &mut [Connection],
    work: impl AsyncFn(&mut Connection) -> anyhow::Result<StatusCode>,
) -> anyhow::Result<Quantiles> {
    let outcome = run(connections, ROUND, async |connection: &mut Connection, _| work(connection).await).await?;
    ensure!(outcome.others.is_empty(), "refused: {:?}", outcome.others);
    Ok(Quantiles::of(outcome.times))
}

/// GETs per second and their times, from as many connections.
async fn raw_gets(url: &str) -> anyhow::Result<(f64, Quantiles)> {
    const KEY: &str = "kronos:bench:raw";
    let client = redis::Client::open(url).context("read the URL of Redis")?;
    let mut first = client.get_multiplexed_async_connection().await.context("connect to Redis")?;
    redis::cmd("SET").arg(KEY).arg("x".repeat(200)).arg("EX").arg(600).exec_async(&mut first).await?;
    let begun = Instant::now();
    let workers = (0..CONNECTIONS).map(|_| async {
        let mut connection = client.get_multiplexed_async_connection().await?;
        let mut times = Vec::new();
        while begun.elapsed() < ROUND {
            let sent = Instant::now();
            let _: String = redis::cmd("GET").arg(KEY).query_async(&mut connection).await?;
            times.push(sent.elapsed());
        }
        anyhow::Ok(times)
    });
    let times: Vec<Duration> = futures::future::try_join_all(workers).await?.into_iter().flatten().collect();
    Ok((times.len() as f64 / begun.elapsed().as_secs_f64(), Quantiles::of(times)))
}

async fn lists(platform: &Platform) -> anyhow::Result<()> {
    let (base, bearer) = caller(platform).await?;
    let mut connection = Connection::open(&base).await?;
    println!("\nLists and searches, p95 of at most 50 ms wanted:");
    for (what, query) in [
        ("list by name", "sort=username"),
        ("list, newest first", "sort=-createdAt"),
        ("search of one in a million", "q=person-777777"),
        ("search of one in a thousand", "q=ozimlek"),
        ("search of one in ten", "q=camille"),
        ("search of nobody", "q=nobodyiscalledso"),
    ] {
        let mut times = Vec::new();
        let mut cursor = String::new();
        let mut items = 0;
        // From page to page, as deep as a hundred pages go; then from the beginning again.
        for _ in 0..200 {
            let path = format!("/users?{query}&limit=50{cursor}");
            let sent = Instant::now();
            let (status, body) = connection.send(&Call::get(&path).authorized(&bearer)).await?;
            times.push(sent.elapsed());
            ensure!(status.is_success(), "{path}: {status}");
            let page: Value = serde_json::from_slice(&body)?;
            items += page["items"].as_array().map_or(0, Vec::len);
            cursor = page["nextCursor"].as_str().map(|next| format!("&cursor={next}")).unwrap_or_default();
        }
        times.sort_unstable();
        let p95 = times.get(times.len() * 95 / 100).copied().unwrap_or_default();
        println!("  {what:<28} p95 {p95:?} ({items} people in 200 pages)");
    }
    Ok(())
}

/// A change of the role that a tenth of all have, while others are asked about.
async fn change(platform: &Platform, admin: &Api) -> anyhow::Result<()> {
    let (base, bearer) = caller(platform).await?;
    println!("\nA change of a role that {POPULAR_HOLDERS} people have:");
    let probe = async |time: Duration| {
        let mut connections = Connection::several(&base, 4).await?;
        let next = Cell::new(0);
        let outcome: Outcome = run(&mut connections, time, async |connection: &mut Connection, _| {
            next.set((next.get() + 1) % WARM);
            Ok(connection.send(&check(next.get(), &bearer, None)).await?.0)
        })
        .await?;
        anyhow::Ok(Quantiles::of(outcome.times))
    };
    let idle = probe(ROUND).await?;
    let times = RefCell::new(Vec::new());
    let changing = async {
        for turn in 0..CHANGES {
            let permissions = json!(["bench-popular:use", format!("bench-popular:turn-{turn}")]);
            let body = json!({ "permissions": permissions });
            let sent = Instant::now();
            admin.put(&format!("/roles/{POPULAR}"), &body).await?.expect(200)?;
            times.borrow_mut().push(sent.elapsed());
            tokio::time::sleep(Duration::from_millis(600)).await;
        }
        anyhow::Ok(())
    };
    let (changed, loaded) = tokio::join!(changing, probe(ROUND));
    changed?;
    let loaded = loaded?;
    let longest = times.take().into_iter().max().unwrap_or_default();
    println!("  longest of {CHANGES}: {longest:?} (at most 2 s wanted)");
    println!(
        "  checks of others: idle {idle}; meanwhile {loaded}: p99 {:.2} ×",
        loaded.p99.as_secs_f64() / idle.p99.as_secs_f64()
    );
    Ok(())
}

/// Each writer gives a person a role, asks, takes it, asks: with the epoch of what it wrote, the answer must know of it.
async fn interleaved(platform: &Platform) -> anyhow::Result<()> {
    let (base, bearer) = caller(platform).await?;
    let mut connections = Connection::several(&base, WRITERS).await?;
    let (stale_allows, stale_refusals) = (Cell::new(0_u64), Cell::new(0_u64));
    let begun = Instant::now();
    let (stale_allows_seen, stale_refusals_seen, bearer) = (&stale_allows, &stale_refusals, &bearer);
    let workers = connections.iter_mut().enumerate().map(|(writer, connection)| async move {
        for turn in 0..INTERLEAVED / WRITERS / 4 {
            // Away from all others who are asked about.
            let person = PEOPLE - 1 - u32::try_from(writer * 7 + turn % 7)?;
            let path = format!("/users/{}/roles/{POPULAR}", id_of(person));
            for method in [http::Method::PUT, http::Method::DELETE] {
                let given = method == http::Method::PUT;
                let call = Call { method, ..Call::get(&path).authorized(bearer) };
                let answer = connection.exchange(&call).await?;
                ensure!(answer.status().is_success(), "{} {path}: {}", call.method, answer.status());
                let epoch = answer.headers().get("kronos-epoch").context("no Kronos-Epoch")?.to_str()?.to_owned();
                let question = format!("/users/{}/access?permission=bench-popular:use&minEpoch={epoch}", id_of(person));
                let (status, body) = connection.send(&Call::get(&question).authorized(bearer)).await?;
                ensure!(status.is_success(), "{question}: {status}");
                let allowed = serde_json::from_slice::<Value>(&body)?["allowed"] == true;
                match (given, allowed) {
                    (false, true) => stale_allows_seen.set(stale_allows_seen.get() + 1),
                    (true, false) => stale_refusals_seen.set(stale_refusals_seen.get() + 1),
                    _ => {}
                }
            }
        }
        anyhow::Ok(())
    });
    futures::future::try_join_all(workers).await?;
    println!(
        "\n{INTERLEAVED} grants, revocations and checks with minEpoch by {WRITERS} at once, in {:.0} s: {} stale allows, {} stale \
         refusals (0 wanted)",
        begun.elapsed().as_secs_f64(),
        stale_allows.get(),
        stale_refusals.get()
    );
    Ok(())
}
