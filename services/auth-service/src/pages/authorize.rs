//! Consent, and the answer that a form carries.

use maud::{Markup, html};

use super::{hidden, layout};
use crate::{clients::is_permission, language::Language};

/// What is asked of whom.
pub(crate) struct Consent<'c> {
    pub client: &'c str,
    pub username: &'c str,
    pub scope: &'c [String],
    /// Whether the client has permissions of its own that it did not narrow.
    pub all_permissions: bool,
    /// Where the browser goes afterwards.
    pub host: &'c str,
    /// The request, to be sent back as it is.
    pub request: &'c str,
    pub csrf: &'c str,
}

/// Asks for consent.
pub(crate) fn consent(language: Language, asked: &Consent<'_>) -> String {
    let words = language.words();
    let content = html! {
        p { strong { (asked.client) } " " (words.wants_to) }
        (scopes(language, asked.scope, asked.all_permissions))
        p { (words.logged_in_as) " " strong { (asked.username) } "." }
        p class="where" { (words.leads_to) " " (asked.host) }
        form method="post" action="/oauth/consent" {
            (hidden("request", asked.request)) (hidden("csrf", asked.csrf))
            button type="submit" name="decision" value="allow" { (words.allow) }
            button type="submit" name="decision" value="deny" class="quiet" { (words.deny) }
        }
    };
    layout(language, words.consent, None, content)
}

/// What a scope means, as a list.
pub(super) fn scopes(language: Language, scope: &[String], all_permissions: bool) -> Markup {
    let words = language.words();
    html! {
        ul {
            @for name in scope {
                li {
                    @match name.as_str() {
                        "openid" => (words.scope_openid),
                        "profile" => (words.scope_profile),
                        "email" => (words.scope_email),
                        "offline_access" => (words.scope_offline),
                        permission => { (words.scope_permission) " " code { (permission) } }
                    }
                }
            }
            @if all_permissions && !scope.iter().any(|name| is_permission(name)) { li { (words.scope_all) } }
        }
    }
}

/// `response_mode=form_post`: the answer as a form that the person sends on, because no script may.
pub(crate) fn form_post(language: Language, action: &str, answer: &[(&str, String)]) -> String {
    let words = language.words();
    let content = html! {
        p { (words.go_on_hint) }
        form method="post" action=(action) {
            @for (name, value) in answer { (hidden(name, value)) }
            button type="submit" autofocus { (words.go_on) }
        }
    };
    layout(language, words.go_on, None, content)
}
