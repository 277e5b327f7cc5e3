//! Where the figures go: a table at the end, or an object a line as they come.

use std::process::Command;

/// Figures of one run.
pub(crate) struct Figures {
    json: bool,
    rows: Vec<(String, f64, String, String)>,
}

impl Figures {
    /// None yet.
    pub(crate) fn new(json: bool) -> Self {
        Self { json, rows: Vec::new() }
    }

    /// Takes one.
    pub(crate) fn add(&mut self, figure: &str, value: f64, unit: &str, how: &str) {
        let rounded = (value * 1_000.0).round() / 1_000.0;
        if self.json {
            let object = serde_json::json!({
                "figure": figure, "value": rounded, "unit": unit,
                "how": format!("{how}; {}", machine()),
            });
            println!("{object}");
        } else {
            eprintln!("  {figure} {} {unit}", words(rounded));
        }
        self.rows.push((figure.into(), rounded, unit.into(), how.into()));
    }

    /// Prints the table.
    pub(crate) fn finish(&self) {
        if self.json {
            return;
        }
        println!("machine: {}\n", machine());
        println!("| figure | value | how |\n|---|---|---|");
        for (figure, value, unit, how) in &self.rows {
            println!("| `{figure}` | {} {unit} | {how} |", words(*value));
        }
    }
}

/// Digits that say something.
fn words(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

/// The machine in words: processor, cores, kernel, and how busy it was with other things.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split(':').nth(1));
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = Command::new("uname").arg("-sr").output();
    let kernel = kernel.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let load = read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned();
    let (model, kernel) = (model.unwrap_or("unknown").trim(), kernel.unwrap_or_default());
    format!("{cores} cores of {model}, {kernel}, load average {load}")
}
