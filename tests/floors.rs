//! Rooms stand in floors: what `ARCHITECTURE.md` says about who may use whom, read from the paths in `src/`.
//!
//! A path is resolved as the compiler does it: through `crate`, `super`, child modules and re-exports, to the file that defines the name.
//! Comments, strings and test modules don't count.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Where a name comes from: the path of a module or item, from the root of the crate.
type Names = Vec<String>;

/// A piece of source: an identifier, `::`, or one other character.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Name(String),
    Path,
    Other(char),
}

/// The tokens of a source text without comments, strings, characters and lifetimes.
fn tokens(text: &str) -> Vec<Token> {
    let text: Vec<char> = text.chars().collect();
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let at = |index: usize| text.get(index).copied().unwrap_or('\0');
    let (mut tokens, mut i) = (Vec::new(), 0);
    while i < text.len() {
        match (at(i), at(i + 1)) {
            ('/', '/') => i += text[i..].iter().take_while(|c| **c != '\n').count(),
            ('/', '*') => i += 2 + (i + 2..text.len()).take_while(|&j| (at(j), at(j + 1)) != ('*', '/')).count() + 2,
            ('r', '"' | '#') if !is_name(at(i.wrapping_sub(1))) && at(i + 1 + hashes(&text[i + 1..])) == '"' => {
                let hashes = hashes(&text[i + 1..]);
                let ends = |j: usize| at(j) == '"' && (1..=hashes).all(|k| at(j + k) == '#');
                i += hashes + 2;
                i += (i..text.len()).take_while(|&j| !ends(j)).count() + 1 + hashes;
            }
            ('"', _) => {
                i += 1;
                while i < text.len() && at(i) != '"' {
                    i += if at(i) == '\\' { 2 } else { 1 };
                }
                i += 1;
            }
            ('\'', '\\') => i += 3 + (i + 3..text.len()).take_while(|&j| at(j) != '\'').count() + 1,
            ('\'', _) if at(i + 2) == '\'' => i += 3,
            ('\'', _) => i += 1,
            (':', ':') => {
                tokens.push(Token::Path);
                i += 2;
            }
            (c, _) if is_name(c) => {
                let name: String = text[i..].iter().take_while(|c| is_name(**c)).collect();
                i += name.chars().count();
                tokens.push(Token::Name(name));
            }
            (c, _) => {
                if !c.is_whitespace() {
                    tokens.push(Token::Other(c));
                }
                i += 1;
            }
        }
    }
    tokens
}

fn hashes(text: &[char]) -> usize {
    text.iter().take_while(|c| **c == '#').count()
}

/// Drops the items that only tests see, and gives the names of such modules that have files of their own.
fn without_tests(tokens: Vec<Token>) -> (Vec<Token>, Vec<String>) {
    let cfg = ["#", "[", "cfg", "(", "test", ")", "]"];
    let text = |token: &Token| match token {
        Token::Name(name) => name.clone(),
        Token::Path => "::".into(),
        Token::Other(c) => c.to_string(),
    };
    let (mut kept, mut files, mut i) = (Vec::new(), Vec::new(), 0);
    while i < tokens.len() {
        if !(i + cfg.len() <= tokens.len() && (0..cfg.len()).all(|k| text(&tokens[i + k]) == cfg[k])) {
            kept.push(tokens[i].clone());
            i += 1;
            continue;
        }
        i += cfg.len();
        let item = i;
        let mut depth = 0;
        loop {
            match &tokens[i] {
                Token::Other('{') => depth += 1,
                Token::Other('}') => depth -= 1,
                _ => {}
            }
            i += 1;
            if depth == 0 && matches!(tokens[i - 1], Token::Other('}' | ';')) {
                break;
            }
        }
        if let [Token::Name(word), Token::Name(name), Token::Other(';')] = &tokens[item..i]
            && word == "mod"
        {
            files.push(name.clone());
        }
    }
    (kept, files)
}

/// A path that a file names.
#[derive(Debug)]
struct Reference {
    /// Segments as they stand there, `*` for a glob.
    segments: Names,
    /// How many modules of the file it stands in.
    inside: usize,
    /// Another name that `as` gives it.
    alias: Option<String>,
    /// Whether it is part of a `use` item.
    imported: bool,
    /// Whether that item passes the name on to other files, and the file itself has no use for it.
    passed_on: bool,
}

/// All paths with at least two segments.
fn references(tokens: &[Token]) -> Vec<Reference> {
    let name = |name: &str| Token::Name(name.into());
    let mut found = Vec::new();
    // The braces that are open, and whether each is a module's.
    let mut open = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        match tokens[i] {
            Token::Other('{') => open.push(i >= 2 && tokens[i - 2] == name("mod")),
            Token::Other('}') => drop(open.pop()),
            _ => {}
        }
        let imported = tokens[i] == name("use");
        let passed_on = imported && i > 0 && (tokens[i - 1] == name("pub") || tokens[i - 1] == Token::Other(')'));
        i += usize::from(imported);
        let starts = matches!(tokens.get(i), Some(Token::Name(_)))
            && tokens.get(i + 1) == Some(&Token::Path)
            && (imported || i == 0 || tokens[i - 1] != Token::Path);
        if starts {
            let inside = open.iter().filter(|module| **module).count();
            i = Tree { tokens, inside, imported, passed_on, found: &mut found }.read(i, &mut Vec::new());
        } else if !imported {
            i += 1;
        }
    }
    let statements = tokens.split(|token| *token == Token::Other(';'));
    let declares = |token: &Token| *token == name("use") || *token == name("mod");
    let code: Vec<&Token> = statements.filter(|tokens| !tokens.iter().any(declares)).flatten().collect();
    for reference in &mut found {
        let own = reference.alias.as_ref().or(reference.segments.last()).map_or("", String::as_str);
        reference.passed_on &= !code.contains(&&name(own));
    }
    found
}

/// A tree of paths, as a `use` item has it.
struct Tree<'a> {
    tokens: &'a [Token],
    inside: usize,
    imported: bool,
    passed_on: bool,
    found: &'a mut Vec<Reference>,
}

impl Tree<'_> {
    /// Reads what begins at a token behind `prefix`; gives the token after it.
    fn read(&mut self, mut i: usize, prefix: &mut Names) -> usize {
        let length = prefix.len();
        loop {
            match self.tokens.get(i) {
                Some(Token::Name(name)) => {
                    prefix.push(name.clone());
                    i += 1;
                }
                Some(Token::Other('*')) if self.imported => {
                    prefix.push("*".into());
                    i += 1;
                }
                Some(Token::Other('{')) if self.imported => {
                    i += 1;
                    while self.tokens[i] != Token::Other('}') {
                        i = self.read(i, prefix);
                        i += usize::from(self.tokens[i] == Token::Other(','));
                    }
                    prefix.truncate(length);
                    return i + 1;
                }
                // A turbofish ends a path.
                _ => break,
            }
            if self.tokens.get(i) != Some(&Token::Path) {
                break;
            }
            i += 1;
        }
        let mut alias = None;
        if let (true, [Token::Name(word), Token::Name(name), ..]) =
            (self.imported, &self.tokens[i.min(self.tokens.len())..])
            && word == "as"
        {
            alias = Some(name.clone());
            i += 2;
        }
        if prefix.last().is_some_and(|last| last == "self") {
            prefix.pop();
        }
        if !prefix.is_empty() {
            let Self { inside, imported, passed_on, .. } = *self;
            self.found.push(Reference { segments: prefix.clone(), inside, alias, imported, passed_on });
        }
        prefix.truncate(length);
        i
    }
}

/// A file of the crate, or one of its programs.
struct Module {
    /// From `src/`.
    file: String,
    references: Vec<Reference>,
}

/// The files of `src/` by the paths of their modules; programs stand under `bin`.
struct Crate(BTreeMap<Names, Module>);

impl Crate {
    fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut files = Vec::new();
        find(&root, &mut files);
        let mut modules = BTreeMap::new();
        let mut tests = BTreeSet::new();
        for path in files {
            let file = path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
            let mut names: Names = file.trim_end_matches(".rs").split('/').map(String::from).collect();
            if names.last().is_some_and(|last| last == "mod" || last == "lib") {
                names.pop();
            }
            let (tokens, test_files) = without_tests(tokens(&fs::read_to_string(&path).unwrap()));
            tests.extend(test_files.into_iter().map(|name| [names.clone(), vec![name]].concat()));
            modules.insert(names, Module { file, references: references(&tokens) });
        }
        modules.retain(|names, _| !tests.contains(names));
        Self(modules)
    }

    /// The path from the root of what a file refers to; none for other crates, types and values.
    fn absolute(&self, from: &Names, reference: &Reference) -> Option<Names> {
        let segments = &reference.segments;
        let supers = segments.iter().take_while(|segment| *segment == "super").count();
        match segments[0].as_str() {
            "crate" | "mars" => Some(segments[1..].to_vec()),
            // Out of the modules of the file first.
            "super" => {
                Some([&from[..from.len() - supers.saturating_sub(reference.inside)], &segments[supers..]].concat())
            }
            "self" if reference.inside == 0 => Some([from, &segments[1..]].concat()),
            _ => Some([from, &segments[..]].concat()).filter(|path| self.0.contains_key(&path[..=from.len()])),
        }
    }

    /// The module that defines what stands at a path.
    fn definition(&self, path: &[String]) -> Names {
        let length = (0..=path.len()).rev().find(|&length| self.0.contains_key(&path[..length])).unwrap_or(0);
        let module = path[..length].to_vec();
        let Some(name) = path.get(length) else { return module };
        let imports = self.0[&module].references.iter().filter(|reference| reference.imported);
        for reference in imports {
            let own = reference.alias.as_ref().or(reference.segments.last());
            if own == Some(name)
                && let Some(target) = self.absolute(&module, reference)
                && target != path
            {
                return self.definition(&[&target, &path[length + 1..]].concat());
            }
        }
        module
    }

    /// Which file uses which, with whether it only passes a name on.
    fn arrows(&self) -> Vec<(&Module, &Module, bool)> {
        let mut arrows = Vec::new();
        for (names, module) in &self.0 {
            for reference in &module.references {
                if let Some(path) = self.absolute(names, reference) {
                    let target = &self.0[&self.definition(&path)];
                    if target.file != module.file {
                        arrows.push((module, target, reference.passed_on));
                    }
                }
            }
        }
        arrows
    }
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            find(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The rooms of `ARCHITECTURE.md`'s table, the lowest first.
fn floors() -> Vec<String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md")).unwrap();
    let section = text.split("\n## ").find(|section| section.starts_with("Rooms in floors")).unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let rooms =
        rows.flat_map(|row| row.split('|').next().unwrap().split(',').map(|name| name.trim_matches([' ', '`'])));
    rooms.map(String::from).collect()
}

/// The room of a file: the longest name in the table that its path begins with.
fn room(file: &str, floors: &[String]) -> Option<usize> {
    let within =
        |room: &String| file.strip_prefix(room.as_str()).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'));
    (0..floors.len()).filter(|&floor| within(&floors[floor])).max_by_key(|&floor| floors[floor].len())
}

#[test]
fn every_file_is_in_a_room_and_every_room_has_files() {
    let (tree, floors) = (Crate::read(), floors());
    let mut empty: BTreeSet<usize> = (0..floors.len()).collect();
    for module in tree.0.values().filter(|module| module.file != "lib.rs") {
        let room = room(&module.file, &floors);
        empty.remove(&room.unwrap_or_else(|| panic!("ARCHITECTURE.md has no room for src/{}", module.file)));
    }
    let empty: Vec<&String> = empty.into_iter().map(|room| &floors[room]).collect();
    assert!(empty.is_empty(), "ARCHITECTURE.md has rooms without files: {empty:?}");
}

#[test]
fn no_arrow_runs_up() {
    let (tree, floors) = (Crate::read(), floors());
    let arrows = tree.arrows();
    let crossing = arrows.iter().filter(|(user, used, _)| room(&user.file, &floors) != room(&used.file, &floors));
    assert!(crossing.count() > 100, "the paths between rooms are not found");
    let mut up = BTreeSet::new();
    for (user, used, _) in arrows {
        if let (Some(from), Some(to)) = (room(&user.file, &floors), room(&used.file, &floors))
            && from < to
        {
            up.insert(format!(
                "`{}` uses `{}` above it: src/{} uses src/{}",
                floors[from], floors[to], user.file, used.file
            ));
        }
    }
    assert!(up.is_empty(), "{}", up.into_iter().collect::<Vec<_>>().join("\n"));
}

/// The files that a file uses, and those that these use, and so on.
fn reached<'a>(uses: &BTreeMap<&'a str, BTreeSet<&'a str>>, start: &'a str) -> BTreeSet<&'a str> {
    let (mut seen, mut next) = (BTreeSet::new(), vec![start]);
    while let Some(file) = next.pop() {
        next.extend(uses.get(file).into_iter().flatten().copied().filter(|used| seen.insert(*used)));
    }
    seen
}

#[test]
fn no_files_of_a_room_use_each_other() {
    let (tree, floors) = (Crate::read(), floors());
    let mut uses: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (user, used, passed_on) in tree.arrows() {
        // A room's face passes on the names of its files.
        if !passed_on && room(&user.file, &floors) == room(&used.file, &floors) {
            uses.entry(&user.file).or_default().insert(&used.file);
        }
    }
    let reached: BTreeMap<&str, BTreeSet<&str>> = uses.keys().map(|file| (*file, reached(&uses, file))).collect();
    let circle = |file: &&str| -> Vec<&str> {
        let back = |other: &&str| reached.get(other).is_some_and(|from| from.contains(file));
        reached[file].iter().copied().filter(back).collect()
    };
    let circles: BTreeSet<Vec<&str>> = uses.keys().map(circle).filter(|circle| !circle.is_empty()).collect();
    assert!(circles.is_empty(), "files of src/ use each other: {circles:#?}");
}

#[test]
fn paths_are_read_as_the_compiler_reads_them() {
    let source = r##"
        // crate::comment::A
        pub(crate) use super::b::{self, C as D, e::{F, *}};
        const TEXT: &str = "crate::string::A"; const RAW: &str = r#"crate::"raw"::A"#; const Q: char = '"';
        fn f<'a>(x: &'a crate::g::H) { let _ = i::j::<crate::k::L>(); }
        #[cfg(test)]
        mod tests { use crate::m::N; }
        fn g() { crate::o::P }
    "##;
    let (tokens, _) = without_tests(tokens(source));
    let found: Vec<String> = references(&tokens).iter().map(|reference| reference.segments.join("::")).collect();
    let expected = [
        "super::b",
        "super::b::C",
        "super::b::e::F",
        "super::b::e::*",
        "crate::g::H",
        "i::j",
        "crate::k::L",
        "crate::o::P",
    ];
    assert_eq!(found, expected);
    assert!(references(&tokens)[0].passed_on && references(&tokens)[1].alias.as_deref() == Some("D"));
}
