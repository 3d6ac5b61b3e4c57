//! Names and ports that operators' files use must exist in the code: metrics in `monitoring/`, the services' ports in
//! `monitoring/`, `deploy/`, `k8s/` and `docker-compose.yml`.

use std::collections::{BTreeMap, BTreeSet};

use super::{SourceFile, Violation, words_with_prefix};
use crate::platform::SERVICE_NAMES;

/// What Prometheus adds to a histogram's name.
const SUFFIXES: [&str; 3] = ["_bucket", "_sum", "_count"];

pub(super) fn check(files: &[SourceFile], violations: &mut Vec<Violation>) {
    let known_metrics = metrics_in_code(files);
    let known_ports = ports_in_code(files);
    let all_ports: BTreeSet<u16> = known_ports.values().flatten().copied().collect();
    for file in files.iter().filter(|file| is_operators(&file.path)) {
        for (index, line) in file.text.lines().enumerate() {
            let mut say = |message: String| violations.push(Violation::new(file, index + 1, message));
            if file.path.starts_with("monitoring/") {
                for (_, name) in words_with_prefix(line, "kronos_") {
                    if !is_known(name, &known_metrics) {
                        say(format!("no metric `{name}` in the code: correct the name"));
                    }
                }
            }
            for (service, port) in service_ports(line) {
                if known_ports.get(service).is_some_and(|ports| !ports.contains(&port)) {
                    say(format!("{service} has no port {port}: see its config.default.toml"));
                }
            }
            for port in numbers(line) {
                if is_ours(port) && !all_ports.contains(&port) {
                    say(format!("no service has the port {port}: see the config.default.toml files"));
                }
            }
        }
    }
}

fn is_operators(path: &str) -> bool {
    ["monitoring/", "deploy/", "k8s/"].iter().any(|room| path.starts_with(room)) || path.starts_with("docker-compose")
}

/// Ports that the design gives to the seven services; others belong to somebody else's software.
fn is_ours(port: u16) -> bool {
    (7000..7100).contains(&port) || port == 8080
}

/// Every string constant `"kronos_…"` of common and the services.
fn metrics_in_code(files: &[SourceFile]) -> BTreeSet<String> {
    let sources = files.iter().filter(|file| {
        file.path.ends_with(".rs")
            && file.path.contains("/src/")
            && (file.path.starts_with("services/") || file.path.starts_with("crates/kronos-common/"))
    });
    let mut names = BTreeSet::new();
    for file in sources {
        for (start, name) in words_with_prefix(&file.text, "kronos_") {
            if file.text[..start].ends_with('"') {
                names.insert(name.to_owned());
            }
        }
    }
    names
}

fn is_known(name: &str, known: &BTreeSet<String>) -> bool {
    known.contains(name)
        || SUFFIXES.iter().any(|suffix| name.strip_suffix(suffix).is_some_and(|base| known.contains(base)))
}

/// The ports on which each service listens by default.
fn ports_in_code(files: &[SourceFile]) -> BTreeMap<&str, BTreeSet<u16>> {
    let mut ports = BTreeMap::new();
    for file in files {
        let Some(service) =
            file.path.strip_prefix("services/").and_then(|rest| rest.strip_suffix("/config.default.toml"))
        else {
            continue;
        };
        let own: BTreeSet<u16> = file
            .text
            .lines()
            .filter(|line| line.starts_with("bind =") || line.starts_with("operations_bind ="))
            .filter_map(|line| line.trim_end_matches('"').rsplit(':').next()?.parse().ok())
            .collect();
        ports.insert(service, own);
    }
    ports
}

/// `auth-service:7010` and `auth-service.kronos.svc:7010` as service and port.
fn service_ports(line: &str) -> Vec<(&'static str, u16)> {
    let mut found = Vec::new();
    for service in SERVICE_NAMES {
        for (start, _) in line.match_indices(service) {
            let rest = &line[start + service.len()..];
            let rest = rest.trim_start_matches(|c: char| c == '.' || c == '-' || c.is_ascii_alphanumeric());
            let digits: String =
                rest.strip_prefix(':').unwrap_or_default().chars().take_while(char::is_ascii_digit).collect();
            if let Ok(port) = digits.parse() {
                found.push((service, port));
            }
        }
    }
    found
}

fn numbers(line: &str) -> impl Iterator<Item = u16> {
    line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.')).filter_map(|word| word.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::{super::file, *};

    fn messages(path: &str, text: &str) -> Vec<String> {
        let files = [
            file("services/auth-service/src/telemetry.rs", "const A: &str = \"kronos_logins_total\";"),
            file("crates/kronos-common/src/telemetry.rs", "const B: &str = \"kronos_request_seconds\";"),
            file(
                "services/auth-service/config.default.toml",
                "bind = \"127.0.0.1:7010\"\noperations_bind = \"127.0.0.1:7011\"\n",
            ),
            file(path, text),
        ];
        let mut violations = Vec::new();
        check(&files, &mut violations);
        violations.into_iter().map(|violation| violation.message).collect()
    }

    #[test]
    fn a_metric_in_an_alert_must_exist() {
        assert!(messages("monitoring/alerts.yml", "expr: rate(kronos_request_seconds_bucket[5m])").is_empty());
        assert!(messages("monitoring/alerts.yml", "expr: kronos_logins_total > 5").is_empty());
        assert_eq!(messages("monitoring/alerts.yml", "expr: kronos_logouts_total > 5").len(), 1);
    }

    #[test]
    fn a_port_in_a_deployment_must_be_the_services_own() {
        assert!(messages("k8s/base/auth.yml", "url: http://auth-service:7010, containerPort: 7011").is_empty());
        assert!(messages("k8s/base/auth.yml", "http://auth-service.kronos.svc:7011").is_empty());
        assert_eq!(messages("docker-compose.yml", "http://auth-service:80").len(), 1);
        assert_eq!(messages("docker-compose.yml", "- \"7099:80\"").len(), 1);
        assert!(messages("docker-compose.yml", "- \"5432:5432\" # sha 7099abc").is_empty());
        assert!(messages("docs/a.md", "7099").is_empty());
    }
}
