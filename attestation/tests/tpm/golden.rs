//! Makes the verifier's vectors with a software TPM and holds them to the same checks. With
//! `REGENERATE_TESTDATA=1` they replace those in `testdata`: an approval, not a routine.

use std::fs;
use std::path::Path;

use crate::keys::now;
use crate::swtpm::{Certificates, Swtpm, authority};
use crate::vectors::{CREDENTIAL, ENTROPY, QUALIFYING_DATA, SETS, Vectors};
use attestation::activation::make_credential;
use attestation::pcr::PcrSelection;
use attestation::public::Public;
use attestation::template::EkKind;

#[test]
fn fresh_vectors_pass_the_checks_of_the_stored_ones() {
    let folder = tempfile::tempdir().unwrap();
    let (root, intermediate) = authority();
    fs::write(folder.path().join("root.der"), root).unwrap();
    fs::write(folder.path().join("intermediate.der"), intermediate).unwrap();
    fs::write(folder.path().join("now.txt"), format!("{}\n", now())).unwrap();
    for (set, kind) in SETS {
        let certificates = match kind {
            EkKind::Rsa2048 => Certificates::Rsa2048,
            EkKind::P256 => Certificates::P256,
            EkKind::P384 => Certificates::P384,
        };
        make(certificates, &folder.path().join(set));
        Vectors::read(folder.path(), set).check(kind);
    }
    if std::env::var_os("REGENERATE_TESTDATA").is_some() {
        let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
        copy(folder.path(), &testdata);
    }
}

fn make(certificates: Certificates, folder: &Path) {
    fs::create_dir(folder).unwrap();
    let swtpm = Swtpm::start(certificates);
    let tpm = swtpm.tpm();
    let identity = tpm.create_identity().unwrap();
    let ek = Public::parse(&identity.ek_public).unwrap();
    let blob = make_credential(&ek, &identity.ak_name, &CREDENTIAL, &ENTROPY).unwrap();
    let credential = blob.to_bytes();
    let evidence = tpm.attest(QUALIFYING_DATA, PcrSelection::FIRMWARE, blob).unwrap();
    fs::write(folder.join("evidence.bin"), evidence.to_bytes()).unwrap();
    fs::write(folder.join("ek.der"), identity.endorsements.ek_certificate.unwrap()).unwrap();
    fs::write(folder.join("credential.bin"), credential).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
