//! Line sources: what a cheap device prints becomes readings, after a look at the preview.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::gateway::{Gateway, text};
use tests::peer::Peer;
use tests::pty::Cable;

use crate::serial::listed;

const VALUE: &str = "format = \"value\"\n[[field]]\nname = \"t\"\nunit = \"Cel\"\n\
                     minimum = -40\nmaximum = 85\n";

const JSON: &str = "format = \"json\"\n[[field]]\nname = \"t\"\nunit = \"Cel\"\npointer = \
                    \"/air/temp\"\n[[field]]\nname = \"open\"\npointer = \"/door\"\nkind = \
                    \"boolean\"\n";

const CSV: &str = "format = \"csv\"\nseparator = \";\"\ndecimal_comma = true\n[[field]]\nname = \
                   \"h\"\nunit = \"%RH\"\ncolumn = 2\nscale = 0.1\n";

/// A gateway, a cable and a map.
struct Bench {
    gateway: Gateway,
    cable: Cable,
    map: PathBuf,
}

impl Bench {
    fn new(map: &str) -> Result<Self> {
        let gateway = Gateway::with_site()?;
        let cable = Cable::plug(gateway.dir.path(), "line")?;
        let file = gateway.dir.path().join("map.toml");
        std::fs::write(&file, map)?;
        Ok(Self { gateway, cable, map: file })
    }

    fn pair(&self, more: &[&str]) -> Result<Peer> {
        let (port, map) = (text(self.cable.gateway())?, text(&self.map)?);
        let arguments = ["pair", "serial", port, "--line", map, "--name", "line"];
        let command = self.gateway.ctl_peer(&[&arguments[..], more].concat())?;
        Ok(command)
    }

    /// Pairs it while the device prints `preview`, which is not recorded.
    fn paired(&self, preview: &str) -> Result<()> {
        let command = self.pair(&["--yes", "--window", "50"])?;
        command.wait_line("waiting:")?;
        self.until_heard(preview, &command, "preview:")?;
        // The window ends with the first reading.
        command.wait_line("joining:")?;
        self.until_heard(preview, &command, "Standing")?;
        let (code, lines) = command.finish()?;
        ensure!(code == Some(0), "{code:?}: {}", lines.join("\n"));
        Ok(())
    }

    /// The device repeats its line until the command says something.
    fn until_heard(&self, line: &str, command: &Peer, said: &str) -> Result<()> {
        self.gateway.wait_for(said, |_| {
            let written = write(self.cable.sensor(), line.as_bytes());
            written.is_ok() && command.lines().iter().any(|line| line.contains(said))
        })
    }

    /// Prints a line and waits for the reading of these values.
    fn reading(&self, line: &str, values: &Value) -> Result<Value> {
        write(self.cable.sensor(), line.as_bytes())?;
        let mut newest = Value::Null;
        let waited = self.gateway.wait_for("the reading", |gateway| {
            newest = listed(gateway).unwrap_or_default().pop().unwrap_or_default();
            newest["values"] == *values
        });
        waited.with_context(|| format!("instead: {newest}"))?;
        Ok(newest)
    }
}

/// One temperature.
fn celsius(value: f64) -> Value {
    json!([{ "name": "t", "unit": "Cel", "value": value }])
}

fn write(port: &Path, bytes: &[u8]) -> Result<()> {
    Ok(OpenOptions::new().write(true).open(port)?.write_all(bytes)?)
}

#[test]
fn one_value_a_line_is_previewed_confirmed_and_recorded() -> Result<()> {
    let bench = Bench::new(VALUE)?;
    bench.paired("21.5\r\n")?;
    let reading = bench.reading("-3.25\r\n", &celsius(-3.25))?;
    assert_eq!(reading["level"], 0, "nothing on such a wire is authenticated");
    let shown = bench.gateway.ctl_json(&["sensor", "show", "line"])?;
    assert_eq!(shown["kind"], "line");
    ensure!(shown["level_words"].as_str().is_some_and(|words| !words.is_empty()), "{shown}");

    // What is no value is counted by its reason, and what comes after it is taken.
    let endless = vec![b'9'; 5_000];
    write(bench.cable.sensor(), &endless)?;
    write(bench.cable.sensor(), b"\nhot\n999\n\xff\xfe\n")?;
    let counted = |gateway: &Gateway, name: &str| {
        let shown = gateway.ctl_json(&["sensor", "show", "line"]).unwrap_or_default();
        shown["refused"][name].as_u64().unwrap_or(0)
    };
    bench.gateway.wait_for("the refusals", |gateway| {
        ["endless-line", "not-a-value", "implausible", "not-text"]
            .iter()
            .all(|name| counted(gateway, name) == 1)
    })?;
    bench.reading("4\n", &celsius(4.0))?;
    Ok(())
}

#[test]
fn json_lines_are_mapped() -> Result<()> {
    let bench = Bench::new(JSON)?;
    bench.paired("{\"air\":{\"temp\":20},\"door\":false}\n")?;
    let expected = json!([
        { "name": "t", "unit": "Cel", "value": -18.5 },
        { "name": "open", "value": true },
    ]);
    bench.reading("{\"air\":{\"temp\":-18.5},\"door\":true,\"x\":[1]}\n", &expected)?;
    Ok(())
}

#[test]
fn csv_lines_are_mapped() -> Result<()> {
    let bench = Bench::new(CSV)?;
    bench.paired("a;412,5;z\n")?;
    bench.reading("b;655;\n", &json!([{ "name": "h", "unit": "%RH", "value": 65.5 }]))?;
    Ok(())
}

#[test]
fn a_preview_that_is_not_confirmed_pairs_nothing() -> Result<()> {
    let bench = Bench::new(VALUE)?;
    // Nobody answers the question: standard input is empty.
    let command = bench.pair(&["--window", "10"])?;
    command.wait_line("waiting:")?;
    bench.until_heard("21.5\n", &command, "Is that right")?;
    let (code, lines) = command.finish()?;
    ensure!(code.is_some_and(|code| code != 0), "it was paired: {lines:?}");
    bench.gateway.wait_for("the window to close", |gateway| {
        let status = crate::dbus::call(gateway, "", "Pairing", "Status", &[]);
        status.is_ok_and(|status| status["data"][0]["state"]["data"] == "failed")
    })?;
    assert_eq!(bench.gateway.ctl_json(&["sensor", "list"])?, json!([]));
    assert_eq!(listed(&bench.gateway)?.len(), 0, "a preview records nothing");
    Ok(())
}

#[test]
fn a_wrong_map_is_refused_with_its_place() -> Result<()> {
    let bench = Bench::new("format = \"value\"\n[[field]]\nnome = \"t\"\n")?;
    let (code, lines) = bench.pair(&["--yes", "--window", "10"])?.finish()?;
    let said = lines.join("\n");
    ensure!(code == Some(2) && said.contains("bad-map") && said.contains("nome"), "{said}");
    assert_eq!(bench.gateway.ctl_json(&["sensor", "list"])?, json!([]));
    Ok(())
}

#[test]
fn a_line_source_survives_a_kill_and_a_pulled_cable() -> Result<()> {
    let mut bench = Bench::new(VALUE)?;
    bench.paired("20\n")?;
    bench.reading("21\n", &celsius(21.0))?;
    bench.gateway.kill()?;
    bench.gateway.start()?;
    open_again(&bench)?;
    // The first line after the port was opened may have been cut: it does not count.
    write(bench.cable.sensor(), b"1\n")?;
    bench.reading("22\n", &celsius(22.0))?;

    let folder = bench.gateway.dir.path().to_owned();
    write(bench.cable.sensor(), b"2")?;
    bench.cable.pull()?;
    bench.gateway.wait_for("the port to be missed", |gateway| {
        link_state(gateway).is_some_and(|state| state.starts_with("waiting"))
    })?;
    bench.cable = Cable::plug(&folder, "line")?;
    open_again(&bench)?;
    write(bench.cable.sensor(), b"3\n")?;
    bench.reading("23\n", &celsius(23.0))?;
    Ok(())
}

fn open_again(bench: &Bench) -> Result<()> {
    bench.gateway.wait_for("the port to be open", |gateway| {
        link_state(gateway).is_some_and(|state| state == "open")
    })
}

fn link_state(gateway: &Gateway) -> Option<String> {
    let shown = gateway.ctl_json(&["sensor", "show", "line"]).ok()?;
    shown["link_state"].as_str().map(str::to_owned)
}
