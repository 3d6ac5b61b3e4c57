//! `GET /db/status`, `GET /db/tables`.

use kronos_testkit::wait_until;

use crate::harness::Harness;

#[tokio::test(flavor = "multi_thread")]
async fn the_status_shows_the_server_and_every_schema() {
    let harness = Harness::start().await;
    let status = harness.client().get("/db/status").await.expect(200).json();
    assert!(status["server"]["version"].as_str().unwrap().starts_with("15"), "{status}");
    assert_eq!(status["server"]["database"], harness.database.name());
    assert!(status["server"]["uptimeSeconds"].as_f64().unwrap() > 0.0);
    assert!(status["server"]["sizeBytes"].as_i64().unwrap() > 1_000_000);
    assert!(status["connections"]["used"].as_i64().unwrap() >= 1);
    assert!(status["connections"]["max"].as_i64().unwrap() >= status["connections"]["used"].as_i64().unwrap());
    assert_eq!(status["replication"]["role"], "primary");
    let schemas = status["schemas"].as_array().unwrap();
    let names: Vec<&str> = schemas.iter().map(|schema| schema["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["auth", "users", "logs", "cache", "router", "messaging", "dbadmin"]);
    for schema in schemas {
        assert!(schema["bytes"].as_i64().unwrap() > 0, "{schema}");
        assert!(schema["tables"].as_array().unwrap().iter().any(|table| table["name"] == "outbox"), "{schema}");
        assert_eq!(schema["migrations"]["current"], true, "{schema}");
        assert_eq!(schema["migrations"]["version"], schema["migrations"]["latest"], "{schema}");
    }
    assert!(status["lastBackup"].is_null());
    harness.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slowest_statements_are_shown_without_their_values() {
    let harness = Harness::start().await;
    let owner = harness.probe().await;
    // The server counts for all tests together and forgets what is rarely run: the statement is run until it is shown.
    wait_until("the slow statement is shown", async || {
        sqlx::query("select pg_sleep(0.4), 'a value that nobody should see'").execute(&owner).await.unwrap();
        let utility = "do $$begin perform pg_sleep(0.5), 'a value that nobody should see'; end$$ /* nor this */";
        sqlx::query(utility).execute(&owner).await.unwrap();
        let status = harness.client().get("/db/status").await.expect(200);
        assert!(
            !status.text().contains("nobody should see") && !status.text().contains("nor this"),
            "{}",
            status.text()
        );
        let json = status.json();
        let slow = json["slowStatements"].as_array().expect("the test server counts statements");
        let shown = |text: &str| {
            slow.iter().any(|statement| {
                statement["role"] == "kronos_users"
                    && statement["statement"].as_str().unwrap().starts_with(text)
                    && statement["meanMs"].as_f64().unwrap() >= 400.0
            })
        };
        shown("select pg_sleep(") && shown("do ?")
    })
    .await;
    harness.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_queried_is_listed() {
    let harness = Harness::start().await;
    harness.probe().await;
    let tables = harness.client().get("/db/tables").await.expect(200).json();
    let items = tables["items"].as_array().unwrap();
    let find = |schema: &str, name: &str| {
        let found = items.iter().find(|table| table["schema"] == schema && table["name"] == name)?;
        Some(
            found["columns"]
                .as_array()
                .unwrap()
                .iter()
                .map(|c| c["name"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>(),
        )
    };
    assert_eq!(find("users", "probe").unwrap(), ["id", "name", "born", "data"]);
    let credentials = find("auth", "credentials").unwrap();
    assert!(credentials.contains(&"username".to_owned()) && !credentials.contains(&"password_phc".to_owned()));
    assert_eq!(find("auth", "secrets"), None);
    harness.stop().await;
}
