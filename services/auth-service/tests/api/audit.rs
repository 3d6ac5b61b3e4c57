//! The record of security events.

use auth_service::audit::{AuditEntry, first_broken};
use serde_json::json;

use crate::harness::TestAuth;

async fn entries(auth: &TestAuth) -> Vec<AuditEntry> {
    sqlx::query_as("select sequence, at, kind, subject, actor, data, prev_hash, hash from audit order by sequence")
        .fetch_all(&auth.pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn the_chain_holds_under_parallel_events_and_shows_every_change() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    let attempts = (0..20)
        .map(|index| auth.try_login(&user.username, if index % 4 == 0 { "wrong" } else { crate::harness::PASSWORD }));
    futures::future::join_all(attempts).await;
    let entries = entries(&auth).await;
    assert!(entries.len() >= 22, "{}", entries.len());
    assert_eq!(first_broken(&entries), None);
    // One that has all members.
    let at = entries.iter().position(|entry| entry.subject.is_some() && entry.actor.is_some()).unwrap();
    let changes: [fn(&mut AuditEntry); 6] = [
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
        let mut changed = entries.clone();
        change(&mut changed[at]);
        assert_eq!(first_broken(&changed), Some(entries[at].sequence), "change {index}");
    }
    let mut shorter = entries.clone();
    shorter.remove(5);
    assert_eq!(first_broken(&shorter), Some(7), "a removed entry shows");
}

#[tokio::test]
async fn the_record_cannot_be_changed_by_the_service_itself() {
    let auth = TestAuth::start().await;
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
    auth.with_permissions(&["logs:read"]).await.get("/auth/audit").await.expect_problem(403, "permission_denied");
    let reader = auth.with_permissions(&["audit:read"]).await;
    let page = reader.get(&format!("/auth/audit?limit=2&subject={}", user.id)).await.expect(200).json();
    let kinds: Vec<_> = page["items"].as_array().unwrap().iter().map(|entry| entry["kind"].clone()).collect();
    assert_eq!(kinds, [json!("login-succeeded"), json!("login-failed")]);
    let cursor = page["nextCursor"].as_str().unwrap();
    let next = reader.get(&format!("/auth/audit?limit=2&subject={}&cursor={cursor}", user.id)).await.expect(200).json();
    assert_eq!((&next["items"][0]["kind"], &next["nextCursor"]), (&json!("credentials-set"), &json!(null)));
}
