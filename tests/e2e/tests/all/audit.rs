//! The audit trail from end to end: what passed the gateway is found in the log search.

use std::time::Duration;

use kronos_e2e::api::{self, Api};
use kronos_testkit::wait_up_to;
use reqwest::Method;
use serde_json::Value;

use crate::platform::Platform;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow"]
async fn a_request_through_the_gateway_is_found_by_route_status_client_and_trace() {
    let platform = Platform::start().await;
    let admin = Api::administrator(&platform.target).await.unwrap();
    let caller = Api::client(&platform.target, "hyperion").await.unwrap();
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    for (path, status) in [("/topics?limit=17", 200), ("/db/backups", 403), ("/nowhere", 404)] {
        let request =
            caller.request(Method::GET, path).header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"));
        assert_eq!(request.send().await.unwrap().status(), status, "{path}");
    }
    let search = async |query: &str, trace: &str| -> Vec<Value> {
        let asked = [("service", "router-service"), ("sources", "kronos"), ("q", query), ("traceId", trace)];
        let asked = asked.iter().filter(|(_, value)| !value.is_empty()).collect::<Vec<_>>();
        let answer = admin.request(Method::GET, "/logs").query(&asked).send().await.unwrap();
        let found = api::read("search".to_owned(), answer).await.unwrap().expect(200).unwrap();
        found["items"].as_array().unwrap().clone()
    };
    wait_up_to(Duration::from_secs(60), "all three are found", async || search("audit:true", trace).await.len() == 3)
        .await;
    for (query, path) in [
        ("audit:true route:topics status:200 clientId:hyperion", "/topics"),
        ("audit:true route:db status:403 clientId:hyperion", "/db/backups"),
        ("audit:true route:unmatched status:404", "/nowhere"),
    ] {
        let found = search(query, trace).await;
        assert_eq!(found.len(), 1, "{query}: {found:?}");
        let line = &found[0];
        assert_eq!((&line["attributes"]["path"], &line["traceId"]), (&path.into(), &trace.into()));
        assert!(line["attributes"]["durationUs"].as_u64().is_some_and(|time| time > 0), "{line}");
        assert!(!line.to_string().contains("limit=17"), "no query");
    }
    assert_eq!(search("audit:true status:200 route:db", trace).await, Vec::<Value>::new());
    // Without the trace: by who asked, and what.
    let found = search("audit:true clientId:hyperion path:\"/topics\"", "").await;
    assert!(found.iter().any(|line| line["traceId"] == trace), "{found:?}");
}
