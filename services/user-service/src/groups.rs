//! Groups of people: what a name may be. A member has the group's roles for as long as the membership lasts.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{roles::Description, scim::filter::Filter, users::line};

/// A group, as stored and as sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    pub id: Uuid,
    pub name: String,
    pub description: String,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// The entity tag; it changes with the members too.
    #[serde(skip)]
    pub version: i64,
    /// A directory's own id of it.
    #[serde(skip)]
    pub external_id: Option<String>,
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
    pub external_id: Option<String>,
}

/// What shall be otherwise with a group.
#[derive(Debug, Default)]
pub struct GroupChanges {
    pub name: Option<GroupName>,
    pub description: Option<Description>,
    /// `Some(None)`: it shall have none.
    pub external_id: Option<Option<String>>,
    /// One after the other.
    pub members: Vec<Members>,
}

/// What shall be otherwise with who is in a group.
#[derive(Debug)]
pub enum Members {
    Add(Vec<Uuid>),
    Remove(Vec<Uuid>),
    /// Those and nobody else.
    Set(Vec<Uuid>),
    /// Those whom the filter finds are no members.
    RemoveFound(Filter),
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
