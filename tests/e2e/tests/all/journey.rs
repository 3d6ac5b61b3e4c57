//! The journey of the demo, against processes of the test's own.

use kronos_e2e::journey::{self, Told};

use crate::platform::Platform;

#[tokio::test(flavor = "multi_thread")]
async fn the_journey_of_the_callers_succeeds_through_the_gateway() {
    let platform = Platform::start().await;
    let mut story = Vec::new();
    let mut tell = |told: Told<'_>| match told {
        Told::Chapter(title) => story.push(format!("# {title}")),
        Told::Done(line) => story.push(line.to_owned()),
    };
    if let Err(error) = journey::play(&platform.target, &mut tell).await {
        panic!("{error:#}\nafter:\n{}", story.join("\n"));
    }
}
