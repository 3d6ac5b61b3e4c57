//! `cargo xtask bench auth` against processes of the test's own: that it measures all that it should, not how fast they are.

use std::process::Command;

use crate::platform::Platform;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute of load; the figures of an unoptimised build mean nothing"]
async fn the_benchmark_of_identity_measures_all_that_it_names() {
    let platform = Platform::start().await;
    let file = platform.describe();
    let output = Command::new(env!("CARGO_BIN_EXE_bench")).arg("auth").arg("--target").arg(&file).output().unwrap();
    let (said, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complaint}");
    for figure in [
        "seen before",
        "client credentials",
        "introspection",
        "refresh",
        "logins",
        "Overload",
        "Revocation",
        "Resident",
    ] {
        assert!(said.contains(figure), "no {figure} in:\n{said}");
    }
}
