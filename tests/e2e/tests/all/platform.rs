//! A whole platform for one test: the seven binaries as processes on free ports, over the test stores, with a database,
//! vhost and prefixes of its own. Everything ends with the test.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use kronos_e2e::api::{Admin, Api, Credentials, Target};
use kronos_testkit::{Stores, TestDatabase, test_kafka, test_redis, test_vhost, unique, wait_up_to};
use serde_json::{Value, json};

/// In the order in which they start.
pub(crate) const SERVICES: [&str; 7] = [
    "auth-service",
    "user-service",
    "log-service",
    "cache-service",
    "messaging-service",
    "database-admin",
    "router-service",
];
const CALLERS: [&str; 6] = ["hyperion", "ouranos-crm", "ouranos-desk", "gaia", "hephaistos", "hermes"];
const STARTUP: Duration = Duration::from_secs(60);

/// One platform at a time: three of them on two cores would measure patience, not Kronos.
static TURN: LazyLock<Arc<tokio::sync::Mutex<()>>> = LazyLock::new(Arc::default);

/// Ports below the range that outgoing connections use, so that one that is free now is free in a moment.
static NEXT_PORT: AtomicU16 = AtomicU16::new(12_000);

fn free_port() -> u16 {
    loop {
        let port = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

struct Service {
    environment: BTreeMap<String, String>,
    operations: u16,
    child: Option<Child>,
}

/// A running platform.
pub(crate) struct Platform {
    /// Where it is and who may call it.
    pub(crate) target: Target,
    services: BTreeMap<&'static str, Service>,
    directory: PathBuf,
    database: TestDatabase,
    _turn: tokio::sync::OwnedMutexGuard<()>,
}

impl Platform {
    /// Starts all seven and waits until they are ready and the administrator can log in.
    pub(crate) async fn start() -> Self {
        let turn = TURN.clone().lock_owned().await;
        let database = TestDatabase::create().await;
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(unique("platform"));
        fs::create_dir_all(&directory).unwrap();
        let ports: BTreeMap<&'static str, (u16, u16)> =
            SERVICES.into_iter().map(|name| (name, (free_port(), free_port()))).collect();
        let url = |name: &str| format!("http://127.0.0.1:{}", ports[name].0);
        let secret = |name: &str| format!("secret-of-{name}-{}", database.name());
        let clients =
            CALLERS.into_iter().map(|name| (name.to_owned(), Credentials { id: name.into(), secret: secret(name) }));
        let target = Target {
            gateway: url("router-service"),
            admin: Admin { username: "admin".into(), password: "administration of Kronos 1".into() },
            clients: clients.collect(),
        };
        let bootstrap = directory.join("clients.json");
        let all: BTreeMap<&str, Value> =
            CALLERS.into_iter().chain(SERVICES).map(|name| (name, json!({ "secret": secret(name) }))).collect();
        fs::write(&bootstrap, json!({ "clients": all }).to_string()).unwrap();

        let stores = Stores::get();
        let (redis, kafka, vhost, index) = (test_redis(), test_kafka(), test_vhost().await, unique("e2e-"));
        let mut services = BTreeMap::new();
        for name in SERVICES {
            let role = match name {
                "auth-service" => "kronos_auth",
                "user-service" => "kronos_users",
                "log-service" => "kronos_logs",
                "cache-service" => "kronos_cache",
                "messaging-service" => "kronos_messaging",
                "database-admin" => "kronos_dbadmin",
                _ => "kronos_router",
            };
            let (api, operations) = ports[name];
            let mut environment = BTreeMap::new();
            let mut set = |key: &str, value: String| {
                environment.insert(format!("KRONOS_{}", key.replace('.', "__").to_uppercase()), value)
            };
            set("http.bind", format!("127.0.0.1:{api}"));
            set("http.operations_bind", format!("127.0.0.1:{operations}"));
            set("telemetry.logs_endpoint", url("log-service"));
            set("redis.url", exposed(&redis.url));
            set("redis.prefix", redis.prefix.clone());
            set("identity.issuer", target.gateway.clone());
            set("identity.jwks_url", format!("{}/.well-known/jwks.json", url("auth-service")));
            set("identity.auth_url", url("auth-service"));
            set("identity.user_url", url("user-service"));
            set("identity.client_secret", secret(name));
            if name != "cache-service" {
                set("postgres.url", database.url(role));
            }
            if ["auth-service", "user-service", "log-service", "messaging-service"].contains(&name) {
                set("rabbit.url", vhost.clone());
            }
            if ["log-service", "messaging-service", "router-service"].contains(&name) {
                set("kafka.brokers", kafka.brokers.clone());
                set("kafka.prefix", kafka.prefix.clone());
            }
            if ["auth-service", "user-service", "log-service", "messaging-service", "database-admin"].contains(&name) {
                set("sealing.active", "one".into());
                set("sealing.keys.one", "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=".into());
            }
            match name {
                "auth-service" => {
                    set("services.user_url", url("user-service"));
                    set("bootstrap.file", bootstrap.display().to_string());
                }
                "user-service" => {
                    set("services.auth_url", url("auth-service"));
                    set("services.log_url", url("log-service"));
                    set("services.database_admin_url", url("database-admin"));
                    set("privacy.again_after_ms", "500".into());
                    set("bootstrap.admin_username", target.admin.username.clone());
                    set("bootstrap.admin_email", "admin@kronos.localhost".into());
                    set("bootstrap.admin_password", target.admin.password.clone());
                }
                "log-service" => {
                    set("elasticsearch.url", stores.elasticsearch.url.clone());
                    set("elasticsearch.prefix", index.clone());
                }
                "database-admin" => {
                    set("reader.url", database.url("kronos_reader"));
                    set("backup.url", database.url("kronos_backup"));
                    set("backup.pg_dump", pg_dump());
                }
                "router-service" => {
                    for (service, key) in [
                        ("auth-service", "auth_url"),
                        ("user-service", "user_url"),
                        ("log-service", "log_url"),
                        ("cache-service", "cache_url"),
                        ("messaging-service", "messaging_url"),
                        ("database-admin", "database_admin_url"),
                    ] {
                        set(&format!("services.{key}"), url(service));
                    }
                }
                _ => {}
            }
            services.insert(name, Service { environment, operations, child: None });
        }
        let mut platform = Self { target, services, directory, database, _turn: turn };
        for name in SERVICES {
            platform.launch(name);
        }
        for name in SERVICES {
            platform.wait_ready(name).await;
        }
        let target = platform.target.clone();
        wait_up_to(STARTUP, "the administrator to be made", async || Api::administrator(&target).await.is_ok()).await;
        let admin = Api::administrator(&target).await.unwrap();
        for service in SERVICES {
            wait_up_to(STARTUP, &format!("{service} to declare its permissions"), async || {
                let page = admin.get(&format!("/permissions?service={service}")).await;
                page.is_ok_and(|page| page.json["items"].as_array().is_some_and(|items| !items.is_empty()))
            })
            .await;
        }
        platform
    }

    /// What `cargo xtask status --json` says of a platform, as far as a benchmark reads it; in a file.
    pub(crate) fn describe(&self) -> PathBuf {
        let services = self.services.iter().map(|(name, service)| {
            let pid = service.child.as_ref().unwrap().id();
            (*name, json!({ "pid": pid, "api": service.environment["KRONOS_HTTP__BIND"] }))
        });
        let clients = self.target.clients.iter();
        let description = json!({
            "gateway": self.target.gateway,
            "admin": { "username": self.target.admin.username, "password": self.target.admin.password },
            "clients": clients.map(|(name, client)| (name, json!({ "id": client.id, "secret": client.secret })))
                .collect::<BTreeMap<_, _>>(),
            "services": services.collect::<BTreeMap<_, _>>(),
        });
        let file = self.directory.join("status.json");
        fs::write(&file, description.to_string()).unwrap();
        file
    }

    /// Writes people straight into the database: `person-1` and so on.
    pub(crate) fn make_people(&self, count: i32) {
        let statement = format!(
            "insert into users (id, username, username_key, email, email_key, display_name, search)
             select ('01900000-0000-7000-8000-' || lpad(to_hex(number), 12, '0'))::uuid, name, name,
                    name || '@example.com', name || '@example.com', name, ' ' || name
             from (select number, 'person-' || number as name from generate_series(1, {count}) number) names"
        );
        let made = Command::new("/usr/lib/postgresql/15/bin/psql")
            .args(["-q", "-v", "ON_ERROR_STOP=1", "-c", &statement, "-c", "analyze users"])
            .arg(self.database.url("kronos_users"))
            .status()
            .unwrap();
        assert!(made.success());
    }

    /// Kills a service with SIGKILL.
    pub(crate) async fn kill(&mut self, name: &str) {
        let mut child = self.services.get_mut(name).unwrap().child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Starts a killed service again and waits until it is ready.
    pub(crate) async fn restart(&mut self, name: &'static str) {
        self.launch(name);
        self.wait_ready(name).await;
    }

    /// A token that was good and is no longer: no token outlives the right that it was given for.
    pub(crate) async fn expired_token(&self, admin: &Api) -> String {
        let (name, role) = (unique("brief"), unique("brief-role"));
        let password = "a long enough password 7";
        admin
            .post("/roles", &json!({ "name": role, "permissions": ["robots:use"] }))
            .await
            .unwrap()
            .expect(201)
            .unwrap();
        let user = json!({ "username": name, "email": format!("{name}@example.com"), "displayName": "B", "password": password });
        let id = admin.post("/users", &user).await.unwrap().expect(201).unwrap();
        let until = chrono::Utc::now() + chrono::Duration::seconds(3);
        let path = format!("/users/{}/roles/{role}", id["id"].as_str().unwrap());
        assert!(admin.put(&path, &json!({ "expiresAt": until })).await.unwrap().status.is_success());
        let caller = Api::anonymous(&self.target).unwrap();
        let login = caller.post("/auth/login", &json!({ "username": name, "password": password })).await.unwrap();
        let token = login.text("accessToken").unwrap();
        let caller = caller.with_token(token.clone());
        wait_up_to(STARTUP, "the token to expire", async || {
            caller.get("/users").await.is_ok_and(|answer| answer.json["code"] == "token_expired")
        })
        .await;
        token
    }

    /// Whether auth-service's own verifier finds its audit record whole.
    pub(crate) async fn audit_verifies(&self, admin: &Api) -> bool {
        let file = self.directory.join("audit.jsonl");
        let export = admin.request(reqwest::Method::GET, "/auth/audit/export").send().await.unwrap();
        fs::write(&file, export.text().await.unwrap()).unwrap();
        let keys = self.directory.join("keys.json");
        let jwks = reqwest::get(format!("{}/.well-known/jwks.json", self.target.gateway)).await.unwrap();
        fs::write(&keys, jwks.text().await.unwrap()).unwrap();
        let binaries = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_owned();
        let mut verifier = Command::new(binaries.join("auth-service"));
        verifier.arg("audit-verify").arg(&file).arg("--keys").arg(&keys).status().unwrap().success()
    }

    fn launch(&mut self, name: &'static str) {
        let child = self.spawn(name, &self.services[name].environment);
        self.services.get_mut(name).unwrap().child = Some(child);
    }

    fn spawn(&self, binary: &str, environment: &BTreeMap<String, String>) -> Child {
        let binaries = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_owned();
        let program = binaries.join(binary);
        assert!(program.exists(), "{} is not built: run `cargo xtask test`", program.display());
        let log =
            fs::File::options().create(true).append(true).open(self.directory.join(format!("{binary}.log"))).unwrap();
        let run = self.directory.join(format!("run-{binary}"));
        fs::create_dir_all(&run).unwrap();
        Command::new(program)
            .current_dir(run)
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    async fn wait_ready(&mut self, name: &str) {
        let service = self.services.get_mut(name).unwrap();
        let ready = format!("http://127.0.0.1:{}/ready", service.operations);
        let (log, child) = (self.directory.join(format!("{name}.log")), service.child.as_mut().unwrap());
        wait_up_to(STARTUP, &format!("{name} to be ready, see {}", log.display()), async || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("{name} ended with {status}:\n{}", fs::read_to_string(&log).unwrap_or_default());
            }
            reqwest::get(&ready).await.is_ok_and(|response| response.status() == 200)
        })
        .await;
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        for child in self.services.values_mut().filter_map(|service| service.child.as_mut()) {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        if !std::thread::panicking() {
            // The logs of a failed test are kept.
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

fn exposed(secret: &secrecy::SecretString) -> String {
    use secrecy::ExposeSecret as _;
    secret.expose_secret().to_owned()
}

fn pg_dump() -> String {
    let versioned = "/usr/lib/postgresql/15/bin/pg_dump";
    if fs::exists(versioned).unwrap_or(false) { versioned.to_owned() } else { "pg_dump".to_owned() }
}
