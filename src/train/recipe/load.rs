//! A recipe from a file and from settings of the command line.

use std::path::Path;

use super::PhaseKind;
use super::phase::Phase;
use super::schema::Recipe;
use crate::error::{Error, Result};
use crate::files::{read_text, to_toml};
use crate::foreign::TomlKind;

/// Float epochs for a checkpoint some of whose layers are trained anew, where the recipe has no phases, and their learning rate.
const FRESH_EPOCHS: usize = 5;
const FRESH_LEARNING_RATE: f64 = 0.02;

impl Recipe {
    /// Reads a recipe and applies settings `key=value`, where a key is a path such as `quantize.weight_bits` or `phases.0.epochs`
    /// and a value is TOML, or a bare word.
    ///
    /// A recipe without phases gets those of [`Recipe::default_phases`].
    ///
    /// # Errors
    /// A missing file, an unknown key (with the closest known one), a value of another type or out of range.
    pub fn load(path: Option<&Path>, settings: &[String]) -> Result<Self> {
        let name = path.map_or_else(|| "the default recipe".into(), |path| path.display().to_string());
        let text = match path {
            Some(path) => read_text(path)?,
            None => to_toml(&Self::default())?,
        };
        let setting = |message| Error::Setting(format!("{name}: {message}"));
        let mut table: toml::Table =
            toml::from_str(&text).map_err(|error| Error::toml(&name, &text, &error, setting))?;
        path.map_or(Ok(()), |path| TomlKind::Recipe.check(path, &table))?;
        let parse = |table: &toml::Table| -> Result<Self> {
            table.clone().try_into().map_err(|error: toml::de::Error| {
                // A table has no lines; the reader ends with the key instead.
                let text = error.to_string();
                let key = text.lines().last().filter(|line| line.starts_with("in `"));
                let message = error.message().trim();
                let place = blamed(settings, message, key).map_or(name.clone(), |setting| format!("--set {setting}"));
                Error::unknown_or(&place, message, key, |message| Error::Setting(format!("{place}: {message}")))
            })
        };
        let (of_phases, others): (Vec<&String>, Vec<&String>) = settings.iter().partition(|s| s.starts_with("phases"));
        for setting in others {
            if let Err(error) = apply(&mut table, setting) {
                return Err(entry_of_no_list(&table, setting, |table| parse(table).map(drop)).unwrap_or(error));
            }
        }
        let mut recipe = parse(&table)?;
        if recipe.phases.is_empty() {
            recipe.phases = Self::default_phases(recipe.checkpoint().is_some());
            if recipe.checkpoint().is_some() && !recipe.fresh.is_empty() {
                recipe.phases.insert(0, Phase::new(PhaseKind::Float, FRESH_EPOCHS, FRESH_LEARNING_RATE));
            }
            table = to_toml(&recipe)?.parse().map_err(|error| Error::Setting(format!("{name}: {error}")))?;
        }
        of_phases.into_iter().try_for_each(|setting| apply(&mut table, setting))?;
        let recipe = parse(&table)?;
        let of_pruning = |setting: &&String| setting.starts_with("sparsity.") && !setting.contains("keep_zero_groups");
        if let Some(setting) = settings.iter().find(of_pruning)
            && recipe.phases.iter().all(|phase| phase.kind != PhaseKind::Sparsify)
        {
            return Err(Error::Setting(format!("--set {setting}: no phase of {name} sparsifies")));
        }
        recipe.check().map_err(|error| {
            let message = error.to_string();
            let place = checked(settings, &message).map_or(name, |setting| format!("--set {setting}"));
            Error::Setting(format!("{place}: {message}"))
        })?;
        Ok(recipe)
    }
}

/// The setting that gives a key this text, whatever characters are in it.
pub fn assignment(key: &str, value: &str) -> String {
    format!("{key}={}", toml::Value::from(value))
}

/// Sets one key of a table.
fn apply(table: &mut toml::Table, setting: &str) -> Result<()> {
    let (path, value) = setting
        .split_once('=')
        .ok_or_else(|| Error::Setting(format!("--set {setting}: it must have the form key=value")))?;
    let value = format!("value = {value}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.trim().into()));
    let mut root = toml::Value::Table(std::mem::take(table));
    let set = set(&mut root, &keys(path.trim()), 0, value);
    if let toml::Value::Table(whole) = root {
        *table = whole;
    }
    set.map_err(|message| Error::Setting(format!("--set {setting}: {message}")))
}

/// The keys of a path as TOML reads them: quotes hold together what has dots. So does `names.`, since layers have dots in their names.
fn keys(path: &str) -> Vec<String> {
    if let Some(layer) = path.strip_prefix("names.").filter(|layer| !layer.starts_with(['"', '\''])) {
        return vec!["names".into(), layer.into()];
    }
    let mut keys = Vec::new();
    let mut rest = format!("{path} = 0").parse::<toml::Table>().ok().map(toml::Value::Table);
    while let Some(toml::Value::Table(table)) = rest {
        let mut entries = table.into_iter();
        rest = entries.next().map(|(key, value)| {
            keys.push(key);
            value
        });
    }
    if keys.is_empty() { path.split('.').map(str::to_owned).collect() } else { keys }
}

/// Sets what lies behind `keys`, of which so many lead to `place`.
fn set(place: &mut toml::Value, keys: &[String], walked: usize, value: toml::Value) -> std::result::Result<(), String> {
    let Some(key) = keys.get(walked) else {
        *place = value;
        return Ok(());
    };
    let unknown = || format!("there is no `{key}`");
    let number = key.parse::<usize>().ok();
    let is_last = walked + 1 == keys.len();
    let next = match place {
        // The reader knows which tables there are, but takes none for a list.
        toml::Value::Table(table) if number.is_some() && !is_last => table.get_mut(key).ok_or_else(unknown)?,
        toml::Value::Table(table) => table.entry(key.clone()).or_insert_with(|| toml::Value::Table(toml::Table::new())),
        toml::Value::Array(list) => {
            let entries = list.len();
            let entry = number.and_then(|index| list.get_mut(index));
            entry.ok_or_else(|| no_entry(&keys[..walked].join("."), entries))?
        }
        _ => return Err(unknown()),
    };
    set(next, keys, walked + 1, value)
}

/// What a list says that has no entry of the number that was given.
fn no_entry(list: &str, entries: usize) -> String {
    match entries {
        0 => format!("the list `{list}` is empty: set it whole, {list}=[..]"),
        1 => format!("the list `{list}` has one entry, number 0"),
        _ => format!("the list `{list}` has {entries} entries, numbered from 0 to {}", entries - 1),
    }
}

/// The error of a setting that names an entry of a list which isn't in the table: it is empty, or what the reader says about it.
fn entry_of_no_list(table: &toml::Table, setting: &str, read: impl Fn(&toml::Table) -> Result<()>) -> Option<Error> {
    let keys = keys(setting.split('=').next()?.trim());
    let number = keys.iter().position(|key| key.parse::<usize>().is_ok())?;
    let list = keys[..number].join(".");
    let mut with_list = table.clone();
    apply(&mut with_list, &format!("{list}=[]")).ok()?;
    let empty = || Error::Setting(format!("--set {setting}: {}", no_entry(&list, 0)));
    Some(read(&with_list).err().unwrap_or_else(empty))
}

/// The setting that a reader's message about `key` is about, if it is about one; of several for a key the last one counts. A key of the
/// reader's leaves out which entry of a list it is: the value has to tell.
fn blamed<'a>(settings: &'a [String], message: &str, key: Option<&str>) -> Option<&'a str> {
    let quoted = |text: &str| text.split('`').nth(1).map(str::to_owned);
    let field = message.starts_with("unknown field").then(|| quoted(message)).flatten();
    let wrong = [key.and_then(quoted), field].into_iter().flatten().collect::<Vec<_>>().join(".");
    // A table that lacks a key is a setting's that gave another one.
    let lacks = message.starts_with("missing field");
    let is_beside = |named: &str| lacks && named.strip_prefix(&wrong).is_some_and(|rest| rest.starts_with('.'));
    let sets = |setting: &&'a String| {
        let (path, value) = setting.split_once('=').unwrap_or_default();
        let keys = keys(path.trim());
        let named: Vec<&str> = keys.iter().map(String::as_str).filter(|key| key.parse::<usize>().is_err()).collect();
        let all = named.join(".");
        let is_of = |rest: &str| rest.is_empty() || rest.starts_with('.');
        let goes_through = message.starts_with("unknown field") && all.strip_prefix(&wrong).is_some_and(is_of);
        let is_about = wrong.strip_prefix(&all).is_some_and(is_of) || is_beside(&all);
        let is_entry = named.len() == keys.len() || message.contains(value.trim().trim_matches('"'));
        goes_through || is_about && is_entry
    };
    settings.iter().rev().find(sets).map(String::as_str)
}

/// The setting whose key a check's message begins with, the last one of several; of a message about a whole table or list the one setting within it.
fn checked<'a>(settings: &'a [String], message: &str) -> Option<&'a str> {
    let wrong = message.split([' ', ':']).next().unwrap_or_default();
    let sets = |setting: &&'a String| {
        let key = setting.split('=').next().unwrap_or_default().trim();
        let lies_in = |inner: &str, outer: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        lies_in(wrong, key)
    };
    let about = settings.iter().rev().find(sets);
    let mut within =
        settings.iter().filter(|setting| setting.strip_prefix(wrong).is_some_and(|rest| rest.starts_with('.')));
    let alone = within.next().filter(|_| within.next().is_none());
    about.or(alone).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::super::StartFrom;
    use super::*;

    fn message(settings: &[&str]) -> String {
        let settings: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
        Recipe::load(None, &settings).unwrap_err().to_string()
    }

    #[test]
    fn settings_reach_into_tables_and_lists() {
        let settings =
            ["quantize.weight_bits=3", "phases.1.epochs=5", "model=vgg8", "pretrained=none", "sparsity.target=0.75"];
        let recipe = Recipe::load(None, &settings.map(String::from)).unwrap();
        assert_eq!((recipe.quantize.weight_bits, recipe.phases[1].epochs), (3, 5));
        assert_eq!(recipe.phases[0].kind, PhaseKind::Float, "there is no checkpoint to start from");
        assert_eq!((recipe.model.as_str(), recipe.sparsity.target), ("vgg8", 0.75));
    }

    #[test]
    fn a_table_that_says_one_thing_leaves_the_others_as_they_were() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[quantize]\nfusion = \"frozen\"\n[sparsity]\ntarget = 0.3\n").unwrap();
        let (recipe, default) = (Recipe::load(Some(file.path()), &[]).unwrap(), Recipe::default());
        assert_eq!(
            (recipe.quantize.weight_bits, recipe.sparsity.lambda),
            (default.quantize.weight_bits, default.sparsity.lambda)
        );
    }

    #[test]
    fn names_of_layers_can_be_set() {
        for key in ["names.layer1.0.conv1", "names.\"layer1.0.conv1\"", "names.'layer1.0.conv1'"] {
            let recipe = Recipe::load(None, &[format!("{key}=stem.conv")]).unwrap();
            assert_eq!(recipe.names, [("layer1.0.conv1".into(), "stem.conv".into())].into());
        }
    }

    #[test]
    fn any_text_can_be_set() {
        for text in ["net.pt", "3", "my\u{a0}\"net\".pt", "a\\b", "true"] {
            let recipe = Recipe::load(None, &[assignment("pretrained", text)]).unwrap();
            assert_eq!(recipe.pretrained, StartFrom::File(text.into()));
        }
    }

    #[test]
    fn wrong_settings_are_named() {
        assert!(message(&["quantize.weigth_bits=3"]).contains("did you mean `weight_bits`?"));
        let last = message(&["phases.1.kind=float"]);
        assert!(last.starts_with("--set phases.1.kind=float: phases: the last one must be of kind"), "{last}");
        let several = message(&["phases.1.kind=float", "phases.0.epochs=3"]);
        assert!(several.starts_with("the default recipe: phases: the last one"), "{several}");
        let range = "--set quantize.weight_bits=9: quantize.weight_bits = 9: it must be from 2 to 8";
        assert_eq!(message(&["seed=1", "quantize.weight_bits=9"]), range);
        let phases = message(&["pretrained=none", "phases.7.epochs=1"]);
        assert_eq!(phases, "--set phases.7.epochs=1: the list `phases` has 3 entries, numbered from 0 to 2");
        let layers = message(&["quantize.layers.0.weight_bits=8"]);
        let empty = "the list `quantize.layers` is empty: set it whole, quantize.layers=[..]";
        assert_eq!(layers, format!("--set quantize.layers.0.weight_bits=8: {empty}"));
        assert!(message(&["quantize.layer.0.weight_bits=8"]).contains("did you mean `layers`?"));
        for (setting, expected) in [
            (
                "quantize.weight_bits=abc",
                "string \"abc\", expected a whole number from 0 to 255 in `quantize.weight_bits`",
            ),
            ("batch_size=-1", "integer `-1`, expected a whole number from 0 on in `batch_size`"),
            ("sparsity.target=half", "string \"half\", expected a number in `sparsity.target`"),
            ("quantize.weigth_bits=3", "did you mean `weight_bits`?"),
            ("modle=vgg8", "did you mean `model`?"),
            ("pahses.0.epochs=3", "did you mean `phases`?"),
            ("quantise.weight_bits=3", "did you mean `quantize`?"),
            ("quantize.layer.0.weight_bits=8", "did you mean `layers`?"),
            ("distillation.tempreature.value=2", "did you mean `temperature`?"),
            ("phases.0.epoch=3", "did you mean `epochs`?"),
            ("phases.0.epochs=abc", "string \"abc\", expected a whole number from 0 on"),
        ] {
            let message = message(&["seed=1", setting]);
            assert!(message.starts_with(&format!("--set {setting}: ")) && message.contains(expected), "{message}");
        }
        assert!(message(&["quantize"]).contains("key=value"));
        assert!(message(&["phases.0.kind=quantise"]).contains("did you mean `quantize`?"));
        assert!(message(&["batch_size=0"]).contains("batch_size = 0"));
        assert!(message(&["pretrained=none", "phases.1.epochs=0"]).contains("doesn't reach sparsity.target = 0.5"));
        let mean = "normalization.mean=[0.5, 0.5, 0.5]";
        assert_eq!(message(&[mean]), format!("--set {mean}: missing field `std` in `normalization`"));
        let expected = "expected `mean` and `std` of each channel, or \"measured\"";
        assert!(message(&["normalization=mesured"]).contains(expected), "{}", message(&["normalization=mesured"]));
        let normalization = |std| message(&["normalization.mean=[0.5, 0.5, 1.5]", std]);
        assert!(
            normalization("normalization.std=[0.2, 0.2, 0.2]").contains("normalization.mean = [0.5, 0.5, 1.5]: each")
        );
        assert!(normalization("normalization.std=[0.2, 0.2]").contains("in `normalization.std`"));
        assert!(message(&["normalization={mean = [0, 0, 0], std = [1, 1, 0]}"]).contains("each must be positive"));
        assert!(
            message(&["pretrained=none", "phases.0.warmup_epochs=-1"])
                .contains("from 0 to 30, the epochs of the phase")
        );
        assert!(message(&["distillation.weight=2"]).contains("distillation.weight = 2: it must be from 0 to 1"));
        assert!(message(&["distillation.temperature=0"]).contains("it must be from 0.1 to 100"));
        let layers = "quantize.layers=[{pattern = \"conv1\", weight_bits = 9}]";
        assert!(message(&[layers]).contains("quantize.layers.0.weight_bits = 9: it must be from 2 to 8"));
        let freeze = |fusion, setting| message(&["pretrained=none", fusion, setting]);
        assert!(freeze("quantize.fusion=ema", "phases.2.freeze_at=2").contains("from 0 to 1, the epochs of the phase"));
        assert!(freeze("quantize.fusion=once", "phases.2.freeze_at=1").contains("fusion batch or ema"));
        assert!(freeze("quantize.fusion=batch", "phases.1.freeze_at=1").contains("only a quantize phase"));
    }
}
