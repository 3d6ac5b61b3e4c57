//! Revocations from a transaction in Postgres through Redis to the maps of other services, and back after losses.

use std::time::{Duration, Instant};

use kronos_common::{
    config::Redis,
    identity::{Claims, Revocation, RevocationPublisher, Revocations},
    service::Context,
};
use kronos_testkit::{OwnRedis, TestDatabase, test_redis, wait_until};
use secrecy::ExposeSecret as _;
use sqlx::PgPool;

/// One platform: a database with the table, a Redis prefix, one publisher.
struct Platform {
    redis: Redis,
    pool: PgPool,
    context: Context,
    publisher: RevocationPublisher,
    _database: TestDatabase,
}

impl Platform {
    async fn start() -> Self {
        Self::start_on(test_redis()).await
    }

    async fn start_on(redis: Redis) -> Self {
        let database = TestDatabase::create().await;
        let pool = PgPool::connect(&database.url("kronos_users")).await.unwrap();
        let context = Context::detached("test");
        let publisher = RevocationPublisher::start(pool.clone(), &redis, &context).unwrap();
        Self { redis, pool, context, publisher, _database: database }
    }

    async fn follower(&self) -> Revocations {
        Revocations::follow(&self.redis, &Context::detached("follower")).await.unwrap()
    }

    async fn record(&self, revocation: &Revocation) {
        let mut transaction = self.pool.begin().await.unwrap();
        RevocationPublisher::in_transaction(&mut transaction, revocation).await.unwrap();
        transaction.commit().await.unwrap();
    }

    async fn revoke(&self, subject: &str, epoch: i64) {
        self.record(&Revocation::Subject { subject: subject.into(), epoch }).await;
        self.publisher.flush().await;
    }

    async fn connection(&self) -> redis::aio::MultiplexedConnection {
        redis::Client::open(self.redis.url.expose_secret()).unwrap().get_multiplexed_async_connection().await.unwrap()
    }

    fn key(&self, suffix: &str) -> String {
        format!("{}{{revocations}}{suffix}", self.redis.prefix)
    }

    /// How many revocations are in the stream.
    async fn published(&self) -> u64 {
        redis::cmd("XLEN").arg(self.key("")).query_async(&mut self.connection().await).await.unwrap()
    }

    /// Redis comes back without our data.
    async fn lose_redis_data(&self) {
        let keys = ["", ":seq", ":subjects", ":expiries", ":generation"].map(|suffix| self.key(suffix));
        let lost: i64 = redis::cmd("DEL").arg(&keys[..]).query_async(&mut self.connection().await).await.unwrap();
        assert!(lost >= 1);
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        self.context.shutdown.cancel();
    }
}

fn claims(sub: &str, epoch: i64) -> Claims {
    serde_json::from_value(serde_json::json!({
        "iss": "i", "sub": sub, "aud": "kronos", "exp": 0, "iat": 0, "jti": "j", "client_id": "web", "sid": format!("sid-{sub}"),
        "roles": [], "permissions": [], "epoch": epoch,
    }))
    .unwrap()
}

#[tokio::test]
async fn a_revocation_reaches_every_follower() {
    let platform = Platform::start().await;
    let followers = [platform.follower().await, platform.follower().await];
    for round in 1..=10 {
        platform.record(&Revocation::Subject { subject: "ada".into(), epoch: round }).await;
        platform.publisher.flush().await;
        for follower in &followers {
            wait_until("the revocation arrives", async || follower.is_revoked(&claims("ada", round - 1))).await;
            assert!(!follower.is_revoked(&claims("ada", round)));
        }
    }
}

#[tokio::test]
async fn what_was_not_flushed_is_published_by_the_job() {
    let platform = Platform::start().await;
    let follower = platform.follower().await;
    platform.record(&Revocation::session_now("sid-ada")).await;
    platform.record(&Revocation::Client { client_id: "ada".into(), epoch: 2 }).await;
    wait_until("the session is revoked", async || follower.is_revoked(&claims("ada", 9))).await;
    let own = Claims { client_id: "ada".into(), sid: None, ..claims("ada", 1) };
    wait_until("the client is revoked", async || follower.is_revoked(&own)).await;
}

#[tokio::test]
async fn a_rolled_back_change_revokes_nothing() {
    let platform = Platform::start().await;
    let follower = platform.follower().await;
    let mut transaction = platform.pool.begin().await.unwrap();
    let revocation = Revocation::Subject { subject: "ada".into(), epoch: 1 };
    RevocationPublisher::in_transaction(&mut transaction, &revocation).await.unwrap();
    transaction.rollback().await.unwrap();
    platform.revoke("bob", 1).await;
    wait_until("the later one arrives", async || follower.is_revoked(&claims("bob", 0))).await;
    assert!(!follower.is_revoked(&claims("ada", 0)));
}

#[tokio::test]
async fn a_late_follower_reads_the_snapshot() {
    let platform = Platform::start().await;
    platform.revoke("ada", 2).await;
    platform.record(&Revocation::session_now("sid-bob")).await;
    // A flush is best effort within its deadline; the job does what it left.
    wait_until("both are published", async || platform.published().await >= 2).await;
    let follower = platform.follower().await;
    assert!(follower.is_revoked(&claims("ada", 1)), "known when it starts");
    assert!(follower.is_revoked(&claims("bob", 0)));
    assert!(!follower.is_revoked(&claims("ada", 2)));
}

#[tokio::test]
async fn a_gap_in_the_stream_is_closed_by_the_snapshot() {
    let platform = Platform::start().await;
    let follower = platform.follower().await;
    platform.revoke("ada", 1).await;
    wait_until("the first arrives", async || follower.is_revoked(&claims("ada", 0))).await;
    // The snapshot has a revocation whose entry this follower will never see.
    let mut connection = platform.connection().await;
    let later = chrono::Utc::now().timestamp() + 600;
    let _: () = redis::pipe()
        .cmd("HSET")
        .arg(platform.key(":subjects"))
        .arg("subject:missed")
        .arg(7)
        .cmd("ZADD")
        .arg(platform.key(":expiries"))
        .arg(later)
        .arg("subject:missed")
        .cmd("INCR")
        .arg(platform.key(":seq"))
        .query_async(&mut connection)
        .await
        .unwrap();
    assert!(!follower.is_revoked(&claims("missed", 6)));
    platform.revoke("bob", 1).await;
    wait_until("the missed one is known", async || follower.is_revoked(&claims("missed", 6))).await;
    assert!(follower.is_revoked(&claims("bob", 0)));
}

#[tokio::test]
async fn a_redis_that_lost_its_data_is_filled_again() {
    let platform = Platform::start().await;
    let old = platform.follower().await;
    platform.revoke("ada", 1).await;
    wait_until("it arrives", async || old.is_revoked(&claims("ada", 0))).await;
    platform.lose_redis_data().await;
    assert!(old.is_revoked(&claims("ada", 0)), "a follower keeps what it knew");
    wait_until("a new follower learns it", async || {
        let context = Context::detached("follower");
        let new = Revocations::follow(&platform.redis, &context).await.unwrap();
        context.shutdown.cancel();
        new.is_revoked(&claims("ada", 0))
    })
    .await;
    platform.revoke("bob", 1).await;
    wait_until("the old follower goes on", async || old.is_revoked(&claims("bob", 0))).await;
    assert!(old.is_revoked(&claims("ada", 0)));
}

#[tokio::test]
async fn what_another_instance_marked_too_late_as_published_in_a_lost_redis_is_published_again() {
    let platform = Platform::start().await;
    let follower = platform.follower().await;
    platform.revoke("ada", 1).await;
    wait_until("it arrives", async || follower.is_revoked(&claims("ada", 0))).await;
    for (subject, life) in [("bob", "0"), ("eve", "~")] {
        let late = "insert into revocations (id, kind, subject, value, published_in) values (gen_random_uuid(), $1, $2, 1, $3)";
        sqlx::query(late).bind("subject").bind(subject).bind(life).execute(&platform.pool).await.unwrap();
    }
    for subject in ["bob", "eve"] {
        wait_until("it arrives, late", async || follower.is_revoked(&claims(subject, 0))).await;
    }
}

#[tokio::test]
async fn a_redis_that_is_away_leaves_the_service_degraded_not_dead() {
    let platform = Platform::start().await;
    let redis = Redis { url: "redis://127.0.0.1:1".to_owned().into(), ..platform.redis.clone() };
    let context = Context::detached("follower");
    let follower = Revocations::follow(&redis, &context).await.unwrap();
    assert!(!follower.is_revoked(&claims("ada", 0)));
    assert!(follower.age() > Duration::from_secs(1), "its age says that it knows nothing");
    let publisher = RevocationPublisher::start(platform.pool.clone(), &redis, &context).unwrap();
    let began = Instant::now();
    publisher.flush().await;
    assert!(began.elapsed() < Duration::from_secs(2), "a caller is not held up: {:?}", began.elapsed());
    context.shutdown.cancel();
}

#[tokio::test]
async fn a_redis_that_comes_back_with_an_older_state_is_brought_up_to_date() {
    let mut redis = OwnRedis::new();
    redis.start();
    let platform = Platform::start_on(redis.config()).await;
    let old = platform.follower().await;
    platform.revoke("ada", 1).await;
    wait_until("the first arrives", async || old.is_revoked(&claims("ada", 0))).await;
    let () = redis::cmd("SAVE").query_async(&mut platform.connection().await).await.unwrap();
    platform.revoke("bob", 1).await;
    wait_until("the second arrives", async || old.is_revoked(&claims("bob", 0))).await;

    redis.kill();
    assert!(old.is_revoked(&claims("bob", 0)), "a follower keeps what it knew");
    platform.record(&Revocation::Subject { subject: "eve".into(), epoch: 1 }).await;
    platform.publisher.flush().await;
    redis.start();

    wait_until("what waited arrives", async || old.is_revoked(&claims("eve", 0))).await;
    wait_until("a new follower learns what the saved state had not", async || {
        let context = Context::detached("follower");
        let new = Revocations::follow(&platform.redis, &context).await.unwrap();
        context.shutdown.cancel();
        ["ada", "bob", "eve"].iter().all(|subject| new.is_revoked(&claims(subject, 0)))
    })
    .await;
}
