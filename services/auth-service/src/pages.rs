//! The pages that people see: HTML made by templates that escape every value. They work without script; the one that there is
//! asks the browser for a passkey. No rule, no store.

mod account;
mod authorize;
mod device;

use maud::{DOCTYPE, Markup, html};

pub(crate) use self::{
    account::{Linking, Login, SecondFactor, link, log_out_question, login, second_factor},
    authorize::{Consent, consent, form_post},
    device::{device_confirm, device_entry},
};
use crate::language::{Language, Words};

/// The stylesheet's own path: pages hold no style of their own, so that the policy can forbid it.
pub(crate) const STYLE_PATH: &str = "/oauth/style.css";
pub(crate) const STYLE: &str = include_str!("pages/style.css");
/// The script's own path: the policy allows this one, on the pages that show the passkey button.
pub(crate) const SCRIPT_PATH: &str = "/oauth/passkey.js";
pub(crate) const SCRIPT: &str = include_str!("pages/passkey.js");

/// What went wrong, and in which field.
#[derive(Clone, Copy)]
pub(crate) struct Mistake<'m> {
    pub text: &'m str,
    /// The `id` of the field; the summary leads there.
    pub field: Option<&'static str>,
}

/// The frame of every page.
fn layout(language: Language, title: &str, mistake: Option<Mistake<'_>>, content: Markup) -> String {
    let words = language.words();
    let page = html! {
        (DOCTYPE)
        html lang=(language.tag()) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="robots" content="noindex";
                title { @if mistake.is_some() { (words.problem) " – " } (title) " – Kronos" }
                link rel="stylesheet" href=(STYLE_PATH);
            }
            body {
                main {
                    p class="brand" { "Kronos" }
                    h1 { (title) }
                    @if let Some(mistake) = mistake {
                        div class="mistake" role="alert" tabindex="-1" autofocus {
                            h2 { (words.problem) }
                            p {
                                @if let Some(field) = mistake.field {
                                    a href={ "#" (field) } { (mistake.text) }
                                } @else {
                                    (mistake.text)
                                }
                            }
                        }
                    }
                    (content)
                }
            }
        }
    };
    page.into_string()
}

/// A field with its label. What was wrong with it is told by the summary, which it points to.
struct Field<'f> {
    name: &'static str,
    label: &'f str,
    kind: &'static str,
    autocomplete: &'static str,
    value: &'f str,
    focus: bool,
    required: bool,
    wrong: bool,
}

impl Field<'_> {
    fn markup(&self) -> Markup {
        html! {
            div class="field" {
                label for=(self.name) { (self.label) }
                input id=(self.name) name=(self.name) type=(self.kind) value=(self.value) autocomplete=(self.autocomplete)
                    autocapitalize="none" spellcheck="false" autofocus[self.focus] required[self.required]
                    aria-invalid=(if self.wrong { "true" } else { "false" });
            }
        }
    }
}

fn hidden(name: &str, value: &str) -> Markup {
    html! { input type="hidden" name=(name) value=(value); }
}

/// A page that only says something.
pub(crate) fn notice(language: Language, title: &str, text: &str) -> String {
    layout(language, title, None, html! { p { (text) } })
}

/// The page for a request that cannot be answered to anybody else.
pub(crate) fn failure(language: Language, what: fn(&Words) -> &'static str) -> String {
    let words = language.words();
    let mistake = Mistake { text: what(words), field: None };
    layout(language, words.request_failed, Some(mistake), html! { p { (words.request_failed_hint) } })
}

/// The page for anything else that went wrong.
pub(crate) fn mistake(language: Language, title: &str, text: &str) -> String {
    layout(language, title, Some(Mistake { text, field: None }), html! {})
}
