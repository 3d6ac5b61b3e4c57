//! The rules, as tables.

use std::{collections::BTreeSet, sync::Arc};

use chrono::{TimeDelta, Utc};
use serde_json::json;
use user_service::{
    rights::{Holding, IncludedRole, Person, Resource, ResourcePattern, beyond, judge},
    roles::{Inheritance, PermissionName, PermissionPattern, RoleName, closure, cycle, including},
    users::{DisplayName, Email, Username},
};
use uuid::Uuid;

fn inheritance(edges: &[(&str, &[&str])]) -> Inheritance {
    edges
        .iter()
        .map(|(role, inherits)| ((*role).to_owned(), inherits.iter().map(|name| (*name).to_owned()).collect()))
        .collect()
}

#[test]
fn names_and_addresses() {
    for (text, good) in [
        ("camille", true),
        ("c", true),
        ("Élodie", true),
        ("c@x", true),
        ("", false),
        ("a b", false),
        (" a", false),
        ("a\u{ad}b", false),
    ] {
        assert_eq!(Username::try_from(text.to_owned()).is_ok(), good, "{text:?}");
    }
    for (text, good) in [
        ("c@x.fr", true),
        ("c@localhost", true),
        ("é@exämple.fr", true),
        ("a@b@c.fr", true),
        ("c", false),
        ("c@", false),
        ("c@x.", false),
        ("c@[::1]", false),
    ] {
        assert_eq!(Email::try_from(text.to_owned()).is_ok(), good, "{text:?}");
    }
    for (text, good) in [("Camille Martin", true), ("名前", true), ("", false), (" ", false), ("a\nb", false)] {
        assert_eq!(DisplayName::try_from(text.to_owned()).is_ok(), good, "{text:?}");
    }
}

#[test]
fn roles_permissions_and_resources() {
    for (text, good) in [
        ("customer", true),
        ("a.b-c_1", true),
        ("1a", true),
        ("", false),
        ("Customer", false),
        ("-a", false),
        ("a/b", false),
        ("é", false),
    ] {
        assert_eq!(RoleName::try_from(text.to_owned()).is_ok(), good, "{text:?}");
    }
    for (text, pattern, name) in [
        ("logs:read", true, true),
        ("a-b:c-1", true, true),
        ("*:*", true, false),
        ("logs:*", true, false),
        ("*:read", true, false),
        ("*", false, false),
        ("logs", false, false),
        ("logs:", false, false),
        (":read", false, false),
        ("logs:re*", false, false),
        ("a:b:c", false, false),
        ("Logs:read", false, false),
        ("1a:b", false, false),
    ] {
        assert_eq!(PermissionPattern::try_from(text.to_owned()).is_ok(), pattern, "{text:?}");
        assert_eq!(PermissionName::try_from(text.to_owned()).is_ok(), name, "{text:?}");
    }
    for (text, pattern, resource) in [
        ("robot:R-42", true, true),
        ("customer:17/robot:R-42", true, true),
        ("customer:17/*", true, false),
        ("customer:17/a/*", true, false),
        ("customer:*", false, false),
        ("customer:17/", false, false),
        ("/customer:17", false, false),
        ("customer", false, false),
        ("customer:17//a", false, false),
        ("a/b:c", false, false),
    ] {
        assert_eq!(ResourcePattern::try_from(text.to_owned()).is_ok(), pattern, "{text:?}");
        assert_eq!(Resource::try_from(text.to_owned()).is_ok(), resource, "{text:?}");
    }
}

#[test]
fn the_closure_takes_the_shortest_path() {
    let roles = inheritance(&[("a", &["b", "c"]), ("b", &["d"]), ("c", &["d", "e"]), ("d", &["e"])]);
    let paths = closure(&roles, "a");
    for (role, path) in [("a", "a"), ("b", "a b"), ("c", "a c"), ("d", "a b d"), ("e", "a c e")] {
        assert_eq!(paths[role].join(" "), path);
    }
    assert_eq!(including(&roles, "e"), ["a", "c", "d", "e", "b"].map(str::to_owned).into());
    assert_eq!(closure(&roles, "alone").len(), 1);
}

#[test]
fn a_circle_is_found_and_named() {
    for (edges, role, expected) in [
        (&[("a", &["b"][..]), ("b", &["c"]), ("c", &["a"])][..], "a", Some("a b c a")),
        (&[("a", &["a"])], "a", Some("a a")),
        (&[("a", &["b", "c"]), ("b", &["d"]), ("c", &["d"])], "a", None),
        (&[("a", &["b"]), ("b", &["c"]), ("c", &["b"])], "a", None),
        (&[], "a", None),
    ] {
        assert_eq!(cycle(&inheritance(edges), role).map(|path| path.join(" ")).as_deref(), expected);
    }
}

#[test]
fn privileged_permissions_can_only_be_handed_out_by_who_holds_them() {
    let holds = |held: &'static [&'static str]| {
        move |wanted: &str| held.iter().any(|held| kronos_common::identity::permission_matches(held, wanted))
    };
    for (granted, held, missing) in [
        (&["robots:use", "logs:read"][..], &[][..], None),
        (&["*:*"], &[], Some("users:write")),
        (&["*:*"], &["*:*"], None),
        (&["users:*"], &["users:write"], Some("users:manage")),
        (&["users:*"], &["users:write", "users:manage"], None),
        (
            &["*:write"],
            &["users:write", "roles:write", "credentials:write", "clients:write", "sessions:write"],
            Some("routes:write"),
        ),
        (&["db:query"], &["db:read"], Some("db:query")),
    ] {
        assert_eq!(beyond(granted.iter().copied(), holds(held)), missing, "{granted:?} by {held:?}");
    }
}

#[test]
fn the_patterns_that_cover_a_permission_are_all_of_them() {
    let permission = PermissionName::try_from("logs:read".to_owned()).unwrap();
    let covering: BTreeSet<String> = permission.covering().into_iter().collect();
    assert_eq!(covering, ["*:*", "*:read", "logs:*", "logs:read"].map(str::to_owned).into());
}

/// Until it is taken away, which is soon.
#[test]
fn a_no_tells_what_has_ended() {
    let now = Utc::now();
    let person = Person { id: Uuid::nil(), username: "camille".to_owned(), disabled: false, epoch: 3 };
    let role = IncludedRole { path: vec!["guest".to_owned()], permissions: vec!["robots:use".to_owned()] };
    let held =
        Holding { resource: Some("robot:R-1".to_owned()), expires_at: Some(now), group: None, role: Arc::new(role) };
    let wanted = PermissionName::try_from("robots:use".to_owned()).unwrap();
    let judged = |at| judge(&person, std::slice::from_ref(&held), &wanted, Some("robot:R-1"), at);
    assert!(judged(now - TimeDelta::milliseconds(1)).allowed);
    let answer = judged(now);
    assert!(!answer.allowed);
    assert_eq!(json!(answer)["missing"]["nearest"][0]["because"], "ended", "{answer:?}");
    assert!(answer.why.join("\n").contains("camille had robots:use on robot:R-1 until"), "{answer:?}");
}
