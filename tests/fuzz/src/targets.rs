//! The targets, in the order of the data: drivers, attestation, ledger, daemon. Where a format has
//! one canonical form, what was accepted must encode to the very bytes it came from.

use ledger::batch::{Leaf, LeafPath};
use ledger::block::Block;
use ledger::certificate::Certificate;
use ledger::codec::{Decode, Encode};
use ledger::operator::{Request, SignedAct};
use ledger::transaction::{Attachment, Transaction};
use ledger::validator_set::ValidatorSet;

use crate::Target;

const TPM: &[&str] = &["attestation/testdata"];
const LOGS: &[&str] = &["attestation/testdata/logs"];

/// Pinned encodings of the ledger, by the beginning of their name.
macro_rules! golden {
    ($name:literal) => {
        concat!("gatewayd/ledger/testdata/golden.txt#", $name)
    };
}

/// Every target.
pub const TARGETS: &[Target] = &[
    of("serial_node", sensor::node::fuzz),
    of("serial_port", drivers::serial::port::fuzz),
    of("serial_session", drivers::serial::session::fuzz),
    of("serial_line", drivers::serial::line::fuzz),
    of("serial_pairing", drivers::serial::pairing::fuzz),
    of("senml", drivers::senml::fuzz),
    of("cayenne", drivers::codec::cayenne::fuzz),
    of("lora_datagram", drivers::lora::gwmp::fuzz),
    of("lora_frame", drivers::lora::frame::fuzz),
    of("lora_mac", drivers::lora::mac::fuzz),
    of("lora_pairing", drivers::lora::pairing::fuzz),
    of("lora_record", drivers::lora::record::fuzz),
    of("lora_server", drivers::lora::server::fuzz),
    seeded("tpm_public", attestation::fuzz::public, TPM),
    seeded("tpm_attest", attestation::fuzz::attest, TPM),
    seeded("tpm_signature", attestation::fuzz::signature, TPM),
    seeded("ek_certificate", attestation::fuzz::certificate, TPM),
    seeded("ek_chain", attestation::fuzz::certificate_chain, TPM),
    seeded("evidence", attestation::fuzz::evidence, TPM),
    seeded("credential", attestation::fuzz::credential, TPM),
    seeded("event_log", attestation::fuzz::event_log, LOGS),
    seeded("ima_log", attestation::fuzz::ima_log, LOGS),
    of("approval", attestation::fuzz::approval),
    seeded("reference_values", attestation::fuzz::reference_values, LOGS),
    seeded("transaction", canonical::<Transaction>, &[golden!("transaction-")]),
    seeded("attachment", canonical::<Attachment>, &[golden!("attachment")]),
    seeded("operator_request", canonical::<Request>, &[golden!("operator-request")]),
    seeded("operator_act", canonical::<SignedAct>, &[golden!("operator-act")]),
    seeded("block", canonical::<Block>, &[golden!("block")]),
    seeded("certificate", canonical::<Certificate>, &[golden!("certificate")]),
    seeded("voters", canonical::<ValidatorSet>, &[golden!("validator-set")]),
    seeded("genesis", genesis, &[golden!("genesis")]),
    seeded("leaf", canonical::<Leaf>, &[golden!("leaf")]),
    seeded("batch_path", canonical::<LeafPath>, &[golden!("leaf-path")]),
    seeded("state", ledger::state::fuzz, &[golden!("state-")]),
    seeded("proof", ledger::light::fuzz, &[golden!("proof")]),
    seeded("anchor", ledger::proof::fuzz_anchor, &[golden!("anchor-code")]),
    of("consensus_message", ledger::consensus::message::fuzz),
    of("consensus_wal", ledger::consensus::wal::fuzz),
    of("admission", gatewayd::admission::messages::fuzz),
    of("beat", gatewayd::coordination::fuzz),
    of("log_request", gatewayd::measurement_logs::fuzz),
    of("peer_frame", gatewayd::peers::fuzz),
    of("bridge_message", gatewayd::bridge::fuzz),
    of("node_id", node_id),
    seeded("config", config, &["packaging/defaults.toml"]),
];

const fn of(name: &'static str, run: fn(&[u8])) -> Target {
    seeded(name, run, &[])
}

const fn seeded(name: &'static str, run: fn(&[u8]), seeds: &'static [&'static str]) -> Target {
    Target { name, run, seeds }
}

/// The first record of a site, and its policy.
pub fn genesis(bytes: &[u8]) {
    canonical::<ledger::genesis::Genesis>(bytes);
    canonical::<ledger::policy::Policy>(bytes);
}

/// A node ID as people type it.
pub fn node_id(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok((_, id)) = ledger::ids::NodeId::parse(text)
    {
        let shown = [id.to_gateway_string(), id.to_light_node_string()];
        assert!(shown.iter().any(|shown| shown.eq_ignore_ascii_case(text)), "one ID, one text");
    }
}

/// A configuration file. An error is a sentence on one line.
pub fn config(bytes: &[u8]) {
    if let Err(error) = gatewayd::config::check_text(bytes) {
        assert!(!error.to_string().contains('\n'), "one error, one line");
    }
}

/// A value that has one encoding.
pub fn canonical<T: Decode + Encode>(bytes: &[u8]) {
    if let Ok(value) = T::from_bytes(bytes) {
        assert_eq!(value.to_bytes(), bytes, "accepted bytes are the canonical ones");
    }
}
