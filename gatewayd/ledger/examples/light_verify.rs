//! How long a light client without the full node's libraries takes to verify a proof file. Prints
//! one JSON object.
//!
//! `cargo run --release -p ledger --no-default-features --example light_verify FILE SITE-CODE`

#![allow(clippy::disallowed_methods, reason = "a measurement reads the clock")]

use std::error::Error;
use std::time::Instant;

use ledger::light::{Options, verify_bytes};
use ledger::proof::Anchor;

/// Verifications that are timed, one by one; the median is printed.
const ROUNDS: usize = 500;

fn main() -> Result<(), Box<dyn Error>> {
    if cfg!(feature = "full") {
        return Err("build it with --no-default-features: this is not the light client".into());
    }
    let mut arguments = std::env::args().skip(1);
    let (Some(file), Some(code)) = (arguments.next(), arguments.next()) else {
        return Err("usage: light_verify FILE SITE-CODE".into());
    };
    let bytes = std::fs::read(file)?;
    let anchor = Anchor::parse(&code).map_err(|error| error.to_string())?;
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let verdict = verify_bytes(&bytes, &anchor, &Options::default());
        times.push(begun.elapsed().as_secs_f64() * 1e6);
        if !verdict.is_valid() {
            return Err(format!("not valid: {:?}", verdict.failure()).into());
        }
    }
    times.sort_by(f64::total_cmp);
    let median = times[ROUNDS / 2];
    println!(
        "{{\"figure\":\"proof_verify_light_us\",\"value\":{median:.1},\"unit\":\"µs\",\
         \"how\":\"median of {ROUNDS}, p256, the ledger crate without default features\"}}"
    );
    Ok(())
}
