//! Policies of a route at the edge: redirects, headers, other origins, presets, addresses, the filter.

use kronos_testkit::TestClient;
use serde_json::{Value, json};

use crate::harness::{Gateway, Instance, World};

/// A gateway with one anonymous route, `/r`, with these policies.
async fn with(policies: Value) -> (World, Gateway, Instance) {
    let (world, echo) = (World::new().await, Instance::start("a"));
    let gateway = world.start().await;
    gateway.upstream("echo", &[&echo]).await;
    route(&gateway, "r", policies).await;
    (world, gateway, echo)
}

async fn route(gateway: &Gateway, name: &str, policies: Value) {
    let mut route = json!({"name": name, "match": {"path": {"prefix": format!("/{name}")}}, "upstream": "echo",
                           "authentication": ["none"]});
    route.as_object_mut().unwrap().extend(policies.as_object().unwrap().clone());
    gateway.route(route).await;
}

/// By a client that follows no redirect.
fn get(gateway: &Gateway, path: &str) -> reqwest::RequestBuilder {
    let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    client.get(format!("http://{}{path}", gateway.running.api))
}

fn header<'a>(answer: &'a reqwest::Response, name: &str) -> Option<&'a str> {
    answer.headers().get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn a_redirect_answers_without_an_instance() {
    let (_world, gateway, echo) = with(json!({"redirect": {"location": "https://new.example.com/v2{rest}"}})).await;
    let answer = get(&gateway, "/r/x?a=1").send().await.unwrap();
    assert_eq!(answer.status(), 308);
    assert_eq!(header(&answer, "location"), Some("https://new.example.com/v2/x?a=1"));
    route(
        &gateway,
        "https",
        json!({"redirect": {"status": 301, "location": "https://{host}{path}", "keepQuery": false}}),
    )
    .await;
    let answer = get(&gateway, "/https/y?a=1").header("host", "api.example.com:8080").send().await.unwrap();
    assert_eq!((answer.status().as_u16(), header(&answer, "location")), (301, Some("https://api.example.com/https/y")));
    route(&gateway, "climb", json!({"redirect": {"status": 302, "location": "{rest}"}})).await;
    let answer = get(&gateway, "/climb//evil.example.com/").send().await.unwrap();
    assert_eq!(header(&answer, "location"), Some("/evil.example.com/"), "a path never becomes another host");
    assert_eq!(echo.requests(), 0);
}

#[tokio::test]
async fn a_route_that_redirects_needs_no_upstream() {
    let (world, gateway, echo) = with(json!({})).await;
    let moved = json!({"name": "moved", "match": {"path": {"prefix": "/moved"}}, "authentication": ["none"],
                       "redirect": {"status": 307, "location": "/r{rest}"}});
    let made = gateway.route(moved.clone()).await;
    assert!(made.get("upstream").is_none(), "{made}");
    let other = world.start().await;
    for gateway in [&gateway, &other] {
        let answer = get(gateway, "/moved/x").send().await.unwrap();
        assert_eq!((answer.status().as_u16(), header(&answer, "location")), (307, Some("/r/x")));
    }
    let path = format!("/routes/{}", made["id"].as_str().unwrap());
    assert_eq!(gateway.admin.get(&path).await.expect(200).json(), made);
    let explained = gateway.admin.post("/routes/explain", &json!({"path": "/moved/x"})).await.expect(200).json();
    assert_eq!(explained["route"]["edge"]["redirectsTo"], "/r/x");
    assert!(explained["route"]["upstream"].is_null() && explained["route"]["instances"].is_null(), "{explained}");
    // It may lead to an upstream later, and back; and who names neither is told so.
    let mut leads = moved.clone();
    leads["upstream"] = json!("echo");
    leads.as_object_mut().unwrap().remove("redirect");
    gateway.admin.put(&path, &leads).await.expect(200);
    gateway.client.get("/moved/x").await.expect(200);
    gateway.admin.put(&path, &moved).await.expect(200);
    assert_eq!(get(&gateway, "/moved/x").send().await.unwrap().status(), 307);
    leads.as_object_mut().unwrap().remove("upstream");
    let answer = gateway.admin.put(&path, &leads).await.expect_problem(422, "invalid_request").json();
    assert_eq!(
        (&answer["errors"][0]["pointer"], &answer["errors"][0]["code"]),
        (&json!("/upstream"), &json!("required"))
    );
    gateway.admin.delete(&path).await.expect(204);
    let version = gateway.admin.get("/routes/history?limit=1").await.expect(200).json()["items"][0]["version"].clone();
    let before = json!({"version": version.as_i64().unwrap() - 1});
    gateway.admin.post("/routes/rollback", &before).await.expect(200);
    assert_eq!(get(&gateway, "/moved/x").send().await.unwrap().status(), 307);
    assert_eq!(echo.requests(), 1);
}

#[tokio::test]
async fn headers_are_set_added_and_removed_both_ways() {
    let (_world, gateway, _echo) = with(json!({"headers": {
        "request": {"set": {"x-tenant": "blue"}, "add": {"accept": "text/plain"}, "remove": ["x-debug"]},
        "response": {"set": {"cache-control": "max-age=5"}, "remove": ["content-type"]},
    }}))
    .await;
    let request =
        gateway.client.get("/r").header("x-tenant", "red").header("x-debug", "1").header("accept", "text/html");
    let answer = request.await.expect(200);
    let seen = answer.json();
    assert_eq!(seen["headers"]["x-tenant"], json!(["blue"]));
    assert_eq!(seen["headers"]["x-debug"], json!(null));
    assert_eq!(seen["headers"]["accept"], json!(["text/html", "text/plain"]));
    assert_eq!(answer.header("cache-control"), Some("max-age=5"));
    assert_eq!(answer.header("content-type"), None);
    // What `Connection` names ends at this hop, but not what the gateway says.
    let mut socket = gateway.socket().await;
    socket.send("GET /r HTTP/1.1\r\nHost: a\r\nX-Tenant: red\r\nConnection: close, x-tenant\r\n\r\n").await;
    let seen = socket.read_to_end().await;
    assert!(seen.contains(r#""x-tenant":["blue"]"#), "{seen}");
}

#[tokio::test]
async fn a_preflight_is_answered_at_the_edge() {
    let (_world, gateway, echo) = with(json!({"authentication": ["jwt"], "cors": {
        "origins": ["https://app.example.com", "https://*.example.org"], "methods": ["GET", "PUT"],
        "headers": ["authorization", "content-type"], "exposeHeaders": ["etag"], "credentials": true, "maxAgeSeconds": 60}}))
    .await;
    let preflight = |origin: &'static str, method: &'static str, headers: &'static str| {
        let request = gateway.client.request(axum::http::Method::OPTIONS, "/r/x").header("origin", origin);
        request.header("access-control-request-method", method).header("access-control-request-headers", headers)
    };
    let answer = preflight("https://app.example.com", "PUT", "Authorization, content-type").await.expect(204);
    for (name, value) in [
        ("access-control-allow-origin", "https://app.example.com"),
        ("access-control-allow-methods", "GET, PUT"),
        ("access-control-allow-headers", "Authorization, content-type"),
        ("access-control-allow-credentials", "true"),
        ("access-control-max-age", "60"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
    preflight("https://a.b.example.org", "GET", "authorization").await.expect(204);
    for (origin, method, headers) in [
        ("https://evil.example.net", "GET", "authorization"),
        ("https://example.org", "GET", "authorization"),
        ("https://evil.net/.example.org", "GET", "authorization"),
        ("null", "GET", "authorization"),
        ("https://app.example.com", "DELETE", "authorization"),
        ("https://app.example.com", "GET", "x-other"),
    ] {
        let answer = preflight(origin, method, headers).await.expect_problem(403, "cors_refused");
        assert!(answer.header("access-control-allow-methods").is_none());
    }
    assert_eq!(echo.requests(), 0);
}

#[tokio::test]
async fn answers_say_who_of_other_origins_may_read_them() {
    let (_world, gateway, _echo) = with(
        json!({"authentication": ["jwt"], "cors": {"origins": ["https://app.example.com"], "exposeHeaders": ["etag"]}}),
    )
    .await;
    let answer = gateway.client.get("/r").header("origin", "https://app.example.com").await;
    let answer = answer.expect_problem(401, "token_missing");
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example.com"), "errors too");
    assert_eq!(answer.header("access-control-expose-headers"), Some("etag"));
    assert_eq!(answer.header("vary"), Some("origin"));
    let answer = gateway.client.get("/r").header("origin", "https://evil.example.com").await;
    assert_eq!(answer.header("access-control-allow-origin"), None);
    // Without a word of it, a preflight is a request like any other.
    route(&gateway, "plain", json!({})).await;
    let preflight = gateway.client.request(axum::http::Method::OPTIONS, "/plain").header("origin", "https://a.example");
    let answer = preflight.header("access-control-request-method", "GET").await.expect(200);
    assert_eq!(answer.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn a_preset_chooses_the_headers_that_protect_browsers() {
    let (_world, gateway, _echo) = with(json!({"securityHeaders": "strict"})).await;
    let strict = gateway.client.get("/r").await.expect(200);
    assert_eq!(strict.header("cross-origin-embedder-policy"), Some("require-corp"));
    assert_eq!(strict.header("cache-control"), Some("no-store"));
    for (preset, referrer, frames, stored) in [
        ("none", None, None, None),
        ("api", Some("no-referrer"), Some("DENY"), Some("no-store")),
        ("web", Some("strict-origin-when-cross-origin"), Some("SAMEORIGIN"), None),
        ("default", Some("no-referrer"), Some("DENY"), None),
    ] {
        route(&gateway, &format!("p-{preset}"), json!({"securityHeaders": preset})).await;
        let answer = gateway.client.get(&format!("/p-{preset}")).await.expect(200);
        assert_eq!(answer.header("referrer-policy"), referrer, "{preset}");
        assert_eq!(answer.header("x-frame-options"), frames, "{preset}");
        assert_eq!(answer.header("cache-control"), stored, "{preset}");
        assert_eq!(answer.header("strict-transport-security"), None, "not without TLS");
        assert!(answer.header("x-request-id").is_some());
    }
}

/// A client behind a proxy that this world's gateways trust.
async fn from(client: &TestClient, path: &str, address: &str) -> kronos_testkit::TestResponse {
    client.get(path).header("x-forwarded-for", address).await
}

#[tokio::test]
async fn addresses_are_allowed_and_denied_by_route_and_for_all() {
    let (world, echo) = (World::new().await, Instance::start("a"));
    let mut config = world.config.clone();
    config.gateway.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    config.gateway.deny_networks = vec!["203.0.113.0/24".parse().unwrap()];
    let gateway = world.start_with(config).await;
    gateway.upstream("echo", &[&echo]).await;
    route(&gateway, "r", json!({"networks": {"allow": ["10.0.0.0/8", "2001:db8::/32"], "deny": ["10.6.6.6"]}})).await;
    route(&gateway, "open", json!({})).await;
    for address in ["10.1.2.3", "2001:db8::7"] {
        from(&gateway.client, "/r", address).await.expect(200);
    }
    for address in ["10.6.6.6", "192.0.2.1", "203.0.113.9"] {
        from(&gateway.client, "/r", address).await.expect_problem(403, "address_denied");
    }
    from(&gateway.client, "/open", "192.0.2.1").await.expect(200);
    from(&gateway.client, "/open", "203.0.113.9").await.expect_problem(403, "address_denied");
    from(&gateway.client, "/openapi.json", "203.0.113.9").await.expect_problem(403, "address_denied");
}

#[tokio::test]
async fn what_looks_like_an_attack_is_refused_or_only_counted() {
    let (_world, gateway, echo) =
        with(json!({"filter": {"threshold": 10, "presets": ["sql", "script", "traversal", "command"],
        "rules": [
            {"name": "odd-agent", "score": 6, "header": {"name": "user-agent", "pattern": "(?i)sqlmap"}},
            {"name": "admin", "score": 6, "path": "^/r/admin", "methods": ["POST"]},
            {"name": "secret", "score": 10, "body": "top secret"},
        ]}}))
        .await;
    gateway.client.get("/r/x?name=O%27Brien&note=select+a+union").await.expect(200);
    for query in ["id=1%27%20or%201=1", "q=%3Cscript%3Ealert(1)", "file=../../etc/passwd", "x=${jndi:ldap://a}"] {
        let request = gateway.client.get(&format!("/r/x?{query}"));
        request.await.expect_problem(403, "request_filtered");
    }
    let post = |agent: &'static str, path: &'static str, body: &'static str| {
        gateway.client.request(axum::http::Method::POST, path).header("user-agent", agent).body(body)
    };
    post("sqlmap", "/r/x", "ok").await.expect(200);
    post("curl", "/r/admin", "ok").await.expect(200);
    post("sqlmap", "/r/admin", "ok").await.expect_problem(403, "request_filtered");
    post("curl", "/r/x", "this is top secret").await.expect_problem(403, "request_filtered");
    let seen = post("curl", "/r/x", "this is harmless").await.expect(200).json();
    assert_eq!((&seen["body"], &seen["headers"]["content-length"]), (&json!("this is harmless"), &json!(["16"])));
    let before = echo.requests();
    route(&gateway, "m", json!({"filter": {"mode": "monitor", "presets": ["sql"]}})).await;
    gateway.client.get("/m?id=1%27%20or%201=1").await.expect(200);
    assert_eq!(echo.requests(), before + 1);
    let counted =
        async |route: &str| gateway.metric("kronos_gateway_filtered_total", &[&format!("route=\"{route}\"")]).await;
    assert_eq!(counted("m").await, 1.0);
    assert_eq!(counted("r").await, 6.0);
}

#[tokio::test]
async fn a_filter_looks_at_the_beginning_of_a_body_and_passes_all_of_it_on() {
    let (_world, gateway, _echo) =
        with(json!({"filter": {"inspectBodyBytes": 1000, "rules": [{"name": "x", "score": 10, "body": "needle"}]}}))
            .await;
    let post = |body: String| gateway.client.request(axum::http::Method::POST, "/r").body(body);
    let seen = post("x".repeat(300_000)).await.expect(200).json();
    assert_eq!(seen["bytes"], 300_000);
    post(format!("needle{}", "x".repeat(300_000))).await.expect_problem(403, "request_filtered");
    let chunks = futures::stream::iter((0..50).map(|_| Ok::<_, std::io::Error>("y".repeat(1000))));
    let streamed = gateway.client.request(axum::http::Method::POST, "/r").body(reqwest::Body::wrap_stream(chunks));
    let seen = streamed.await.expect(200).json();
    assert_eq!(seen["bytes"], 50_000);
}

#[tokio::test]
async fn every_bad_policy_is_named() {
    let (_world, gateway, _echo) = with(json!({})).await;
    let answer = gateway
        .admin
        .post(
            "/routes",
            &json!({"name": "bad", "match": {"path": {"prefix": "/bad"}}, "upstream": "echo",
            "authentication": ["signature"], "permission": "robots:read",
            "redirect": {"status": 200, "location": "https://{id}.example.com/"},
            "headers": {"request": {"set": {"X-Kronos-Subject": "root", "host": "x", "a b": "c"}, "remove": ["x-forwarded-for"]},
                        "response": {"add": {"content-length": "7"}}},
            "cors": {"origins": ["*", "example.com"], "credentials": true, "maxAgeSeconds": 100_000},
            "networks": {"allow": ["10.0.0.0/33"], "deny": ["here"]},
            "filter": {"threshold": 0, "rules": [{"name": "", "score": 0}, {"name": "x", "score": 1, "body": "("}]}}),
        )
        .await
        .expect_problem(422, "invalid_request")
        .json();
    let named: Vec<&str> =
        answer["errors"].as_array().unwrap().iter().map(|e| e["pointer"].as_str().unwrap()).collect();
    for pointer in [
        "/permission",
        "/redirect/status",
        "/redirect/location",
        "/headers/request/set/X-Kronos-Subject",
        "/headers/request/set/host",
        "/headers/request/set/a b",
        "/headers/request/remove/x-forwarded-for",
        "/headers/response/add/content-length",
        "/cors/origins/1",
        "/cors/credentials",
        "/cors/maxAgeSeconds",
        "/networks/allow/0",
        "/networks/deny/0",
        "/filter/threshold",
        "/filter/rules/0/name",
        "/filter/rules/0/score",
        "/filter/rules/0",
        "/filter/rules/1/body",
    ] {
        assert!(named.contains(&pointer), "{pointer} is missing in {named:?}");
    }
}

#[tokio::test]
async fn explain_speaks_of_the_edge() {
    let (_world, gateway, echo) = with(json!({
        "redirect": {"location": "https://{host}{path}"}, "networks": {"allow": ["10.0.0.0/8"]},
        "filter": {"presets": ["sql"]}, "securityHeaders": "api"}))
    .await;
    let asked = json!({"path": "/r/x?id=1%27%20or%201=1", "host": "api.example.com", "address": "192.0.2.1"});
    let seen = gateway.admin.post("/routes/explain", &asked).await.expect(200).json();
    let edge = &seen["route"]["edge"];
    assert_eq!(edge["addressTaken"], false);
    assert_eq!(edge["redirectsTo"], "https://api.example.com/r/x?id=1%27%20or%201=1");
    assert_eq!(edge["securityHeaders"], "api");
    assert_eq!((&edge["filter"]["refused"], &edge["filter"]["rules"]), (&json!(true), &json!(["preset-sql"])));
    assert_eq!(echo.requests(), 0);
}
