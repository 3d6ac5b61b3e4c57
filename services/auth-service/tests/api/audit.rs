//! The record of security events: the chain, who reads it, and the check of an export without the service.

use std::io::Cursor;

use auth_service::audit::{AuditEntry, is_whole, offline};
use kronos_common::identity::JwkSet;
use proptest::prelude::*;
use serde_json::json;

use crate::harness::{PASSWORD, TestAuth};

async fn entries(auth: &TestAuth) -> Vec<AuditEntry> {
    sqlx::query_as("select sequence, at, kind, subject, actor, data, prev_hash, hash from audit order by sequence")
        .fetch_all(&auth.pool)
        .await
        .unwrap()
}

/// An export and the keys to check it by.
async fn export(auth: &TestAuth) -> (String, JwkSet) {
    let reader = auth.with_permissions(&["audit:read"]).await;
    let text = reader.get("/auth/audit/export").await.expect(200).text();
    let keys = serde_json::from_slice(&auth.client.get("/.well-known/jwks.json").await.expect(200).body).unwrap();
    (text, keys)
}

async fn checkpoint(auth: &TestAuth) -> String {
    let reader = auth.with_permissions(&["audit:read"]).await;
    let answer = reader.get("/auth/audit/checkpoint").await.expect(200).json();
    answer["checkpoint"].as_str().unwrap().to_owned()
}

fn verify(export: &str, keys: &JwkSet, kept: &[String]) -> anyhow::Result<offline::Report> {
    offline::verify(vec![Box::new(Cursor::new(export.to_owned()))], keys, kept)
}

#[tokio::test]
async fn the_chain_never_forks_whatever_two_instances_append_at_once() {
    let auth = TestAuth::start_with(|config| config.throttle.account_network_failures = 1000).await;
    let second = auth.second().await;
    let user = auth.user(&[]).await;
    let attempts = (0..40).map(|index| {
        let instance = if index % 2 == 0 { &auth } else { &second };
        instance.try_login(&user.username, if index % 4 == 0 { "wrong" } else { PASSWORD })
    });
    futures::future::join_all(attempts).await;
    let entries = entries(&auth).await;
    assert!(entries.len() >= 42, "{}", entries.len());
    let (export, keys) = export(&second).await;
    let report = verify(&export, &keys, &[]).unwrap();
    assert!(report.entries >= entries.len() as u64, "{report:?}");
}

#[tokio::test]
async fn a_change_of_any_member_of_an_entry_shows() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    auth.login(&user).await;
    let entries = entries(&auth).await;
    // One that has all members.
    let entry = entries.iter().find(|entry| entry.subject.is_some() && entry.actor.is_some()).unwrap();
    assert!(is_whole(entry));
    let changes: [fn(&mut AuditEntry); 7] = [
        |entry| entry.sequence += 1,
        |entry| entry.data.push(' '),
        |entry| entry.subject = Some("somebody else".into()),
        |entry| entry.actor = None,
        |entry| entry.at += chrono::TimeDelta::microseconds(1),
        |entry| entry.kind.push('x'),
        // The same bytes, divided otherwise.
        |entry| {
            let last = entry.kind.pop().unwrap();
            entry.subject.as_mut().unwrap().insert(0, last);
        },
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut changed = entry.clone();
        change(&mut changed);
        assert!(!is_whole(&changed), "change {index}");
    }
}

#[tokio::test]
async fn an_export_shows_every_changed_byte_and_every_line_that_is_missing_moved_or_added() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    for password in ["wrong", PASSWORD, PASSWORD] {
        auth.try_login(&user.username, password).await;
    }
    let (export, keys) = export(&auth).await;
    let lines: Vec<&str> = export.split_inclusive('\n').collect();
    assert!(lines.len() > 6, "{export}");
    let whole = verify(&export, &keys, &[]).unwrap();
    assert_eq!(whole.entries as usize, lines.len() - 1);
    assert!(verify(&export, &JwkSet { keys: vec![] }, &[]).is_err(), "without keys nothing is believed");

    for index in 0..lines.len() {
        let without: String = lines.iter().enumerate().filter(|(at, _)| *at != index).map(|(_, line)| *line).collect();
        assert!(verify(&without, &keys, &[]).is_err(), "without line {index}");
        let cut: String = lines[..index].concat();
        assert!(verify(&cut, &keys, &[]).is_err(), "cut before line {index}");
        let cut_within: String = lines[..index].concat() + &lines[index][..lines[index].len() / 2];
        assert!(verify(&cut_within, &keys, &[]).is_err(), "cut within line {index}");
        let mut twice = lines.clone();
        twice.insert(index, lines[index]);
        assert!(verify(&twice.concat(), &keys, &[]).is_err(), "line {index} twice");
        for other in 0..index {
            let mut moved = lines.clone();
            moved.swap(index, other);
            assert!(verify(&moved.concat(), &keys, &[]).is_err(), "lines {index} and {other} changed places");
        }
    }
    let mut runner = proptest::test_runner::TestRunner::default();
    let strategy = (any::<proptest::sample::Index>(), any::<u8>());
    let every_byte = runner.run(&strategy, |(at, byte)| {
        let mut changed = export.clone().into_bytes();
        let at = at.index(changed.len());
        prop_assume!(changed[at] != byte);
        changed[at] = byte;
        let file: Box<dyn std::io::BufRead> = Box::new(Cursor::new(changed));
        prop_assert!(offline::verify(vec![file], &keys, &[]).is_err(), "byte {} at {}", byte, at);
        Ok(())
    });
    every_byte.unwrap();
}

#[tokio::test]
async fn an_end_that_was_cut_off_together_with_its_checkpoint_is_missed_by_who_kept_one() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    auth.login(&user).await;
    let earlier = export(&auth).await.0;
    let early = checkpoint(&auth).await;
    auth.login(&user).await;
    let kept = checkpoint(&auth).await;
    auth.login(&user).await;
    let (later, keys) = export(&auth).await;
    assert_eq!(verify(&later, &keys, &[early.clone(), kept.clone()]).unwrap().kept, 2);
    assert!(verify(&earlier, &keys, &[]).is_ok(), "by itself an earlier export is whole");
    let error = verify(&earlier, &keys, std::slice::from_ref(&kept)).unwrap_err();
    assert!(error.to_string().contains("its end is missing"), "{error:#}");
    // Another history, truly hashed and truly signed, is not the one of the kept checkpoint.
    let other = TestAuth::start().await;
    for _ in 0..3 {
        let user = other.user(&[]).await;
        other.login(&user).await;
    }
    let (foreign, foreign_keys) = export(&other).await;
    let both = JwkSet { keys: [keys.keys.clone(), foreign_keys.keys].concat() };
    assert!(verify(&foreign, &both, &[]).is_ok());
    assert!(verify(&foreign, &both, &[kept]).is_err());
    // An export goes on where the one before ended.
    let reader = auth.with_permissions(&["audit:read"]).await;
    let next = reader.get("/auth/audit/export?after=3").await.expect(200).text();
    assert!(verify(&next, &keys, &[]).is_err(), "alone it has no beginning");
    reader.get("/auth/audit/export?after=4000000").await.expect_problem(400, "invalid_query");
}

#[tokio::test]
async fn the_binary_checks_exports() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    auth.login(&user).await;
    let (text, keys) = export(&auth).await;
    let dir = std::env::temp_dir().join(kronos_testkit::unique("kronos-audit"));
    std::fs::create_dir_all(&dir).unwrap();
    let (file, jwks, kept) = (dir.join("audit.jsonl"), dir.join("jwks.json"), dir.join("checkpoint.json"));
    std::fs::write(&file, &text).unwrap();
    std::fs::write(&jwks, serde_json::to_vec(&keys).unwrap()).unwrap();
    let checkpoint = text.lines().next_back().unwrap();
    std::fs::write(&kept, checkpoint).unwrap();
    let run = || {
        std::process::Command::new(env!("CARGO_BIN_EXE_auth-service"))
            .arg("audit-verify")
            .arg(&file)
            .arg("--keys")
            .arg(&jwks)
            .arg("--checkpoint")
            .arg(&kept)
            .output()
            .unwrap()
    };
    let good = run();
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    assert!(String::from_utf8_lossy(&good.stdout).starts_with("unharmed: "));
    std::fs::write(&file, text.replacen("credentials-set", "credentials-sat", 1)).unwrap();
    let bad = run();
    assert_eq!(bad.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("is not what was recorded"));
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test]
async fn the_record_cannot_be_changed_by_the_service_itself() {
    let auth = TestAuth::start().await;
    for statement in [
        "update audit set kind = 'x'",
        "delete from audit",
        "truncate audit",
        "delete from audit_head",
        "insert into audit_head (id, sequence, hash) values (1, 0, '')",
    ] {
        let error = sqlx::query(statement).execute(&auth.pool).await.unwrap_err();
        assert!(error.to_string().contains("permission denied"), "{statement}: {error}");
    }
    // Even a right that was given by mistake changes nothing.
    sqlx::query("grant update, delete, truncate on audit to current_user").execute(&auth.pool).await.unwrap();
    for statement in ["update audit set kind = 'x'", "delete from audit", "truncate audit"] {
        let error = sqlx::query(statement).execute(&auth.pool).await.unwrap_err();
        assert!(error.to_string().contains("append-only"), "{statement}: {error}");
    }
}

#[tokio::test]
async fn the_record_is_read_in_pages_by_who_may() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    auth.try_login(&user.username, "wrong").await.expect(401);
    auth.login(&user).await;
    let nobody = auth.with_permissions(&["logs:read"]).await;
    for path in ["/auth/audit", "/auth/audit/export", "/auth/audit/checkpoint"] {
        nobody.get(path).await.expect_problem(403, "permission_denied");
    }
    let reader = auth.with_permissions(&["audit:read"]).await;
    let page = reader.get(&format!("/auth/audit?limit=2&subject={}", user.id)).await.expect(200).json();
    let kinds: Vec<_> = page["items"].as_array().unwrap().iter().map(|entry| entry["kind"].clone()).collect();
    assert_eq!(kinds, [json!("login-succeeded"), json!("login-failed")]);
    let cursor = page["nextCursor"].as_str().unwrap();
    let next = reader.get(&format!("/auth/audit?limit=2&subject={}&cursor={cursor}", user.id)).await.expect(200).json();
    assert_eq!((&next["items"][0]["kind"], &next["nextCursor"]), (&json!("credentials-set"), &json!(null)));
}

#[tokio::test]
async fn the_record_is_filtered_by_what_who_and_when() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    auth.try_login(&user.username, "wrong").await.expect(401);
    let between = chrono::Utc::now();
    auth.login(&user).await;
    let reader = auth.with_permissions(&["audit:read"]).await;
    let kinds = async |query: &str| -> Vec<String> {
        let page = reader.get(&format!("/auth/audit?{query}")).await.expect(200).json();
        page["items"].as_array().unwrap().iter().map(|entry| entry["kind"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(kinds("kind=login-failed").await, ["login-failed"]);
    assert_eq!(kinds(&format!("actor={}", user.id)).await, ["login-succeeded"]);
    let instant = between.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    let subject = user.id;
    assert_eq!(kinds(&format!("subject={subject}&since={instant}")).await, ["login-succeeded"]);
    assert_eq!(kinds(&format!("subject={subject}&until={instant}")).await, ["login-failed", "credentials-set"]);
    assert!(kinds("kind=nul%00").await.is_empty());
    reader.get("/auth/audit?since=yesterday").await.expect_problem(400, "invalid_query");
}
