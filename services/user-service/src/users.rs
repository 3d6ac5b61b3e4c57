//! People: what a name, an address and a display name may be, and when two are the same. Rights are in `rights.rs`.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use kronos_common::name;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::types::Json;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    attributes,
    scim::{Document, person},
};

/// A person, as stored and as sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub struct User {
    pub id: Uuid,
    pub username: String,
    pub email: String,
    pub display_name: String,
    pub disabled: bool,
    /// Those of the schema that the person has; as read from the store, without the sealed ones.
    #[schema(value_type = HashMap<String, serde_json::Value>, example = json!({"customerNumber": "C-17"}))]
    pub attributes: Json<Document>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// The entity tag.
    #[serde(skip)]
    pub version: i64,
    /// The version of the rights.
    #[serde(skip)]
    pub epoch: i64,
    /// What SCIM says of them beyond the above.
    #[serde(skip)]
    pub profile: Json<Document>,
    /// A directory's own id of them.
    #[serde(skip)]
    pub external_id: Option<String>,
    /// The sealed attributes.
    #[serde(skip)]
    pub sealed: Option<Vec<u8>>,
    /// Which of the attributes are sealed ones, once they are opened.
    #[serde(skip)]
    #[sqlx(skip)]
    pub sealed_names: BTreeSet<String>,
}

/// What a person logs in with.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, min_length = 1, max_length = 64, example = "camille")]
pub struct Username(String);

/// An e-mail address.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, min_length = 3, max_length = 254, example = "camille@example.com")]
pub struct Email(String);

/// What others see.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, min_length = 1, max_length = 128, example = "Camille Martin")]
pub struct DisplayName(String);

/// A new password on its way to auth-service; never stored, never shown.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, min_length = 1, max_length = 1024, format = Password)]
pub struct Password(pub SecretString);

/// A person to be made.
#[derive(Debug, Clone)]
pub struct NewUser {
    pub username: Username,
    pub email: Email,
    pub display_name: DisplayName,
    pub disabled: bool,
    pub profile: Document,
    pub external_id: Option<String>,
    /// `None`: whoever makes the person knows nothing of the schema, and is not held to it.
    pub attributes: Option<Document>,
}

/// What of a person shall be otherwise.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    pub username: Option<Username>,
    pub email: Option<Email>,
    pub display_name: Option<DisplayName>,
    pub disabled: Option<bool>,
    /// A merge patch.
    pub attributes: Document,
}

/// In which order people are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum Order {
    /// By username, whatever its case and Unicode form.
    #[serde(rename = "username")]
    Username,
    #[serde(rename = "-username")]
    UsernameDescending,
    /// The oldest first.
    #[serde(rename = "createdAt")]
    Created,
    #[serde(rename = "-createdAt")]
    CreatedDescending,
}

/// Where a page of people begins after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Position {
    /// A username's key.
    Key(String),
    /// Ids are in the order of creation.
    Id(Uuid),
}

impl Order {
    /// Whether the position is one of this order.
    pub fn has(self, position: &Position) -> bool {
        self.by_name() == matches!(position, Position::Key(_))
    }

    /// Whether it is by username.
    pub fn by_name(self) -> bool {
        matches!(self, Self::Username | Self::UsernameDescending)
    }

    /// Where a page stands that ends with this person.
    pub fn position(self, user: &User) -> Position {
        match self {
            Self::Username | Self::UsernameDescending => Position::Key(name::key(&user.username)),
            Self::Created | Self::CreatedDescending => Position::Id(user.id),
        }
    }
}

impl User {
    /// The names of what is otherwise with `other`, by SCIM's names for what only SCIM knows.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let own = [
            ("username", self.username != other.username),
            ("email", self.email != other.email),
            ("displayName", self.display_name != other.display_name),
            ("disabled", self.disabled != other.disabled),
            ("externalId", self.external_id != other.external_id),
        ];
        let names = self.profile.keys().chain(other.profile.keys());
        let of_profile = names.filter(|name| self.profile.get(*name) != other.profile.get(*name)).map(String::as_str);
        let own = own.into_iter().filter_map(|(name, differs)| differs.then_some(name));
        let names = self.attributes.keys().chain(other.attributes.keys());
        let defined = names.filter(|name| self.attributes.get(*name) != other.attributes.get(*name));
        let defined = defined.map(|name| format!("attributes.{name}"));
        own.chain(of_profile).map(str::to_owned).chain(defined).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

impl User {
    /// What of these is said in the history: each value but of what is sealed, and nothing for what there is not.
    pub fn told(&self, names: &[String]) -> Document {
        let own = json!({
            "username": self.username, "email": self.email, "displayName": self.display_name, "disabled": self.disabled,
            "externalId": self.external_id,
        });
        let value = |name: &String| match name.strip_prefix("attributes.") {
            Some(name) if self.sealed_names.contains(name) => Some(json!({"sealed": true})),
            Some(name) => self.attributes.get(name).cloned(),
            None => own.get(name).or_else(|| self.profile.get(name)).cloned(),
        };
        names.iter().filter_map(|name| Some((name.clone(), value(name).filter(|value| !value.is_null())?))).collect()
    }
}

impl Changes {
    /// The person after the changes; version and times are the store's.
    pub fn apply(&self, user: &User) -> User {
        let mut changed = user.clone();
        if let Some(Username(username)) = &self.username {
            changed.username.clone_from(username);
        }
        if let Some(Email(email)) = &self.email {
            changed.email.clone_from(email);
            person::change_email(&mut changed.profile, email);
        }
        if let Some(DisplayName(display_name)) = &self.display_name {
            changed.display_name.clone_from(display_name);
            changed.profile.remove("displayName");
        }
        if let Some(disabled) = self.disabled {
            changed.disabled = disabled;
            changed.profile.remove("active");
        }
        attributes::merge(&mut changed.attributes, &self.attributes);
        changed
    }
}

/// What the list's text search looks into: the keys of all that a person is known by, a blank before each.
pub fn search_text(username: &str, email: &str, display_name: &str) -> String {
    format!(" {}", [username, email, display_name].map(name::key).join(" "))
}

impl TryFrom<String> for Username {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const RULE: &str = "1 to 64 characters without blanks or control characters";
        if line(&text, 64) && !text.contains(char::is_whitespace) { Ok(Self(text)) } else { Err(RULE) }
    }
}

impl TryFrom<String> for Email {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const RULE: &str = "an address such as camille@example.com, at most 254 characters";
        let plausible = text.rsplit_once('@').is_some_and(|(local, domain)| {
            !local.is_empty()
                && domain.split('.').all(|label| !label.is_empty())
                && !domain.contains(|character: char| !character.is_alphanumeric() && !".-".contains(character))
        });
        if line(&text, 254) && plausible && !text.contains(char::is_whitespace) { Ok(Self(text)) } else { Err(RULE) }
    }
}

impl TryFrom<String> for DisplayName {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const RULE: &str = "1 to 128 characters, no control characters, no blanks around";
        if line(&text, 128) { Ok(Self(text)) } else { Err(RULE) }
    }
}

impl TryFrom<String> for Password {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if (1..=1024).contains(&text.chars().count()) { Ok(Self(text.into())) } else { Err("1 to 1024 characters") }
    }
}

impl Username {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Email {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl DisplayName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One line that shows itself as it is: its folded form is not empty either.
pub(crate) fn line(text: &str, longest: usize) -> bool {
    // Invisible characters would make two names that look the same.
    let invisible = |character: char| {
        character.is_control()
            || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{ad}')
    };
    !name::key(text).is_empty() && text.trim() == text && text.chars().count() <= longest && !text.contains(invisible)
}
