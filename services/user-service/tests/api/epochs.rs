//! Read your writes: whoever shows the epoch of a change gets an answer that knows of it, from any instance.

use std::time::{Duration, Instant};

use kronos_testkit::{http, wait_until};
use serde_json::json;

use crate::harness::Fixture;

#[tokio::test]
async fn interleaved_grants_revocations_and_checks_never_see_a_stale_allow() {
    let fixture = Fixture::new().await;
    let other = fixture.platform.start().await;
    let clients = [fixture.admin.clone(), fixture.platform.caller(&other, "root", &["*:*"])];
    fixture.role("base", &["robots:use"], &[]).await;
    fixture.role("heir", &[], &["base"]).await;
    let group = fixture.group("crew").await;
    fixture.admin.put(&format!("/groups/{group}/roles/base"), &json!({})).await.expect(200);
    let mut workers = Vec::new();
    for worker in 0..6 {
        let user = fixture.user(&format!("u{worker}")).await;
        let (clients, group) = (clients.clone(), group.clone());
        workers.push(tokio::spawn(async move {
            let question = format!("/users/{user}/access?permission=robots:use");
            let path = match worker % 3 {
                0 => format!("/users/{user}/roles/heir"),
                1 => format!("/users/{user}/roles/base"),
                _ => format!("/groups/{group}/members/{user}"),
            };
            let mut checks = 0;
            for round in 0..40_usize {
                let (writer, readers) = (&clients[round % 2], [&clients[(round + 1) % 2], &clients[round % 2]]);
                for wanted in [true, false] {
                    let answer = if wanted { writer.put(&path, &json!({})).await } else { writer.delete(&path).await };
                    assert!([200, 204].contains(&answer.status), "{answer}");
                    let epoch: i64 = answer.header("kronos-epoch").unwrap().parse().unwrap();
                    for reader in readers {
                        let answer = reader.get(&format!("{question}&minEpoch={epoch}")).await.expect(200).json();
                        assert_eq!(answer["allowed"], wanted, "worker {worker}, round {round}: {answer}");
                        assert!(answer["epoch"].as_i64() >= Some(epoch), "{answer}");
                        checks += 1;
                    }
                }
            }
            checks
        }));
    }
    // Meanwhile the roles themselves change, in what is not asked about.
    for round in 0..30 {
        let more = if round % 2 == 0 { "robots:see" } else { "robots:repair" };
        let body = json!({"permissions": ["robots:use", more]});
        clients[round % 2].put("/roles/base", &body).await.expect(200);
    }
    let mut checks = 0;
    for worker in workers {
        checks += worker.await.unwrap();
    }
    assert_eq!(checks, 6 * 40 * 4);
}

#[tokio::test]
async fn a_changed_role_is_felt_by_every_check_that_shows_its_epoch() {
    let fixture = Fixture::new().await;
    let other = fixture.platform.start().await;
    let other = fixture.platform.caller(&other, "root", &["*:*"]);
    fixture.role("base", &["robots:use"], &[]).await;
    fixture.role("heir", &[], &["base"]).await;
    let user = fixture.user("camille").await;
    fixture.give(&user, "heir", json!({})).await;
    let question = format!("/users/{user}/access?permission=robots:use");
    for round in 0..20 {
        let allowed = round % 2 == 1;
        let body = json!({"permissions": if allowed { vec!["robots:use"] } else { vec![] }});
        let changed = fixture.admin.put("/roles/base", &body).await.expect(200);
        let epoch = changed.header("kronos-epoch").unwrap();
        let there = other.get(&format!("{question}&minEpoch={epoch}")).await.expect(200).json();
        assert_eq!(there["allowed"], allowed, "round {round}: {there}");
        assert_eq!(fixture.access(&user, "permission=robots:use").await["allowed"], allowed);
        // Without an epoch the other instance knows as soon as it hears of it.
        wait_until("the other instance knows", async || other.get(&question).await.json()["allowed"] == allowed).await;
    }
    other.get(&format!("{question}&minEpoch=x")).await.expect_problem(400, "invalid_query");
}

#[tokio::test]
async fn a_role_of_many_changes_by_one_event_and_ends_the_tokens_of_all() {
    let fixture = Fixture::new().await;
    fixture.role("reader", &["users:read"], &[]).await;
    let last = fixture.user("zoe").await;
    let pool = fixture.platform.database.pool("kronos_users").await;
    sqlx::query(
        "insert into users (id, username, username_key, email, email_key, display_name, search)
         select gen_random_uuid(), n, n, n, n, n, n from (select 'u' || generate_series(1, 3000) as n) names",
    )
    .execute(&pool)
    .await
    .unwrap();
    sqlx::query("insert into assignments (user_id, role) select id, 'reader' from users").execute(&pool).await.unwrap();
    wait_until("what was before is told", async || {
        sqlx::query_scalar::<_, i64>("select count(*) from outbox").fetch_one(&pool).await.unwrap() == 0
    })
    .await;
    let mut events = fixture.listen("kronos.#").await;
    let issuer = &fixture.platform.issuer;
    let before = fixture.epoch(&last).await;
    let named = issuer.build(&last).permissions(&["users:read"]).epoch(before).roles(&["reader"]).sign();
    let nameless = issuer.build(&last).permissions(&["users:read"]).epoch(before).sign();
    let clients = [named, nameless].map(|token| http(fixture.running.api).bearer(token));
    for client in &clients {
        client.get("/users").await.expect(200);
    }
    let begun = Instant::now();
    let changed =
        fixture.admin.put("/roles/reader", &json!({"permissions": ["users:read", "logs:read"]})).await.expect(200);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(clients[0].get("/users").await.code(), "token_revoked", "a token that names the role ends at once");
    wait_until("the other one ends too", async || clients[1].get("/users").await.code() == "token_revoked").await;
    let event = events.next().await;
    assert_eq!((event.type_.as_str(), event.subject.as_deref()), ("kronos.role.updated", Some("reader")));
    assert_eq!(event.data["before"], json!({"permissions": ["users:read"], "inherits": []}));
    assert_eq!(event.data["after"]["permissions"], json!(["logs:read", "users:read"]));
    assert_eq!(event.data["by"], json!({"subject": "root", "clientId": "test-client"}));
    let epoch: i64 = changed.header("kronos-epoch").unwrap().parse().unwrap();
    assert_eq!(fixture.epoch(&last).await, epoch);
    fixture.admin.delete("/roles/reader").await.expect(204);
    assert!(fixture.epoch(&last).await > epoch);
    assert_eq!(events.next().await.type_, "kronos.role.deleted", "one event for each change");
}
