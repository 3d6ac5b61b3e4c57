//! Configuration: one loader and the sections that several services share. Each service's `config.default.toml` is its
//! reference; a file and the environment override it. Nothing else in Kronos reads the environment.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    path::Path,
};

use anyhow::Context as _;
use config::{Environment, File, FileFormat};
use secrecy::SecretString;
use serde::{Deserialize, de::DeserializeOwned};

const PREFIX: &str = "KRONOS_";
const FILE_SUFFIX: &str = "_FILE";

/// What `service::main` must know of any service's configuration.
pub trait ServiceConfig: DeserializeOwned + Send + 'static {
    /// The section `[telemetry]`.
    fn telemetry(&self) -> &Telemetry;
    /// The section `[identity]`: with it the service's own log lines are shipped under its own token.
    fn identity(&self) -> &Identity;
}

/// `[http]`: the two listeners and the limits of a request.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Where the API listens; port 0 takes a free one.
    pub bind: SocketAddr,
    /// Where `/live`, `/ready`, `/metrics` and `/version` listen; never routed by the gateway.
    pub operations_bind: SocketAddr,
    /// Largest request body that is read into memory, in bytes; larger ones get a 413.
    pub body_limit_bytes: usize,
    /// Longest time to the first byte of an answer, in milliseconds; then a 503.
    pub request_timeout_ms: u64,
    /// After SIGTERM: how long `/ready` says 503 before the listener closes, in milliseconds.
    pub drain_delay_ms: u64,
    /// After that: how long requests under way may take to finish, in milliseconds.
    pub drain_deadline_ms: u64,
    /// Log lines in a second about requests that went well; failures (5xx) and slow requests always have theirs.
    pub request_lines_per_second: u32,
}

/// `[telemetry]`: log lines, traces.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// A `tracing` filter, such as `info` or `info,auth_service=debug`.
    pub log_level: String,
    /// Base URL of an OTLP/HTTP collector for traces, such as `http://127.0.0.1:4318`; absent: no export.
    pub traces_endpoint: Option<String>,
    /// Base URL of log-service, to which the service's own lines travel as OTLP logs; absent: standard output only.
    pub logs_endpoint: Option<String>,
    /// The part of new traces that is exported, from 0 to 1; a caller's decision is kept.
    pub trace_sample_ratio: f64,
}

/// `[postgres]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Postgres {
    /// `postgres://role:password@host:port/database`.
    pub url: SecretString,
    /// Upper bound of the pool.
    pub max_connections: u32,
    /// Longest wait for a connection of the pool, in milliseconds; then 503.
    pub acquire_timeout_ms: u64,
    /// The server cancels a statement after so long, in milliseconds.
    pub statement_timeout_ms: u64,
}

/// `[redis]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    /// `redis://` or `rediss://` with host, port and database.
    pub url: SecretString,
    /// Begins every key, so that platforms can share a server.
    pub prefix: String,
    /// Upper bound of the pool.
    pub max_connections: usize,
    /// Longest wait for a connection or an answer, in milliseconds.
    pub timeout_ms: u64,
}

/// `[rabbit]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rabbit {
    /// `amqp://user:password@host:port/vhost`, or `amqps://`.
    pub url: SecretString,
    /// Longest wait for a publisher confirm, in milliseconds; later it counts as unknown.
    pub confirm_timeout_ms: u64,
    /// `amqps://`: PEM file of the authority that is believed beside the system's; empty: those alone.
    #[serde(default)]
    pub ca_file: String,
}

/// `[kafka]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    /// `host:port`, several separated by commas.
    pub brokers: String,
    /// Begins every topic and consumer group.
    pub prefix: String,
    /// Longest wait for an acknowledgement or an answer, in milliseconds.
    pub timeout_ms: u64,
    /// Whether to speak TLS, and to log in.
    #[serde(default)]
    pub security: KafkaSecurity,
    /// With TLS: PEM file of the authority that is believed; empty: the system's.
    #[serde(default)]
    pub ca_file: String,
    /// How to log in.
    #[serde(default)]
    pub sasl_mechanism: SaslMechanism,
    /// With SASL: as whom.
    #[serde(default)]
    pub username: String,
    /// With SASL.
    #[serde(default)]
    pub password: SecretString,
}

/// How connections to Kafka are made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KafkaSecurity {
    /// As they are.
    #[default]
    Plaintext,
    /// Over TLS.
    Ssl,
    /// With a login.
    SaslPlaintext,
    /// With a login, over TLS.
    SaslSsl,
}

/// How to log in to Kafka.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum SaslMechanism {
    /// RFC 7677: the password is not sent.
    #[default]
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
    /// As above, with a shorter hash.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// RFC 4616: the password is sent. Over TLS alone.
    #[serde(rename = "PLAIN")]
    Plain,
}

/// `[identity]`: whose tokens are believed, and who this service is itself.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Expected `iss`: the gateway's public address.
    pub issuer: String,
    /// Expected `aud`.
    pub audience: String,
    /// Where the public keys are.
    pub jwks_url: String,
    /// Base URL of auth-service, for the service's own token.
    pub auth_url: String,
    /// Base URL of user-service, where the service declares its permissions.
    pub user_url: String,
    /// This service's OAuth client.
    pub client_id: String,
    /// Its secret.
    pub client_secret: SecretString,
}

/// `[sealing]`: the keys of envelope encryption.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealing {
    /// Id of the key that seals new data.
    pub active: String,
    /// Id → base64 of 32 random bytes. An old key stays until nothing is sealed under it.
    pub keys: BTreeMap<String, SecretString>,
}

/// The process's environment, for [`load`]; the only place that reads it.
#[expect(clippy::disallowed_methods, reason = "the one reader of the environment")]
pub fn environment() -> HashMap<String, String> {
    std::env::vars().filter(|(name, _)| name.starts_with(PREFIX)).collect()
}

/// Reads a service's configuration: `defaults` (TOML), then `file` (TOML), then `env`: `KRONOS_POSTGRES__URL` is
/// `postgres.url`, and `KRONOS_POSTGRES__URL_FILE` names a file that holds the value. A list is written as in TOML.
///
/// # Errors
/// An unreadable file, an unknown key or a bad value; the message names the key.
pub fn load<C: DeserializeOwned>(
    defaults: &str,
    file: Option<&Path>,
    env: &HashMap<String, String>,
) -> anyhow::Result<C> {
    let merged = merge(defaults, file, env)?;
    serde_path_to_error::deserialize(merged).map_err(|error| {
        let path = error.path().to_string();
        let variable = format!("{PREFIX}{}", path.to_uppercase().replace('.', "__"));
        anyhow::anyhow!("configuration key `{path}`: {} (set it in the file or as {variable})", error.into_inner())
    })
}

/// The effective configuration as TOML-like lines, `key = value`, with secrets hidden; what `--check` prints.
///
/// # Errors
/// As [`load`], but for unknown keys.
pub fn describe(defaults: &str, file: Option<&Path>, env: &HashMap<String, String>) -> anyhow::Result<String> {
    let value: serde_json::Value = merge(defaults, file, env)?.try_deserialize().context("read configuration")?;
    let mut lines = Vec::new();
    flatten("", &value, &mut lines);
    lines.sort();
    Ok(lines.join("\n"))
}

fn merge(defaults: &str, file: Option<&Path>, env: &HashMap<String, String>) -> anyhow::Result<config::Config> {
    let mut builder = config::Config::builder().add_source(File::from_str(defaults, FileFormat::Toml));
    if let Some(path) = file {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("read configuration file {}", path.display()))?;
        builder = builder.add_source(File::from_str(&text, FileFormat::Toml));
    }
    let below = builder.build_cloned().context("read configuration")?;
    let path = |variable: &str| variable.to_lowercase().replace("__", ".");
    let (lists, others): (HashMap<_, _>, HashMap<_, _>) =
        resolve_files(env)?.into_iter().partition(|(variable, _)| below.get_array(&path(variable)).is_ok());
    for (variable, value) in lists {
        let list = config::Config::builder()
            .add_source(File::from_str(&format!("{} = {value}", path(&variable)), FileFormat::Toml))
            .build()
            .map_err(|_| anyhow::anyhow!("{PREFIX}{variable} is not a list, such as [\"a\", \"b\"]"))?;
        builder = builder.add_source(list);
    }
    builder
        .add_source(Environment::default().separator("__").source(Some(others)))
        .build()
        .context("read configuration")
}

/// Strips the prefix and replaces each `…_FILE` by what its file holds.
fn resolve_files(env: &HashMap<String, String>) -> anyhow::Result<HashMap<String, String>> {
    let mut variables = HashMap::new();
    for (name, value) in env {
        let Some(key) = name.strip_prefix(PREFIX) else { continue };
        match key.strip_suffix(FILE_SUFFIX) {
            Some(key) if key.contains("__") => {
                anyhow::ensure!(
                    !env.contains_key(&format!("{PREFIX}{key}")),
                    "both {PREFIX}{key} and {name} are set: keep one"
                );
                let secret = std::fs::read_to_string(value).with_context(|| format!("read the file of {name}"))?;
                variables.insert(key.to_owned(), secret.trim_end_matches(['\r', '\n']).to_owned());
            }
            _ => {
                variables.insert(key.to_owned(), value.clone());
            }
        }
    }
    Ok(variables)
}

fn flatten(path: &str, value: &serde_json::Value, lines: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(&path, value, lines);
            }
        }
        value if is_secret(path) => {
            lines.push(format!("{path} = {}", if value.as_str() == Some("") { "\"\"" } else { "(hidden)" }));
        }
        serde_json::Value::String(text) => lines.push(format!("{path} = \"{}\"", hide_password(text))),
        value => lines.push(format!("{path} = {value}")),
    }
}

fn is_secret(path: &str) -> bool {
    path.starts_with("sealing.keys.") || ["secret", "password", "token"].iter().any(|word| path.contains(word))
}

/// `scheme://user:password@host` → `scheme://user:(hidden)@host`.
fn hide_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let authority = rest.split('/').next().unwrap_or_default();
    match authority.rsplit_once('@').and_then(|(user, _)| user.split_once(':')) {
        Some((user, password)) => {
            let tail = &rest[user.len() + 1 + password.len()..];
            format!("{scheme}://{user}:(hidden){tail}")
        }
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    const DEFAULTS: &str =
        "[redis]\nurl = \"redis://127.0.0.1\"\nprefix = \"kronos:\"\nmax_connections = 8\ntimeout_ms = 500\n";

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        redis: Redis,
    }

    fn env(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn the_environment_overrides_the_defaults() {
        let sample: Sample =
            load(DEFAULTS, None, &env(&[("KRONOS_REDIS__MAX_CONNECTIONS", "3"), ("KRONOS_REDIS__PREFIX", "0123e4")]))
                .expect("valid");
        assert_eq!(sample.redis.max_connections, 3);
        assert_eq!(sample.redis.prefix, "0123e4", "a string that looks like a number stays what it is");
    }

    #[test]
    fn a_list_in_the_environment_is_written_as_in_toml() {
        #[derive(Deserialize)]
        struct Networks {
            trusted: Vec<String>,
        }
        const NETWORKS: &str = "trusted = [\"::1\"]\n";
        let good = env(&[("KRONOS_TRUSTED", "[\"10.0.0.0/8\", \"127.0.0.1\"]")]);
        assert_eq!(load::<Networks>(NETWORKS, None, &good).expect("valid").trusted, ["10.0.0.0/8", "127.0.0.1"]);
        for bad in ["10.0.0.0/8", "[\"10.0.0.0/8\"", "[10.0.0.0/8]"] {
            let error = load::<Networks>(NETWORKS, None, &env(&[("KRONOS_TRUSTED", bad)])).err().expect("no list");
            assert!(error.to_string().contains("KRONOS_TRUSTED"), "{error}");
        }
    }

    #[test]
    fn an_unknown_key_stops_the_start_and_is_named() {
        let error = load::<Sample>(DEFAULTS, None, &env(&[("KRONOS_REDIS__PREFIXX", "a")])).expect_err("unknown key");
        assert!(error.to_string().contains("prefixx"), "{error}");
    }

    #[test]
    fn a_bad_value_stops_the_start_and_its_key_is_named() {
        let error =
            load::<Sample>(DEFAULTS, None, &env(&[("KRONOS_REDIS__TIMEOUT_MS", "soon")])).expect_err("bad value");
        assert!(error.to_string().contains("redis.timeout_ms"), "{error}");
    }

    #[test]
    fn a_secret_can_come_from_a_file() {
        let path = std::env::temp_dir().join(format!("kronos-config-{}", std::process::id()));
        std::fs::write(&path, "redis://:hush@127.0.0.1\n").expect("write");
        let name = path.to_str().expect("UTF-8");
        let sample: Sample = load(DEFAULTS, None, &env(&[("KRONOS_REDIS__URL_FILE", name)])).expect("valid");
        assert_eq!(sample.redis.url.expose_secret(), "redis://:hush@127.0.0.1");
        let both = env(&[("KRONOS_REDIS__URL_FILE", name), ("KRONOS_REDIS__URL", "x")]);
        assert!(load::<Sample>(DEFAULTS, None, &both).is_err());
        std::fs::remove_file(path).expect("remove");
    }

    #[test]
    fn the_description_hides_secrets() {
        let variables = env(&[("KRONOS_REDIS__URL", "redis://me:hush@h:1/2"), ("KRONOS_A__CLIENT_SECRET", "hush")]);
        let text = describe(DEFAULTS, None, &variables).expect("valid");
        assert!(!text.contains("hush"), "{text}");
        assert!(text.contains("redis.url = \"redis://me:(hidden)@h:1/2\""), "{text}");
    }
}
