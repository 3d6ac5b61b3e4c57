//! Logging in and out, the second factor, linking another provider's account.

use maud::{Markup, html};

use super::{Field, Mistake, SCRIPT_PATH, hidden, layout};
use crate::language::{Language, Words};

/// What the login page holds.
pub(crate) struct Login<'l> {
    pub client: Option<&'l str>,
    pub next: &'l str,
    pub csrf: &'l str,
    pub username: &'l str,
    /// Label and path.
    pub providers: &'l [(String, String)],
    /// Options for the browser, JSON.
    pub passkey: &'l str,
}

/// The login form.
pub(crate) fn login(language: Language, login: &Login<'_>, mistake: Option<Mistake<'_>>) -> String {
    let words = language.words();
    let Login { client, next, csrf, username, providers, passkey } = *login;
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
        (passkey_button(words, passkey, &html! { (hidden("next", next)) (hidden("csrf", csrf)) }))
        @if !providers.is_empty() {
            p { (words.or) }
            @for (label, path) in providers {
                a class="button" href=(path) { (words.log_in_with) " " (label) }
            }
        }
    };
    layout(language, words.log_in, mistake, content)
}

/// A form that the script shows, and fills with the authenticator's answer; without script it is not there.
fn passkey_button(words: &Words, options: &str, fields: &Markup) -> Markup {
    html! {
        form method="post" action="/oauth/login" data-passkey=(options) hidden {
            (fields) (hidden("passkey", ""))
            button type="submit" { (words.with_passkey) }
        }
        script src=(SCRIPT_PATH) defer {}
    }
}

/// What the page for the second step of a login holds.
pub(crate) struct SecondFactor<'s> {
    pub next: &'s str,
    pub csrf: &'s str,
    /// The first step, sealed.
    pub pending: &'s str,
    /// Whether the person has an authenticator app.
    pub totp: bool,
    /// Options for the browser, JSON, if the person has a passkey.
    pub passkey: Option<&'s str>,
}

/// The second step of a login.
pub(crate) fn second_factor(language: Language, step: &SecondFactor<'_>, mistake: Option<Mistake<'_>>) -> String {
    let words = language.words();
    let field = |name, label, autocomplete, focus| Field {
        name,
        label,
        kind: "text",
        autocomplete,
        value: "",
        focus: focus && mistake.is_none(),
        required: false,
        wrong: mistake.is_some(),
    };
    let fields = html! {
        (hidden("next", step.next)) (hidden("csrf", step.csrf)) (hidden("pending", step.pending))
    };
    let content = html! {
        p { (if step.totp { words.second_factor_hint } else { words.second_factor_passkey_hint }) }
        form method="post" action="/oauth/login" {
            (fields)
            @if step.totp { (field("code", words.code, "one-time-code", true).markup()) }
            (field("recovery_code", words.recovery_code, "off", !step.totp).markup())
            button type="submit" { (words.next) }
        }
        @if let Some(options) = step.passkey { (passkey_button(words, options, &fields)) }
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
