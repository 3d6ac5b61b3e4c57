//! OpenID AuthZEN Authorization API 1.0, and many questions at once.

use kronos_testkit::TestClient;
use serde_json::{Value, json};

use crate::{
    fake_users::Mode,
    harness::{ADMIN, TestAuth, TestUser},
};

async fn prepared() -> (TestAuth, TestUser, TestClient) {
    let auth = TestAuth::start().await;
    let user = auth.user(&["robots:use"]).await;
    auth.users.change(user.id, "scoped", json!([{ "permission": "robot:move", "resource": "robot:R-42" }]));
    let asker = auth.with_permissions(&["access:check"]).await;
    (auth, user, asker)
}

fn evaluation(subject: &str, action: &str, resource: &str) -> Value {
    json!({
        "subject": { "type": "user", "id": subject, "properties": { "department": "sales" } },
        "action": { "name": action }, "resource": { "type": "robot", "id": resource },
        "context": { "time": "2026-11-21T12:00:00Z" }, "extension": 1,
    })
}

fn decisions(answer: &Value) -> Vec<bool> {
    answer["evaluations"].as_array().unwrap().iter().map(|one| one["decision"].as_bool().unwrap()).collect()
}

#[tokio::test]
async fn an_evaluation_is_decided_with_its_reasons() {
    let (_auth, user, asker) = prepared().await;
    let id = user.id.to_string();
    let ask = async |body: Value| asker.post("/access/v1/evaluation", &body).await.expect(200).json();
    for (action, resource, decision) in [
        ("robots:use", "R-1", true),
        ("robots:use", "*", true),
        // Without a colon the resource's type says of what.
        ("move", "R-42", true),
        ("move", "R-43", false),
        ("move", "*", false),
        ("robots:repair", "R-1", false),
    ] {
        let answer = ask(evaluation(&id, action, resource)).await;
        assert_eq!(answer["decision"], decision, "{action} {resource}: {answer}");
        assert!(answer["context"]["why"][0].is_string(), "{answer}");
    }
    let client = json!({
        "subject": { "type": "client", "id": ADMIN }, "action": { "name": "logs:read" },
        "resource": { "type": "log", "id": "*" },
    });
    let answer = ask(client).await;
    assert_eq!((&answer["decision"], &answer["context"]["grant"]["permission"]), (&json!(true), &json!("*:*")));
    let nobody = ask(evaluation("nobody", "robots:use", "R-1")).await;
    assert_eq!(nobody["decision"], false);
}

#[tokio::test]
async fn a_request_id_comes_back() {
    let (_auth, user, asker) = prepared().await;
    let body = evaluation(&user.id.to_string(), "robots:use", "R-1");
    let answer = asker.post("/access/v1/evaluation", &body).header("x-request-id", "bfe9eb29-ab87").await.expect(200);
    assert_eq!(answer.header("x-request-id"), Some("bfe9eb29-ab87"));
}

#[tokio::test]
async fn what_is_missing_in_an_evaluation_is_a_400() {
    let (_auth, user, asker) = prepared().await;
    let good = evaluation(&user.id.to_string(), "robots:use", "R-1");
    for member in ["subject", "action", "resource"] {
        let mut body = good.clone();
        body.as_object_mut().unwrap().remove(member);
        asker.post("/access/v1/evaluation", &body).await.expect_problem(400, "invalid_request");
        asker.post("/access/v1/evaluations", &body).await.expect_problem(400, "invalid_request");
    }
    for (pointer, value) in [
        ("/subject/type", json!("robot")),
        ("/subject/id", json!("")),
        ("/subject/id", json!(7)),
        ("/action/name", json!("robots:*")),
        ("/action", json!("use")),
        ("/resource/id", json!("with blanks")),
    ] {
        let mut body = good.clone();
        *body.pointer_mut(pointer).unwrap() = value;
        asker.post("/access/v1/evaluation", &body).await.expect_problem(400, "invalid_request");
    }
}

#[tokio::test]
async fn evaluations_take_what_they_do_not_say_from_the_request() {
    let (_auth, user, asker) = prepared().await;
    let mut body = evaluation(&user.id.to_string(), "robots:use", "R-42");
    // Without the array it is one evaluation.
    let single = asker.post("/access/v1/evaluations", &body).await.expect(200).json();
    assert_eq!(single["decision"], true, "{single}");
    body["evaluations"] = json!([
        {}, { "action": { "name": "robots:repair" } },
        { "action": { "name": "move" } }, { "action": { "name": "move" }, "resource": { "type": "robot", "id": "R-1" } },
        { "action": { "name": "" } },
    ]);
    let answer = asker.post("/access/v1/evaluations", &body).await.expect(200).json();
    assert_eq!(decisions(&answer), [true, false, true, false, false], "{answer}");
    assert_eq!(answer["evaluations"][4]["context"]["error"]["status"], 400, "{answer}");
}

#[tokio::test]
async fn evaluations_stop_where_the_semantic_says() {
    let (_auth, user, asker) = prepared().await;
    let mut body = evaluation(&user.id.to_string(), "robots:use", "R-42");
    let (yes, no) = (json!({}), json!({ "action": { "name": "robots:repair" } }));
    let cases = [
        ("execute_all", vec![&yes, &no, &yes], vec![true, false, true]),
        ("deny_on_first_deny", vec![&yes, &no, &yes], vec![true, false]),
        ("permit_on_first_permit", vec![&no, &no, &yes, &no], vec![false, false, true]),
        ("deny_on_first_deny", vec![&yes, &yes], vec![true, true]),
    ];
    for (semantic, evaluations, expected) in cases {
        body["evaluations"] = json!(evaluations);
        body["options"] = json!({ "evaluations_semantic": semantic, "another": true });
        let answer = asker.post("/access/v1/evaluations", &body).await.expect(200).json();
        assert_eq!(decisions(&answer), expected, "{semantic}: {answer}");
    }
    body["options"] = json!({ "evaluations_semantic": "guess" });
    asker.post("/access/v1/evaluations", &body).await.expect_problem(400, "invalid_request");
    body["options"] = json!({});
    body["evaluations"] = json!(vec![json!({}); 101]);
    asker.post("/access/v1/evaluations", &body).await.expect_problem(400, "invalid_request");
}

#[tokio::test]
async fn asking_by_the_standard_needs_permission_too() {
    let (auth, user, _) = prepared().await;
    let nobody = auth.with_permissions(&["tokens:verify"]).await;
    let body = evaluation(&user.id.to_string(), "robots:use", "R-1");
    for path in ["/access/v1/evaluation", "/access/v1/evaluations"] {
        nobody.post(path, &body).await.expect_problem(403, "permission_denied");
        auth.client.post(path, &body).await.expect_problem(401, "token_missing");
    }
    nobody.post("/auth/check/batch", &json!({ "checks": [] })).await.expect_problem(403, "permission_denied");
}

#[tokio::test]
async fn the_decision_point_says_where_it_is() {
    let auth = TestAuth::start().await;
    let found = auth.client.get("/.well-known/authzen-configuration").await.expect(200).json();
    let base = &auth.config.identity.issuer;
    assert_eq!(
        found,
        json!({
            "policy_decision_point": base,
            "access_evaluation_endpoint": format!("{base}/access/v1/evaluation"),
            "access_evaluations_endpoint": format!("{base}/access/v1/evaluations"),
        })
    );
}

#[tokio::test]
async fn a_batch_is_answered_one_by_one_in_order() {
    let (auth, user, asker) = prepared().await;
    let other = auth.user(&["logs:read"]).await;
    let checks: Vec<Value> = (0..100)
        .map(|index| match index % 4 {
            0 => json!({ "subject": user.id, "permission": "robots:use" }),
            1 => json!({ "subject": user.id, "permission": "robot:move", "resource": "robot:R-42" }),
            2 => json!({ "subject": other.id, "permission": "robots:use" }),
            _ => json!({ "subject": ADMIN, "permission": "logs:read" }),
        })
        .collect();
    let answer = asker.post("/auth/check/batch", &json!({ "checks": checks })).await.expect(200).json();
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 100);
    for (index, result) in results.iter().enumerate() {
        assert_eq!(result["allowed"], index % 4 != 2, "{index}: {result}");
    }
    auth.login(&user).await;
    auth.users.set_mode(Mode::Fails);
    let away = asker.post("/auth/check/batch", &json!({ "checks": [checks[0]] })).await.expect(200).json();
    assert!(away["results"][0]["why"].to_string().contains("user-service does not answer"), "{away}");
}

#[tokio::test]
async fn a_batch_has_its_bounds_and_names_the_question_that_is_wrong() {
    let (_auth, user, asker) = prepared().await;
    let good = json!({ "subject": user.id, "permission": "robots:use" });
    for checks in [json!([]), json!(vec![good.clone(); 101])] {
        asker.post("/auth/check/batch", &json!({ "checks": checks })).await.expect_problem(422, "invalid_request");
    }
    let mut bad = good.clone();
    bad["resource"] = json!("no resource");
    let answer = asker.post("/auth/check/batch", &json!({ "checks": [good, bad] })).await;
    let problem = answer.expect_problem(422, "invalid_request");
    assert!(problem.text().contains("/checks/1/resource"), "{problem}");
}

#[tokio::test]
async fn a_no_of_a_client_tells_what_comes_nearest() {
    let (_auth, _, asker) = prepared().await;
    let body = json!({ "subject": "ouranos-crm", "permission": "users:delete" });
    let answer = asker.post("/auth/check", &body).await.expect(200).json();
    assert_eq!(answer["allowed"], false);
    assert_eq!(answer["missing"]["nearest"][0]["because"], "other_action", "{answer}");
    assert!(answer["why"][1].as_str().unwrap().contains("users:read, users:write"), "{answer}");
}
