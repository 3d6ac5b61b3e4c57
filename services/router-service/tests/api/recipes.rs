//! The recipes of docs/gateway.md, as they stand there: every policy has one, and the gateway takes it.

use std::collections::BTreeSet;

use router_service::{Config, DEFAULTS};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::{Gateway, World};

const PAGE: &str = include_str!("../../../../docs/gateway.md");

/// The code of one language, block by block.
fn blocks(language: &str) -> Vec<&'static str> {
    PAGE.split(&format!("```{language}\n")).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

/// Every JSON object in the blocks.
fn objects() -> Vec<Value> {
    let read = |block: &str| serde_json::Deserializer::from_str(block).into_iter().collect::<Result<Vec<Value>, _>>();
    let all = blocks("json").into_iter();
    all.flat_map(|block| read(block).unwrap_or_else(|error| panic!("{error}: {block}"))).collect()
}

/// What a caller may write of a route or an upstream.
async fn fields(gateway: &Gateway, schema: &str) -> BTreeSet<String> {
    let document = gateway.client.get("/openapi.json").await.expect(200).json();
    document["components"]["schemas"][schema]["properties"].as_object().unwrap().keys().cloned().collect()
}

#[tokio::test]
async fn every_policy_has_a_recipe_that_is_taken() {
    let world = World::new().await;
    let gateway = world.start().await;
    for name in ["robots", "robots-v2", "robots-next"] {
        let upstream = json!({"name": name, "instances": [{"url": "http://127.0.0.1:1"}]});
        gateway.admin.post("/upstreams", &upstream).await.expect(201);
    }
    let (of_route, of_upstream) = (fields(&gateway, "RouteSpec").await, fields(&gateway, "UpstreamSpec").await);
    let mut shown: BTreeSet<String> = ["name", "upstream", "instances"].map(str::to_owned).into();
    for recipe in objects() {
        let keys: Vec<&String> = recipe.as_object().unwrap().keys().collect();
        shown.extend(keys.iter().map(|key| (*key).clone()));
        let is_route = keys.iter().all(|key| of_route.contains(*key));
        assert!(is_route || keys.iter().all(|key| of_upstream.contains(*key)), "{recipe}");
        let (path, mut whole) = if is_route {
            ("/routes", json!({"match": {"path": {"prefix": "/recipe"}}, "upstream": "robots"}))
        } else {
            let scheme = if recipe["protocol"] == "h2" { "https" } else { "http" };
            ("/upstreams", json!({"instances": [{"url": format!("{scheme}://127.0.0.1:1")}]}))
        };
        whole.as_object_mut().unwrap().extend(recipe.as_object().unwrap().clone());
        whole["name"] = json!("recipe");
        let made = gateway.admin.post(path, &whole).await;
        assert_eq!(made.status, 201, "{recipe}: {}", made.text());
        let made = made.json();
        for (key, value) in recipe.as_object().unwrap().iter().filter(|(key, _)| *key != "name") {
            assert_eq!(said_of(&made[key], value), *value, "{key} of {recipe}");
        }
        gateway.admin.delete(&format!("{path}/{}", made["id"].as_str().unwrap())).await.expect(204);
    }
    let missing: Vec<&String> = of_route.union(&of_upstream).filter(|field| !shown.contains(*field)).collect();
    assert!(missing.is_empty(), "no recipe for {missing:?}");
}

/// Of what is stored, what the recipe says: defaults that it leaves out are no difference.
fn said_of(stored: &Value, said: &Value) -> Value {
    match (stored, said) {
        (Value::Object(stored), Value::Object(said)) => {
            said.iter().map(|(key, value)| (key.clone(), said_of(&stored[key], value))).collect()
        }
        (Value::Array(stored), Value::Array(said)) if stored.len() == said.len() => {
            stored.iter().zip(said).map(|(stored, said)| said_of(stored, said)).collect()
        }
        _ => stored.clone(),
    }
}

#[tokio::test]
async fn the_commands_do_what_they_say() {
    let world = World::new().await;
    let gateway = world.start().await;
    // As many changes as the rollback's version wants.
    let other = json!({"name": "other", "instances": [{"url": "http://127.0.0.1:1"}]});
    let made = gateway.admin.post("/upstreams", &other).await.expect(201).json();
    let path = format!("/upstreams/{}", made["id"].as_str().unwrap());
    for _ in 0..42 {
        gateway.admin.put(&path, &other).await.expect(200);
    }
    let output = Command::new("bash")
        .args(["-xeuo", "pipefail", "-c", &blocks("sh").join("\n")])
        .env("no_proxy", "127.0.0.1")
        .env("K", format!("http://{}", gateway.running.api))
        .env("T", world.issuer.token("admin", &["routes:read", "routes:write"]))
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout);
    for part in ["\"outcome\":\"route\"", "\"items\"", "\"version\""] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let quotas = gateway.admin.get("/quotas").await.expect(200).json();
    assert_eq!(quotas["items"][0]["name"], "robots-daily");
}

#[test]
fn the_settings_are_settings() {
    for block in blocks("toml") {
        let file = std::env::temp_dir().join(format!("{}.toml", kronos_testkit::unique("recipe")));
        std::fs::write(&file, block).unwrap();
        let read = kronos_common::config::load::<Config>(DEFAULTS, Some(&file), &std::collections::HashMap::new());
        std::fs::remove_file(&file).unwrap();
        assert!(read.is_ok(), "{block}: {:#}", read.unwrap_err());
    }
}
