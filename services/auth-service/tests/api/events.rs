//! Events: what user-service says is heard, what happens here is told.

use kronos_common::{event::Event, rabbit, service::Context};
use kronos_testkit::wait_until;
use lapin::{
    BasicProperties,
    options::{BasicGetOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use serde_json::json;
use uuid::Uuid;

use crate::{
    fake_users::Mode,
    harness::{PASSWORD, TestAuth},
};

struct Broker(lapin::Channel);

impl Broker {
    async fn of(auth: &TestAuth) -> Self {
        let connection = rabbit::Connection::open(&auth.config.rabbit, &Context::detached("test")).await.unwrap();
        connection.connected().await;
        let broker = Self(connection.channel().await.unwrap());
        // The consumer binds its queue by itself, soon.
        wait_until("the queue is bound", async || {
            let declared = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let Ok(channel) = connection.channel().await else { return false };
            channel.queue_declare("auth-service.users.dead".into(), declared, FieldTable::default()).await.is_ok()
        })
        .await;
        broker
    }

    /// Says what user-service would say.
    async fn tell(&self, kind: &str, user: Uuid, data: serde_json::Value) {
        let event = Event::new(format!("kronos.user.{kind}"), user.to_string(), data);
        let key = event.type_.as_str().into();
        self.0
            .basic_publish(
                "kronos.events".into(),
                key,
                Default::default(),
                event.encode().as_bytes(),
                BasicProperties::default(),
            )
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_disabled_user_loses_the_sessions() {
    let auth = TestAuth::start().await;
    let broker = Broker::of(&auth).await;
    let (user, other) = (auth.user(&[]).await, auth.user(&[]).await);
    let (access, refresh) = auth.login(&user).await;
    let (other_access, _) = auth.login(&other).await;
    auth.users.change(user.id, "disabled", json!(true));
    broker.tell("disabled", user.id, json!({ "epoch": 2 })).await;
    wait_until("the session ends", async || !auth.is_active(&access).await).await;
    wait_until("the refresh token ends", async || auth.try_refresh(&refresh).await.status == 401).await;
    auth.try_login(&user.username, PASSWORD).await.expect_problem(401, "invalid_credentials");
    assert!(auth.is_active(&other_access).await);
    auth.users.change(user.id, "disabled", json!(false));
    broker.tell("enabled", user.id, json!({ "epoch": 3 })).await;
    wait_until("the user logs in again", async || auth.try_login(&user.username, PASSWORD).await.status == 200).await;
}

#[tokio::test]
async fn a_deleted_user_leaves_nothing() {
    let auth = TestAuth::start().await;
    let broker = Broker::of(&auth).await;
    let user = auth.user(&[]).await;
    let (access, _) = auth.login(&user).await;
    auth.users.forget(user.id);
    broker.tell("deleted", user.id, json!({})).await;
    wait_until("the session ends", async || !auth.is_active(&access).await).await;
    wait_until("credentials and grants are gone", async || {
        let left: i64 = sqlx::query_scalar(
            "select (select count(*) from credentials where user_id = $1) + (select count(*) from grants where user_id = $1)",
        )
        .bind(user.id)
        .fetch_one(&auth.pool)
        .await
        .unwrap();
        left == 0
    })
    .await;
}

#[tokio::test]
async fn changed_rights_replace_the_last_known_ones() {
    let auth = TestAuth::start().await;
    let broker = Broker::of(&auth).await;
    let user = auth.user(&["logs:read"]).await;
    auth.login(&user).await;
    let known = async || {
        sqlx::query_as::<_, (Vec<String>, i64, i64)>(
            "select permissions, epoch, newest_epoch from grants where user_id = $1",
        )
        .bind(user.id)
        .fetch_one(&auth.pool)
        .await
        .unwrap()
    };
    auth.users.grant(user.id, &user.username, &["logs:write"], 2);
    broker.tell("rights-changed", user.id, json!({ "epoch": 2 })).await;
    wait_until("the new rights are known", async || known().await == (vec!["logs:write".to_owned()], 2, 2)).await;
    // Heard of, but not what: what is known is marked as outdated, and nothing is allowed by it.
    auth.users.set_mode(Mode::Fails);
    broker.tell("rights-changed", user.id, json!({ "epoch": 3 })).await;
    wait_until("the change is noted", async || known().await.2 == 3).await;
    auth.try_login(&user.username, PASSWORD).await.expect_problem(503, "store_unavailable");
}

#[tokio::test]
async fn what_happens_is_told_without_secrets() {
    let auth = TestAuth::start().await;
    let broker = Broker::of(&auth).await;
    let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let channel = &broker.0;
    channel.queue_declare("listener".into(), exclusive, FieldTable::default()).await.unwrap();
    channel
        .queue_bind(
            "listener".into(),
            "kronos.events".into(),
            "kronos.auth.*".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .unwrap();
    let user = auth.user(&[]).await;
    auth.try_login(&user.username, "a wrong password").await.expect(401);
    let (access, refresh) = auth.login(&user).await;
    auth.client.post("/auth/logout", &json!({})).bearer(&access).await.expect(204);
    let mut heard = Vec::new();
    wait_until("all is told", async || {
        while let Some(message) = channel.basic_get("listener".into(), BasicGetOptions { no_ack: true }).await.unwrap()
        {
            heard.push(Event::decode(&message.delivery.data).unwrap());
        }
        let of = |kind: &str| heard.iter().filter(|event| event.type_ == format!("kronos.auth.{kind}")).count();
        of("credentials-set") == 1 && of("login-failed") == 1 && of("login-succeeded") == 1 && of("session-ended") == 1
    })
    .await;
    let all = heard.iter().map(Event::encode).collect::<String>();
    for secret in [PASSWORD, "a wrong password", &access, &refresh] {
        assert!(!all.contains(secret), "{all}");
    }
    let ended = heard.iter().find(|event| event.type_.ends_with("session-ended")).unwrap();
    assert_eq!((ended.source.as_str(), ended.subject.as_deref()), ("/kronos/auth", Some(user.id.to_string().as_str())));
}
