//! Who changed what, and back again.

use serde_json::{Value, json};

use crate::harness::{Gateway, Instance};

async fn latest(gateway: &Gateway) -> Value {
    let page = gateway.admin.get("/routes/history?limit=1").await.expect(200).json();
    page["items"][0].clone()
}

#[tokio::test]
async fn every_change_says_who_and_what() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    let mut route = json!({"name": "robots", "match": {"path": {"prefix": "/robots"}}, "upstream": "echo"});
    let made = gateway.route(route.clone()).await;
    let seen = latest(&gateway).await;
    assert_eq!((&seen["subject"], &seen["clientId"]), (&json!("admin"), &json!("test-client")));
    let change = &seen["changes"][0];
    assert_eq!(
        (&change["kind"], &change["did"], &change["name"]),
        (&json!("route"), &json!("create"), &json!("robots"))
    );
    assert_eq!(change["id"], made["id"]);

    route["timeoutMs"] = json!(900);
    route["match"]["path"] = json!({"prefix": "/androids"});
    let path = format!("/routes/{}", made["id"].as_str().unwrap());
    gateway.admin.put(&path, &route).await.expect(200);
    let seen = latest(&gateway).await;
    assert_eq!(
        seen["changes"][0]["fields"],
        json!([{"pointer": "/match/path/prefix", "before": "/robots", "after": "/androids"},
               {"pointer": "/timeoutMs", "before": null, "after": 900}])
    );
    gateway.admin.delete(&path).await.expect(204);
    let seen = latest(&gateway).await;
    assert_eq!(seen["changes"][0]["did"], "delete");
    // The defaults are the gateway's own doing.
    let all = gateway.admin.get("/routes/history?limit=200").await.expect(200).json();
    let first = all["items"].as_array().unwrap().last().unwrap();
    assert!(first["subject"].is_null() && first["changes"].as_array().unwrap().len() > 20, "{first}");
    gateway.client.get("/routes/history").await.expect_problem(401, "token_missing");
}

#[tokio::test]
async fn a_rollback_undoes_everything_since() {
    let (a, b) = (Instance::start("a"), Instance::start("b"));
    let (_world, gateway) = Gateway::with_echo(&[&a]).await;
    let version = latest(&gateway).await["version"].as_i64().unwrap();
    let before = gateway.admin.get("/routes?limit=200").await.expect(200).json();

    // Another upstream for the route, a route and its upstream gone, one made.
    let second = gateway.upstream("second", &[&b]).await;
    let routes = before["items"].as_array().unwrap();
    let of = |name: &str| routes.iter().find(|route| route["name"] == name).unwrap()["id"].as_str().unwrap().to_owned();
    let changed = json!({"name": "echo2", "match": {"path": {"prefix": "/echo"}}, "upstream": "second", "authentication": ["none"]});
    gateway.admin.put(&format!("/routes/{}", of("echo")), &changed).await.expect(200);
    gateway.admin.delete(&format!("/routes/{}", of("users"))).await.expect(204);
    assert_eq!(gateway.client.get("/echo").await.expect(200).json()["instance"], "b");
    gateway.client.get("/users").await.expect_problem(404, "not_found");

    let back = gateway.admin.post("/routes/rollback", &json!({"version": version})).await.expect(200).json();
    assert_eq!(back["version"], version + 4);
    assert_eq!(gateway.client.get("/echo").await.expect(200).json()["instance"], "a");
    gateway.client.get("/users").await.expect_problem(401, "token_missing");
    gateway.admin.get(&format!("/upstreams/{}", second["id"].as_str().unwrap())).await.expect(404);
    let after = gateway.admin.get("/routes?limit=200").await.expect(200).json();
    let plain = |page: &Value| -> Vec<Value> {
        let mut items = page["items"].as_array().unwrap().clone();
        for item in &mut items {
            item.as_object_mut().unwrap().retain(|key, _| key != "createdAt" && key != "updatedAt");
        }
        items
    };
    assert_eq!(plain(&after), plain(&before), "ids and names too");
    // And the rollback can be undone itself.
    gateway.admin.post("/routes/rollback", &json!({"version": version + 3})).await.expect(200);
    assert_eq!(gateway.client.get("/echo").await.expect(200).json()["instance"], "b");
}

#[tokio::test]
async fn what_is_not_known_is_not_undone() {
    let echo = Instance::start("a");
    let (world, gateway) = Gateway::with_echo(&[&echo]).await;
    let to = async |version: i64| gateway.admin.post("/routes/rollback", &json!({ "version": version })).await;
    to(-1).await.expect(404);
    to(1_000_000).await.expect(404);
    let pool = world.database.pool("kronos_router").await;
    sqlx::query("delete from route_changes where version = (select max(version) from route_changes)")
        .execute(&pool)
        .await
        .unwrap();
    to(1).await.expect_problem(409, "history_gone");
    gateway.client.get("/echo").await.expect(200);
}

#[tokio::test]
async fn what_was_read_can_be_written_back_as_it_is() {
    let echo = Instance::start("a");
    let (_world, gateway) = Gateway::with_echo(&[&echo]).await;
    let quota = json!({"name": "robots", "routes": ["users"], "by": ["token"], "requests": 10, "per": "day"});
    gateway.admin.post("/quotas", &quota).await.expect(201);
    for records in ["/routes", "/upstreams", "/quotas"] {
        let page = gateway.admin.get(records).await.expect(200).json();
        let path = format!("{records}/{}", page["items"][0]["id"].as_str().unwrap());
        let mut read = gateway.admin.get(&path).await.expect(200).json();
        let mut written = gateway.admin.put(&path, &read).await.expect(200).json();
        for record in [&mut read, &mut written] {
            record.as_object_mut().unwrap().retain(|field, _| !["updatedAt", "state"].contains(&field.as_str()));
        }
        assert_eq!(written, read);
        read["color"] = json!("red");
        let problem = gateway.admin.put(&path, &read).await.expect_problem(422, "invalid_request").json();
        assert_eq!(problem["errors"][0]["pointer"], "/color");
    }
}
