//! The binaries as a shell sees them: exit codes, sentences that say what to do, closed pipes.

use std::path::Path;
use std::process::{Command, Output, Stdio};

#[path = "../../tests/src/bus.rs"]
#[allow(dead_code, unreachable_pub, reason = "a module of the harness, borrowed here")]
mod private_bus;

const GATEWAYCTL: &str = env!("CARGO_BIN_EXE_gatewayctl");
const GATEWAYD: &str = env!("CARGO_BIN_EXE_gatewayd");

fn run(program: &str, bus: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .env("GATEWAYD_BUS", bus)
        .env_remove("CREDENTIALS_DIRECTORY")
        .stdin(Stdio::null())
        .output()
        .expect("it starts")
}

fn ctl(bus: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = run(GATEWAYCTL, bus, arguments);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

const NOWHERE: &str = "unix:path=/nonexistent/bus";

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn without_a_daemon_every_command_says_what_to_do() {
    let bus = private_bus::PrivateBus::start().expect("dbus-daemon");
    let commands: [&[&str]; 13] = [
        &["status"],
        &["doctor"],
        &["monitor"],
        &["identity", "show"],
        &["site", "show"],
        &["site", "card"],
        &["sensor", "list"],
        &["sensor", "show", "x"],
        &["reading", "tail"],
        &["reading", "export", "x", "--out", "/nonexistent/proof"],
        &["ledger", "head"],
        &["prove", "ln1x", "--out", "/nonexistent/proof"],
        &["setup", "--yes"],
    ];
    for address in [bus.address(), NOWHERE] {
        for command in commands {
            let (code, stdout, stderr) = ctl(address, command);
            assert_eq!(code, Some(3), "{command:?} on {address}: {stderr}");
            assert!(stderr.contains("gatewayd is not running"), "{command:?}: {stderr}");
            assert!(stderr.contains("systemctl start gatewayd"), "{command:?}: {stderr}");
            // `setup` says which step it is at.
            assert!(stdout.is_empty() || command[0] == "setup", "{command:?}: {stdout}");
        }
    }
}

#[test]
fn wrong_usage_is_2() {
    let commands: [&[&str]; 9] = [
        &[],
        &["frobnicate"],
        &["status", "--timeout", "0"],
        &["sensor", "show"],
        &["reading", "export", "x", "--counter", "5", "--out", "p"],
        &["verify", "file"],
        &["verify", "file", "--anchor", "gws1nonsense"],
        &["site", "recover"],
        &["pair", "lora", "--dev-eui", "1", "--join-eui", "2"],
    ];
    for command in commands {
        let (code, _, stderr) = ctl(NOWHERE, command);
        assert_eq!(code, Some(2), "{command:?}: {stderr}");
    }
}

#[test]
fn configuration_mistakes_name_file_and_line() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let file = folder.path().join("gatewayd.toml");
    std::fs::write(&file, "log_level = \"debug\"\n[serial]\nbaudd = 9600\n").expect("written");
    let place = format!("{}:3:1: unknown field `baudd`", file.display());
    let (code, _, stderr) = ctl(NOWHERE, &["config", "check", "--config", path(&file)]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains(&place), "{stderr}");
    // The daemon says the same, and with a code that tells systemd not to try again.
    let daemon = run(GATEWAYD, NOWHERE, &["--config", path(&file)]);
    assert_eq!(daemon.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&daemon.stderr).contains(&place));

    std::fs::write(&file, "[serial]\nbaud = 9600\n").expect("written");
    let (code, stdout, _) = ctl(NOWHERE, &["config", "check", "--config", path(&file)]);
    assert_eq!((code, stdout), (Some(0), format!("ok: {}\n", file.display())));
    let (code, stdout, _) = ctl(NOWHERE, &["config", "show", "--json", "--config", path(&file)]);
    let shown: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    let baud = shown.as_array().expect("a list").iter().find(|s| s["key"] == "serial.baud");
    let from = format!("{}:2", file.display());
    let expected = serde_json::json!({ "key": "serial.baud", "value": "9600", "from": from });
    assert_eq!((code, baud), (Some(0), Some(&expected)));
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let mut child = Command::new(GATEWAYCTL)
        .args(["completions", "bash"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""));
}

#[test]
fn packages_get_pages_and_completions() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (code, _, stderr) = ctl(NOWHERE, &["man", path(folder.path())]);
    assert_eq!(code, Some(0), "{stderr}");
    let main = std::fs::read_to_string(folder.path().join("gatewayctl.1")).expect("a page");
    assert!(main.contains("verification failed"), "{main}");
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, stderr) = ctl(NOWHERE, &["completions", shell]);
        assert_eq!(code, Some(0), "{stderr}");
        assert!(script.contains("gatewayctl"), "{shell}");
    }
    for program in [GATEWAYCTL, GATEWAYD] {
        let output = run(program, NOWHERE, &["--version"]);
        let version = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    }
}

#[test]
fn what_is_no_request_is_not_signed() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let file = folder.path().join("request");
    std::fs::write(&file, "garbage").expect("written");
    let key = folder.path().join("key.pem");
    let sign = ["operator", "sign", path(&file), "--operator-key", path(&key), "--yes"];
    let (code, _, stderr) = ctl(NOWHERE, &sign);
    assert_eq!(code, Some(2), "{stderr}");
    assert_eq!(std::fs::read(&file).expect("still there"), b"garbage");
    assert!(!key.exists(), "signing makes no key");
}
