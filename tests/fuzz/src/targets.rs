//! The targets, in the order of the data: drivers, attestation, ledger. Where a format has one
//! canonical form, what was accepted must encode to the very bytes it came from.

use ledger::codec::{Decode, Encode};

use crate::Target;

const TPM: &[&str] = &["attestation/testdata"];

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
    Target { name: "tpm_public", run: attestation::fuzz::public, seeds: TPM },
    Target { name: "tpm_attest", run: attestation::fuzz::attest, seeds: TPM },
    Target { name: "tpm_signature", run: attestation::fuzz::signature, seeds: TPM },
    Target { name: "ek_certificate", run: attestation::fuzz::certificate, seeds: TPM },
    Target { name: "ek_chain", run: attestation::fuzz::certificate_chain, seeds: TPM },
    Target { name: "evidence", run: attestation::fuzz::evidence, seeds: TPM },
    Target { name: "credential", run: attestation::fuzz::credential, seeds: TPM },
    of("transaction", transaction),
    of("operator_request", canonical::<ledger::operator::Request>),
    of("operator_act", canonical::<ledger::operator::SignedAct>),
    of("block", canonical::<ledger::block::Block>),
    of("certificate", canonical::<ledger::certificate::Certificate>),
    of("voters", canonical::<ledger::validator_set::ValidatorSet>),
    of("genesis", genesis),
    of("leaf", canonical::<ledger::batch::Leaf>),
    of("batch_path", canonical::<ledger::batch::LeafPath>),
    of("consensus_message", canonical::<ledger::consensus::message::Message>),
    of("consensus_wal", wal),
    of("node_id", node_id),
];

const fn of(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run, seeds: &[] }
}

/// A transaction as a peer or the operator hands it in.
pub fn transaction(bytes: &[u8]) {
    canonical::<ledger::transaction::Transaction>(bytes);
    canonical::<ledger::transaction::Attachment>(bytes);
}

/// The first record of a site, and its policy.
pub fn genesis(bytes: &[u8]) {
    canonical::<ledger::genesis::Genesis>(bytes);
    canonical::<ledger::policy::Policy>(bytes);
}

/// One copy of the write-ahead log, as a disk gives it back.
pub fn wal(bytes: &[u8]) {
    let records = ledger::consensus::wal::scan_bytes(bytes);
    assert!(records <= bytes.len(), "a record has at least one byte");
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

/// A value that has one encoding.
pub fn canonical<T: Decode + Encode>(bytes: &[u8]) {
    if let Ok(value) = T::from_bytes(bytes) {
        assert_eq!(value.to_bytes(), bytes, "accepted bytes are the canonical ones");
    }
}
