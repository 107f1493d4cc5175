//! The shape of the source: which part may name which, what pure code must not touch, how long a file may be.
//!
//! Everything is read from the text of the files, with comments and literals blanked out.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "that is how a test fails")]

use std::path::{Path, PathBuf};

/// Parts of nebulad and the other parts that each may name. `app`, `dev`, `main` and `lib` join everything.
const PARTS: [(&str, &[&str]); 9] = [
    ("domain", &[]),
    ("ports", &["domain"]),
    ("config", &["domain"]),
    ("metrics", &[]),
    ("actors", &["domain", "ports", "metrics"]),
    ("store", &["domain", "ports", "metrics"]),
    ("edge", &["domain", "ports"]),
    ("grpc", &["domain", "ports", "actors", "metrics"]),
    ("http", &["domain", "actors", "metrics"]),
];
const JOINERS: [&str; 4] = ["app", "dev", "main", "lib"];

/// Crates that only some parts of nebulad may name.
const CRATES: [(&str, &[&str]); 14] = [
    ("nebula_proto", &["grpc"]),
    ("tonic", &["grpc"]),
    ("tonic_health", &["grpc"]),
    ("tonic_reflection", &["grpc"]),
    ("actix_web", &["http"]),
    ("nebula_dialect", &["http"]),
    ("nebula_relay", &["http"]),
    ("nebula_store", &["store"]),
    ("nebula_agent", &[]),
    ("aws_config", &["edge"]),
    ("aws_sdk_route53", &["edge"]),
    ("prometheus", &["metrics"]),
    ("actix", &["actors", "grpc", "http"]),
    ("tokio", &["actors", "edge", "grpc", "http", "store"]),
];

/// What a machine decides without: the clock, I/O, anything that waits.
const IMPURE: [&str; 9] =
    ["actix", "actix_rt", "actix_web", "tokio", "tonic", "sled", "reqwest", "Instant", "SystemTime"];

/// Marks of unfinished work.
const UNFINISHED: [&str; 5] = ["todo!", "unimplemented!", "#[ignore", "allow(dead_code", "expect(dead_code"];

const LINES_MAX: usize = 500;
const TEST_LINES_MAX: usize = 600;

/// One source file: its path from the workspace's root, with `/`, and its text.
struct Source {
    path: String,
    text: String,
    /// The text without comments and literals, line by line the same.
    code: String,
}

impl Source {
    fn new(path: &str, text: String) -> Self {
        let code = blank(&text);
        Self { path: path.to_owned(), text, code }
    }

    /// The part of nebulad that the file belongs to: `src/http/error.rs` and `src/http.rs` are `http`.
    fn part(&self) -> Option<&str> {
        let rest = self.path.strip_prefix("src/")?;
        Some(rest.split('/').next()?.trim_end_matches(".rs"))
    }

    /// How many modules deep the file is in its crate.
    fn depth(&self) -> usize {
        self.path.split('/').skip_while(|part| *part != "src").count() - 1
    }

    fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        self.path.split('/').any(|part| part == "tests") || name == "tests.rs" || name.ends_with("_tests.rs")
    }

    fn is_machine(&self) -> bool {
        self.path.ends_with("/machine.rs") || self.path.contains("/machine/")
    }

    /// `path:line: what`, for each line of code for which `what` says something.
    fn lines<'a>(&'a self, what: impl Fn(&str) -> Vec<String> + 'a) -> impl Iterator<Item = String> + 'a {
        self.code.lines().enumerate().flat_map(move |(number, line)| {
            what(line).into_iter().map(move |what| format!("{}:{}: {what}", self.path, number + 1))
        })
    }
}

/// Every part of this crate that the code names: by `crate::x`, `nebulad::x`, `crate::{x, y}` over several lines,
/// or by enough `super::`.
fn named_parts(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut take = |after: usize| {
        let line = source.code[..after].matches('\n').count() + 1;
        found.extend(first_names(&source.code[after..]).into_iter().map(|name| (line, name)));
    };
    for root in ["crate::", "nebulad::"] {
        for (at, _) in source.code.match_indices(root).filter(|(at, _)| starts_word(&source.code, *at)) {
            take(at + root.len());
        }
    }
    let up = "super::".repeat(source.depth());
    for (at, _) in source.code.match_indices(&up).filter(|(at, _)| starts_word(&source.code, *at)) {
        take(at + up.len());
    }
    found
}

/// The first names of a path, or of every path in a group: `a::b` is `a`; `{a::b, c}` is `a` and `c`.
fn first_names(code: &str) -> Vec<String> {
    let name = |text: &str| {
        let text = text.trim_start();
        text[..text.find(|c: char| !is_word(c)).unwrap_or(text.len())].to_owned()
    };
    let Some(group) = code.trim_start().strip_prefix('{') else { return vec![name(code)] };
    let mut depth = 0;
    let mut names = vec![name(group)];
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(name(&group[at + 1..])),
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn starts_word(code: &str, at: usize) -> bool {
    !code[..at].ends_with(|c: char| is_word(c) || c == ':')
}

/// Whether `word` stands in the code by itself.
fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let ends =
            !is_word(word.chars().last().unwrap_or(' ')) || !code[at + word.len()..].starts_with(is_word);
        ends && !code[..at].ends_with(is_word)
    })
}

/// Replaces what stands in comments, strings and character literals by spaces; line breaks stay.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(text, at);
        code[at..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
        at = end.max(at + 1);
    }
    String::from_utf8(code).expect("whole characters were replaced")
}

/// Where the comment or literal that begins at `at` ends; `at` itself when none begins there.
fn literal_end(text: &str, at: usize) -> usize {
    let bytes = text.as_bytes();
    let rest = &bytes[at..];
    let find = |from: usize, what: &str| {
        let found = bytes[from..].windows(what.len()).position(|window| window == what.as_bytes());
        found.map_or(bytes.len(), |found| from + found + what.len())
    };
    if rest.starts_with(b"//") {
        return find(at, "\n").saturating_sub(1).max(at);
    }
    if rest.starts_with(b"/*") {
        return find(at + 2, "*/");
    }
    if rest.starts_with(b"r") && !text[..at].ends_with(|c: char| is_word(c) && c != 'b') {
        let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
        if rest.get(1 + hashes) == Some(&b'"') {
            return find(at + hashes + 2, &format!("\"{}", "#".repeat(hashes)));
        }
    }
    match rest[0] {
        b'"' => quoted_end(bytes, at, b'"'),
        // A lifetime has no closing quote after one character.
        b'\'' if rest.get(1) == Some(&b'\\') => quoted_end(bytes, at, b'\''),
        b'\'' => {
            let next = text[at + 1..].chars().next().map_or(0, char::len_utf8);
            if rest.get(1 + next) == Some(&b'\'') { at + next + 2 } else { at }
        }
        _ => at,
    }
}

fn quoted_end(bytes: &[u8], at: usize, quote: u8) -> usize {
    let mut end = at + 1;
    while end < bytes.len() && bytes[end] != quote {
        end += if bytes[end] == b'\\' { 2 } else { 1 };
    }
    (end + 1).min(bytes.len())
}

// The rules. Each returns what breaks it, one line each.

fn parts_name_only_what_they_may(sources: &[Source]) -> Vec<String> {
    let mut broken = Vec::new();
    for source in sources {
        let Some(part) = source.part().filter(|part| !JOINERS.contains(part)) else { continue };
        let Some((_, allowed)) = PARTS.iter().find(|(name, _)| *name == part) else {
            broken.push(format!("{}: there is no rule for the part \"{part}\"", source.path));
            continue;
        };
        for (line, name) in named_parts(source) {
            let is_part = PARTS.iter().any(|(part, _)| *part == name) || JOINERS.contains(&&*name);
            if is_part && name != part && !allowed.contains(&&*name) {
                broken.push(format!("{}:{line}: {part} must not use {name}", source.path));
            }
        }
    }
    broken
}

fn crates_stay_in_their_parts(sources: &[Source]) -> Vec<String> {
    let mut broken = Vec::new();
    for source in sources {
        if let Some(part) = source.part().filter(|part| !JOINERS.contains(part)) {
            broken.extend(source.lines(|line| {
                let wrong = CRATES.iter().filter(|(name, parts)| {
                    !parts.contains(&part)
                        && (has_word(line, &format!("{name}::")) || has_word(line, &format!("use {name}")))
                });
                wrong.map(|(name, _)| format!("{part} must not use the crate {name}")).collect()
            }));
        }
        if !source.path.starts_with("store/") {
            let names_sled = |line: &str| has_word(line, "sled");
            broken.extend(source.lines(|line| {
                names_sled(line)
                    .then(|| "sled is used by the store crate only".to_owned())
                    .into_iter()
                    .collect()
            }));
        }
    }
    broken
}

fn machines_are_pure(sources: &[Source]) -> Vec<String> {
    let look = |line: &str| {
        let mut wrong: Vec<String> = IMPURE
            .iter()
            .filter(|word| has_word(line, word))
            .map(|word| format!("a machine must not name {word}"))
            .collect();
        if line.contains(".await") {
            wrong.push("a machine must not wait".to_owned());
        }
        wrong
    };
    sources.iter().filter(|source| source.is_machine()).flat_map(|source| source.lines(look)).collect()
}

fn only_the_clock_reads_time(sources: &[Source]) -> Vec<String> {
    let look = |line: &str| {
        let calls = ["Instant::now", "SystemTime::now"].into_iter().filter(|call| has_word(line, call));
        calls.map(|call| format!("{call} is called by core/src/clock.rs only")).collect()
    };
    let others = |source: &&Source| source.path != "core/src/clock.rs" && source.path.contains("src/");
    sources.iter().filter(others).flat_map(|source| source.lines(look)).collect()
}

fn nothing_is_left_unfinished(sources: &[Source]) -> Vec<String> {
    let look = |line: &str| {
        let marks = UNFINISHED.into_iter().filter(|mark| line.contains(mark));
        marks.map(|mark| format!("{mark} is left behind")).collect()
    };
    sources.iter().flat_map(|source| source.lines(look)).collect()
}

fn files_are_short(sources: &[Source]) -> Vec<String> {
    let mut broken = Vec::new();
    for source in sources {
        let (lines, most) =
            (source.text.lines().count(), if source.is_test() { TEST_LINES_MAX } else { LINES_MAX });
        if lines > most {
            broken.push(format!("{}: {lines} lines, at most {most}", source.path));
        }
        if source.path.ends_with("/mod.rs") && !source.is_test() {
            broken.push(format!("{}: write name.rs beside name/, not mod.rs", source.path));
        }
    }
    broken
}

/// Every Rust file of the workspace's crates, build products aside.
fn workspace() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders: Vec<PathBuf> = vec![root.to_owned()];
    let entries = std::fs::read_dir(root).expect("the workspace is read");
    folders.extend(
        entries.map(|entry| entry.expect("an entry").path()).filter(|path| path.join("Cargo.toml").is_file()),
    );
    let mut sources = Vec::new();
    for folder in folders {
        for part in ["src", "tests", "benches", "build.rs"] {
            read_into(root, &folder.join(part), &mut sources);
        }
    }
    sources
}

fn read_into(root: &Path, path: &Path, sources: &mut Vec<Source>) {
    if path.is_dir() {
        let entries = std::fs::read_dir(path).expect("a folder is read");
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
        paths.sort();
        paths.iter().for_each(|path| read_into(root, path, sources));
    } else if path.extension().is_some_and(|extension| extension == "rs") && path.is_file() {
        let name = path.strip_prefix(root).expect("below the root").display().to_string();
        sources.push(Source::new(&name, std::fs::read_to_string(path).expect("a file is read")));
    }
}

fn assert_none(broken: &[String]) {
    assert!(broken.is_empty(), "{} broken rules:\n  {}\n", broken.len(), broken.join("\n  "));
}

#[test]
fn the_workspace_is_found() {
    let sources = workspace();
    for path in
        ["src/main.rs", "core/src/clock.rs", "store/src/lib.rs", "tests/layering.rs", "proto/build.rs"]
    {
        assert!(
            sources.iter().any(|source| source.path == path),
            "{path} is not among {} files",
            sources.len()
        );
    }
    assert!(sources.iter().filter(|source| source.is_machine()).count() >= 5, "machines are found");
}

#[test]
fn parts_of_nebulad_import_one_way() {
    assert_none(&parts_name_only_what_they_may(&workspace()));
}

#[test]
fn crates_are_used_where_they_belong() {
    assert_none(&crates_stay_in_their_parts(&workspace()));
}

#[test]
fn machines_neither_wait_nor_read_the_clock() {
    assert_none(&machines_are_pure(&workspace()));
}

#[test]
fn time_comes_from_one_file() {
    assert_none(&only_the_clock_reads_time(&workspace()));
}

#[test]
fn no_unfinished_work() {
    assert_none(&nothing_is_left_unfinished(&workspace()));
}

#[test]
fn no_file_is_too_long() {
    assert_none(&files_are_short(&workspace()));
}

#[test]
fn every_rule_can_be_broken() {
    type Rule = fn(&[Source]) -> Vec<String>;
    let long = "\n".repeat(LINES_MAX + 1);
    let cases: [(Rule, &str, &str, usize); 24] = [
        (parts_name_only_what_they_may, "src/domain/node.rs", "use crate::ports::Store;", 1),
        (parts_name_only_what_they_may, "src/domain/node.rs", "use crate::domain::error::Error;", 0),
        (
            parts_name_only_what_they_may,
            "src/actors/a.rs",
            "use crate::{\n domain::{a, b}, http::x,\n config};",
            2,
        ),
        (parts_name_only_what_they_may, "src/actors/a.rs", "fn f() { crate::grpc::server::run() }", 1),
        (parts_name_only_what_they_may, "src/actors/a.rs", "use super::super::http::x;", 1),
        (parts_name_only_what_they_may, "src/actors/a.rs", "use super::http::x;", 0),
        (
            parts_name_only_what_they_may,
            "src/http.rs",
            "// use crate::store::x;\nconst A: &str = \"crate::store\";",
            0,
        ),
        (parts_name_only_what_they_may, "src/http.rs", "use crate::store::x;", 1),
        (parts_name_only_what_they_may, "src/app.rs", "use crate::{store, http, grpc, actors};", 0),
        (parts_name_only_what_they_may, "src/util.rs", "", 1),
        (crates_stay_in_their_parts, "src/http/a.rs", "use nebula_proto as proto;", 1),
        (crates_stay_in_their_parts, "src/http/a.rs", "fn f() -> tonic::Status { g() }", 1),
        (crates_stay_in_their_parts, "src/grpc/a.rs", "use tonic::Status;", 0),
        (crates_stay_in_their_parts, "agent/src/a.rs", "use sled::Db;", 1),
        (crates_stay_in_their_parts, "store/src/a.rs", "use sled::Db;", 0),
        (machines_are_pure, "src/actors/route/machine.rs", "use std::time::Instant;", 1),
        (machines_are_pure, "agent/src/replica/machine/flow.rs", "async { next().await }", 1),
        (machines_are_pure, "src/actors/route.rs", "async { next().await }", 0),
        (machines_are_pure, "src/actors/route/machine.rs", "struct Instants; // tokio", 0),
        (only_the_clock_reads_time, "sim/src/a.rs", "let t = std::time::Instant::now();", 1),
        (only_the_clock_reads_time, "core/src/clock.rs", "Instant::now()", 0),
        (nothing_is_left_unfinished, "sim/src/a.rs", "fn f() { todo!() }", 1),
        (files_are_short, "src/http/a.rs", &long, 1),
        (files_are_short, "src/http/tests.rs", &long, 0),
    ];
    for (rule, path, text, count) in cases {
        let broken = rule(&[Source::new(path, text.to_owned())]);
        assert_eq!(broken.len(), count, "{path}: {}: {broken:?}", &text[..text.len().min(60)]);
    }
}

#[test]
fn comments_and_literals_are_no_code() {
    for (text, code) in [
        ("a // b\nc", "a     \nc"),
        ("a /* b\n */ c", "a     \n    c"),
        (r#"f("a\"b", 'x', '\'')"#, "f(      ,    ,     )"),
        ("f('é')", "f(    )"),
        ("r#\"a\"b\"# c", "         c"),
        ("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)"),
    ] {
        assert_eq!(blank(text), code, "{text}");
    }
}
