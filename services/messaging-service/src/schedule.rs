//! When a schedule fires: cron patterns in a time zone. No I/O.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use croner::{
    Cron,
    parser::{CronParser, Seconds},
};

/// Longest pattern, in bytes.
const LONGEST: usize = 256;

/// A pattern in a time zone.
#[derive(Debug, Clone)]
pub struct Rhythm {
    cron: Cron,
    zone: Tz,
}

/// Reads a time zone's name of the IANA database, such as `Europe/Paris`.
pub fn zone(name: &str) -> Option<Tz> {
    name.parse().ok()
}

impl Rhythm {
    /// Five fields as of cron, or six with seconds first; or `@daily` and its like.
    ///
    /// # Errors
    /// What is wrong with the pattern.
    pub fn new(pattern: &str, zone: Tz) -> Result<Self, String> {
        if pattern.len() > LONGEST {
            return Err(format!("at most {LONGEST} bytes"));
        }
        let parser = CronParser::builder().seconds(Seconds::Optional).build();
        let cron = parser.parse(pattern).map_err(|error| error.to_string())?;
        Ok(Self { cron, zone })
    }

    /// The first time after `time`. `None`: never again. A time that the clocks skip is kept as soon as they have; one that
    /// they have twice is kept once, but for patterns that fire every hour or oftener.
    pub fn next_after(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let next = self.cron.find_next_occurrence(&time.with_timezone(&self.zone), false).ok()?;
        Some(next.with_timezone(&Utc))
    }
}
