//! Milliseconds since the process began: exact, or as of the core's last tick, which costs nothing to read.

use std::{cell::Cell, sync::LazyLock, time::Instant};

static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

thread_local! {
    static COARSE: Cell<u64> = const { Cell::new(0) };
}

/// Exact; never zero.
pub fn exact_ms() -> u64 {
    u64::try_from(EPOCH.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
}

/// Of a moment that is known already.
pub fn ms_of(moment: Instant) -> u64 {
    u64::try_from(moment.saturating_duration_since(*EPOCH).as_millis()).unwrap_or(u64::MAX - 1) + 1
}

/// As of this thread's last [`refresh`]; only for threads that refresh it. Never zero.
pub fn coarse_ms() -> u64 {
    match COARSE.get() {
        0 => refresh(),
        known => known,
    }
}

/// Sets this thread's coarse clock; says what it is now.
pub fn refresh() -> u64 {
    let now = exact_ms();
    COARSE.set(now);
    now
}
