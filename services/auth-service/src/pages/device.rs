//! The pages of the device flow.

use maud::html;

use super::{Field, Mistake, authorize::scopes, hidden, layout};
use crate::language::Language;

/// Asks for the code.
pub(crate) fn device_entry(language: Language, csrf: &str, code: &str, mistake: Option<Mistake<'_>>) -> String {
    let words = language.words();
    let field = Field {
        name: "user_code",
        label: words.user_code,
        kind: "text",
        autocomplete: "off",
        value: code,
        focus: mistake.is_none(),
        required: true,
        wrong: mistake.is_some(),
    };
    let content = html! {
        p { (words.device_hint) }
        form method="post" action="/device" {
            (hidden("csrf", csrf))
            (field.markup())
            button type="submit" { (words.next) }
        }
    };
    layout(language, words.device, mistake, content)
}

/// Shows who asks for what, and asks whether to let it.
pub(crate) fn device_confirm(
    language: Language,
    client: &str,
    username: &str,
    scope: &[String],
    shown_code: &str,
    csrf: &str,
) -> String {
    let words = language.words();
    let content = html! {
        p { (words.device_warning) }
        p class="code" { (shown_code) }
        p { strong { (client) } " " (words.wants_to) }
        (scopes(language, scope, scope.is_empty()))
        p { (words.logged_in_as) " " strong { (username) } "." }
        form method="post" action="/device" {
            (hidden("csrf", csrf)) (hidden("user_code", shown_code))
            button type="submit" name="decision" value="allow" { (words.allow) }
            button type="submit" name="decision" value="deny" class="quiet" { (words.deny) }
        }
    };
    layout(language, words.device_confirm, None, content)
}
