//! What Kronos holds on a person, and how it forgets them: the receipt of an erasure. Asking the other services is
//! `changes/privacy.rs`'s.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::types::Json;
use utoipa::ToSchema;
use uuid::Uuid;

/// This service among those that hold something.
pub const OWN: &str = "user-service";

/// The receipt of an erasure.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Erasure {
    pub user_id: Uuid,
    pub requested_at: DateTime<Utc>,
    /// When the last service had acknowledged; null: not yet.
    pub finished_at: Option<DateTime<Utc>>,
    /// What each service has said.
    pub services: Vec<Acknowledgement>,
}

/// What a service has said of an erasure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub struct Acknowledgement {
    pub service: String,
    /// Null: it has not answered yet, and is asked again until it does.
    pub acknowledged_at: Option<DateTime<Utc>>,
    /// How many of what are gone.
    #[schema(value_type = HashMap<String, u64>)]
    pub removed: Json<BTreeMap<String, i64>>,
    /// What stays, and why.
    #[schema(value_type = Vec<String>)]
    pub kept: Json<Vec<String>>,
    /// How often it was asked.
    pub attempts: i32,
    /// Why the last attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// All that Kronos holds on a person.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrivacyExport {
    pub user_id: Uuid,
    pub exported_at: DateTime<Utc>,
    /// What each service holds, by its name.
    #[schema(value_type = HashMap<String, serde_json::Value>)]
    pub services: BTreeMap<String, serde_json::Value>,
}
