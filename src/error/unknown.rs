//! Names that a configuration uses and nobody knows.

use std::fmt::{Display, Formatter};

/// A key or a value that isn't known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownName {
    /// File and line, or what else was read.
    pub place: String,
    /// The name.
    pub name: String,
    /// The known name that is most like it, if one is.
    pub suggestion: Option<String>,
    /// What serde says: the name, and all that are known.
    message: String,
    /// Where it is, if the place doesn't say so.
    context: Option<String>,
}

impl std::error::Error for UnknownName {}

impl Display for UnknownName {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.place, self.told())?;
        self.context.as_ref().map_or(Ok(()), |context| write!(f, " {context}"))
    }
}

impl UnknownName {
    /// What is said of it, without its place.
    pub(super) fn told(&self) -> String {
        let meant = self.suggestion.as_ref().map_or(String::new(), |known| format!("; did you mean `{known}`?"));
        self.message.clone() + &meant
    }

    /// Reads serde's message about an unknown field or variant; `None` if it tells of something else.
    pub(super) fn in_message(place: &str, message: &str, context: Option<&str>) -> Option<Self> {
        let mut quoted = message.split('`').skip(1).step_by(2);
        let name = quoted.next().filter(|_| message.starts_with("unknown"))?.to_owned();
        let suggestion = closest(&name, quoted).map(str::to_owned);
        let context = context.map(str::to_owned);
        Some(Self { place: place.into(), name, suggestion, message: message.trim_end().into(), context })
    }
}

/// The question with which a message about a name ends that isn't known, where a known one is like it.
pub(crate) fn did_you_mean<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    closest(name, known).map_or(String::new(), |name| format!("; did you mean `{name}`?"))
}

/// The known name that is most like one that isn't known, if it is like it at all.
pub(crate) fn closest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |known: &str| strsim::jaro_winkler(name, known);
    known.max_by(|a, b| likeness(a).total_cmp(&likeness(b))).filter(|known| likeness(known) > 0.8)
}
