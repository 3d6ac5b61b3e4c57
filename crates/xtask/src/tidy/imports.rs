//! What each room of a service may use: handlers know no store, stores and rules know no HTTP framework.

use super::{SourceFile, Violation};

/// Drivers of the stores.
const DRIVERS: [&str; 7] = ["sqlx", "redis", "deadpool_redis", "lapin", "rdkafka", "elasticsearch", "tokio_postgres"];
const HTTP: [&str; 2] = ["axum", "utoipa_axum"];

pub(super) fn check(file: &SourceFile, violations: &mut Vec<Violation>) {
    let Some(room) = room(&file.path) else { return };
    let (forbidden, reason): (&[&str], &str) = match room {
        Room::Routes => (&DRIVERS, "a handler asks the store: move the query to store.rs"),
        Room::Behind => (&HTTP, "HTTP stays in routes/: return a value or a Problem, and let the handler wrap it"),
    };
    for (index, line) in file.text.lines().enumerate() {
        // `axum::http` is the `http` crate: the words of a status, which a Problem has too.
        let code = line.split("//").next().unwrap_or_default().replace("axum::http::", "http::");
        for name in forbidden {
            if uses(&code, name) {
                violations.push(Violation::new(file, index + 1, format!("{name} in {}: {reason}", room.name())));
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Room {
    Routes,
    /// Rules, stores, consumers and jobs.
    Behind,
}

impl Room {
    fn name(self) -> &'static str {
        match self {
            Self::Routes => "routes",
            Self::Behind => "a file behind the routes",
        }
    }
}

/// The room of a service's source file; lib.rs, main.rs and config.rs put the rooms together and are free.
fn room(path: &str) -> Option<Room> {
    let (service, inner) = path.strip_prefix("services/")?.split_once("/src/")?;
    let first = inner.split('/').next()?.trim_end_matches(".rs");
    match first {
        "lib" | "main" | "config" | "build" => None,
        "routes" => Some(Room::Routes),
        // The gateway is HTTP through and through.
        _ if service == "router-service" => matches!(first, "store" | "jobs" | "consumers").then_some(Room::Behind),
        _ => Some(Room::Behind),
    }
}

/// Whether a line of code names the crate: `use name…` or `name::…`.
fn uses(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(start, _)| {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let before = &code[..start];
        let after = &code[start + name.len()..];
        let path_inside = before.ends_with("::") || before.ends_with("crate::");
        !before.chars().next_back().is_some_and(|c| is_word(c) || c == '"' || c == '.')
            && !path_inside
            && (after.starts_with("::") || (before.trim() == "use" && after.starts_with([';', ' '])))
    })
}

#[cfg(test)]
mod tests {
    use super::{super::file, *};

    fn count(path: &str, text: &str) -> usize {
        let mut violations = Vec::new();
        check(&file(path, text), &mut violations);
        violations.len()
    }

    #[test]
    fn each_room_is_refused_what_is_not_its_own() {
        for (path, text, expected) in [
            ("services/a/src/routes/users.rs", "use sqlx::PgPool;", 1),
            ("services/a/src/routes.rs", "let x = sqlx::query(\"\");", 1),
            ("services/a/src/routes.rs", "use axum::Router;", 0),
            ("services/a/src/store.rs", "use axum::{Json, http::StatusCode};", 1),
            ("services/a/src/users.rs", "use axum::http::StatusCode;", 0),
            ("services/a/src/store/users.rs", "use sqlx::PgPool;", 0),
            ("services/a/src/users.rs", "fn f() -> axum::Json<()> {}", 1),
            ("services/a/src/jobs.rs", "// as axum::serve does", 0),
            ("services/a/src/lib.rs", "use sqlx::PgPool; use axum::Router;", 0),
            ("services/router-service/src/proxy.rs", "use axum::Router;", 0),
            ("crates/kronos-common/src/problem.rs", "use axum::Router;", 0),
        ] {
            assert_eq!(count(path, text), expected, "{path}: {text}");
        }
    }

    #[test]
    fn a_module_of_the_same_name_is_not_the_crate() {
        assert!(!uses("use kronos_common::redis::RedisStore;", "redis"));
        assert!(uses("use redis::AsyncCommands;", "redis"));
        assert!(!uses("deadpool_redis::Pool", "redis"));
    }
}
