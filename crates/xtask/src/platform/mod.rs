//! The development platform: stores, migrations and seven services in one instance under `.kronos/dev`.

mod gateway;
mod logs;
mod scale;
mod services;
mod status;
mod up;

pub(crate) use logs::logs;
pub(crate) use scale::{Wanted, scale};
pub(crate) use services::SERVICE_NAMES;
pub(crate) use status::status;
pub(crate) use up::{down, run_against, up};

/// The instance's name.
const DEV: &str = "dev";
