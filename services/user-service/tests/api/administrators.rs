//! Who may administer: the first one, the last one, and that nobody gives away what they do not hold.

use kronos_testkit::{http, wait_until};
use serde_json::{Value, json};
use user_service::Config;

use crate::harness::{Fixture, Mood, Platform, declare_others};

fn with_bootstrap(platform: &Platform) -> Config {
    let mut config = platform.config();
    config.bootstrap.admin_username = "root".to_owned();
    config.bootstrap.admin_email = "root@example.com".to_owned();
    config.bootstrap.admin_password = "correct horse".to_owned().into();
    config
}

async fn bootstrapped() -> (Fixture, String) {
    let platform = Platform::new().await;
    let running = user_service::start(with_bootstrap(&platform)).await.unwrap();
    let admin = platform.caller(&running, "test", &["*:*"]);
    let fixture = Fixture { platform, running, admin };
    let mut id = String::new();
    wait_until("the administrator is made", async || {
        let list = fixture.admin.get("/users").await.expect(200).json();
        id = list["items"][0]["id"].as_str().unwrap_or_default().to_owned();
        !id.is_empty()
    })
    .await;
    (fixture, id)
}

#[tokio::test]
async fn the_first_administrator_is_made_once_and_gets_the_password_when_auth_service_is_there() {
    let platform = Platform::new().await;
    platform.auth.set(Mood::Away);
    let first = user_service::start(with_bootstrap(&platform)).await.unwrap();
    let second = user_service::start(with_bootstrap(&platform)).await.unwrap();
    let client = platform.caller(&first, "test", &["*:*"]);
    let list = async || client.get("/users").await.expect(200).json()["items"].as_array().unwrap().clone();
    wait_until("the administrator is made", async || list().await.len() == 1).await;
    assert_eq!(platform.auth.taken(), []);
    platform.auth.set(Mood::Willing);
    wait_until("auth-service has the password", async || !platform.auth.taken().is_empty()).await;
    let (id, credential) = platform.auth.taken()[0].clone();
    assert_eq!(credential, json!({"username": "root", "email": "root@example.com", "password": "correct horse"}));
    let grants = client.get(&format!("/users/{id}/grants")).await.expect(200).json();
    assert_eq!((&grants["roles"], &grants["permissions"]), (&json!(["administrator"]), &json!(["*:*"])));
    first.stop().await;
    second.stop().await;

    let taken = platform.auth.taken().len();
    let third = user_service::start(with_bootstrap(&platform)).await.unwrap();
    let client = http(third.api).bearer(platform.issuer.token("test", &["*:*"]));
    client.get("/users").await.expect(200);
    assert_eq!(client.get("/users").await.json()["items"].as_array().unwrap().len(), 1);
    assert_eq!(platform.auth.taken().len(), taken, "a password that was changed since is not set back");
}

#[tokio::test]
async fn the_last_administrator_stays() {
    let (fixture, id) = bootstrapped().await;
    let (user, role) = (format!("/users/{id}"), format!("/users/{id}/roles/administrator"));
    let admin = &fixture.admin;
    admin.patch(&user, &json!({"disabled": true})).await.expect_problem(409, "last_administrator");
    admin.delete(&user).await.expect_problem(409, "last_administrator");
    admin.delete(&role).await.expect_problem(409, "last_administrator");
    admin.put(&role, &json!({"expiresAt": "2100-01-01T00:00:00Z"})).await.expect_problem(409, "last_administrator");
    admin
        .put("/roles/administrator", &json!({"permissions": ["users:*"]}))
        .await
        .expect_problem(409, "last_administrator");
    admin.delete("/roles/administrator").await.expect_problem(409, "last_administrator");
    assert_eq!(fixture.grants(&id).await["permissions"], json!(["*:*"]));
    assert_eq!(fixture.epoch(&id).await, 1, "nothing changed");

    // On one resource only, or until a time, is no administrator; an heir of the role is one.
    let other = fixture.user("camille").await;
    fixture.give(&other, "administrator", json!({"resource": "robot:R-42"})).await;
    admin.delete(&role).await.expect_problem(409, "last_administrator");
    fixture.role("chief", &[], &["administrator"]).await;
    fixture.give(&other, "chief", json!({})).await;
    admin.delete(&role).await.expect(204);
    admin.delete(&format!("/users/{other}")).await.expect_problem(409, "last_administrator");
    admin.patch(&user, &json!({"disabled": true})).await.expect(200);
}

#[tokio::test]
async fn the_last_two_administrators_cannot_go_at_once() {
    let (fixture, first) = bootstrapped().await;
    for round in 0..5 {
        let second = fixture.user(&format!("camille{round}")).await;
        fixture.give(&second, "administrator", json!({})).await;
        let disable = |id: &str| fixture.admin.patch(&format!("/users/{id}"), &json!({"disabled": true})).into_future();
        let demote = fixture.admin.delete(&format!("/users/{second}/roles/administrator")).into_future();
        let (a, b) = tokio::join!(disable(&first), demote);
        let refused = [a, b].iter().filter(|answer| answer.code() == "last_administrator").count();
        assert_eq!(refused, 1);
        // Back to one: the first.
        fixture.give(&first, "administrator", json!({})).await;
        fixture.admin.patch(&format!("/users/{first}"), &json!({"disabled": false})).await.expect(200);
        fixture.admin.delete(&format!("/users/{second}")).await.expect(204);
    }
}

#[tokio::test]
async fn nobody_hands_out_or_touches_rights_above_their_own() {
    let (fixture, root) = bootstrapped().await;
    declare_others(&fixture.admin).await;
    fixture.role("customer", &["robots:use"], &[]).await;
    fixture.role("deputy", &[], &["administrator"]).await;
    let user = fixture.user("camille").await;
    let crm = fixture.caller(&["users:read", "users:write", "roles:read", "grants:read"]);
    crm.put(&format!("/users/{user}/roles/customer"), &json!({})).await.expect(200);
    crm.patch(&format!("/users/{user}"), &json!({"password": "correct horse"})).await.expect(200);
    for role in ["administrator", "deputy"] {
        let refused = crm.put(&format!("/users/{user}/roles/{role}"), &json!({})).await;
        refused.expect_problem(403, "permission_denied");
    }
    let scoped = json!({"resource": "robot:R-42"});
    crm.put(&format!("/users/{user}/roles/administrator"), &scoped).await.expect_problem(403, "permission_denied");
    crm.delete(&format!("/users/{root}/roles/administrator")).await.expect_problem(403, "permission_denied");
    crm.patch(&format!("/users/{root}"), &json!({"password": "correct horse 2"}))
        .await
        .expect_problem(403, "permission_denied");
    crm.patch(&format!("/users/{root}"), &json!({"disabled": true})).await.expect_problem(403, "permission_denied");
    crm.delete(&format!("/users/{root}")).await.expect_problem(403, "permission_denied");

    let editor = fixture.caller(&["roles:read", "roles:write"]);
    editor.post("/roles", &json!({"name": "guest", "permissions": ["robots:see"]})).await.expect(201);
    let refused: [Value; 4] = [
        json!({"name": "sly", "permissions": ["*:*"]}),
        json!({"name": "sly", "permissions": ["users:*"]}),
        json!({"name": "sly", "permissions": ["*:write"]}),
        json!({"name": "sly", "inherits": ["administrator"]}),
    ];
    for body in &refused {
        editor.post("/roles", body).await.expect_problem(403, "permission_denied");
    }
    fixture.admin.get("/roles/sly").await.expect_problem(404, "not_found");
    let more = json!({"permissions": ["clients:write"]});
    editor.put("/roles/customer", &more).await.expect_problem(403, "permission_denied");
    editor.put("/roles/administrator", &json!({"permissions": []})).await.expect_problem(403, "permission_denied");
    editor.delete("/roles/deputy").await.expect_problem(403, "permission_denied");
    assert_eq!(fixture.grants(&user).await["permissions"], json!(["robots:use"]));
}
