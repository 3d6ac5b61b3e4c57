//! The recipes of docs/users.md, run as they stand there.

use std::process::Command;

use crate::platform::Platform;

const PAGE: &str = include_str!("../../../../docs/users.md");

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow"]
async fn the_recipes_of_the_six_callers_do_what_they_say() {
    let platform = Platform::start().await;
    let section = PAGE.split("## The six callers").nth(1).unwrap();
    let script = section.split("```sh").nth(1).unwrap().split("```").next().unwrap().to_owned();
    let target = platform.target.clone();
    let output = tokio::task::spawn_blocking(move || {
        let secret = |client: &str| target.clients[client].secret.clone();
        Command::new("bash")
            .args(["-xeuo", "pipefail", "-c", &script])
            .env("no_proxy", "127.0.0.1")
            .env("KRONOS", &target.gateway)
            .env("ADMIN_PASSWORD", &target.admin.password)
            .env("CRM_SECRET", secret("ouranos-crm"))
            .env("HERMES_SECRET", secret("hermes"))
            .env("HEPHAISTOS_SECRET", secret("hephaistos"))
            .env("HYPERION_SECRET", secret("hyperion"))
            .env("DESK_SECRET", secret("ouranos-desk"))
            .output()
            .unwrap()
    })
    .await
    .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
