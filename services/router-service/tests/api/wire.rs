//! `/routes` and `/upstreams`: what is taken, refused, and live when.

use kronos_testkit::{unique, wait_until};
use serde_json::{Value, json};

use crate::harness::{Gateway, Instance, World};

fn route(name: &str) -> Value {
    json!({"name": name, "match": {"path": {"prefix": format!("/{name}")}}, "upstream": "echo", "authentication": ["none"]})
}

#[tokio::test]
async fn a_route_is_live_when_it_is_answered_and_gone_when_it_is_deleted() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    for round in 0..10 {
        let name = format!("robots-{round}");
        gateway.client.get(&format!("/{name}/7")).await.expect_problem(404, "not_found");
        let made = gateway.route(route(&name)).await;
        let seen = gateway.client.get(&format!("/{name}/7?a=1")).await.expect(200).json();
        assert_eq!((seen["path"].as_str(), seen["query"].as_str()), (Some(&*format!("/{name}/7")), Some("a=1")));
        gateway.admin.delete(&format!("/routes/{}", made["id"].as_str().unwrap())).await.expect(204);
        gateway.client.get(&format!("/{name}/7")).await.expect_problem(404, "not_found");
    }
}

#[tokio::test]
async fn a_change_reaches_the_other_gateways_within_a_second() {
    let echo = Instance::start("a");
    let (world, first) = Gateway::with_echo(&[&echo]).await;
    let second = world.start().await;
    second.client.get("/echo").await.expect(200);
    first.route(route("later")).await;
    let begun = std::time::Instant::now();
    wait_until("the second gateway has the route", async || second.client.get("/later").await.status == 200).await;
    assert!(begun.elapsed().as_millis() < 1000, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_change_reaches_a_gateway_that_hears_no_notifications() {
    let echo = Instance::start("a");
    let (world, first) = Gateway::with_echo(&[&echo]).await;
    let second = world.start().await;
    second.client.get("/echo").await.expect(200);
    // What a lost notification leaves: the change without the word.
    let pool = world.database.pool("kronos_router").await;
    sqlx::query("update routes set spec = jsonb_set(spec, '{match,path,prefix}', '\"/moved\"') where name = 'echo'")
        .execute(&pool)
        .await
        .unwrap();
    sqlx::query("update route_table set version = version + 1").execute(&pool).await.unwrap();
    wait_until("both polled", async || {
        second.client.get("/moved").await.status == 200 && first.client.get("/moved").await.status == 200
    })
    .await;
}

#[tokio::test]
async fn a_stored_route_is_shown_with_its_tag() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    let sent = json!({"name": "full", "match": {"path": {"exact": "/full"}, "methods": ["GET", "POST"]}, "upstream": "echo",
        "authentication": ["jwt"], "limits": [{"by": ["ip", "token"], "requests": 5, "perSeconds": 60}], "priority": 3,
        "permission": "robots:read", "timeoutMs": 500, "bodyLimitBytes": 1000});
    let answer = gateway.admin.post("/routes", &sent).await.expect(201);
    assert_eq!(answer.header("etag"), Some("\"v1\""));
    let made = answer.json();
    for (key, value) in sent.as_object().unwrap() {
        assert_eq!(&made[key], value, "{key}");
    }
    let path = format!("/routes/{}", made["id"].as_str().unwrap());
    assert_eq!(answer.header("location"), Some(&*path));
    assert_eq!(gateway.admin.get(&path).await.expect(200).json(), made);
    let plain = gateway.route(route("plain")).await;
    assert_eq!((&plain["priority"], &plain["authentication"]), (&json!(0), &json!(["none"])));
    let default = gateway.route(json!({"name": "d", "match": {"path": {"prefix": "/d"}}, "upstream": "echo"})).await;
    assert_eq!(default["authentication"], json!(["jwt"]));
}

#[tokio::test]
async fn lists_are_paged_by_name() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    let (mut names, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = gateway.admin.get(&format!("/routes?limit=5{cursor}")).await.expect(200).json();
        names.extend(page["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap().to_owned()));
        match page["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert!(names.is_sorted() && names.len() == 40 && names.contains(&"echo".to_owned()), "{names:?}");
    let upstreams = gateway.admin.get("/upstreams").await.expect(200).json();
    assert_eq!(upstreams["items"].as_array().unwrap().len(), 7);
    gateway.upstream("other", &[&echo]).await;
    for (name, more) in [
        ("canary", json!({"upstream": "echo", "canary": {"upstream": "other", "percent": 1}})),
        ("mirror", json!({"upstream": "echo", "mirror": {"upstream": "other"}})),
        ("straight", json!({"upstream": "other"})),
    ] {
        let mut spec = route(name);
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        gateway.route(spec).await;
    }
    let of = async |query: &str| {
        let page = gateway.admin.get(&format!("/routes?{query}")).await.expect(200).json();
        let names: Vec<String> =
            page["items"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect();
        (names, page["nextCursor"].as_str().map(str::to_owned))
    };
    assert_eq!(of("upstream=other").await.0, ["canary", "mirror", "straight"]);
    let (first, next) = of("upstream=other&limit=2").await;
    assert_eq!(first, ["canary", "mirror"]);
    assert_eq!(of(&format!("upstream=other&cursor={}", next.unwrap())).await.0, ["straight"]);
    assert_eq!(of("upstream=nobody").await.0, Vec::<String>::new());
    gateway.admin.get("/routes?upstream=No%20Name").await.expect_problem(400, "invalid_query");
    gateway.admin.get("/routes?limit=0").await.expect_problem(400, "invalid_query");
    gateway.admin.get("/routes?cursor=x").await.expect_problem(400, "invalid_cursor");
}

#[tokio::test]
async fn a_lost_race_is_told() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    let made = gateway.route(route("raced")).await;
    let path = format!("/routes/{}", made["id"].as_str().unwrap());
    let mut changed = route("raced");
    changed["priority"] = json!(1);
    let answer = gateway.admin.put(&path, &changed).header("if-match", "\"v1\"").await.expect(200);
    assert_eq!(answer.header("etag"), Some("\"v2\""));
    changed["priority"] = json!(2);
    gateway.admin.put(&path, &changed).header("if-match", "\"v1\"").await.expect_problem(412, "precondition_failed");
    gateway.admin.delete(&path).header("if-match", "\"v1\"").await.expect_problem(412, "precondition_failed");
    assert_eq!(gateway.admin.get(&path).await.expect(200).json()["priority"], json!(1));
    gateway.admin.delete(&path).header("if-match", "\"v2\"").await.expect(204);
    gateway.admin.delete(&path).await.expect_problem(404, "not_found");
    gateway.admin.put(&path, &changed).await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn everything_that_is_wrong_is_named_at_once() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    let pointers = |answer: kronos_testkit::TestResponse| {
        let answer = answer.expect_problem(422, "invalid_request").json();
        let errors = answer["errors"].as_array().unwrap().clone();
        errors.iter().map(|error| error["pointer"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let types = json!({"name": "Not A Name", "match": {"path": {"regex": "x"}}, "upstream": 7, "colour": "red"});
    let found = pointers(gateway.admin.post("/routes", &types).await);
    for pointer in ["/name", "/match/path", "/upstream", "/colour"] {
        assert!(found.iter().any(|found| found.starts_with(pointer)), "{pointer} in {found:?}");
    }
    let rules = json!({"name": "ok", "match": {"path": {"prefix": "nope/"}, "methods": ["GET", "GET"]}, "upstream": "echo",
        "authentication": ["none"], "permission": "robots:read", "timeoutMs": 0, "priority": 5000,
        "limits": [{"by": [], "requests": 0, "perSeconds": 100_000}]});
    let found = pointers(gateway.admin.post("/routes", &rules).await);
    for pointer in [
        "/match/path/prefix",
        "/match/methods",
        "/permission",
        "/timeoutMs",
        "/priority",
        "/limits/0/by",
        "/limits/0/requests",
        "/limits/0/perSeconds",
    ] {
        assert!(found.iter().any(|found| found == pointer), "{pointer} in {found:?}");
    }
    let scopes = json!({"name": "ok", "match": {"path": {"prefix": "/ok"}}, "upstream": "echo", "authentication": ["apiKey"],
        "scopes": ["orders", "two words", "", "orders", "a\"b", "a".repeat(101)]});
    let found = pointers(gateway.admin.post("/routes", &scopes).await);
    assert_eq!(found, ["/scopes/1", "/scopes/2", "/scopes/3", "/scopes/4", "/scopes/5", "/scopes"]);
    let mut lost = route("lost");
    lost["upstream"] = json!("nowhere");
    assert_eq!(pointers(gateway.admin.post("/routes", &lost).await), ["/upstream"]);
    for (path, code) in [
        ("/routes", "reserved"),
        ("/upstreams/x", "reserved"),
        ("/docs", "reserved"),
        ("/a/../b", "invalid_path"),
        ("/a//b", "invalid_path"),
        ("/a%20b", "invalid_path"),
    ] {
        let mut own = route("own");
        own["match"]["path"]["prefix"] = json!(path);
        let answer = gateway.admin.post("/routes", &own).await.expect(422).json();
        assert_eq!(answer["errors"][0]["code"], json!(code), "{path}");
    }
    let upstream = json!({"name": "u", "instances": [{"url": "ftp://x:1"}, {"url": "http://x:1/path"}, {"url": "http://a@x:1"},
        {"url": "http://y:1"}, {"url": "http://Y:1/"}, {"url": "http://z:1", "weight": 1001}]});
    let found = pointers(gateway.admin.post("/upstreams", &upstream).await);
    assert_eq!(
        found,
        ["/instances/0/url", "/instances/1/url", "/instances/2/url", "/instances/4/url", "/instances/5/weight"]
    );
    let empty = json!({"name": "u", "instances": []});
    assert_eq!(pointers(gateway.admin.post("/upstreams", &empty).await), ["/instances"]);
    gateway.client.get("/ok").await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn names_and_matches_are_taken_once() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    gateway.route(route("one")).await;
    let mut twin = route("one");
    twin["match"]["path"]["prefix"] = json!("/elsewhere");
    gateway.admin.post("/routes", &twin).await.expect_problem(409, "name_taken");
    let mut other = route("two");
    other["match"]["path"]["prefix"] = json!("/one");
    let answer = gateway.admin.post("/routes", &other).await.expect(422).json();
    assert_eq!(
        (&answer["errors"][0]["pointer"], &answer["errors"][0]["code"]),
        (&json!("/match"), &json!("match_taken"))
    );
    assert!(answer["errors"][0]["detail"].as_str().unwrap().contains("two matches the same as one"), "{answer}");
    gateway.client.get("/elsewhere").await.expect_problem(404, "not_found");
    other["priority"] = json!(1);
    gateway.route(other).await;
    gateway
        .admin
        .post("/upstreams", &json!({"name": "echo", "instances": [{"url": echo.url()}]}))
        .await
        .expect_problem(409, "name_taken");
}

#[tokio::test]
async fn an_upstream_in_use_stays() {
    let echo = Instance::start("a");
    let world = World::new().await;
    let gateway = world.start().await;
    let upstream = gateway.upstream("echo", &[&echo]).await;
    let made = gateway.route(route("robots")).await;
    let path = format!("/upstreams/{}", upstream["id"].as_str().unwrap());
    gateway.admin.delete(&path).await.expect_problem(409, "upstream_in_use");
    let other = Instance::start("b");
    let renamed = json!({"name": "renamed", "instances": [{"url": other.url()}]});
    gateway.admin.put(&path, &renamed).await.expect(200);
    assert_eq!(gateway.client.get("/robots").await.expect(200).json()["instance"], "b");
    let route_path = format!("/routes/{}", made["id"].as_str().unwrap());
    assert_eq!(gateway.admin.get(&route_path).await.expect(200).json()["upstream"], "renamed");
    gateway.admin.delete(&route_path).await.expect(204);
    gateway.admin.delete(&path).await.expect(204);
}

#[tokio::test]
async fn permissions_are_asked() {
    let world = World::new().await;
    let gateway = world.start().await;
    let reader = gateway.client.bearer(world.issuer.token("r", &["routes:read"]));
    reader.get("/routes").await.expect(200);
    reader.post("/routes", &route("x")).await.expect_problem(403, "permission_denied");
    reader.delete(&format!("/routes/{}", uuid::Uuid::now_v7())).await.expect_problem(403, "permission_denied");
    let writer = gateway.client.bearer(world.issuer.token("w", &["routes:write"]));
    writer.get("/upstreams").await.expect_problem(403, "permission_denied");
    gateway.client.get("/routes").await.expect_problem(401, "token_missing");
    gateway
        .client
        .get("/upstreams")
        .bearer(world.issuer.expired("x", &["*:*"]))
        .await
        .expect_problem(401, "token_expired");
    gateway
        .client
        .get("/upstreams")
        .bearer(world.issuer.forged("x", &["*:*"]))
        .await
        .expect_problem(401, "token_invalid");
    gateway.admin.request(axum::http::Method::PATCH, "/routes").await.expect_problem(405, "method_not_allowed");
    gateway.admin.get("/routes/7").await.expect_problem(400, "invalid_path");
    gateway
        .admin
        .request(axum::http::Method::POST, "/routes")
        .header("content-type", "application/json")
        .body("{")
        .await
        .expect_problem(400, "malformed_json");
    gateway
        .admin
        .request(axum::http::Method::POST, "/routes")
        .body("x")
        .await
        .expect_problem(415, "unsupported_media_type");
}

#[tokio::test]
async fn a_repeated_request_with_a_key_makes_one_route() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    let key = unique("key");
    let first = gateway.admin.post("/routes", &route("once")).header("idempotency-key", &key).await.expect(201);
    let again = gateway.admin.post("/routes", &route("once")).header("idempotency-key", &key).await.expect(201);
    assert_eq!(first.json()["id"], again.json()["id"]);
    gateway
        .admin
        .post("/routes", &route("other"))
        .header("idempotency-key", &key)
        .await
        .expect_problem(422, "idempotency_key_reused");
}
