//! Which route takes a request, by host, template, headers and query; what the instance sees; and what `/routes/explain` says.

use serde_json::{Value, json};

use crate::harness::{Gateway, Instance};

fn route(name: &str, matches: Value, more: Value) -> Value {
    let mut route = json!({"name": name, "match": matches, "upstream": "echo", "authentication": ["none"]});
    route.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    route
}

/// The path that the instance saw tells which route it was: each rewrites to its own name.
async fn several(gateway: &Gateway) {
    for (name, matches) in [
        ("any", json!({"path": {"prefix": "/robots"}})),
        ("host", json!({"host": "api.example.com", "path": {"prefix": "/robots"}})),
        ("below", json!({"host": "*.example.com", "path": {"prefix": "/robots"}})),
        ("template", json!({"path": {"template": "/robots/{id}/logs"}})),
        ("header", json!({"path": {"prefix": "/robots"}, "headers": {"x-version": "2"}})),
        ("query", json!({"path": {"prefix": "/robots"}, "query": {"trial": "*"}})),
        ("both", json!({"path": {"prefix": "/robots"}, "headers": {"x-version": "2"}, "query": {"trial": "*"}})),
    ] {
        gateway.route(route(name, matches, json!({"rewrite": {"path": format!("/{name}")}}))).await;
    }
}

#[tokio::test]
async fn the_most_specific_route_takes_a_request() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    several(&gateway).await;
    for (path, host, version, expected) in [
        ("/robots/7", "other.test", None, "any"),
        ("/robots/7", "API.example.com:8080", None, "host"),
        ("/robots/7", "a.b.example.com", None, "below"),
        ("/robots/7", "example.com", None, "any"),
        ("/robots/7", "evilexample.com", None, "any"),
        ("/robots/7/logs", "other.test", None, "template"),
        ("/robots//logs", "other.test", None, "any"),
        ("/robots/7/logs/x", "other.test", None, "any"),
        ("/robots/7/logs", "api.example.com", None, "host"),
        ("/robots/7", "other.test", Some("2"), "header"),
        ("/robots/7", "other.test", Some("3"), "any"),
        ("/robots/7?trial=", "other.test", None, "query"),
        ("/robots/7?a=1&tri%61l=yes", "other.test", Some("2"), "both"),
        ("/robots/7?trialx=1", "other.test", None, "any"),
    ] {
        let mut get = gateway.client.get(path).header("host", host);
        let mut headers = json!({});
        if let Some(version) = version {
            get = get.header("x-version", version);
            headers["x-version"] = json!(version);
        }
        let seen = get.await.expect(200).json();
        assert_eq!(seen["path"], format!("/{expected}"), "{path} {host} {version:?}");
        let described = json!({"path": path, "host": host, "headers": headers});
        let explained = gateway.admin.post("/routes/explain", &described).await.expect(200).json();
        assert_eq!(explained["route"]["name"], expected, "{explained}");
        let taken: Vec<&Value> = explained["candidates"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|candidate| candidate["taken"] == true)
            .map(|candidate| &candidate["route"])
            .collect();
        assert_eq!(taken, [expected], "{explained}");
    }
}

#[tokio::test]
async fn a_route_may_give_the_instance_another_path() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    for (name, path, rewrite) in [
        ("cut", json!({"prefix": "/api/v1"}), json!({"prefix": "/"})),
        ("moved", json!({"prefix": "/old"}), json!({"prefix": "/new/place"})),
        ("turned", json!({"template": "/u/{user}/r/{robot}"}), json!({"path": "/r/{robot}/owner/{user}"})),
        ("fixed", json!({"exact": "/fixed"}), json!({"path": "/here"})),
    ] {
        gateway.route(route(name, json!({ "path": path }), json!({ "rewrite": rewrite }))).await;
    }
    for (asked, path, query) in [
        ("/api/v1/robots?a=%20b", "/robots", Some("a=%20b")),
        ("/api/v1", "/", None),
        ("/old/a%2Fb/", "/new/place/a%2Fb/", None),
        ("/u/ada/r/7?x", "/r/7/owner/ada", Some("x")),
        ("/fixed", "/here", None),
    ] {
        let seen = gateway.client.get(asked).await.expect(200).json();
        assert_eq!((seen["path"].as_str(), seen["query"].as_str()), (Some(path), query), "{asked}");
    }
}

#[tokio::test]
async fn a_match_that_cannot_be_meant_is_refused_with_every_error() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    let bad = json!({"name": "bad", "upstream": "echo",
        "match": {"host": "EXAMPLE.com/x", "path": {"template": "/a/{id}/b/{id}"}, "headers": {"x y": "1"}},
        "rewrite": {"path": "/a/{other}"}});
    let answer = gateway.admin.post("/routes", &bad).await.expect_problem(422, "invalid_request");
    let pointers: Vec<String> = answer.json()["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["pointer"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(pointers, ["/match/path/template", "/match/host", "/match/headers", "/rewrite/path"], "{answer}");
    let prefix = route("bad", json!({"path": {"exact": "/x"}}), json!({"rewrite": {"prefix": "/y"}}));
    gateway.admin.post("/routes", &prefix).await.expect_problem(422, "invalid_request");
    // Two templates that differ in names only take the same.
    gateway.route(route("one", json!({"path": {"template": "/t/{a}"}}), json!({}))).await;
    let twin = route("two", json!({"path": {"template": "/t/{b}"}}), json!({}));
    let answer = gateway.admin.post("/routes", &twin).await.expect_problem(422, "invalid_request");
    assert!(answer.text().contains("match_taken"), "{answer}");
    gateway.route(route("three", json!({"host": "a.test", "path": {"template": "/t/{b}"}}), json!({}))).await;
}

#[tokio::test]
async fn an_explanation_says_why_and_sends_nothing() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    let limited = json!({"name": "robots", "match": {"path": {"prefix": "/robots"}, "methods": ["GET"]}, "upstream": "echo",
        "permission": "robots:read", "limits": [{"by": ["ip"], "requests": 5, "perSeconds": 1}], "timeoutMs": 700});
    gateway.route(limited).await;
    let explain = async |described: Value| gateway.admin.post("/routes/explain", &described).await.expect(200).json();
    let said = explain(json!({"path": "/robots/%37?x=1"})).await;
    assert_eq!((&said["outcome"], &said["path"]), (&json!("route"), &json!("/robots/7")));
    let route = &said["route"];
    assert_eq!(route["sends"], "/robots/7?x=1");
    assert_eq!(route["permission"], "robots:read");
    assert_eq!((&route["timeoutMs"], &route["limits"][0]["requests"]), (&json!(700), &json!(5)));
    let instance = &route["instances"][0];
    assert_eq!(
        (&instance["url"], &instance["available"], &instance["inFlight"]),
        (&json!(echo.url()), &json!(true), &json!(0))
    );
    let said = explain(json!({"method": "POST", "path": "/robots"})).await;
    assert_eq!((&said["outcome"], &said["candidates"][0]["because"]), (&json!("methodNotAllowed"), &json!("method")));
    assert_eq!(explain(json!({"path": "/nowhere"})).await["outcome"], "notFound");
    assert_eq!(explain(json!({"path": "/routes"})).await["outcome"], "gateway");
    assert_eq!(echo.requests(), 0);
    gateway.client.post("/routes/explain", &json!({"path": "/"})).await.expect_problem(401, "token_missing");
    gateway.admin.post("/routes/explain", &json!({"path": "no path"})).await.expect_problem(422, "invalid_request");
    gateway.admin.post("/routes/explain", &json!({"path": "/a/../b"})).await.expect_problem(400, "invalid_path");
}
