//! What serde says, for people who don't write Rust.

/// A reader's message with the types of Rust in words.
pub(super) fn in_words(message: &str) -> String {
    // Said of a number where a word is wanted.
    let message = &message.replace(
        "invalid type: unit variant, expected string only",
        "expected one of the key's words (docs/recipe.md, docs/hardware-keys.md)",
    );
    let Some((before, expected)) = message.rsplit_once("expected ") else { return message.into() };
    let (first, rest) = expected.split_at(expected.find([' ', ',']).unwrap_or(expected.len()));
    let words = match first {
        "u8" => "a whole number from 0 to 255",
        "u16" | "u32" | "u64" | "usize" => "a whole number from 0 on",
        "i32" | "i64" => "a whole number",
        "f32" | "f64" => "a number",
        "struct" => "a table",
        _ => return message.into(),
    };
    // The name of a struct says nothing to a reader.
    let rest =
        if first == "struct" { rest[1..].split_once(' ').map_or("", |(_, rest)| rest) } else { rest.trim_start() };
    let gap = if rest.is_empty() || rest.starts_with(',') { "" } else { " " };
    format!("{before}expected {words}{gap}{rest}")
}

#[cfg(test)]
mod tests {
    use super::in_words;

    #[test]
    fn types_of_rust_are_said_in_words() {
        for (message, words) in [
            ("integer `-1`, expected usize in `cores`", "integer `-1`, expected a whole number from 0 on in `cores`"),
            ("string \"a\", expected f64", "string \"a\", expected a number"),
            ("integer `3`, expected struct Memory in `memory`", "integer `3`, expected a table in `memory`"),
            ("integer `3`, expected struct Memory", "integer `3`, expected a table"),
            ("unknown field `a`, expected `b` or `c`", "unknown field `a`, expected `b` or `c`"),
            ("missing field `a`", "missing field `a`"),
            (
                "invalid type: unit variant, expected string only",
                "expected one of the key's words (docs/recipe.md, docs/hardware-keys.md)",
            ),
        ] {
            assert_eq!(in_words(message), words);
        }
    }
}
