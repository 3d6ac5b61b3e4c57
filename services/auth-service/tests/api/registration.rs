//! People register: by invitation, or anybody, or nobody; and nobody learns who has an account.

use std::time::{Duration, Instant};

use auth_service::config::RegistrationMode;
use kronos_testkit::{TestResponse, unique};
use serde_json::{Value, json};

use crate::{
    fake_users::Mode,
    harness::{PASSWORD, TestAuth},
    mailbox::Mailbox,
};

async fn open() -> TestAuth {
    TestAuth::start_with(|config| {
        config.accounts.registration = RegistrationMode::Open;
        config.accounts.registrations_per_network = 1000;
    })
    .await
}

fn applicant() -> (String, String, Value) {
    let name = unique("new");
    let email = format!("{name}@kronos.test");
    let body = json!({ "username": name, "email": email, "password": PASSWORD });
    (name, email, body)
}

async fn register(auth: &TestAuth, body: &Value) -> TestResponse {
    auth.client.post("/auth/register", body).await
}

async fn verify(auth: &TestAuth, token: &Value) -> TestResponse {
    auth.client.post("/auth/verify-email", &json!({ "token": token })).await
}

#[tokio::test]
async fn who_registers_proves_the_address_and_logs_in() {
    let auth = open().await;
    let mut mailbox = Mailbox::open(&auth).await;
    let (name, email, body) = applicant();
    let answer = register(&auth, &body).await.expect(202);
    assert_eq!(answer.json(), json!({ "status": "verificationRequired" }));
    auth.try_login(&name, PASSWORD).await.expect_problem(401, "invalid_credentials");
    assert!(auth.users.made().is_empty());
    let mail = mailbox.take("registration", &email).await;
    assert!(mail["link"].as_str().unwrap().contains("/account/verify-email#token="));
    verify(&auth, &mail["token"]).await.expect(204);
    auth.try_login(&name, PASSWORD).await.expect(200);
    verify(&auth, &mail["token"]).await.expect_problem(400, "invalid_link");
    let (proved, stored): (bool, i64) = sqlx::query_as(
        "select bool_and(email_verified_at is not null), (select count(*) from registrations) from credentials",
    )
    .fetch_one(&auth.pool)
    .await
    .unwrap();
    assert!(proved && stored == 0);
}

#[tokio::test]
async fn by_default_an_invitation_is_needed_and_is_good_once() {
    let auth = TestAuth::start().await;
    let mut mailbox = Mailbox::open(&auth).await;
    let (name, email, mut body) = applicant();
    register(&auth, &body).await.expect_problem(403, "invitation_refused");
    auth.with_permissions(&["users:write"]).await.post("/auth/invitations", &json!({})).await.expect(403);
    let desk = auth.with_permissions(&["invitations:write", "invitations:read"]).await;
    desk.post("/auth/invitations", &json!({ "email": email })).await.expect(201);
    let code = mailbox.take("invitation", &email).await["token"].clone();
    // Another address has no use of it.
    let mut other = applicant().2;
    other["invitation"] = code.clone();
    register(&auth, &other).await.expect_problem(403, "invitation_refused");
    body["invitation"] = json!(code.as_str().unwrap().to_lowercase());
    // The mail was the proof.
    register(&auth, &body).await.expect(201);
    auth.try_login(&name, PASSWORD).await.expect(200);
    let mut again = applicant().2;
    (again["invitation"], again["email"]) = (code, json!(email));
    register(&auth, &again).await.expect_problem(403, "invitation_refused");
    let listed = desk.get("/auth/invitations").await.expect(200).json();
    assert!(listed["items"][0]["usedAt"].is_string(), "{listed}");
}

#[tokio::test]
async fn an_invitation_without_an_address_still_asks_for_proof_and_can_be_withdrawn() {
    let auth = TestAuth::start().await;
    let desk = auth.with_permissions(&["invitations:write"]).await;
    let first = desk.post("/auth/invitations", &json!({})).await.expect(201).json();
    let (_, _, mut body) = applicant();
    body["invitation"] = first["code"].clone();
    register(&auth, &body).await.expect(202);
    let second = desk.post("/auth/invitations", &json!({})).await.expect(201).json();
    let path = format!("/auth/invitations/{}", second["id"].as_str().unwrap());
    desk.delete(&path).await.expect(204);
    desk.delete(&path).await.expect_problem(404, "not_found");
    let (_, _, mut body) = applicant();
    body["invitation"] = second["code"].clone();
    register(&auth, &body).await.expect_problem(403, "invitation_refused");
}

#[tokio::test]
async fn closed_means_nobody() {
    let auth = TestAuth::start_with(|config| config.accounts.registration = RegistrationMode::Closed).await;
    register(&auth, &applicant().2).await.expect_problem(403, "registration_closed");
}

#[tokio::test]
async fn without_verification_the_person_logs_in_at_once() {
    let auth = TestAuth::start_with(|config| {
        config.accounts.registration = RegistrationMode::Open;
        config.accounts.verify_email = false;
    })
    .await;
    let (name, _, body) = applicant();
    register(&auth, &body).await.expect(201);
    auth.try_login(&name, PASSWORD).await.expect(200);
}

#[tokio::test]
async fn bad_fields_and_weak_passwords_are_named() {
    let auth = open().await;
    let bad = json!({ "username": "a b", "email": "none", "password": 7, "admin": true });
    let answer = register(&auth, &bad).await;
    answer.clone().expect_problem(422, "invalid_request");
    assert_eq!(answer.json()["errors"].as_array().unwrap().len(), 4, "{answer}");
    let (_, _, mut body) = applicant();
    body["password"] = json!("password");
    assert_eq!(register(&auth, &body).await.expect(422).json()["errors"][0]["pointer"], "/password");
}

#[tokio::test]
async fn a_taken_address_gets_the_same_answer_in_the_same_time_and_its_owner_a_mail() {
    let auth = open().await;
    let mut mailbox = Mailbox::open(&auth).await;
    let user = auth.user(&[]).await;
    let taken = format!("{}@kronos.test", unique("owner"));
    let body = json!({ "username": user.username, "email": taken });
    auth.admin().await.put(&format!("/auth/credentials/{}", user.id), &body).await.expect(204);
    let (mut known, mut unknown): (Vec<Duration>, Vec<Duration>) = (Vec::new(), Vec::new());
    let mut squatted = String::new();
    for _ in 0..20 {
        let (name, _, mut body) = applicant();
        let begun = Instant::now();
        let free = register(&auth, &body).await.expect(202);
        unknown.push(begun.elapsed());
        (body["username"], body["email"]) = (json!(format!("{name}-2")), json!(taken.to_uppercase()));
        squatted = format!("{name}-2");
        let begun = Instant::now();
        let owned = register(&auth, &body).await.expect(202);
        known.push(begun.elapsed());
        assert_eq!(free.body, owned.body);
    }
    known.sort();
    unknown.sort();
    let (known, unknown) = (known[10], unknown[10]);
    assert!(known < unknown * 3 && unknown < known * 3, "medians: {known:?} {unknown:?}");
    let mail = mailbox.take("already-registered", &taken.to_uppercase()).await;
    assert_eq!((mail["token"].clone(), mail["username"].clone()), (Value::Null, Value::Null));
    // The name is taken in both cases, so trying it again tells nothing either.
    let (_, _, mut body) = applicant();
    body["username"] = json!(squatted);
    register(&auth, &body).await.expect_problem(409, "username_taken");
    auth.try_login(&squatted, PASSWORD).await.expect_problem(401, "invalid_credentials");
}

#[tokio::test]
async fn a_lost_mail_is_sent_again_and_ends_the_link_before() {
    let auth = open().await;
    let mut mailbox = Mailbox::open(&auth).await;
    let (name, email, body) = applicant();
    register(&auth, &body).await.expect(202);
    let lost = mailbox.take("registration", &email).await["token"].clone();
    let resend =
        async |email: &str| auth.client.post("/auth/verify-email/resend", &json!({ "email": email })).await.expect(202);
    resend(&email).await;
    let found = mailbox.take("registration", &email).await["token"].clone();
    assert_eq!(resend("nobody@kronos.test").await.body, resend(&email).await.body);
    verify(&auth, &lost).await.expect_problem(400, "invalid_link");
    drop(found);
    let newest = mailbox.take("registration", &email).await["token"].clone();
    verify(&auth, &newest).await.expect(204);
    auth.try_login(&name, PASSWORD).await.expect(200);
}

#[tokio::test]
async fn while_user_service_is_away_the_link_stays_good_and_the_person_is_made_once() {
    let auth = open().await;
    let mut mailbox = Mailbox::open(&auth).await;
    let (name, email, body) = applicant();
    register(&auth, &body).await.expect(202);
    let token = mailbox.take("registration", &email).await["token"].clone();
    auth.users.set_mode(Mode::Fails);
    verify(&auth, &token).await.expect_problem(503, "store_unavailable");
    auth.users.set_mode(Mode::Answers);
    let both = futures::future::join_all((0..4).map(|_| verify(&auth, &token))).await;
    assert!(both.iter().any(|answer| answer.status == 204), "{both:?}");
    assert_eq!(auth.users.made(), std::slice::from_ref(&name));
    auth.try_login(&name, PASSWORD).await.expect(200);
}

#[tokio::test]
async fn a_name_that_user_service_gave_away_is_chosen_anew_with_the_same_link() {
    let auth = open().await;
    let mut mailbox = Mailbox::open(&auth).await;
    let (_, first, body) = applicant();
    register(&auth, &body).await.expect(202);
    let token = mailbox.take("registration", &first).await["token"].clone();
    verify(&auth, &token).await.expect(204);
    // auth-service forgets the name, user-service does not.
    sqlx::query("delete from credentials").execute(&auth.pool).await.unwrap();
    let (other, email, mut second) = applicant();
    second["username"] = body["username"].clone();
    register(&auth, &second).await.expect(202);
    let token = mailbox.take("registration", &email).await["token"].clone();
    verify(&auth, &token).await.expect_problem(409, "username_taken");
    let again = json!({ "token": token, "username": other });
    auth.client.post("/auth/verify-email", &again).await.expect(204);
    auth.try_login(&other, PASSWORD).await.expect(200);
}
