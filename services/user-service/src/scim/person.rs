//! A person as a SCIM document, and back. Name, address, display name and whether somebody is active are Kronos's own and
//! have columns; the rest is the profile. An attribute that SCIM has removed is null in the profile, so that its column,
//! which cannot be empty, is not shown for it.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    Document, Fault,
    document::is_primary,
    schema::{ENTERPRISE, USER},
};
use crate::users::{DisplayName, Email, Password, User, Username};

/// The largest profile, in bytes of JSON.
const LARGEST: usize = 65_536;

/// What a document makes of a person.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub username: Username,
    pub email: Email,
    pub display_name: DisplayName,
    pub disabled: bool,
    pub external_id: Option<String>,
    pub profile: Document,
    /// To be given to auth-service.
    pub password: Option<Password>,
}

/// All of a person that a client may write, but the password.
pub fn writable(user: &User) -> Document {
    let mut document = Document::new();
    document.insert("userName".to_owned(), json!(user.username));
    if user.disabled || !user.profile.contains_key("active") {
        document.insert("active".to_owned(), json!(!user.disabled));
    }
    if !user.profile.contains_key("displayName") {
        document.insert("displayName".to_owned(), json!(user.display_name));
    }
    if !user.profile.contains_key("emails") {
        document.insert("emails".to_owned(), json!([{"value": user.email, "primary": true}]));
    }
    if let Some(id) = &user.external_id {
        document.insert("externalId".to_owned(), json!(id));
    }
    let assigned = user.profile.iter().filter(|(_, value)| !value.is_null());
    document.extend(assigned.map(|(name, value)| (name.clone(), value.clone())));
    document
}

/// A person as it is sent. `groups` are id and name of each.
pub fn render(user: &User, groups: &[(Uuid, String)], base: &str) -> Document {
    let mut document = writable(user);
    let mut schemas = vec![USER];
    if document.contains_key(ENTERPRISE) {
        schemas.push(ENTERPRISE);
    }
    document.insert("schemas".to_owned(), json!(schemas));
    document.insert("id".to_owned(), json!(user.id));
    if !groups.is_empty() {
        let groups = groups.iter().map(
            |(id, name)| json!({"value": id, "$ref": format!("{base}/Groups/{id}"), "display": name, "type": "direct"}),
        );
        document.insert("groups".to_owned(), groups.collect());
    }
    let location = format!("{base}/Users/{}", user.id);
    let (created, changed) = (user.created_at, user.updated_at);
    document.insert("meta".to_owned(), meta("User", created, changed, &location, user.version));
    document
}

/// `meta` (RFC 7643 section 3.1).
pub fn meta(
    kind: &str,
    created: chrono::DateTime<chrono::Utc>,
    changed: chrono::DateTime<chrono::Utc>,
    location: &str,
    version: i64,
) -> Value {
    json!({
        "resourceType": kind, "created": created, "lastModified": changed, "location": location,
        "version": kronos_common::etag::ETag::of_version(version).as_str(),
    })
}

/// What a document makes of the person `id`.
///
/// # Errors
/// `invalidValue` that names the attribute.
pub fn read(id: Uuid, mut document: Document) -> Result<Wanted, Fault> {
    let wrong = |name: &str, rule: &str| Fault::InvalidValue(format!("{name}: {rule}"));
    for name in ["schemas", "id", "meta", "groups"] {
        document.remove(name);
    }
    let mut take = |name: &str| match document.remove(name) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    };
    let Some(username) = take("userName") else { return Err(wrong("userName", "it is required")) };
    let username = Username::try_from(username).map_err(|rule| wrong("userName", rule))?;
    let password = take("password").map(Password::try_from).transpose().map_err(|rule| wrong("password", rule))?;
    let external_id = take("externalId");
    let display_name = take("displayName");
    let active = document.remove("active").and_then(|active| active.as_bool());
    let email = match document.get("emails").and_then(Value::as_array) {
        None => None,
        Some(emails) => {
            let chosen = emails.iter().find(|email| is_primary(email)).or(emails.first());
            let address = chosen.and_then(|email| email["value"].as_str()).unwrap_or_default();
            Some(Email::try_from(address.to_owned()).map_err(|rule| wrong("emails", rule))?)
        }
    };
    let shown = match &display_name {
        Some(name) => DisplayName::try_from(name.clone()).map_err(|rule| wrong("displayName", rule))?,
        None => name_of(&document, username.as_str()),
    };
    for (name, absent) in
        [("active", active.is_none()), ("displayName", display_name.is_none()), ("emails", email.is_none())]
    {
        if absent {
            document.insert(name.to_owned(), Value::Null);
        }
    }
    if serde_json::to_vec(&document).map_or(0, |bytes| bytes.len()) > LARGEST {
        return Err(Fault::InvalidValue(format!("all attributes of a person together have at most {LARGEST} bytes")));
    }
    Ok(Wanted {
        email: match email {
            Some(email) => email,
            // Mail to it goes nowhere (RFC 2606 section 2).
            None => Email::try_from(format!("{id}@users.invalid")).expect("an address"),
        },
        username,
        display_name: shown,
        disabled: active == Some(false),
        external_id,
        profile: document,
        password,
    })
}

/// What to call somebody who has no display name.
fn name_of(document: &Document, username: &str) -> DisplayName {
    let name = document.get("name");
    let part = |part: &str| name.and_then(|name| name[part].as_str());
    let whole = part("formatted").map(str::to_owned).or_else(|| {
        let parts: Vec<&str> = [part("givenName"), part("familyName")].into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join(" "))
    });
    whole
        .and_then(|name| DisplayName::try_from(name).ok())
        .unwrap_or_else(|| DisplayName::try_from(username.to_owned()).expect("a username is a display name"))
}

/// A person's new address, in what the profile has of addresses.
pub fn change_email(profile: &mut Document, email: &str) {
    let Some(Value::Array(emails)) = profile.get_mut("emails") else {
        profile.remove("emails");
        return;
    };
    let chosen = emails.iter().position(is_primary).unwrap_or_default();
    if let Some(Value::Object(chosen)) = emails.get_mut(chosen) {
        chosen.insert("value".to_owned(), json!(email));
    }
}
