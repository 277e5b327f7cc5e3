//! Table tests: each mistake is named with its file and line, each value lands where it belongs.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;

fn parse(text: &str) -> Result<Settings, ConfigError> {
    check_text(text.as_bytes())
}

#[test]
fn mistakes_name_file_line_and_column() {
    let table: &[(&str, &str, &str)] = &[
        ("unknown key", "data_dirr = \"/x\"", "input:1:1: unknown field `data_dirr`"),
        ("unknown table", "\n[lorra]\nenabled = true", "input:2:2: unknown field `lorra`"),
        ("unknown key in table", "[lora]\n\nfoo = 1", "input:3:1: unknown field `foo`"),
        ("wrong type", "[serial]\nbaud = \"fast\"", "input:2:8: invalid type: string \"fast\""),
        ("table for value", "[data_dir]\nx = 1", "input:1:1: invalid type"),
        ("not TOML", "data_dir = ", "input:1:12: "),
        ("twice", "data_dir = \"/a\"\ndata_dir = \"/b\"", "input:2:1: duplicate key"),
        ("relative path", "data_dir = \"here\"", "input:1:12: `here` is not an absolute path"),
        ("level", "log_level = \"loud\"", "input:1:13: `loud` is none of error"),
        ("bus", "[bus]\naddress = \"session\"", "input:2:11: `session` is neither"),
        ("socket", "[tpm]\nlogs_socket = \"x\"", "input:2:15: `x` is no absolute path"),
        ("tcti", "[tpm]\ntcti = \"/dev/tpm0\"", "input:2:8: `/dev/tpm0` is no TCTI"),
        ("budget", "[storage]\ndisk_budget_mib = 3", "input:2:19: 3 is not between 16"),
        ("negative", "[storage]\ndisk_budget_mib = -1", "input:2:19: -1 is not between"),
        ("interval", "[readings]\nbatch_interval_ms = 0", "input:2:21: 0 is not between 50"),
        ("baud", "[serial]\nbaud = 1", "input:2:8: 1 is not between 300"),
        ("listen", "[lora]\nlisten = \"nowhere\"", "input:2:10: `nowhere` is not ADDRESS:PORT"),
        ("peers", "[peers]\nlisten = \"here\"", "input:2:10: `here` is not ADDRESS:PORT"),
        ("peer", "[peers]\naddresses = [\"a\",\n \"b/c\"]", "input:3:2: `b/c` is not HOST:PORT"),
        ("region", "[lora]\nregion = \"MARS\"", "input:2:10: `MARS` is not a region"),
        ("eui", "[lora]\nforwarders = [\n \"01\"]", "input:3:2: an EUI is 16 hexadecimal digits"),
        ("open radio", "[lora]\nlisten = \"0.0.0.0:1700\"", "input:2:10: an address that is not"),
        ("column in characters", "data_dir = \"é\" x", "input:1:16: "),
    ];
    for (what, text, expected) in table {
        let error = parse(text).expect_err(what).to_string();
        assert!(error.starts_with(expected), "{what}: got `{error}`, expected `{expected}…`");
    }
}

#[test]
fn bytes_that_are_no_text_and_endless_files_are_refused() {
    let not_utf8 = check_text(b"data_dir = \"\xff\"").expect_err("not UTF-8").to_string();
    assert!(not_utf8.contains("not UTF-8"), "{not_utf8}");
    let long = check_text(&vec![b'#'; 65 * 1024]).expect_err("too long").to_string();
    assert!(long.contains("longer than 65536 bytes"), "{long}");
}

#[test]
fn values_land_where_they_belong() {
    let settings = parse(
        r#"
        data_dir = "/data"
        log_level = "debug"
        [bus]
        address = "unix:path=/tmp/bus"
        [tpm]
        tcti = "swtpm:host=localhost,port=2321"
        insecure_software_tpm_sites = true
        logs_socket = "/run/logs.socket"
        [storage]
        disk_budget_mib = 32
        [readings]
        batch_interval_ms = 250
        [peers]
        listen = "192.0.2.1:7448"
        addresses = ["gateway-2.local", "[2001:db8::1]:7447"]
        discovery = false
        interface = "eth0"
        [lora]
        enabled = false
        listen = "[::]:1701"
        forwarders = ["0016C001FF10A235", "00-16-c0-01-ff-10-a2-36"]
        region = "EU868"
        [serial]
        baud = 9600
        "#,
    )
    .expect("all values are good");
    let expected = Settings {
        data_dir: "/data".into(),
        log_level: LogLevel::Debug,
        bus: Bus::Address("unix:path=/tmp/bus".into()),
        tcti: "swtpm:host=localhost,port=2321".into(),
        insecure_software_tpm_sites: true,
        logs_socket: "/run/logs.socket".into(),
        disk_budget_bytes: 32 * 1024 * 1024,
        batch_interval_ms: Some(250),
        peers: Peers {
            listen: Some("192.0.2.1:7448".parse().expect("an address")),
            addresses: vec!["gateway-2.local".into(), "[2001:db8::1]:7447".into()],
            discovery: false,
            interface: Some("eth0".into()),
        },
        lora: Lora {
            enabled: false,
            listen: "[::]:1701".parse().expect("an address"),
            forwarders: vec![
                [0x00, 0x16, 0xc0, 0x01, 0xff, 0x10, 0xa2, 0x35],
                [0x00, 0x16, 0xc0, 0x01, 0xff, 0x10, 0xa2, 0x36],
            ],
            region: Region::Eu868,
        },
        serial: Serial { baud: 9600 },
    };
    assert_eq!(settings, expected);
    let silent = parse("[peers]\nlisten = \"\"").expect("no listening");
    assert_eq!(silent.peers.listen, None);
}

/// Three roots with main files and drop-ins, as the system has them.
fn write(root: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().expect("inside the root")).expect("folder");
        fs::write(path, text).expect("file");
    }
}

#[test]
fn higher_folders_and_later_names_win() {
    let temp = tempfile::tempdir().expect("temporary folder");
    let roots: Vec<PathBuf> = ["lib", "etc", "run"].iter().map(|r| temp.path().join(r)).collect();
    write(
        &roots[0],
        &[
            ("gatewayd.toml", "data_dir = \"/main-lib\"\nlog_level = \"error\""),
            ("gatewayd.toml.d/10-a.toml", "[serial]\nbaud = 1200"),
            ("gatewayd.toml.d/20-b.toml", "[tpm]\ntcti = \"swtpm:lib\""),
            ("gatewayd.toml.d/30-masked.toml", "log_level = \"trace\""),
        ],
    );
    write(
        &roots[1],
        &[
            ("gatewayd.toml", "data_dir = \"/main-etc\""),
            ("gatewayd.toml.d/10-a.toml", "[serial]\nbaud = 2400"),
            ("gatewayd.toml.d/90-z.toml", "[storage]\ndisk_budget_mib = 100"),
            ("gatewayd.toml.d/notes.txt", "not configuration"),
        ],
    );
    write(&roots[2], &[("gatewayd.toml.d/95.toml", "\n[storage]\ndisk_budget_mib = 200")]);
    std::os::unix::fs::symlink("/dev/null", roots[1].join("gatewayd.toml.d/30-masked.toml"))
        .expect("link");

    let sources = Sources::Roots(roots.clone());
    let settings = load(&sources).expect("good configuration");
    assert_eq!(settings.data_dir, Path::new("/main-etc"));
    assert_eq!(settings.log_level, LogLevel::Info, "lib's main file and drop-in do not count");
    assert_eq!(settings.serial.baud, 2400);
    assert_eq!(settings.tcti, "swtpm:lib");
    assert_eq!(settings.disk_budget_bytes, 200 * 1024 * 1024);

    let shown = show(&sources).expect("good configuration");
    let budget = shown.iter().find(|s| s.key == "storage.disk_budget_mib").expect("shown");
    let file = roots[2].join("gatewayd.toml.d/95.toml");
    assert_eq!(budget.origin, Origin::File { file, line: 3 });
    assert_eq!(shown[1].origin, Origin::Default);

    write(&roots[2], &[("gatewayd.toml.d/99-bad.toml", "# fine\nnope = 1")]);
    let error = load(&sources).expect_err("unknown key").to_string();
    let place =
        format!("{}:2:1: unknown field", roots[2].join("gatewayd.toml.d/99-bad.toml").display());
    assert!(error.starts_with(&place), "{error}");
}

#[test]
fn the_argument_names_a_file_or_a_folder() {
    let temp = tempfile::tempdir().expect("temporary folder");
    write(
        temp.path(),
        &[
            ("gatewayd.toml", "[serial]\nbaud = 4800"),
            ("other.toml", "[serial]\nbaud = 600"),
            ("other.toml.d/1.toml", "[serial]\nbaud = 300"),
        ],
    );
    let folder = Sources::from_argument(Some(temp.path()));
    assert_eq!(load(&folder).expect("folder").serial.baud, 4800);
    let file = Sources::from_argument(Some(&temp.path().join("other.toml")));
    assert_eq!(load(&file).expect("file").serial.baud, 300);
    let missing = temp.path().join("missing.toml");
    let error = load(&Sources::from_argument(Some(&missing))).expect_err("missing").to_string();
    assert!(error.starts_with(&missing.display().to_string()), "{error}");
    let empty = tempfile::tempdir().expect("temporary folder");
    let settings = load(&Sources::from_argument(Some(empty.path()))).expect("nothing set");
    assert_eq!(settings, Settings::default());
}

/// The shipped file: every key is there, commented out, with the value the code has.
#[test]
fn shipped_defaults_agree_with_the_code() {
    let shipped = include_str!("../../../packaging/defaults.toml");
    assert_eq!(parse(shipped).expect("the shipped file is valid"), Settings::default());
    let uncommented: String = shipped
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if key.contains(" = ") && !key.starts_with(' ') => format!("{key}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let settings = parse(&uncommented).expect("the commented values are valid");
    // The batch interval has no default to write down: the file shows an example.
    let expected = Settings { batch_interval_ms: Some(15_000), ..Settings::default() };
    assert_eq!(settings, expected);
    for shown in Settings::default().shown(&[]) {
        let key = shown.key.rsplit('.').next().expect("a key has a last part");
        assert!(uncommented.contains(&format!("\n{key} = ")), "{key} is not in defaults.toml");
    }
}
