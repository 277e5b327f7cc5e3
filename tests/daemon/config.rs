//! Configuration that cannot be used: the daemon ends with 78 and names file and line.

use std::process::Command;

use anyhow::{Result, ensure};
use tests::gateway::{Gateway, binary};

/// Exit code (EX_CONFIG of sysexits.h).
const UNUSABLE: i32 = 78;

/// Starts the daemon on this configuration; how it ended and what it said.
fn ends(gateway: &Gateway) -> Result<(Option<i32>, String)> {
    let output =
        Command::new(binary("gatewayd")?).arg("--config").arg(gateway.config()).output()?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

#[test]
fn unknown_keys_and_wrong_types_name_file_and_line() -> Result<()> {
    let gateway = Gateway::prepare()?;
    let good = std::fs::read_to_string(gateway.config())?;
    let cases = [
        ("colour = \"red\"\n", 1, "colour"),
        ("log_level = 7\n", 1, "expected a string"),
        ("\n\nlog_level = \"loud\"\n", 3, "loud"),
        ("disk_budget_bytes = -1\n", 1, "disk_budget_bytes"),
        ("log_level = \"info\"\nlog_level = \"info\"\n", 2, "duplicate"),
        ("log_level = \n", 1, ""),
    ];
    for (text, line, word) in cases {
        std::fs::write(gateway.config(), format!("{text}{good}"))?;
        let (code, said) = ends(&gateway)?;
        ensure!(code == Some(UNUSABLE), "{text:?}: {code:?} {said}");
        let place = format!("gatewayd.toml:{line}");
        ensure!(said.contains(&place) && said.contains(word), "{text:?}: {said}");
    }
    for (text, word) in [("[lora]\nlisten = \"nowhere\"\n", "nowhere"), ("[sonar]\n", "sonar")] {
        let without_lora = good.split("[lora]").next().unwrap_or_default();
        std::fs::write(gateway.config(), format!("{without_lora}{text}"))?;
        let (code, said) = ends(&gateway)?;
        ensure!(code == Some(UNUSABLE) && said.contains(word), "{text:?}: {code:?} {said}");
    }
    ensure!(!gateway.data_dir().exists(), "it began to work all the same");
    Ok(())
}

#[test]
fn the_command_line_checks_a_configuration_as_the_daemon_does() -> Result<()> {
    let gateway = Gateway::prepare()?;
    let file = gateway.config();
    let file = tests::gateway::text(&file)?.to_owned();
    gateway.ctl_code(0, &["config", "check", "--config", &file])?;
    gateway.configure("colour = 1")?;
    let words = gateway.ctl_code(1, &["config", "check", "--config", &file])?;
    ensure!(words.contains("colour") && words.contains("gatewayd.toml:"), "{words}");
    Ok(())
}
