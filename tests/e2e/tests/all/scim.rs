//! SCIM as a checker sees it that nobody here wrote: scim2-tester, through the gateway, on an empty platform and on one with
//! 50,000 people.

use std::time::Instant;

use kronos_e2e::api::Api;
use serde_json::json;

use crate::{platform::Platform, python};

const REQUIREMENTS: &str = include_str!("../../python/scim_requirements.txt");
const MANY: i32 = 50_000;

async fn check(platform: &Platform) -> String {
    let admin = Api::administrator(&platform.target).await.unwrap();
    let given = json!({"base": format!("{}/scim/v2", platform.target.gateway), "token": admin.token()});
    python::run("scim", "scim_tester.py", REQUIREMENTS, &given).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow"]
async fn scim2_tester_passes_every_check() {
    let platform = Platform::start().await;
    check(&platform).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow"]
#[expect(clippy::print_stdout, reason = "how long it took is what one wants to know")]
async fn scim2_tester_passes_every_check_among_many_people() {
    let platform = Platform::start().await;
    let admin = Api::administrator(&platform.target).await.unwrap();
    platform.make_people(MANY);
    let begun = Instant::now();
    check(&platform).await;
    println!("scim2-tester took {:.1} s among {MANY} people", begun.elapsed().as_secs_f64());
    for path in [
        "Users".to_owned(),
        format!("Users?startIndex={}&attributes=userName", MANY - 100),
        "Users?filter=userName%20eq%20%22person-40000%22".to_owned(),
        "Users?filter=emails.value%20co%20%22person-4000%22&count=10".to_owned(),
        "Users?sortBy=userName&count=100".to_owned(),
    ] {
        let begun = Instant::now();
        let list = admin.get(&format!("/scim/v2/{path}")).await.unwrap().expect(200).unwrap();
        println!("{:.1} ms for {path}: {} found", begun.elapsed().as_secs_f64() * 1e3, list["totalResults"]);
    }
}
