//! Mails, as events for a mailer: `kronos.auth.mail-requested` says to whom, which template, in which language, with which
//! link. auth-service itself sends none. These events alone hold addresses and links, so they are in no audit record.

use chrono::{DateTime, Utc};
use kronos_common::event::Event;
use serde_json::json;

/// What a mail is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Template {
    PasswordReset,
    PasswordChanged,
    Verification,
    Registration,
    /// Somebody tried to register an address that has an account.
    AlreadyRegistered,
    Invitation,
}

impl Template {
    /// Its name in the event.
    pub fn name(self) -> &'static str {
        match self {
            Self::PasswordReset => "password-reset",
            Self::PasswordChanged => "password-changed",
            Self::Verification => "email-verification",
            Self::Registration => "registration",
            Self::AlreadyRegistered => "already-registered",
            Self::Invitation => "invitation",
        }
    }

    /// The page that the link opens; the text after `#` never leaves the browser by itself.
    fn page(self) -> &'static str {
        match self {
            Self::PasswordReset => "/account/reset-password",
            Self::PasswordChanged | Self::AlreadyRegistered => "/account",
            Self::Verification | Self::Registration => "/account/verify-email",
            Self::Invitation => "/account/register",
        }
    }
}

/// A mail to one person.
pub struct Mail<'a> {
    pub template: Template,
    pub recipient: &'a str,
    pub username: Option<&'a str>,
    pub language: &'a str,
    /// What the link carries.
    pub token: Option<&'a str>,
    pub expires_at: Option<DateTime<Utc>>,
}

impl Mail<'_> {
    /// The event; `subject` is the person's id, as far as there is one.
    pub fn event(&self, link_base: &str, subject: &str) -> Event {
        let page = self.template.page();
        let link = self.token.map(|token| format!("{link_base}{page}#token={token}"));
        let data = json!({
            "template": self.template.name(), "recipient": self.recipient, "username": self.username,
            "language": self.language, "link": link, "token": self.token, "expiresAt": self.expires_at,
        });
        Event::new("kronos.auth.mail-requested", subject, data)
    }
}

/// French if `Accept-Language` asks for it first, else English.
pub fn language(accept_language: Option<&str>) -> &'static str {
    let first = accept_language.unwrap_or_default().split(',').next().unwrap_or_default().trim().to_ascii_lowercase();
    if first == "fr" || first.starts_with("fr-") || first.starts_with("fr;") { "fr" } else { "en" }
}
