//! How much processor time one admission costs a verifier: the EK chain, a credential, and the
//! appraisal of certification and quote, on the stored vectors. Prints one JSON object a line.
//!
//! `cargo run --release -p attestation --no-default-features --example verifier_cpu`

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::Instant;

use attestation::activation::make_credential;
use attestation::endorsement::Anchor;
use attestation::pcr::PcrSelection;
use attestation::public::Public;
use attestation::{Challenge, Endorsements, Evidence, Logs, Policy, appraise};

/// Admissions that are timed, one by one; the median is printed.
const ROUNDS: usize = 500;

fn main() -> Result<(), Box<dyn Error>> {
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let read = |name: &str| fs::read(testdata.join(name));
    let policy = Policy {
        anchors: vec![Anchor::from_der(&read("root.der")?)?],
        allow_software_tpm: true,
        pcrs: PcrSelection::FIRMWARE,
        ..Policy::deny_all()
    };
    let challenge = Challenge {
        qualifying_data: [0x51; 32],
        credential: [0xc3; 32],
        now: String::from_utf8(read("now.txt")?)?.trim().parse()?,
        judged: None,
    };
    let mut worst = 0.0_f64;
    for set in ["rsa2048", "p256", "p384"] {
        let evidence = Evidence::from_bytes(&read(&format!("{set}/evidence.bin"))?)?;
        let endorsements = Endorsements {
            ek_certificate: Some(read(&format!("{set}/ek.der"))?),
            intermediates: vec![read("intermediate.der")?],
        };
        let mut times = Vec::with_capacity(ROUNDS);
        for round in 0..ROUNDS {
            let start = Instant::now();
            let ek = Public::parse(&evidence.ek_public)?;
            let ak = Public::parse(&evidence.ak_public)?;
            let mut entropy = [0x5a; 64];
            entropy[..8].copy_from_slice(&round.to_be_bytes());
            make_credential(&ek, &ak.name(), &challenge.credential, &entropy)?;
            let none = Logs::none();
            let result = appraise(&evidence, &endorsements, &none, &[], &policy, &challenge)?;
            times.push(start.elapsed().as_secs_f64() * 1000.0);
            if !result.is_accepted() {
                return Err("the stored vectors are not accepted".into());
            }
        }
        times.sort_by(f64::total_cmp);
        let median = times[ROUNDS / 2];
        worst = worst.max(median);
        println!(
            "{{\"figure\":\"verifier_cpu_{set}_ms\",\"value\":{median:.3},\"unit\":\"ms\",\
             \"how\":\"median of {ROUNDS}: chain, credential, certification, quote\"}}"
        );
    }
    println!(
        "{{\"figure\":\"verifier_cpu_ms\",\"value\":{worst:.3},\"unit\":\"ms\",\
         \"how\":\"the dearest of the three kinds of endorsement key\"}}"
    );
    Ok(())
}
