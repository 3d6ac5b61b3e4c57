//! Groups of people: what a name may be. A member has the group's roles for as long as the membership lasts.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{roles::Description, users::line};

/// A group, as stored and as sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    pub id: Uuid,
    pub name: String,
    pub description: String,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// The entity tag.
    #[serde(skip)]
    pub version: i64,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    pub user_id: Uuid,
    pub username: String,
    pub display_name: String,
    pub added_at: DateTime<Utc>,
}

/// A role that a group has, and its members with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub struct GroupAssignment {
    pub group_id: Uuid,
    pub role: String,
    /// Null: everywhere.
    pub resource: Option<String>,
    /// Null: without end.
    pub expires_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
}

/// What a group is to be.
#[derive(Debug, Clone)]
pub struct GroupDefinition {
    pub name: GroupName,
    pub description: Description,
}

/// What a group is called; unique, whatever the case or Unicode form.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, min_length = 1, max_length = 128, example = "Technicians of Lyon")]
pub struct GroupName(String);

impl TryFrom<String> for GroupName {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const RULE: &str = "1 to 128 characters, no control characters, no blanks around";
        if line(&text, 128) { Ok(Self(text)) } else { Err(RULE) }
    }
}

impl GroupName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
