//! What several sections consist of.

use maud::{Markup, Render, html};

pub(super) fn section(title: &str, body: Markup) -> Markup {
    html! { section { h2 { (title) } (body) } }
}

/// A table whose first column names the rows.
pub(super) fn table<C: Render>(headings: &[&str], rows: &[Vec<C>]) -> Markup {
    table_of_class(None, headings, rows)
}

/// A table whose first column names the rows and whose last one holds words.
pub(super) fn table_of_words<C: Render>(headings: &[&str], rows: &[Vec<C>]) -> Markup {
    table_of_class(Some("words"), headings, rows)
}

fn table_of_class<C: Render>(class: Option<&str>, headings: &[&str], rows: &[Vec<C>]) -> Markup {
    html! {
        div.scroll tabindex="0" {
            table class=[class] {
                thead { tr { @for heading in headings { th scope="col" { (heading) } } } }
                tbody {
                    @for row in rows {
                        tr {
                            th scope="row" { (row[0]) }
                            @for cell in &row[1..] { td { (cell) } }
                        }
                    }
                }
            }
        }
    }
}

/// A drawing, which scrolls where the page is narrower than its texts can be read.
pub(super) fn drawn(svg: &Markup) -> Markup {
    html! { div.scroll tabindex="0" { (svg) } }
}

/// The colors of a drawing: class of a [`key`] and what it stands for.
pub(super) fn legend(entries: &[(&str, &str)]) -> Markup {
    html! { p { @for (color, name) in entries { (key(color)) (name) " " } } }
}

/// A square in a color of the style.
pub(super) fn key(color: &str) -> Markup {
    html! { span class={ "key " (color) } {} }
}
