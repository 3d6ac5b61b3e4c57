//! Signing keys: their rule, their life, and that they are sealed.

use auth_service::{
    config,
    keys::{Algorithm, KeyRecord, State, Step, generate, key_set, plan},
};
use chrono::{DateTime, Utc};
use kronos_common::seal::Keyring;
use kronos_testkit::wait_until;

use crate::harness::{TestAuth, header};

const POLICY: config::Keys = config::Keys {
    active_seconds: 1000,
    publish_seconds: 400,
    retire_seconds: 700,
    check_seconds: 1,
    jwks_max_age_seconds: 300,
};

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

fn key(kid: &str, state: State, since: i64) -> KeyRecord {
    KeyRecord {
        kid: kid.to_owned(),
        algorithm: Algorithm::EdDsa,
        public_key: vec![],
        state,
        created_at: at(since),
        activated_at: (state == State::Active).then(|| at(since)),
        retiring_at: (state == State::Retiring).then(|| at(since)),
    }
}

#[test]
fn keys_follow_one_another() {
    let a = || key("a", State::Active, 0);
    let b = |since| key("b", State::Published, since);
    for (keys, now, expected) in [
        (vec![], 0, vec![Step::Create(State::Active)]),
        (vec![a()], 599, vec![]),
        (vec![a()], 600, vec![Step::Create(State::Published)]),
        (vec![a(), b(600)], 999, vec![]),
        (vec![a(), b(600)], 1000, vec![Step::Retire("a".into()), Step::Activate("b".into())]),
        // A key that was published late waits until everybody can know it.
        (vec![a(), b(900)], 1299, vec![]),
        (vec![a(), b(900)], 1300, vec![Step::Retire("a".into()), Step::Activate("b".into())]),
        (vec![b(0)], 1, vec![Step::Activate("b".into())]),
        (vec![a(), key("z", State::Retiring, 0)], 599, vec![]),
        (vec![key("y", State::Active, 500), key("z", State::Retiring, 0)], 700, vec![Step::Remove("z".into())]),
    ] {
        assert_eq!(plan(&keys, &POLICY, at(now)), expected, "{keys:?} at {now}");
    }
}

#[test]
fn a_keys_id_is_its_thumbprint() {
    let (first, second) = (generate(Algorithm::EdDsa).unwrap(), generate(Algorithm::EdDsa).unwrap());
    assert_ne!(first.kid, second.kid);
    assert_eq!((first.kid.len(), first.public_key.len()), (43, 32));
    // As others compute it (RFC 7638), for each kind of key.
    for algorithm in Algorithm::ALL {
        let key = generate(algorithm).unwrap();
        let record = KeyRecord {
            kid: key.kid.clone(),
            algorithm,
            public_key: key.public_key,
            state: State::Active,
            created_at: at(0),
            activated_at: None,
            retiring_at: None,
        };
        let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(key_set(&[record]).keys[0].clone()).unwrap();
        assert_eq!(jwk.thumbprint(jsonwebtoken::jwk::ThumbprintHash::SHA256).unwrap(), key.kid);
    }
}

#[tokio::test]
async fn two_instances_that_start_at_once_make_one_key_of_each_kind() {
    let auth = TestAuth::start().await;
    sqlx::query("delete from signing_keys").execute(&auth.pool).await.unwrap();
    // All three arrive before the first may begin.
    let mut gate = auth.pool.begin().await.unwrap();
    sqlx::query("select pg_advisory_xact_lock(hashtextextended('auth-service.keys', 0))")
        .execute(&mut *gate)
        .await
        .unwrap();
    let open = async {
        wait_until("all three wait for their turn", async || {
            let waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted
                and database = (select oid from pg_database where datname = current_database())";
            sqlx::query_scalar::<_, i64>(waiting).fetch_one(&auth.pool).await.unwrap() == 3
        })
        .await;
        gate.commit().await.unwrap();
    };
    let (one, two, three, ()) = tokio::join!(auth.second(), auth.second(), auth.second(), open);
    let count: i64 = sqlx::query_scalar("select count(*) from signing_keys").fetch_one(&auth.pool).await.unwrap();
    assert_eq!(count, 3);
    let user = one.user(&[]).await;
    let (access, refresh) = one.login(&user).await;
    assert!(two.is_active(&access).await && three.is_active(&access).await);
    two.try_refresh(&refresh).await.expect(200);
}

#[tokio::test]
async fn a_new_key_is_published_before_it_signs_and_the_old_one_stays_for_its_tokens() {
    let auth = TestAuth::start_with(|config| config.keys.check_seconds = 1).await;
    let kids = async || {
        let set = auth.client.get("/.well-known/jwks.json").await.expect(200).json();
        let of_access_tokens = |key: &&serde_json::Value| key["alg"] == "EdDSA";
        let keys = set["keys"].as_array().unwrap();
        keys.iter().filter(of_access_tokens).map(|key| key["kid"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let pass = async |column: &str, seconds: u64| {
        let statement = format!("update signing_keys set {column} = {column} - make_interval(secs => {seconds})");
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&auth.pool).await.unwrap();
    };
    let signs = async || header(auth.admin_token().await.as_str())["kid"].as_str().unwrap().to_owned();
    let user = auth.user(&[]).await;
    let (access, _) = auth.login(&user).await;
    let first = signs().await;
    assert_eq!(kids().await, std::slice::from_ref(&first));

    pass("activated_at", auth.config.keys.active_seconds - auth.config.keys.publish_seconds).await;
    wait_until("a second key is published", async || kids().await.len() == 2).await;
    assert_eq!(signs().await, first, "it does not sign yet");

    pass("activated_at", auth.config.keys.publish_seconds).await;
    pass("created_at", auth.config.keys.publish_seconds).await;
    wait_until("the second key signs", async || signs().await != first).await;
    assert!(kids().await.contains(&first));
    assert!(auth.is_active(&access).await, "the old key's tokens are still good");

    pass("retiring_at", auth.config.keys.retire_seconds).await;
    wait_until("the first key is removed", async || !kids().await.contains(&first)).await;
    assert!(!auth.is_active(&access).await);
    let private: Option<Vec<u8>> = sqlx::query_scalar("select sealed_private from signing_keys where kid = $1")
        .bind(&first)
        .fetch_one(&auth.pool)
        .await
        .unwrap();
    assert_eq!(private, None, "its private part is erased");
}

#[tokio::test]
async fn private_keys_and_secrets_are_sealed_and_sealed_anew_under_a_new_key() {
    let auth = TestAuth::start().await;
    let sealed = async || {
        sqlx::query_as::<_, (String, Vec<u8>)>(
            "select kid, sealed_private from signing_keys union all select name, sealed from secrets",
        )
        .fetch_all(&auth.pool)
        .await
        .unwrap()
    };
    let old = Keyring::new(&auth.config.sealing).unwrap();
    for (name, bytes) in sealed().await {
        assert!(old.open(&bytes, b"").is_err(), "bound to its purpose");
        let aad = if name == "refresh-tokens" { format!("secret:{name}") } else { format!("signing-key:{name}") };
        let plain = old.open(&bytes, aad.as_bytes()).unwrap();
        assert!(!bytes.windows(16).any(|window| plain.windows(16).any(|secret| secret == window)));
    }
    let user = auth.user(&[]).await;
    let (access, refresh) = auth.login(&user).await;
    let rotated = auth
        .second_with(|config| {
            config.sealing.active = "next".into();
            config.sealing.keys.insert("next".into(), "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=".to_owned().into());
        })
        .await;
    assert!(rotated.is_active(&access).await);
    rotated.try_refresh(&refresh).await.expect(200);
    let new = Keyring::new(&rotated.config.sealing).unwrap();
    for (name, bytes) in sealed().await {
        assert!(!new.needs_resealing(&bytes), "{name}");
    }
}

#[test]
fn periods_that_would_refuse_good_tokens_stop_the_start() {
    let defaults = || {
        kronos_common::config::load::<auth_service::Config>(
            auth_service::DEFAULTS,
            None,
            &std::collections::HashMap::new(),
        )
        .unwrap()
    };
    defaults().validate().unwrap();
    for (change, named) in [
        ((|c| c.keys.publish_seconds = 300) as fn(&mut auth_service::Config), "keys.publish_seconds"),
        (|c| c.keys.retire_seconds = 600, "keys.retire_seconds"),
        (|c| c.keys.active_seconds = 3600, "keys.active_seconds"),
        (|c| c.tokens.access_seconds = 901, "tokens.access_seconds"),
        (|c| c.passwords.queue = 0, "passwords.queue"),
    ] {
        let mut config = defaults();
        change(&mut config);
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}
