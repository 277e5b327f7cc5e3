//! Everything that `gatewayctl` prints: tables and lists for people, JSON for machines.
//!
//! What comes from the daemon may have come from a device: control characters never reach the
//! terminal. A closed pipe ends the program quietly.

use std::io::{self, Write};

use serde_json::Value;

use super::time;

/// Standard output, in one of two voices.
pub(super) struct Output {
    /// Whether machines read it.
    pub(super) json: bool,
    writer: Box<dyn Write>,
}

impl Output {
    /// Standard output.
    pub(super) fn stdout(json: bool) -> Self {
        Self { json, writer: Box::new(io::stdout()) }
    }

    /// Nowhere.
    #[cfg(test)]
    pub(super) fn nowhere() -> Self {
        Self { json: true, writer: Box::new(io::sink()) }
    }

    /// One line for people; nothing when machines read.
    ///
    /// # Errors
    /// Nobody reads, or the disk behind it is full.
    pub(super) fn line(&mut self, text: &str) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        writeln!(self.writer, "{}", printable(text))
    }

    /// A value for machines, indented, with UTC beside its times; nothing for people.
    ///
    /// # Errors
    /// As [`Self::line`].
    pub(super) fn value(&mut self, value: &Value) -> io::Result<()> {
        self.write_value(value, serde_json::to_string_pretty)
    }

    /// As [`Self::value`], on one line: for streams.
    ///
    /// # Errors
    /// As [`Self::line`].
    pub(super) fn stream_value(&mut self, value: &Value) -> io::Result<()> {
        self.write_value(value, serde_json::to_string)
    }

    fn write_value(
        &mut self,
        value: &Value,
        encode: impl Fn(&Value) -> serde_json::Result<String>,
    ) -> io::Result<()> {
        if !self.json {
            return Ok(());
        }
        let mut value = value.clone();
        time::add_utc(&mut value);
        writeln!(self.writer, "{}", encode(&value)?)?;
        self.writer.flush()
    }

    /// Names and values, aligned. Empty values are left out.
    ///
    /// # Errors
    /// As [`Self::line`].
    pub(super) fn list(&mut self, entries: &[(&str, String)]) -> io::Result<()> {
        let width = entries.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in entries.iter().filter(|(_, value)| !value.is_empty()) {
            self.line(&format!("{name:width$}  {value}"))?;
        }
        Ok(())
    }

    /// A table with a heading; a sentence when it has no rows.
    ///
    /// # Errors
    /// As [`Self::line`].
    pub(super) fn table(
        &mut self,
        heading: &[&str],
        rows: &[Vec<String>],
        none: &str,
    ) -> io::Result<()> {
        if rows.is_empty() {
            return self.line(none);
        }
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            let widest = cells.map(|cell| printable(cell).chars().count()).max().unwrap_or(0);
            widest.max(heading[column].len())
        };
        let widths: Vec<usize> = (0..heading.len()).map(width).collect();
        let print = |cells: &mut dyn Iterator<Item = &str>| {
            let line: Vec<String> =
                cells.zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            line.join("  ").trim_end().to_owned()
        };
        self.line(&print(&mut heading.iter().copied()))?;
        for row in rows {
            let cells: Vec<String> = row.iter().map(|cell| printable(cell)).collect();
            self.line(&print(&mut cells.iter().map(String::as_str)))?;
        }
        Ok(())
    }

    /// Bytes as they are: a proof file to standard output.
    ///
    /// # Errors
    /// As [`Self::line`].
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes)?;
        self.writer.flush()
    }
}

/// Text with control characters, and those that turn the direction of text, made visible.
pub(super) fn printable(text: &str) -> String {
    let turns = |c| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let escape = |c: char| match c {
        c if c.is_control() || turns(c) => c.escape_default().to_string(),
        c => c.to_string(),
    };
    text.chars().map(escape).collect()
}

/// Text at a key; empty when it is absent.
pub(super) fn text(value: &Value, key: &str) -> String {
    plain(&value[key])
}

/// A value as a table shows it: text without quotes, nothing for nothing, else JSON.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// Local time at a key; empty when it is absent.
pub(super) fn local_time(value: &Value, key: &str) -> String {
    value[key].as_u64().map(time::local).unwrap_or_default()
}

/// `21.5 Cel` for one value, `temperature 21.5 Cel, humidity 40 %RH` for several named ones.
pub(super) fn readings(values: &Value) -> String {
    let Some(values) = values.as_array() else { return String::new() };
    let one = |value: &Value| {
        let parts = [text(value, "name"), text(value, "value"), text(value, "unit")];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    };
    values.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn printed(json: bool, print: impl FnOnce(&mut Output) -> io::Result<()>) -> String {
        let sink = Sink::default();
        print(&mut Output { json, writer: Box::new(sink.clone()) }).expect("a sink takes all");
        let bytes = sink.0.lock().expect("not poisoned").clone();
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn tables_are_aligned_and_safe() {
        let rows = vec![
            vec!["kühl".to_string(), "1".into()],
            vec!["\u{1b}[2Jroom".to_string(), String::new()],
        ];
        let table = printed(false, |out| out.table(&["NAME", "LEVEL"], &rows, "none"));
        assert_eq!(table, "NAME           LEVEL\nkühl           1\n\\u{1b}[2Jroom\n");
        assert_eq!(printed(false, |out| out.table(&["NAME"], &[], "no sensors")), "no sensors\n");
    }

    #[test]
    fn machines_and_people_do_not_hear_each_other() {
        let both = |out: &mut Output| {
            out.line("for people")?;
            out.value(&json!({"time_ms": 0}))
        };
        assert_eq!(printed(false, both), "for people\n");
        let json = printed(true, both);
        assert_eq!(json, "{\n  \"time_ms\": 0,\n  \"time_utc\": \"1970-01-01T00:00:00.000Z\"\n}\n");
    }

    #[test]
    fn values_read_like_measurements() {
        let one = json!([{"name": "", "value": 21.5, "unit": "Cel"}]);
        assert_eq!(readings(&one), "21.5 Cel");
        let two = json!([{"name": "t", "value": 1}, {"name": "open", "value": true}]);
        assert_eq!(readings(&two), "t 1, open true");
        assert_eq!(readings(&Value::Null), "");
    }
}
