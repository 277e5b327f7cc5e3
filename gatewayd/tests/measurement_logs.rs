//! The root helper `gatewayd-logs` as systemd starts it: a listening socket as standard input.

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use gatewayd::measurement_logs::{HelperError, Request, fetch};

/// A started helper over a folder that looks like securityfs.
struct Helper {
    folder: tempfile::TempDir,
    child: Child,
}

impl Helper {
    fn start(user: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let open = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("mode");
        };
        for name in ["tpm0", "ima"] {
            std::fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        let events = folder.path().join("tpm0/binary_bios_measurements");
        std::fs::write(events, b"events").expect("a log");
        let ima = folder.path().join("ima/binary_runtime_measurements");
        std::fs::write(ima, b"entries").expect("a log");
        let socket = folder.path().join("socket");
        let listener = UnixListener::bind(&socket).expect("a socket");
        open(folder.path(), 0o755);
        open(&socket, 0o777);
        let child = Command::new(env!("CARGO_BIN_EXE_gatewayd-logs"))
            .args(["--user", user, "--idle", "2", "--securityfs"])
            .arg(folder.path())
            .stdin(OwnedFd::from(listener))
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        Self { folder, child }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// Waits until it ends by itself; gives what it said.
    fn end(self) -> String {
        let output = self.child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{}", output.status);
        String::from_utf8(output.stderr).expect("text")
    }
}

fn own_number() -> u32 {
    rustix::process::getuid().as_raw()
}

#[test]
fn the_daemons_user_gets_both_logs_and_the_helper_ends_when_idle() {
    let helper = Helper::start(&own_number().to_string());
    let socket = helper.socket();
    assert_eq!(fetch(&socket, Request::EventLog).expect("the event log"), b"events");
    assert_eq!(fetch(&socket, Request::Ima { from: 3 }).expect("the IMA log"), b"ries");
    assert_eq!(fetch(&socket, Request::Ima { from: 99 }).expect("nothing"), b"");
    std::fs::remove_dir_all(helper.folder.path().join("ima")).expect("removed");
    let missing = fetch(&socket, Request::Ima { from: 0 }).expect_err("there is none");
    assert!(matches!(missing, HelperError::Missing(_)), "{missing}");
    assert!(missing.to_string().contains("built without IMA"), "{missing}");
    assert_eq!(helper.end(), "");
}

/// Root is always answered, so as root the question is asked as somebody else.
#[test]
fn strangers_are_refused_whatever_the_mode_of_the_socket() {
    let (own, nobody) = (own_number(), 65_534);
    let helper = Helper::start(&(own + 1).to_string());
    let words = if own == 0 {
        let script = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); \
                      s.sendall(bytes([1]+[0]*8)); f=s.makefile('rb'); print(f.read())";
        let output = Command::new("setpriv")
            .args([&format!("--reuid={nobody}"), &format!("--regid={nobody}")])
            .args(["--clear-groups", "/usr/bin/python3", "-c", script])
            .arg(helper.socket())
            .output()
            .expect("setpriv and python3 are installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    } else {
        fetch(&helper.socket(), Request::EventLog).expect_err("refused").to_string()
    };
    assert!(words.contains("for gatewayd alone") && !words.contains("events"), "{words}");
    let said = helper.end();
    let number = if own == 0 { nobody } else { own };
    assert!(said.contains(&format!("user {number} was refused")), "{said}");
}

#[test]
fn without_its_user_or_socket_it_says_so() {
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_gatewayd-logs"))
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("it starts");
        assert!(!output.status.success());
        String::from_utf8(output.stderr).expect("text")
    };
    let said = run(&["--user", "nobody-of-this-name"]);
    assert!(said.contains("there is no user nobody-of-this-name"), "{said}");
    let said = run(&["--user", "0", "--idle", "1"]);
    assert!(said.starts_with("gatewayd-logs: "), "{said}");
}
