//! Functions of one screen, files of one subject. What is longer stands in `longest.txt` with its
//! length, which may only shrink.

use std::collections::BTreeMap;

use crate::report;
use crate::source::{code, rust_files};

/// Lines of code of a function, without blank lines and comments.
const FUNCTION_LINES: usize = 70;
/// Lines of a file, all of them.
const FILE_LINES: usize = 600;

#[test]
fn functions_and_files_stay_short() {
    let mut measured = BTreeMap::new();
    for (path, text) in rust_files() {
        let lines = text.lines().count();
        if lines > FILE_LINES {
            measured.insert(path.clone(), lines);
        }
        for (name, lines) in functions(&code(&text)) {
            let key = format!("{path}#{name}");
            if lines > FUNCTION_LINES {
                let longest = measured.entry(key).or_insert(0);
                *longest = lines.max(*longest);
            }
        }
    }
    report("lengths (tests/tidy/longest.txt)", &compare(&exceptions(), &measured));
}

/// `path LINES` or `path#function LINES`; `#` alone begins a comment line.
fn exceptions() -> BTreeMap<String, usize> {
    crate::read("tests/tidy/longest.txt")
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (what, lines) = line.rsplit_once(' ').expect("`what LINES`");
            (what.to_owned(), lines.parse().expect("a number of lines"))
        })
        .collect()
}

fn compare(allowed: &BTreeMap<String, usize>, measured: &BTreeMap<String, usize>) -> Vec<String> {
    let mut findings = Vec::new();
    for (what, lines) in measured {
        match allowed.get(what) {
            None => findings.push(format!("{what} has {lines} lines: split it")),
            Some(limit) if lines > limit => {
                findings.push(format!("{what} grew from {limit} to {lines} lines"));
            }
            Some(limit) if lines < limit => {
                findings.push(format!("{what} shrank to {lines} lines: write that number down"));
            }
            Some(_) => {}
        }
    }
    for what in allowed.keys().filter(|what| !measured.contains_key(*what)) {
        findings.push(format!("{what} is short or gone: take it off the list"));
    }
    findings
}

/// Name and lines of code of each function with a body.
fn functions(code: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = code[from..].find("fn ").map(|at| at + from) {
        from = at + 3;
        let alone = at == 0 || !is_name(code.as_bytes()[at - 1]);
        let name: String = code[from..].chars().take_while(|c| is_name_char(*c)).collect();
        if !alone || name.is_empty() {
            continue;
        }
        if let Some(body) = body(&code[from..]) {
            let lines = body.lines().filter(|line| !line.trim().is_empty()).count();
            // The line of the opening brace and that of the closing one are not counted.
            found.push((name, lines.saturating_sub(2)));
        }
    }
    found
}

/// From the opening brace to its partner; nothing for a declaration that ends in `;`.
fn body(rest: &str) -> Option<&str> {
    let mut nesting = 0_usize;
    let mut start = None;
    for (at, byte) in rest.bytes().enumerate() {
        match byte {
            b'(' | b'[' if start.is_none() => nesting += 1,
            b')' | b']' if start.is_none() => nesting = nesting.checked_sub(1)?,
            b';' if start.is_none() && nesting == 0 => return None,
            b'{' => {
                if start.is_none() {
                    nesting = 0;
                    start = Some(at);
                }
                nesting += 1;
            }
            b'}' if start.is_some() => {
                nesting -= 1;
                if nesting == 0 {
                    return start.map(|start| &rest[start..=at]);
                }
            }
            _ => {}
        }
    }
    None
}

fn is_name(byte: u8) -> bool {
    is_name_char(char::from(byte))
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

#[test]
fn lengths_are_measured_and_may_only_shrink() {
    let long =
        format!("fn long() {{\n{}}}\nfn declared(a: [u8; 2]);", "    step();\n\n".repeat(71));
    assert_eq!(functions(&long), vec![("long".to_owned(), 71)]);
    let table = |lines| BTreeMap::from([("a.rs#long".to_owned(), lines)]);
    let none = BTreeMap::new();
    let cases = [
        ("new", &none, &table(71), 1),
        ("grown", &table(71), &table(72), 1),
        ("shrunk", &table(72), &table(71), 1),
        ("gone", &table(72), &none, 1),
        ("same", &table(71), &table(71), 0),
    ];
    for (description, allowed, measured, findings) in cases {
        assert_eq!(compare(allowed, measured).len(), findings, "{description}");
    }
}
