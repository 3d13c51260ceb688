//! What all pages have around their content: a document that needs no network.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::chart;
use super::text::visible;

/// The style of pages, beside that of the drawings.
const PAGE_CSS: &str = include_str!("page/page.css");

/// What a page may run, and what it adds to the common style.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Extras {
    /// A script at the end of its body; without one, a page runs none.
    pub script: Option<&'static str>,
    pub css: &'static str,
}

/// A page, without what a reader could not see.
pub(super) fn document(title: &str, extras: Extras, body: &Markup) -> String {
    let scripts = if extras.script.is_some() { "; script-src 'unsafe-inline'" } else { "" };
    let policy = format!("default-src 'none'; style-src 'unsafe-inline'{scripts}");
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content=(policy);
                title { (title) }
                style { (PreEscaped(chart::CSS)) (PreEscaped(PAGE_CSS)) (PreEscaped(extras.css)) }
            }
            body {
                (body)
                @if let Some(script) = extras.script { script { (PreEscaped(script)) } }
            }
        }
    };
    visible(&page.0)
}
