//! Keycloak as the rival of auth-service: the same requests, on the same machine, in the same run. It comes from Maven Central, keeps
//! its data in a database of its own at the platform's PostgreSQL, and runs as it is delivered, with its own default password hash,
//! argon2id with 7 MiB and 5 passes.

use std::{
    cell::Cell,
    fs,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{
    Platform,
    auth::{Figures, Load, PASSWORD, TOKENS, USERS, good, mb, measure, member},
    load::{Call, Connection},
    resident_kib,
};

const ARTIFACT: &str = "org.keycloak:keycloak-quarkus-dist:26.7.3:zip";
const FOLDER: &str = "keycloak-26.7.3";
const PORT: u16 = 7190;
const DATABASE: &str = "keycloak_bench";
/// What a virtual machine needs until its code is compiled.
const WARM_UP: Duration = Duration::from_secs(15);
const START: Duration = Duration::from_secs(180);

/// Measures Keycloak, and says how many times as much Kronos did.
pub(crate) async fn compare(platform: &Platform, kronos: &Figures) -> anyhow::Result<()> {
    let keycloak = Keycloak::start(platform).await?;
    let base = keycloak.url();
    println!("\nKeycloak 26.7.3, the same requests, each kind after {} s of them:", WARM_UP.as_secs());
    let realm = keycloak.realm().await?;
    let basic = format!("Basic {}", STANDARD.encode(format!("bench:{}", realm.secret)));
    let token_path = "/realms/bench/protocol/openid-connect/token";
    let ask = Call::form(token_path, "grant_type=client_credentials".into()).authorized(&basic);
    let mut one = Connection::open(&base).await?;
    let mut questions = Vec::with_capacity(TOKENS);
    for _ in 0..TOKENS {
        let token = member(&good(one.send(&ask).await?)?, "access_token")?;
        let path = format!("{token_path}/introspect");
        questions.push(Call::form(&path, format!("token={token}")).authorized(&basic));
    }
    let logins: Vec<Call> = (0..USERS)
        .map(|index| {
            let form = format!("grant_type=password&username=bench-{index}&password={}", PASSWORD.replace(' ', "+"));
            Call::form(token_path, form).authorized(&basic)
        })
        .collect();
    let load = |what, connections| Load { base: &base, what, connections, warm_up: WARM_UP };

    let by_client = async |connection: &mut Connection, _: usize| Ok(connection.send(&ask).await?.0);
    let client_credentials = measure(load("client credentials", 32), None, by_client).await?;
    let next = Cell::new(0);
    let introspect = async |connection: &mut Connection, _: usize| {
        next.set((next.get() + 1) % questions.len());
        Ok(connection.send(&questions[next.get()]).await?.0)
    };
    let introspection = measure(load("introspection", 100), None, introspect).await?;
    let log_in = async |connection: &mut Connection, index: usize| Ok(connection.send(&logins[index]).await?.0);
    let logins = measure(load("logins", 8), None, log_in).await?;
    let memory = mb(keycloak.resident_kib()?);

    println!("\nKronos against Keycloak:");
    let ratio = |what: &str, kronos: f64, keycloak: f64, wanted: &str| {
        println!("  {what:<36} {:.2} × ({wanted} wanted)", kronos / keycloak);
    };
    ratio("client credentials", kronos.client_credentials, client_credentials, "4");
    ratio("introspection", kronos.introspection, introspection, "2");
    ratio("logins", kronos.logins, logins, "1.3");
    println!(
        "  {:<36} {:.1} MB of auth-service and user-service, {memory:.0} MB of Keycloak: 1/{:.1} (1/8 wanted)",
        "memory after the load",
        kronos.memory,
        memory / kronos.memory
    );
    Ok(())
}

struct Keycloak {
    child: Child,
    postgres: String,
    admin: String,
}

struct Realm {
    secret: String,
}

impl Keycloak {
    async fn start(platform: &Platform) -> anyhow::Result<Self> {
        let place = fetched()?;
        let postgres = platform.stores.get("postgres").context("no postgres")?.url.clone();
        drop_database(&postgres)?;
        psql(&postgres, &format!("create database {DATABASE}"))?;
        let admin = uuid::Uuid::new_v4().simple().to_string();
        let url = reqwest::Url::parse(&postgres).context("read the URL of PostgreSQL")?;
        let log = fs::File::create(place.join("bench.log")).context("make Keycloak's log")?;
        let child = Command::new("bash")
            .arg(place.join("bin/kc.sh"))
            .args(["start", "--db=postgres", "--http-enabled=true", "--http-host=127.0.0.1"])
            .args(["--hostname-strict=false", "--cache=local"])
            .arg(format!("--http-port={PORT}"))
            .env("KC_DB_URL", format!("jdbc:postgresql://127.0.0.1:{}/{DATABASE}", url.port().unwrap_or(5432)))
            .env("KC_DB_USERNAME", url.username())
            .env("KC_DB_PASSWORD", url.password().unwrap_or_default())
            .env("KC_BOOTSTRAP_ADMIN_USERNAME", "admin")
            .env("KC_BOOTSTRAP_ADMIN_PASSWORD", &admin)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Its script starts the virtual machine as a child: both are ended together.
            .process_group(0)
            .spawn()
            .context("start Keycloak")?;
        let mut keycloak = Self { child, postgres, admin };
        println!(
            "\nKeycloak builds itself and starts (about a minute), its log: {}",
            place.join("bench.log").display()
        );
        let begun = std::time::Instant::now();
        loop {
            let answered = reqwest::get(format!("{}/realms/master", keycloak.url())).await;
            if answered.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(keycloak);
            }
            ensure!(keycloak.child.try_wait()?.is_none(), "Keycloak has ended, see its log");
            ensure!(begun.elapsed() < START, "Keycloak does not answer, see its log");
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{PORT}")
    }

    /// A realm with a client and users.
    async fn realm(&self) -> anyhow::Result<Realm> {
        let mut connection = Connection::open(&self.url()).await?;
        let form = format!("grant_type=password&client_id=admin-cli&username=admin&password={}", self.admin);
        let token = connection.send(&Call::form("/realms/master/protocol/openid-connect/token", form)).await?;
        let bearer = format!("Bearer {}", member(&good(token)?, "access_token")?);
        let secret = uuid::Uuid::new_v4().simple().to_string();
        let users: Vec<Value> = (0..USERS)
            .map(|index| {
                json!({
                    "username": format!("bench-{index}"), "email": format!("bench-{index}@example.com"),
                    "firstName": "Bench", "lastName": "Bench", "enabled": true, "emailVerified": true,
                    "credentials": [{ "type": "password", "value": PASSWORD, "temporary": false }],
                })
            })
            .collect();
        let realm = json!({
            "realm": "bench", "enabled": true, "sslRequired": "none", "users": users,
            "clients": [{
                "clientId": "bench", "secret": secret, "enabled": true, "publicClient": false,
                "serviceAccountsEnabled": true, "directAccessGrantsEnabled": true,
            }],
        });
        let (status, body) = connection.send(&Call::json("/admin/realms", &realm).authorized(&bearer)).await?;
        ensure!(status.is_success(), "make a realm: {status}: {}", String::from_utf8_lossy(&body));
        Ok(Realm { secret })
    }

    /// Of the script and its virtual machine together.
    fn resident_kib(&self) -> anyhow::Result<u64> {
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        [id].into_iter().chain(children).map(resident_kib).sum()
    }
}

impl Drop for Keycloak {
    fn drop(&mut self) {
        let ended = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.child.id())]).status();
        if let Err(error) = ended.map_err(anyhow::Error::from).and(self.child.wait().map_err(Into::into)) {
            println!("Keycloak was not ended: {error}");
        }
        if let Err(error) = drop_database(&self.postgres) {
            println!("{error:#}");
        }
    }
}

/// The distribution, unpacked beside what cargo builds.
fn fetched() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("find this program")?;
    let target = program.ancestors().nth(2).context("find the build folder")?;
    let place = target.join(FOLDER);
    if !place.join("bin/kc.sh").exists() {
        println!("\nFetching Keycloak from Maven Central");
        let fetch = Command::new("mvn")
            .args(["--batch-mode", "--quiet", "dependency:copy"])
            .arg(format!("-Dartifact={ARTIFACT}"))
            .arg(format!("-DoutputDirectory={}", target.display()))
            .current_dir(target)
            .status()
            .context("run mvn")?;
        ensure!(fetch.success(), "mvn could not fetch {ARTIFACT}");
        let zip = target.join("keycloak-quarkus-dist-26.7.3.zip");
        let unpack = Command::new("jar").arg("--extract").arg("--file").arg(&zip).current_dir(target).status();
        ensure!(unpack.context("run jar")?.success(), "jar could not unpack {}", zip.display());
        fs::remove_file(zip)?;
    }
    Ok(place)
}

fn drop_database(postgres: &str) -> anyhow::Result<()> {
    psql(postgres, &format!("drop database if exists {DATABASE} with (force)"))
}

fn psql(postgres: &str, statement: &str) -> anyhow::Result<()> {
    let output = Command::new("psql").args(["-X", "-q", "-d", postgres, "-c", statement]).output();
    let output = output.context("run psql")?;
    ensure!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
