use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::thread::JoinHandle;

use super::helper::{Helper, find_user};
use super::*;

/// A helper over a folder that looks like securityfs, for root and one user.
fn start(user: u32) -> (tempfile::TempDir, PathBuf, JoinHandle<io::Result<()>>) {
    let folder = tempfile::tempdir().unwrap();
    for name in ["tpm0", "ima"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    let socket = folder.path().join("socket");
    let listener = OwnedFd::from(UnixListener::bind(&socket).unwrap());
    let helper = Helper::new(folder.path(), user);
    let thread = std::thread::spawn(move || helper.serve(listener, Duration::from_secs(1)));
    (folder, socket, thread)
}

fn own_number() -> u32 {
    rustix::process::getuid().as_raw()
}

#[test]
fn the_two_logs_are_handed_out_and_nothing_else() {
    let (folder, socket, thread) = start(own_number());
    let missing = fetch(&socket, Request::EventLog).unwrap_err();
    assert!(matches!(missing, HelperError::Missing(_)));
    assert!(missing.to_string().contains("firmware does not measure"), "{missing}");
    let events = folder.path().join("tpm0/binary_bios_measurements");
    let ima = folder.path().join("ima/binary_runtime_measurements");
    let whole: Vec<u8> = (0..300_000_u32).flat_map(u32::to_be_bytes).collect();
    std::fs::write(&events, &whole[..MAX_EVENT_LOG_LEN]).unwrap();
    std::fs::write(&ima, &whole).unwrap();
    assert_eq!(fetch(&socket, Request::EventLog).unwrap(), whole[..MAX_EVENT_LOG_LEN]);
    for from in [0, 7, whole.len() - 1, whole.len(), whole.len() + 9] {
        let log = fetch(&socket, Request::Ima { from: from as u64 }).unwrap();
        assert_eq!(log, whole[from.min(whole.len())..]);
    }
    std::fs::write(&events, &whole).unwrap();
    let long = fetch(&socket, Request::EventLog).unwrap_err();
    assert!(long.to_string().contains("longer than 1048576 bytes"), "{long}");
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.write_all(&[3, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(&answer[5..], b"no such request");
    // It ends when nobody comes, and says so by its status.
    thread.join().unwrap().unwrap();
    let refused = fetch(&socket, Request::EventLog).unwrap_err();
    assert!(refused.to_string().contains("is gatewayd-logs.socket enabled?"), "{refused}");
}

#[test]
fn a_helper_that_talks_nonsense_is_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let answers: [&[u8]; 5] =
        [b"", &[0], &[0, 0xff, 0xff, 0xff, 0xff], &[0, 0, 0, 0, 9, 1], &[1, 0, 1, 0, 0]];
    let thread = std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; Request::LEN]).unwrap();
            stream.write_all(answer).unwrap();
        }
    });
    for answer in answers {
        let error = fetch(&socket, Request::EventLog).unwrap_err();
        assert!(matches!(error, HelperError::Broken { .. }), "{answer:?}: {error}");
    }
    thread.join().unwrap();
}

#[test]
fn users_are_found_by_their_name() {
    let list = "root:x:0:0::/root:/bin/sh\ngatewayd2:x:7:7::/:/bin/false\n\
                gatewayd:x:998:998:IoT gateway service:/var/lib/gatewayd:/usr/sbin/nologin\n";
    assert_eq!(find_user(list, "gatewayd"), Some(998));
    assert_eq!(find_user(list, "root"), Some(0));
    assert_eq!(find_user(list, "gateway"), None);
    assert_eq!(find_user("gatewayd:x", "gatewayd"), None);
}
