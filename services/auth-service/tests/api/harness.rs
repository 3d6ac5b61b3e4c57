//! Starts auth-service with stores of its own, and does what most tests need.

use std::collections::HashMap;

use auth_service::{
    Config,
    keys::{Algorithm, NewKey, generate},
};
use kronos_common::{config, seal::Keyring, service::Running};
use kronos_testkit::{TestClient, TestDatabase, TestResponse, http, test_rabbit, test_redis, unique, wait_until};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::fake_users::FakeUsers;

pub(crate) const ADMIN: &str = "test-admin";
pub(crate) const ADMIN_SECRET: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
pub(crate) const PASSWORD: &str = "correct horse battery staple";
/// A base64 of 32 bytes.
const SEALING_KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// A running auth-service and all around it.
pub(crate) struct TestAuth {
    pub(crate) client: TestClient,
    pub(crate) users: FakeUsers,
    pub(crate) config: Config,
    pub(crate) pool: PgPool,
    running: Running,
    _database: std::sync::Arc<TestDatabase>,
}

/// A user with credentials.
pub(crate) struct TestUser {
    pub(crate) id: Uuid,
    pub(crate) username: String,
}

impl TestAuth {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Hashes are cheap here, and nothing else differs from the defaults but addresses; `change` makes more differ.
    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let database = std::sync::Arc::new(TestDatabase::create().await);
        let users = FakeUsers::start().await;
        let environment = HashMap::from([
            ("KRONOS_SEALING__ACTIVE".to_owned(), "test".to_owned()),
            ("KRONOS_SEALING__KEYS__TEST".to_owned(), SEALING_KEY.to_owned()),
        ]);
        let mut config: Config = config::load(auth_service::DEFAULTS, None, &environment).unwrap();
        config.http.bind = "127.0.0.1:0".parse().unwrap();
        config.http.operations_bind = "127.0.0.1:0".parse().unwrap();
        config.postgres = database.config("kronos_auth");
        config.redis = test_redis();
        config.rabbit = test_rabbit().await;
        config.services.user_url = format!("http://{}", users.address);
        config.passwords.memory_kib = 64;
        config.passwords.iterations = 1;
        let file = std::env::temp_dir().join(unique("kronos-clients"));
        let clients = json!({ "clients": {
            ADMIN: { "secret": ADMIN_SECRET, "permissions": ["*:*"] },
            "ouranos-crm": { "secret": "ouranos-crm-secret-for-this-test" },
        } });
        std::fs::write(&file, clients.to_string()).unwrap();
        config.bootstrap.file = Some(file);
        change(&mut config);
        put_rsa_key(&config, &database.pool("kronos_auth").await).await;
        Self::run(config, users, database).await
    }

    async fn run(config: Config, users: FakeUsers, database: std::sync::Arc<TestDatabase>) -> Self {
        let running = auth_service::start(config.clone()).await.unwrap();
        let pool = database.pool("kronos_auth").await;
        let client = http(running.api);
        Self { client, users, config, pool, running, _database: database }
    }

    /// One more instance on the same stores.
    pub(crate) async fn second(&self) -> Self {
        self.second_with(|_| {}).await
    }

    pub(crate) async fn second_with(&self, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = self.config.clone();
        change(&mut config);
        Self::run(config, self.users.clone(), self._database.clone()).await
    }

    pub(crate) fn operations(&self) -> TestClient {
        http(self.running.operations)
    }

    /// The base URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.running.api)
    }

    pub(crate) async fn stop(self) {
        self.running.stop().await;
    }

    /// A token of a client's own.
    pub(crate) async fn client_token(&self, id: &str, secret: &str) -> String {
        let form = [("grant_type", "client_credentials"), ("client_id", id), ("client_secret", secret)];
        let answer = self.client.request(axum::http::Method::POST, "/oauth/token").form(&form).await.expect(200);
        answer.json()["access_token"].as_str().unwrap().to_owned()
    }

    /// A token that may do everything.
    pub(crate) async fn admin_token(&self) -> String {
        self.client_token(ADMIN, ADMIN_SECRET).await
    }

    /// A client with a token that may do everything.
    pub(crate) async fn admin(&self) -> TestClient {
        self.client.bearer(self.admin_token().await)
    }

    /// A client with a token that may do this.
    pub(crate) async fn with_permissions(&self, permissions: &[&str]) -> TestClient {
        let body = json!({ "name": "test", "grantTypes": ["client_credentials"], "permissions": permissions });
        let made = self.admin().await.post("/oauth/clients", &body).await.expect(201).json();
        let (id, secret) = (made["clientId"].as_str().unwrap(), made["clientSecret"].as_str().unwrap());
        self.client.bearer(self.client_token(id, secret).await)
    }

    /// A user who can log in with [`PASSWORD`].
    pub(crate) async fn user(&self, permissions: &[&str]) -> TestUser {
        let user = TestUser { id: Uuid::now_v7(), username: unique("user") };
        self.users.grant(user.id, &user.username, permissions, 1);
        self.set_password(&user, PASSWORD).await;
        user
    }

    pub(crate) async fn set_password(&self, user: &TestUser, password: &str) {
        let body = json!({ "username": user.username, "email": "somebody@kronos.test", "password": password });
        let path = format!("/auth/credentials/{}", user.id);
        self.admin().await.put(&path, &body).await.expect(204);
    }

    pub(crate) async fn try_login(&self, username: &str, password: &str) -> TestResponse {
        self.client.post("/auth/login", &json!({ "username": username, "password": password })).await
    }

    /// Logs in; access and refresh token.
    pub(crate) async fn login(&self, user: &TestUser) -> (String, String) {
        tokens(&self.try_login(&user.username, PASSWORD).await.expect(200))
    }

    /// What user-service does when a user's rights change: the revocation, until this instance knows that it ends `before`.
    pub(crate) async fn move_epoch(&self, user: &TestUser, epoch: i64, before: &str) {
        let statement = "insert into revocations (id, kind, subject, value) values ($1, 'subject', $2, $3)";
        sqlx::query(statement)
            .bind(Uuid::now_v7())
            .bind(user.id.to_string())
            .bind(epoch)
            .execute(&self.pool)
            .await
            .unwrap();
        wait_until("the revocation is known", async || !self.is_active(before).await).await;
    }

    pub(crate) async fn try_refresh(&self, refresh_token: &str) -> TestResponse {
        self.client.post("/auth/refresh", &json!({ "refreshToken": refresh_token })).await
    }

    /// What `/auth/verify` says of a token.
    pub(crate) async fn verify(&self, token: &str) -> Value {
        self.admin().await.post("/auth/verify", &json!({ "token": token })).await.expect(200).json()
    }

    pub(crate) async fn is_active(&self, token: &str) -> bool {
        self.verify(token).await["active"] == true
    }
}

/// Access and refresh token of an answer.
#[track_caller]
pub(crate) fn tokens(answer: &TestResponse) -> (String, String) {
    let body = answer.json();
    let text = |name: &str| body[name].as_str().unwrap_or_else(|| panic!("no {name}: {answer}")).to_owned();
    (text("accessToken"), text("refreshToken"))
}

/// The payload of a token, unverified.
pub(crate) fn claims(token: &str) -> Value {
    part(token, 1)
}

/// The header of a token.
pub(crate) fn header(token: &str) -> Value {
    part(token, 0)
}

fn part(token: &str, index: usize) -> Value {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(index).unwrap()).unwrap()).unwrap()
}

/// One RSA key for all tests, because making one takes long.
async fn put_rsa_key(config: &Config, pool: &PgPool) {
    static KEY: std::sync::OnceLock<NewKey> = std::sync::OnceLock::new();
    let key = KEY.get_or_init(|| generate(Algorithm::Rs256).unwrap());
    let sealed = Keyring::new(&config.sealing).unwrap().seal(&key.pkcs8, format!("signing-key:{}", key.kid).as_bytes());
    sqlx::query(
        "insert into signing_keys (kid, algorithm, public_key, sealed_private, state, created_at, activated_at)
         values ($1, 'RS256', $2, $3, 'active', now(), now())",
    )
    .bind(&key.kid)
    .bind(&key.public_key)
    .bind(sealed)
    .execute(pool)
    .await
    .unwrap();
}
