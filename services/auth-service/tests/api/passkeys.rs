//! Passkeys: registered, used for a login and as its second factor, removed; and what is tried against them. The authenticator is
//! one in software; the browser's login page is filled in as its script does.

use auth_service::webauthn::Algorithm;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use kronos_testkit::{TestClient, TestResponse};
use serde_json::{Value, json};

use crate::{
    authenticator::{Authenticator, BE, BS, Saying, UP, UV},
    browser::{Browser, form_of, parameters},
    harness::{PASSWORD, TestAuth, TestUser, claims, tokens},
};

/// Of the tests' issuer.
const ORIGIN: &str = "http://127.0.0.1:8080";

fn unbase64(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).unwrap()
}

fn base64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

async fn creation_options(mine: &TestClient) -> Value {
    mine.post("/auth/passkeys/register/begin", &json!({})).await.expect(200).json()
}

async fn finish(mine: &TestClient, credential: &Value) -> TestResponse {
    mine.post("/auth/passkeys/register/finish", &json!({ "name": "my phone", "credential": credential })).await
}

/// A person with a passkey, and what they are logged in with.
async fn enrolled(auth: &TestAuth, algorithm: Algorithm) -> (TestUser, TestClient, Authenticator) {
    let user = auth.user(&[]).await;
    let mine = auth.client.bearer(auth.login(&user).await.0);
    let mut authenticator = Authenticator::new(algorithm);
    let credential = authenticator.create(&creation_options(&mine).await, ORIGIN, |_| {});
    finish(&mine, &credential).await.expect(201);
    (user, mine, authenticator)
}

async fn request_options(auth: &TestAuth) -> Value {
    auth.client.post("/auth/passkeys/login/begin", &json!({})).await.expect(200).json()
}

async fn log_in_with(auth: &TestAuth, credential: &Value) -> TestResponse {
    auth.client.post("/auth/passkeys/login/finish", &json!({ "credential": credential })).await
}

async fn kinds_of_events(auth: &TestAuth, like: &str) -> Vec<String> {
    let statement = "select kind from audit where kind like $1 order by sequence";
    sqlx::query_scalar(statement).bind(like).fetch_all(&auth.pool).await.unwrap()
}

/// What an attacker changes in what an authenticator says.
type Attack = Box<dyn Fn(&mut Saying)>;
/// The same, when it needs to know nothing.
type Tampering = fn(&mut Saying);

#[tokio::test]
async fn a_passkey_alone_logs_its_owner_in() {
    for algorithm in [Algorithm::Es256, Algorithm::EdDsa] {
        let auth = TestAuth::start().await;
        let (user, mine, mut authenticator) = enrolled(&auth, algorithm).await;
        let options = request_options(&auth).await;
        assert_eq!((&options["rpId"], &options["userVerification"]), (&json!("127.0.0.1"), &json!("required")));
        let (access, _) = tokens(&log_in_with(&auth, &authenticator.get(&options, ORIGIN, |_| {})).await.expect(200));
        assert_eq!(claims(&access)["sub"], json!(user.id));
        let session = mine.get("/auth/sessions").await.expect(200).json()["items"][0].clone();
        assert_eq!(session["amr"], json!(["hwk", "user", "mfa"]));
        let listed = mine.get("/auth/passkeys").await.expect(200).json();
        assert_eq!((&listed[0]["name"], &listed[0]["backedUp"]), (&json!("my phone"), &json!(false)));
        assert!(listed[0]["lastUsedAt"].is_string());
    }
}

#[tokio::test]
async fn options_are_what_a_browser_wants() {
    let auth = TestAuth::start().await;
    let (user, mine, authenticator) = enrolled(&auth, Algorithm::Es256).await;
    let options = creation_options(&mine).await;
    assert_eq!(options["rp"], json!({ "id": "127.0.0.1", "name": "Kronos" }));
    assert_eq!(options["user"]["name"], json!(user.username));
    let algorithms: Vec<i64> =
        options["pubKeyCredParams"].as_array().unwrap().iter().map(|one| one["alg"].as_i64().unwrap()).collect();
    assert_eq!(algorithms, [-8, -7, -257]);
    assert_eq!(options["authenticatorSelection"]["residentKey"], "required");
    assert_eq!(options["excludeCredentials"][0]["transports"], json!(["internal", "hybrid"]));
    let excluded = options["excludeCredentials"][0]["id"].as_str().unwrap();
    assert_eq!(unbase64(excluded), authenticator.credential_id);
    assert_ne!(options["challenge"], creation_options(&mine).await["challenge"]);
}

#[tokio::test]
async fn a_passkey_is_a_second_factor_beside_the_password() {
    let auth = TestAuth::start().await;
    let (user, mine, mut authenticator) = enrolled(&auth, Algorithm::EdDsa).await;
    let held = mine.get("/auth/factors").await.expect(200).json();
    assert_eq!(held, json!({ "totp": false, "passkeys": 1, "recoveryCodes": 10 }));
    let asked = auth.try_login(&user.username, PASSWORD).await;
    asked.clone().expect_problem(401, "second_factor_required");
    assert!(asked.text().contains("passkey, recoveryCode"), "{asked}");
    let log_in = async |credential: Value| {
        let body = json!({ "username": user.username, "password": PASSWORD, "passkey": credential });
        auth.client.post("/auth/login", &body).await
    };
    // A touch is enough beside a password.
    let credential = authenticator.get(&request_options(&auth).await, ORIGIN, |saying| saying.flags = UP);
    log_in(credential.clone()).await.expect(200);
    let session = mine.get("/auth/sessions").await.expect(200).json()["items"][0].clone();
    assert_eq!(session["amr"], json!(["pwd", "hwk", "mfa"]));
    log_in(credential).await.expect_problem(401, "invalid_second_factor");
    // Somebody else's is none.
    let (_, _, mut other) = enrolled(&auth, Algorithm::EdDsa).await;
    let foreign = other.get(&request_options(&auth).await, ORIGIN, |_| {});
    log_in(foreign).await.expect_problem(401, "invalid_second_factor");
    let mut renamed = other.get(&request_options(&auth).await, ORIGIN, |_| {});
    renamed["response"]["userHandle"] =
        authenticator.get(&request_options(&auth).await, ORIGIN, |_| {})["response"]["userHandle"].clone();
    log_in(renamed).await.expect_problem(401, "invalid_second_factor");
}

#[tokio::test]
async fn answers_that_are_forged_stale_or_somebody_elses_log_nobody_in() {
    let auth = TestAuth::start_with(|config| config.accounts.guesses_per_network = 1000).await;
    let (_, mine, mut authenticator) = enrolled(&auth, Algorithm::Es256).await;
    let (_, _, mut other) = enrolled(&auth, Algorithm::Es256).await;
    let registering = creation_options(&mine).await["challenge"].clone();
    let attacks: Vec<(&str, Attack)> = vec![
        ("another origin", Box::new(|saying| saying.client_data["origin"] = json!("http://127.0.0.1:8081"))),
        ("a longer origin", Box::new(|saying| saying.client_data["origin"] = json!(format!("{ORIGIN}.evil.test")))),
        ("in another's frame", Box::new(|saying| saying.client_data["crossOrigin"] = json!(true))),
        ("under another's page", Box::new(|saying| saying.client_data["topOrigin"] = json!("https://evil.test"))),
        ("another ceremony", Box::new(|saying| saying.client_data["type"] = json!("webauthn.create"))),
        ("another domain", Box::new(|saying| saying.rp_id = "evil.test".to_owned())),
        ("nobody there", Box::new(|saying| saying.flags = UV)),
        ("nobody verified", Box::new(|saying| saying.flags = UP)),
        ("suddenly to be copied", Box::new(|saying| saying.flags = UP | UV | BE)),
        ("copied though it may not be", Box::new(|saying| saying.flags = UP | UV | BS)),
        (
            "a challenge of its own",
            Box::new(|saying| saying.client_data["challenge"] = json!("AAAAAAAAAAAAAAAAAAAAAA")),
        ),
        ("no challenge", Box::new(|saying| saying.client_data["challenge"] = json!(""))),
        ("a challenge for registering", {
            Box::new(move |saying| saying.client_data["challenge"] = registering.clone())
        }),
    ];
    let mut answers = Vec::new();
    for (what, attack) in attacks {
        let credential = authenticator.get(&request_options(&auth).await, ORIGIN, attack);
        answers.push((what, log_in_with(&auth, &credential).await));
    }
    let good =
        async |authenticator: &mut Authenticator| authenticator.get(&request_options(&auth).await, ORIGIN, |_| {});
    for (what, member) in [("client data", "clientDataJSON"), ("authenticator data", "authenticatorData")] {
        let (mut credential, later) = (good(&mut authenticator).await, good(&mut authenticator).await);
        credential["response"][member] = later["response"][member].clone();
        if member == "authenticatorData" {
            let mut data = unbase64(later["response"][member].as_str().unwrap());
            data[36] ^= 1;
            credential["response"][member] = json!(base64(&data));
        }
        answers.push((what, log_in_with(&auth, &credential).await));
    }
    let mut swapped = good(&mut other).await;
    swapped["id"] = json!(base64(&authenticator.credential_id));
    answers.push(("another's key under this name", log_in_with(&auth, &swapped).await));
    let mut renamed = good(&mut other).await;
    renamed["response"]["userHandle"] = json!(base64(&authenticator.user_handle));
    answers.push(("another user's handle", log_in_with(&auth, &renamed).await));
    let mut nameless = good(&mut authenticator).await;
    nameless["response"]["userHandle"] = Value::Null;
    answers.push(("no handle", log_in_with(&auth, &nameless).await));
    let unknown = good(&mut Authenticator::new(Algorithm::Es256)).await;
    answers.push(("an unknown passkey", log_in_with(&auth, &unknown).await));
    let mut padded = good(&mut authenticator).await;
    let data = unbase64(padded["response"]["authenticatorData"].as_str().unwrap());
    padded["response"]["authenticatorData"] = json!(base64(&[data, vec![0xa0]].concat()));
    answers.push(("something behind it", log_in_with(&auth, &padded).await));
    let credential = good(&mut authenticator).await;
    log_in_with(&auth, &credential).await.expect(200);
    answers.push(("the same again", log_in_with(&auth, &credential).await));
    let detail = answers[0].1.json()["detail"].clone();
    for (what, answer) in answers {
        assert_eq!((answer.status, &answer.json()["code"]), (401, &json!("invalid_passkey")), "{what}: {answer}");
        assert_eq!(answer.json()["detail"], detail, "{what}");
    }
}

#[tokio::test]
async fn a_challenge_is_answered_once_and_in_time() {
    let auth = TestAuth::start().await;
    let (_, mine, mut authenticator) = enrolled(&auth, Algorithm::EdDsa).await;
    let options = request_options(&auth).await;
    let answers: Vec<Value> = (0..8).map(|_| authenticator.get(&options, ORIGIN, |_| {})).collect();
    let logins = futures::future::join_all(answers.iter().map(|answer| log_in_with(&auth, answer))).await;
    assert_eq!(logins.iter().filter(|answer| answer.status == 200).count(), 1);
    // A wrong answer uses it up too.
    let options = request_options(&auth).await;
    let wrong = authenticator.get(&options, ORIGIN, |saying| saying.flags = UP);
    log_in_with(&auth, &wrong).await.expect(401);
    log_in_with(&auth, &authenticator.get(&options, ORIGIN, |_| {})).await.expect(401);
    // Another person's challenge registers nothing, and neither does one for a login.
    let other = auth.user(&[]).await;
    let theirs = auth.client.bearer(auth.login(&other).await.0);
    let mut fresh = Authenticator::new(Algorithm::Es256);
    let credential = fresh.create(&creation_options(&mine).await, ORIGIN, |_| {});
    finish(&theirs, &credential).await.expect_problem(422, "invalid_request");
    let challenge = request_options(&auth).await["challenge"].clone();
    let options = creation_options(&mine).await;
    let credential = fresh.create(&options, ORIGIN, |saying| saying.client_data["challenge"] = challenge);
    finish(&mine, &credential).await.expect_problem(422, "invalid_request");
    let credential = fresh.create(&options, ORIGIN, |_| {});
    finish(&mine, &credential).await.expect(201);
    finish(&mine, &credential).await.expect_problem(422, "invalid_request");
    let again = fresh.create(&creation_options(&mine).await, ORIGIN, |_| {});
    finish(&mine, &again).await.expect_problem(409, "passkey_exists");
}

#[tokio::test]
async fn a_counter_that_goes_back_is_refused_and_recorded() {
    let auth = TestAuth::start().await;
    let (_, _, mut authenticator) = enrolled(&auth, Algorithm::Es256).await;
    let with_count = async |authenticator: &mut Authenticator, count: u32| {
        authenticator.count = count;
        let credential = authenticator.get(&request_options(&auth).await, ORIGIN, |_| {});
        log_in_with(&auth, &credential).await.status
    };
    assert_eq!(with_count(&mut authenticator, 0).await, 200, "one that does not count");
    assert_eq!(with_count(&mut authenticator, 7).await, 200);
    for (count, status) in [(7, 401), (6, 401), (0, 401), (8, 200), (u32::MAX, 200)] {
        assert_eq!(with_count(&mut authenticator, count).await, status, "{count}");
    }
    assert_eq!(kinds_of_events(&auth, "passkey-%").await, ["passkey-counter-went-back"; 3]);
}

#[tokio::test]
async fn a_registration_must_be_whole() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    let mine = auth.client.bearer(auth.login(&user).await.0);
    let attacks: [(&str, Tampering); 6] = [
        ("another origin", |saying| saying.client_data["origin"] = json!("https://evil.test")),
        ("another domain", |saying| saying.rp_id = "localhost".to_owned()),
        ("nobody verified", |saying| saying.flags = UP),
        ("a key of another algorithm", |saying| saying.algorithm = -8),
        ("an algorithm that nobody asked for", |saying| saying.algorithm = -36),
        ("RSA, it says", |saying| saying.algorithm = -257),
    ];
    for (what, attack) in attacks {
        let mut authenticator = Authenticator::new(Algorithm::Es256);
        let credential = authenticator.create(&creation_options(&mine).await, ORIGIN, attack);
        let answer = finish(&mine, &credential).await;
        assert_eq!((answer.status, &answer.json()["errors"][0]["code"]), (422, &json!("refused")), "{what}: {answer}");
    }
    let mut authenticator = Authenticator::new(Algorithm::Es256);
    let mut credential = authenticator.create(&creation_options(&mine).await, ORIGIN, |_| {});
    credential["id"] = json!("AAAA");
    finish(&mine, &credential).await.expect(422);
    // A self attestation is verified, a maker's is not asked for.
    let mut signed = authenticator.create(&creation_options(&mine).await, ORIGIN, |saying| saying.format = "packed");
    let good = signed.clone();
    let object = unbase64(good["response"]["attestationObject"].as_str().unwrap());
    let at = object.windows(3).position(|window| window == b"sig").unwrap() + 20;
    let mut tampered = object.clone();
    tampered[at] ^= 1;
    signed["response"]["attestationObject"] = json!(base64(&tampered));
    finish(&mine, &signed).await.expect_problem(422, "invalid_request");
    let signed = authenticator.create(&creation_options(&mine).await, ORIGIN, |saying| saying.format = "packed");
    finish(&mine, &signed).await.expect(201);
    for body in [json!({}), json!({ "credential": {} }), json!({ "credential": { "id": "?", "type": "public-key" } })] {
        mine.post("/auth/passkeys/register/finish", &body).await.expect_problem(422, "invalid_request");
    }
}

#[tokio::test]
async fn passkeys_are_their_owners_to_name_and_remove_but_not_the_last_way_in() {
    let auth = TestAuth::start().await;
    let (user, mine, _) = enrolled(&auth, Algorithm::Es256).await;
    let (_, theirs, _) = enrolled(&auth, Algorithm::Es256).await;
    let listed = mine.get("/auth/passkeys").await.expect(200).json();
    let path = format!("/auth/passkeys/{}", listed[0]["id"].as_str().unwrap());
    mine.patch(&path, &json!({ "name": "the old phone" })).await.expect(204);
    assert_eq!(mine.get("/auth/passkeys").await.expect(200).json()[0]["name"], "the old phone");
    theirs.patch(&path, &json!({ "name": "mine" })).await.expect_problem(404, "not_found");
    theirs.delete(&path).await.expect_problem(404, "not_found");
    auth.admin().await.get("/auth/passkeys").await.expect_problem(400, "no_session");
    let forget = "update credentials set password_phc = $2 where user_id = $1";
    let phc: String = sqlx::query_scalar("select password_phc from credentials where user_id = $1")
        .bind(user.id)
        .fetch_one(&auth.pool)
        .await
        .unwrap();
    sqlx::query(forget).bind(user.id).bind(None::<String>).execute(&auth.pool).await.unwrap();
    mine.delete(&path).await.expect_problem(409, "last_way_in");
    sqlx::query(forget).bind(user.id).bind(phc).execute(&auth.pool).await.unwrap();
    mine.delete(&path).await.expect(204);
    assert_eq!(mine.get("/auth/passkeys").await.expect(200).json(), json!([]));
    assert_eq!(mine.get("/auth/factors").await.expect(200).json()["recoveryCodes"], 0);
    auth.login(&user).await;
    sqlx::query("update sessions set created_at = now() - interval '1 hour'").execute(&auth.pool).await.unwrap();
    mine.post("/auth/passkeys/register/begin", &json!({})).await.expect_problem(403, "fresh_login_required");
    mine.delete(&path).await.expect_problem(403, "fresh_login_required");
}

#[tokio::test]
async fn of_two_ways_in_that_are_removed_at_once_one_stays() {
    let auth = TestAuth::start().await;
    let (user, mine, _) = enrolled(&auth, Algorithm::Es256).await;
    let second = Authenticator::new(Algorithm::EdDsa).create(&creation_options(&mine).await, ORIGIN, |_| {});
    finish(&mine, &second).await.expect(201);
    sqlx::query("update credentials set password_phc = null where user_id = $1")
        .bind(user.id)
        .execute(&auth.pool)
        .await
        .unwrap();
    let listed = mine.get("/auth/passkeys").await.expect(200).json();
    let paths: Vec<String> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|one| format!("/auth/passkeys/{}", one["id"].as_str().unwrap()))
        .collect();
    let (one, other) = tokio::join!(mine.delete(&paths[0]), mine.delete(&paths[1]));
    let mut statuses = [one.status, other.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [204, 409]);
}

#[tokio::test]
async fn wrong_passkeys_are_throttled_by_network_and_disabled_people_refused() {
    let auth = TestAuth::start_with(|config| config.accounts.guesses_per_network = 3).await;
    let (user, _, mut authenticator) = enrolled(&auth, Algorithm::Es256).await;
    for _ in 0..3 {
        let unknown = Authenticator::new(Algorithm::EdDsa).get(&request_options(&auth).await, ORIGIN, |_| {});
        log_in_with(&auth, &unknown).await.expect_problem(401, "invalid_passkey");
    }
    let unknown = Authenticator::new(Algorithm::EdDsa).get(&request_options(&auth).await, ORIGIN, |_| {});
    log_in_with(&auth, &unknown).await.expect_problem(429, "rate_limited");
    // A good one is no guess.
    let good = authenticator.get(&request_options(&auth).await, ORIGIN, |_| {});
    log_in_with(&auth, &good).await.expect(200);
    sqlx::query("update credentials set disabled = true where user_id = $1")
        .bind(user.id)
        .execute(&auth.pool)
        .await
        .unwrap();
    let good = authenticator.get(&request_options(&auth).await, ORIGIN, |_| {});
    log_in_with(&auth, &good).await.expect(401);
}

/// The options that the page holds for its script.
fn page_options(page: &TestResponse) -> Value {
    let html = page.text();
    let attribute = html.split("data-passkey=\"").nth(1).unwrap_or_else(|| panic!("no button: {page}"));
    serde_json::from_str(&attribute.split('"').next().unwrap().replace("&quot;", "\"")).unwrap()
}

/// Sends the button's form as its script does.
async fn press(browser: &mut Browser, page: &TestResponse, credential: &Value) -> TestResponse {
    let html = page.text();
    let (action, mut form) = form_of(&format!("<form{}", html.rsplit("<form").next().unwrap()));
    form.insert("passkey".to_owned(), credential.to_string());
    let form: Vec<(&str, &str)> = form.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    browser.post(&action, &form).await
}

#[tokio::test]
async fn a_browser_logs_in_by_a_passkey_and_the_policy_allows_one_script() {
    let auth = TestAuth::start().await;
    let (user, _, mut authenticator) = enrolled(&auth, Algorithm::Es256).await;
    let app = auth.app(json!({ "firstParty": true })).await;
    let mut browser = Browser::new(&auth);
    let page = browser.get(&app.authorize(&[])).await.expect(200);
    let policy = page.header("content-security-policy").unwrap().to_owned();
    assert!(policy.contains(&format!("script-src {ORIGIN}/oauth/passkey.js;")), "{policy}");
    assert_eq!(page.text().matches("<script").count(), 1);
    let script = browser.get("/oauth/passkey.js").await.expect(200);
    assert!(script.header("content-type").unwrap().starts_with("text/javascript"));

    let answer = press(&mut browser, &page, &authenticator.get(&page_options(&page), ORIGIN, |_| {})).await.expect(303);
    let code = parameters(&browser.follow(answer).await)["code"].clone();
    let issued = auth.redeem(&app, &code).await.expect(200).json();
    let id = claims(issued["id_token"].as_str().unwrap());
    assert_eq!((&id["sub"], &id["amr"]), (&json!(user.id), &json!(["hwk", "user", "mfa"])));

    // A challenge of another browser's, or of the API, is none here; the page says so, and has a new one.
    let mut other = Browser::new(&auth);
    let theirs = other.get(&app.authorize(&[])).await.expect(200);
    let a_third = Browser::new(&auth).get(&app.authorize(&[])).await.expect(200);
    for options in [page_options(&a_third), request_options(&auth).await] {
        let refused = press(&mut other, &theirs, &authenticator.get(&options, ORIGIN, |_| {})).await.expect(422);
        assert!(refused.text().contains("passkey is not known here"), "{refused}");
        assert_ne!(page_options(&refused)["challenge"], options["challenge"]);
    }
    let mut forged = Browser::new(&auth);
    let page = forged.get(&app.authorize(&[])).await.expect(200);
    let credential = authenticator.get(&page_options(&page), ORIGIN, |_| {}).to_string();
    forged.post("/oauth/login", &[("next", "done"), ("csrf", "AAAA"), ("passkey", &credential)]).await.expect(400);
}

#[tokio::test]
async fn a_browser_shows_a_passkey_as_second_factor() {
    let auth = TestAuth::start().await;
    let (user, mine, mut authenticator) = enrolled(&auth, Algorithm::EdDsa).await;
    let app = auth.app(json!({ "firstParty": true })).await;
    let mut browser = Browser::new(&auth);
    let page = browser.get(&app.authorize(&[])).await.expect(200);
    let typed = [("username", user.username.as_str()), ("password", PASSWORD)];
    let second = browser.submit(&page, &typed).await.expect(200);
    assert!(second.text().contains("Use your passkey"), "{second}");
    assert!(!second.text().contains(PASSWORD));
    let wrong = authenticator.get(&page_options(&second), ORIGIN, |saying| saying.rp_id = "evil.test".to_owned());
    let again = press(&mut browser, &second, &wrong).await.expect(422);
    let good = authenticator.get(&page_options(&again), ORIGIN, |saying| saying.flags = UP);
    let answer = press(&mut browser, &again, &good).await.expect(303);
    parameters(&browser.follow(answer).await);
    let session = mine.get("/auth/sessions").await.expect(200).json();
    let amr: Vec<&Value> = session["items"].as_array().unwrap().iter().map(|session| &session["amr"]).collect();
    assert!(amr.contains(&&json!(["pwd", "hwk", "mfa"])), "{session}");
}

#[tokio::test]
async fn a_passkey_that_is_copied_to_other_devices_is_not_called_hardware() {
    let auth = TestAuth::start().await;
    let user = auth.user(&[]).await;
    let mine = auth.client.bearer(auth.login(&user).await.0);
    let mut authenticator = Authenticator::new(Algorithm::Es256);
    let options = creation_options(&mine).await;
    let credential = authenticator.create(&options, ORIGIN, |saying| saying.flags = UP | UV | BE);
    finish(&mine, &credential).await.expect(201);
    let synced = authenticator.get(&request_options(&auth).await, ORIGIN, |saying| saying.flags = UP | UV | BE | BS);
    log_in_with(&auth, &synced).await.expect(200);
    assert_eq!(mine.get("/auth/passkeys").await.expect(200).json()[0]["backedUp"], true);
    let session = mine.get("/auth/sessions").await.expect(200).json()["items"][0].clone();
    assert_eq!(session["amr"], json!(["swk", "user", "mfa"]));
}
