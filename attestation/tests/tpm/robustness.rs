//! A TPM that is absent, killed, hung, exchanged, cleared or left full by others.

use std::fs;
use std::time::{Duration, Instant};

use attestation::tpm::{Deadlines, Tpm, TpmError};

use crate::keys::{challenge, credential_for};
use crate::swtpm::{Certificates, Swtpm};

#[test]
fn an_absent_software_tpm_is_said_in_words() {
    let mut swtpm = Swtpm::start(Certificates::None);
    swtpm.kill();
    let tpm = swtpm.tpm();
    let start = Instant::now();
    let error = tpm.info().unwrap_err();
    assert!(matches!(error, TpmError::Unreachable { .. }), "{error}");
    assert!(error.is_absence());
    assert!(error.to_string().contains("no software TPM answers at 127.0.0.1:"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5));
    // It comes back without a new handle.
    swtpm.restart();
    tpm.info().unwrap();
}

#[test]
fn a_tpm_that_is_killed_and_restarted_is_used_again() {
    let mut swtpm = Swtpm::start(Certificates::P384);
    let tpm = swtpm.tpm();
    let identity = tpm.create_identity().unwrap();
    tpm.certify([1; 32]).unwrap();
    // Every kind of operation has to survive being the first one after the crash.
    let blob = tpm.seal(b"secret").unwrap();
    let counter = tpm.counter_define().unwrap();
    swtpm.restart();
    tpm.sign_identity([1; 32]).unwrap();
    swtpm.restart();
    tpm.certify([1; 32]).unwrap();
    swtpm.restart();
    let credential = tpm.activate_credential(credential_for(&identity, &challenge())).unwrap();
    assert_eq!(credential, challenge().credential);
    swtpm.restart();
    assert_eq!(tpm.unseal(&blob).unwrap().as_slice(), b"secret");
    swtpm.restart();
    assert_eq!(tpm.counter_increment().unwrap(), counter + 1, "incremented once, not twice");
    swtpm.kill();
    let error = tpm.sign_identity([1; 32]).unwrap_err();
    assert!(error.is_absence(), "{error}");
    swtpm.restart();
    tpm.sign_identity([1; 32]).unwrap();
}

#[test]
fn a_hung_tpm_hangs_nobody() {
    let swtpm = Swtpm::start(Certificates::None);
    let deadlines = Deadlines {
        sign: Duration::from_millis(300),
        attest: Duration::from_secs(20),
        hung: Duration::from_millis(200),
        shutdown: Duration::from_millis(300),
    };
    let tpm = Tpm::spawn_with(&swtpm.tcti(), swtpm.keys(), deadlines).unwrap();
    tpm.create_identity().unwrap();
    swtpm.signal("STOP");
    let start = Instant::now();
    let error = tpm.sign_identity([1; 32]).unwrap_err();
    assert!(matches!(error, TpmError::Timeout { .. }), "{error}");
    assert!(error.is_absence());
    // By now it is known to hang: the next caller does not even wait.
    let error = tpm.sign_identity([1; 32]).unwrap_err();
    assert!(matches!(error, TpmError::Hung { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(10));
    // Ending does not hang either, and says what it left behind.
    let clone = tpm.clone();
    let error = clone.shutdown().unwrap_err();
    assert!(matches!(error, TpmError::Hung { .. }), "{error}");
    swtpm.signal("CONT");
}

#[test]
fn a_tpm_that_was_only_slow_goes_on() {
    let swtpm = Swtpm::start(Certificates::None);
    let deadlines = Deadlines { sign: Duration::from_millis(200), ..Deadlines::default() };
    let tpm = Tpm::spawn_with(&swtpm.tcti(), swtpm.keys(), deadlines).unwrap();
    tpm.create_identity().unwrap();
    swtpm.signal("STOP");
    assert!(matches!(tpm.sign_identity([1; 32]), Err(TpmError::Timeout { .. })));
    swtpm.signal("CONT");
    tpm.certify([1; 32]).unwrap();
    tpm.shutdown().unwrap();
}

#[test]
fn another_tpm_than_at_init_is_not_a_damaged_file() {
    let swtpm = Swtpm::start(Certificates::P256);
    let made = swtpm.tpm().create_identity().unwrap();
    let other = Swtpm::start_fresh();
    let tpm = Tpm::spawn(&other.tcti(), swtpm.keys()).unwrap();
    let error = tpm.load_identity().unwrap_err();
    assert!(matches!(error, TpmError::AnotherTpm), "{error}");
    assert!(matches!(tpm.sign_identity([1; 32]), Err(TpmError::AnotherTpm)));
    assert!(matches!(tpm.certify([1; 32]), Err(TpmError::AnotherTpm)));
    assert!(matches!(tpm.create_identity(), Err(TpmError::IdentityExists { .. })));
    drop(tpm);

    let file = swtpm.keys().join("identity.keys");
    let good = fs::read(&file).unwrap();
    for damaged in [&good[..good.len() / 2], &[], b"not a key file"] {
        fs::write(&file, damaged).unwrap();
        let error = swtpm.tpm().load_identity().unwrap_err();
        assert!(matches!(error, TpmError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("identity.keys"), "{error}");
    }
    fs::write(&file, &good).unwrap();
    assert_eq!(swtpm.tpm().load_identity().unwrap(), made);
}

#[test]
fn a_cleared_tpm_is_not_another_tpm() {
    let swtpm = Swtpm::start(Certificates::P256);
    swtpm.tpm().create_identity().unwrap();
    swtpm.tool(&["tpm2_clear", "-c", "p"]);
    let error = swtpm.tpm().load_identity().unwrap_err();
    assert!(matches!(error, TpmError::Cleared), "{error}");
}

#[test]
fn a_hierarchy_with_a_password_is_named() {
    let swtpm = Swtpm::start(Certificates::None);
    swtpm.tool(&["tpm2_changeauth", "-c", "owner", "secret"]);
    let error = swtpm.tpm().create_identity().unwrap_err();
    assert!(matches!(error, TpmError::HierarchyPassword { hierarchy: "owner" }), "{error}");
    let error = swtpm.tpm().counter_define().unwrap_err();
    assert!(matches!(error, TpmError::HierarchyPassword { hierarchy: "owner" }), "{error}");
}

#[test]
fn nothing_stays_loaded_after_the_end() {
    let swtpm = Swtpm::start(Certificates::P384);
    let tpm = swtpm.tpm();
    let identity = tpm.create_identity().unwrap();
    let clone = tpm.clone();
    tpm.certify([1; 32]).unwrap();
    tpm.activate_credential(credential_for(&identity, &challenge())).unwrap();
    drop(tpm);
    clone.sign_identity([1; 32]).unwrap();
    drop(clone);
    for kind in ["handles-transient", "handles-loaded-session", "handles-saved-session"] {
        assert_eq!(swtpm.tool(&["tpm2_getcap", kind]).trim(), "", "{kind}");
    }
}

/// A process that was killed has left three objects and a session; there is no room for ours.
#[test]
fn stale_handles_are_flushed_at_the_start() {
    let swtpm = Swtpm::start(Certificates::None);
    for name in ["a", "b", "c"] {
        let context = format!("{name}.ctx");
        swtpm.tool(&["tpm2_createprimary", "-C", "o", "-G", "ecc", "-c", &context]);
    }
    let session = swtpm.tool(&["tpm2_startauthsession", "-S", "left.session"]);
    assert_eq!(session, "");
    let loaded = swtpm.tool(&["tpm2_getcap", "handles-transient"]);
    assert_eq!(loaded.lines().count(), 3, "{loaded}");
    let tpm = swtpm.tpm();
    tpm.create_identity().unwrap();
    tpm.certify([1; 32]).unwrap();
}

#[test]
fn many_callers_share_one_tpm() {
    let swtpm = Swtpm::start(Certificates::P256);
    let tpm = swtpm.tpm();
    let identity = tpm.create_identity().unwrap();
    std::thread::scope(|scope| {
        for caller in 0..6u8 {
            let (tpm, identity) = (tpm.clone(), identity.clone());
            scope.spawn(move || {
                for round in 0..10 {
                    tpm.sign_identity([caller; 32]).unwrap();
                    if round % 5 == caller % 5 {
                        let blob = credential_for(&identity, &challenge());
                        tpm.activate_credential(blob).unwrap();
                        tpm.certify([caller; 32]).unwrap();
                        assert_eq!(
                            *tpm.unseal(&tpm.seal(&[caller; 16]).unwrap()).unwrap(),
                            [caller; 16]
                        );
                    }
                }
            });
        }
    });
    tpm.shutdown().unwrap();
}
