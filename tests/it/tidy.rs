//! The rules of ARCHITECTURE.md that the compiler does not hold.
#![allow(clippy::unwrap_used, clippy::panic, reason = "clippy does not take helpers of integration tests for tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Modules from the top down: each may name those on lines below its own, and no others.
const LAYERS: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["app"],
    &["grpc", "http"],
    &["surface"],
    &["gateway"],
    &["eval"],
    &["cache"],
    &["llm"],
    &["embed"],
    &["models", "store"],
    &["telemetry"],
    &["config"],
    &["types"],
];

/// Crates of the wire, and the modules that may name them: the surfaces, and the clients of one.
const WIRE: &[&str] = &["tonic", "tonic_types", "tonic_prost", "tonic_health", "prost", "prost_types", "axum"];
const KNOWS_WIRE: &[&str] = &["grpc", "http", "cli"];

const MAX_LINES: usize = 400;

struct Source {
    path: PathBuf,
    /// First part of its path: the name of its module.
    module: String,
    /// Without tests and without lines that are only comments.
    code: String,
}

#[test]
fn imports_point_down() {
    let mut wrong = BTreeSet::new();
    for source in sources() {
        for named in named_modules(&source.code) {
            let (from, to) = (rank(&source.module), rank(&named));
            if source.module != named && from >= to {
                wrong.insert(format!("{} names {named}", source.path.display()));
            }
        }
    }
    assert_eq!(wrong, BTreeSet::new());
}

#[test]
fn wire_types_stay_in_the_surfaces() {
    let mut wrong = BTreeSet::new();
    for source in sources() {
        let is_client = source.path.file_name().is_some_and(|name| name == "qdrant.rs")
            || source.path.components().any(|part| part.as_os_str() == "qdrant");
        if KNOWS_WIRE.contains(&source.module.as_str()) || is_client {
            continue;
        }
        for name in WIRE.iter().filter(|name| names(&source.code, &format!("{name}::"))) {
            wrong.insert(format!("{} names {name}", source.path.display()));
        }
    }
    assert_eq!(wrong, BTreeSet::new());
}

#[test]
fn files_stay_short() {
    let long = |source: &Source| source.code.lines().count() > MAX_LINES;
    let wrong: Vec<_> = sources().into_iter().filter(long).map(|source| source.path).collect();
    assert_eq!(wrong, Vec::<PathBuf>::new());
}

#[test]
fn nothing_is_left_for_later() {
    // In two parts each, so that this file may stand among those that are read.
    let marks =
        [["todo", "!("], ["unimpl", "emented!("], ["#[ig", "nore"], ["TO", "DO"], ["FIX", "ME"]].map(|m| m.concat());
    let mut wrong = BTreeSet::new();
    for folder in ["src", "tests", "benches"] {
        for path in rust_files(&root().join(folder)) {
            let text = std::fs::read_to_string(&path).unwrap();
            for mark in marks.iter().filter(|mark| text.contains(*mark)) {
                wrong.insert(format!("{} holds {mark}", path.display()));
            }
        }
    }
    assert_eq!(wrong, BTreeSet::new());
}

#[test]
fn the_readers_of_imports_see_every_form() {
    let code = "use crate::{app, grpc::{pb, status}, types};\nfn f() { crate::cache::look() }\nuse crate::llm;\n";
    assert_eq!(named_modules(code).into_iter().collect::<Vec<_>>(), ["app", "cache", "grpc", "llm", "types"]);
    assert!(names("use axum::Router;", "axum::") && !names("use my_axum::Router;", "axum::"));
    assert_eq!(without_tests("a\n#[cfg(test)]\nmod tests {\nb\n}\n"), "a\n");
    assert_eq!(without_tests("#[cfg(test)]\nmod tests;\nc\n"), "#[cfg(test)]\nmod tests;\nc\n");
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of `src` that is compiled into the program.
fn sources() -> Vec<Source> {
    let src = root().join("src");
    let texts: BTreeMap<_, _> =
        rust_files(&src).into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect();
    assert!(texts.len() > 20, "found only {} files", texts.len());
    let tests: Vec<_> = texts.iter().flat_map(|(path, text)| test_modules(path, text)).collect();
    let texts = texts.into_iter().filter(|(path, _)| !tests.iter().any(|test| is_in_module(path, test)));
    let read = |(path, text): (PathBuf, String)| {
        let inner = path.strip_prefix(&src).unwrap();
        let first = inner.components().next().unwrap().as_os_str().to_string_lossy();
        let module = first.trim_end_matches(".rs").to_owned();
        let code = without_tests(&text).lines().filter(|line| !line.trim_start().starts_with("//"));
        Source { module, code: code.flat_map(|line| [line, "\n"]).collect(), path: inner.to_owned() }
    };
    // `lib.rs` only lists the modules.
    texts.map(read).filter(|source| source.module != "lib").collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = paths.partition(|path| path.is_dir());
    let files = files.into_iter().filter(|path| path.extension().is_some_and(|e| e == "rs"));
    files.chain(folders.iter().flat_map(|folder| rust_files(folder))).collect()
}

/// Paths, without `.rs`, of the modules that a file declares for tests only.
fn test_modules(path: &Path, text: &str) -> Vec<PathBuf> {
    let stem = path.file_stem().unwrap().to_string_lossy();
    let folder = match stem.as_ref() {
        "mod" | "lib" | "main" => path.parent().unwrap().to_owned(),
        _ => path.with_extension(""),
    };
    let after = text.split("#[cfg(test)]").skip(1);
    let declared = after.filter_map(|rest| {
        let declaration = rest.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with("#["))?;
        declaration.strip_suffix(';')?.split_once("mod ").map(|(_, name)| folder.join(name))
    });
    declared.collect()
}

fn is_in_module(path: &Path, module: &Path) -> bool {
    path.with_extension("") == module || path.starts_with(module)
}

/// The text before a file's module of tests.
fn without_tests(text: &str) -> &str {
    let at = text.match_indices("#[cfg(test)]").find(|(at, mark)| {
        let rest = text[at + mark.len()..].trim_start();
        rest.starts_with("mod ") && rest.lines().next().is_some_and(|line| line.ends_with('{'))
    });
    at.map_or(text, |(at, _)| &text[..at])
}

fn rank(module: &str) -> usize {
    let found = LAYERS.iter().position(|layer| layer.contains(&module));
    found.unwrap_or_else(|| panic!("module {module} has no place in the list of layers"))
}

/// Top-level modules of this crate that some code names.
fn named_modules(code: &str) -> BTreeSet<String> {
    let starts = code.match_indices("crate::").map(|(at, mark)| &code[at + mark.len()..]);
    let own = code.match_indices("reprise::").map(|(at, mark)| &code[at + mark.len()..]);
    let mut named = BTreeSet::new();
    for rest in starts.chain(own) {
        match rest.strip_prefix('{') {
            Some(list) => named.extend(first_level(list)),
            None => named.extend(word(rest)),
        }
    }
    // What begins with a capital letter or belongs to macros is no module.
    named.into_iter().filter(|name| LAYERS.iter().any(|layer| layer.contains(&name.as_str()))).collect()
}

/// First words of the items of a braced list, nested lists left out.
fn first_level(list: &str) -> Vec<String> {
    let (mut depth, mut item, mut items) = (1, String::new(), Vec::new());
    for c in list.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 || (depth == 1 && c == ',') {
            items.extend(word(item.trim_start()));
            item.clear();
            if depth == 0 {
                break;
            }
        } else {
            item.push(c);
        }
    }
    items
}

fn word(text: &str) -> Option<String> {
    let word: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!word.is_empty()).then_some(word)
}

/// Whether code holds a path that begins so, and not as the end of a longer name.
fn names(code: &str, path: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    code.match_indices(path).any(|(at, _)| !code[..at].ends_with(is_name))
}
