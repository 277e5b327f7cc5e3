//! The files of the tree, and just enough of a Rust lexer to look at code without its comments and
//! strings. Must not judge anything.

use std::fs;
use std::path::Path;

use crate::root;

/// Folders that hold no source of ours.
const SKIPPED: [&str; 6] = [".git", "target", "node_modules", "__pycache__", "corpus", "artifacts"];

/// Every file of the tree as a path from the top with `/`, sorted.
pub(crate) fn files() -> Vec<String> {
    let mut found = Vec::new();
    collect(&root(), "", &mut found);
    found.sort();
    found
}

/// The Rust files among [`files`], each with its text.
pub(crate) fn rust_files() -> Vec<(String, String)> {
    files()
        .into_iter()
        .filter(|path| path.ends_with(".rs"))
        .map(|path| {
            let text = crate::read(&path);
            (path, text)
        })
        .collect()
}

fn collect(folder: &Path, prefix: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("the tree can be read") {
        let entry = entry.expect("the tree can be read");
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
        let kind = entry.file_type().expect("the tree can be read");
        if kind.is_dir() && !SKIPPED.contains(&name.as_str()) {
            collect(&entry.path(), &path, found);
        } else if kind.is_file() {
            found.push(path);
        }
    }
}

/// The code alone: comments, strings and character literals become spaces, lines stay.
pub(crate) fn code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = match token(&bytes[at..]) {
            Some(length) => at + length,
            None => {
                out.push(if bytes[at].is_ascii() { char::from(bytes[at]) } else { ' ' });
                at += 1;
                continue;
            }
        };
        let end = end.min(bytes.len());
        out.extend(bytes[at..end].iter().map(|byte| if *byte == b'\n' { '\n' } else { ' ' }));
        at = end;
    }
    out
}

/// Length of the comment or literal that begins here, if one does.
fn token(rest: &[u8]) -> Option<usize> {
    match rest {
        [b'/', b'/', ..] => Some(rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len())),
        [b'/', b'*', ..] => Some(block_comment(rest)),
        [b'"', ..] => Some(string(rest)),
        [b'r', b'"' | b'#', ..] => raw_string(rest),
        // An identifier that ends in r, as in `br"…"`, is met letter by letter: `b` passes as code.
        [b'\'', ..] => character(rest),
        _ => None,
    }
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn string(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != b'"' {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

fn raw_string(rest: &[u8]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.extend(std::iter::repeat_n(b'#', hashes));
    let body = &rest[2 + hashes..];
    let end = body.windows(close.len()).position(|window| window == close.as_slice());
    Some(end.map_or(rest.len(), |end| 2 + hashes + end + close.len()))
}

/// A character literal, as against a lifetime, which has no closing quote after one character.
fn character(rest: &[u8]) -> Option<usize> {
    if rest.get(1) == Some(&b'\\') {
        let close = rest[3.min(rest.len())..].iter().position(|byte| *byte == b'\'')?;
        return Some(3 + close + 1);
    }
    let close = rest.iter().skip(2).take(4).position(|byte| *byte == b'\'')? + 2;
    // `'a, 'b` is two lifetimes: more than one character between quotes must be one UTF-8 letter.
    let inside = std::str::from_utf8(&rest[1..close]).ok()?;
    (inside.chars().count() == 1).then_some(close + 1)
}

/// Whether `word` stands in `code` as whole identifiers (`std::time` does not match `std::timer`).
pub(crate) fn has_word(code: &str, word: &str) -> Option<usize> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = code.as_bytes();
    code.match_indices(word)
        .find(|(start, _)| {
            let before = start.checked_sub(1).map(|at| bytes[at]);
            let after = bytes.get(start + word.len()).copied();
            !before.is_some_and(is_name) && !after.is_some_and(is_name)
        })
        .map(|(start, _)| 1 + code[..start].matches('\n').count())
}

#[test]
fn comments_strings_and_characters_are_not_code() {
    let text =
        "a /* std::time /* b */ */ \"std::net\\\"\" r#\"rand\"# '\"' 'x 'y b'\\'' // tail\nend";
    let code = code(text);
    for gone in ["std", "rand", "tail", "\""] {
        assert!(!code.contains(gone), "{gone} in {code:?}");
    }
    for kept in ["a ", "'x 'y", "\nend"] {
        assert!(code.contains(kept), "no {kept:?} in {code:?}");
    }
}

#[test]
fn a_word_is_a_whole_word() {
    assert_eq!(has_word("let x = 1;\nuse std::time::Instant;", "std::time"), Some(2));
    assert_eq!(has_word("use std::timer; operand; rands", "std::time"), None);
    assert_eq!(has_word("operand rands", "rand"), None);
}
