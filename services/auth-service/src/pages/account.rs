//! Logging in and out, the second factor, linking another provider's account.

use maud::html;

use super::{Field, Mistake, hidden, layout};
use crate::language::Language;

/// The login form.
pub(crate) fn login(
    language: Language,
    client: Option<&str>,
    next: &str,
    csrf: &str,
    username: &str,
    providers: &[(String, String)],
    mistake: Option<Mistake<'_>>,
) -> String {
    let words = language.words();
    let wrong = mistake.is_some_and(|mistake| mistake.field.is_some());
    let username_field = Field {
        name: "username",
        label: words.username,
        kind: "text",
        autocomplete: "username",
        value: username,
        focus: mistake.is_none() && username.is_empty(),
        required: true,
        wrong,
    };
    let password_field = Field {
        name: "password",
        label: words.password,
        kind: "password",
        autocomplete: "current-password",
        value: "",
        focus: mistake.is_none() && !username.is_empty(),
        required: true,
        wrong,
    };
    let content = html! {
        @if let Some(client) = client { p { (words.log_in_to) " " strong { (client) } } }
        form method="post" action="/oauth/login" {
            (hidden("next", next)) (hidden("csrf", csrf))
            (username_field.markup()) (password_field.markup())
            button type="submit" { (words.log_in) }
        }
        @if !providers.is_empty() {
            p { (words.or) }
            @for (label, path) in providers {
                a class="button" href=(path) { (words.log_in_with) " " (label) }
            }
        }
    };
    layout(language, words.log_in, mistake, content)
}

/// The second step of a login; `pending` is the first, sealed.
pub(crate) fn second_factor(
    language: Language,
    next: &str,
    csrf: &str,
    pending: &str,
    mistake: Option<Mistake<'_>>,
) -> String {
    let words = language.words();
    let field = |name, label, autocomplete, focus| Field {
        name,
        label,
        kind: "text",
        autocomplete,
        value: "",
        focus,
        required: false,
        wrong: mistake.is_some(),
    };
    let content = html! {
        p { (words.second_factor_hint) }
        form method="post" action="/oauth/login" {
            (hidden("next", next)) (hidden("csrf", csrf)) (hidden("pending", pending))
            (field("code", words.code, "one-time-code", mistake.is_none()).markup())
            (field("recovery_code", words.recovery_code, "off", false).markup())
            button type="submit" { (words.next) }
        }
    };
    layout(language, words.second_factor, mistake, content)
}

/// Asks whether to log out.
pub(crate) fn log_out_question(language: Language, request: &str, csrf: &str) -> String {
    let words = language.words();
    let content = html! {
        p { (words.log_out_question) }
        form method="post" action="/oauth/end_session" {
            (hidden("request", request)) (hidden("csrf", csrf))
            button type="submit" { (words.log_out) }
        }
    };
    layout(language, words.log_out, None, content)
}

/// What is to be linked to whom.
pub(crate) struct Linking<'l> {
    pub provider: &'l str,
    pub provider_label: &'l str,
    pub username: &'l str,
    pub csrf: &'l str,
}

/// Asks whether to link an account.
pub(crate) fn link(language: Language, linking: &Linking<'_>) -> String {
    let words = language.words();
    let content = html! {
        p { (words.logged_in_as) " " strong { (linking.username) } "." }
        p { strong { (linking.provider_label) } }
        p { (words.link_question) }
        form method="post" action={ "/oauth/external/" (linking.provider) "/link" } {
            (hidden("csrf", linking.csrf))
            button type="submit" { (words.next) }
        }
    };
    layout(language, words.link, None, content)
}
