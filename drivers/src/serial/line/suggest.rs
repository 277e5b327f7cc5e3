//! A first mapping from what a port has sent, for the pairing dialogue to show and to edit.

use std::fmt::Write as _;

use super::{Lines, MAX_PREVIEW};
use crate::json::Json;

/// A mapping as TOML text that fits the first whole lines, or `None` if they are not text of any
/// format. Names are those of the JSON keys, or `value` and `value1`, `value2`, …
#[must_use]
pub fn suggest(mut bytes: &[u8]) -> Option<String> {
    let mut lines = Lines::new();
    for _ in 0..MAX_PREVIEW {
        let Ok(line) = lines.next(&mut bytes)? else { continue };
        let Ok(text) = std::str::from_utf8(line) else { continue };
        let text = text.trim();
        if let Some(mapping) = json(text).or_else(|| csv(text)).or_else(|| value(text)) {
            return Some(mapping);
        }
    }
    None
}

fn json(text: &str) -> Option<String> {
    let Ok(Json::Object(members)) = Json::parse(text.as_bytes()) else { return None };
    let mut out = String::from("format = \"json\"\n");
    let numbers = members.iter().filter(|(key, value)| {
        matches!(value, Json::Number(_)) && key.len() <= 64 && crate::senml::is_name(key)
    });
    let mut count = 0;
    for (key, _) in numbers.take(super::mapping::MAX_FIELDS) {
        let pointer = key.replace('~', "~0").replace('/', "~1");
        write!(out, "\n[[field]]\nname = \"{key}\"\npointer = \"/{pointer}\"\n").ok()?;
        count += 1;
    }
    (count > 0).then_some(out)
}

fn csv(text: &str) -> Option<String> {
    let separator = [';', '\t', ','].into_iter().find(|separator| text.contains(*separator))?;
    let decimal_comma = separator != ',' && text.contains(',');
    let escaped = if separator == '\t' { "\\t".to_owned() } else { separator.to_string() };
    let mut out = format!("format = \"csv\"\nseparator = \"{escaped}\"\n");
    if decimal_comma {
        out.push_str("decimal_comma = true\n");
    }
    let mut count = 0;
    for (index, column) in text.split(separator).enumerate().take(super::mapping::MAX_COLUMNS) {
        let number = if decimal_comma { column.replacen(',', ".", 1) } else { column.to_owned() };
        let finite = number.trim().parse::<f64>().is_ok_and(f64::is_finite);
        if finite && count < super::mapping::MAX_FIELDS {
            let column = index + 1;
            write!(out, "\n[[field]]\nname = \"value{column}\"\ncolumn = {column}\n").ok()?;
            count += 1;
        }
    }
    (count > 0).then_some(out)
}

/// A number, perhaps between words: `T=21.5 C`.
fn value(text: &str) -> Option<String> {
    let digit = |c: char| c.is_ascii_digit();
    let start = text.find(digit)?;
    let signed = text[..start].ends_with(['-', '+']);
    let start = if signed { start - 1 } else { start };
    let end = text.rfind(digit)? + 1;
    text[start..end].parse::<f64>().ok().filter(|number| number.is_finite())?;
    let mut out = String::from("format = \"value\"\n\n[[field]]\nname = \"value\"\n");
    for (key, part) in [("prefix", &text[..start]), ("suffix", &text[end..])] {
        let part = part.trim();
        if part.len() > 32 || part.contains(|c: char| c.is_control() || "\"\\".contains(c)) {
            return None;
        }
        if !part.is_empty() {
            writeln!(out, "{key} = \"{part}\"").ok()?;
        }
    }
    Some(out)
}
