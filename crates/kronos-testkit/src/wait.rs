//! Waiting without sleeping, and names that never meet.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// Polls until the condition holds.
///
/// # Panics
/// After 30 s, naming `what`.
pub async fn wait_until(what: &str, condition: impl AsyncFnMut() -> bool) {
    wait_up_to(PATIENCE, what, condition).await;
}

/// The same with a patience of one's own.
///
/// # Panics
/// When the patience ends, naming `what`.
pub async fn wait_up_to(patience: Duration, what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let end = tokio::time::Instant::now() + patience;
    while !condition().await {
        assert!(tokio::time::Instant::now() < end, "waited {} s in vain until {what}", patience.as_secs());
        tokio::time::sleep(POLL).await;
    }
}

/// `prefix_<seconds since 1970>_<random>`: lowercase letters, digits and underscores, so that every store takes it.
pub fn unique(prefix: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("{prefix}_{now}_{}", &random[..12])
}

/// How long ago [`unique`] made this name.
pub(crate) fn born(name: &str) -> Option<Duration> {
    let seconds: u64 = name.rsplit('_').nth(1)?.parse().ok()?;
    SystemTime::now().duration_since(UNIX_EPOCH + Duration::from_secs(seconds)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_its_age() {
        assert!(born(&unique("kronos_test")).is_some_and(|age| age < Duration::from_secs(5)));
        assert_eq!(born("template1"), None);
    }
}
