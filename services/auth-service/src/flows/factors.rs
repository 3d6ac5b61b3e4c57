//! Which second factors a person has, and whether what is shown is one of them.

use kronos_common::problem::Problem;
use uuid::Uuid;

use crate::{
    App,
    factors::{Kind, Proof},
};

/// The kinds that a login of this person may be completed with; empty: a password is enough.
///
/// # Errors
/// The database.
pub(crate) async fn kinds(_app: &App, _user_id: Uuid) -> Result<Vec<Kind>, Problem> {
    Ok(Vec::new())
}

/// Whether the proof is good, and uses it up.
///
/// # Errors
/// The database; 429 after too many wrong ones.
pub(crate) async fn check(_app: &App, _user_id: Uuid, _proof: &Proof) -> Result<bool, Problem> {
    Ok(false)
}
