//! The targets, in the order of the data: drivers, attestation, ledger, configuration. Where a
//! format has one canonical form, what was accepted must encode to the very bytes it came from.

use drivers::senml::Pack;
use ledger::codec::{Decode, Encode};

use crate::Target;

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "serial_stream", run: serial_stream, seeds: &[] },
    Target { name: "serial_frame", run: serial_frame, seeds: &[] },
    Target { name: "senml_json", run: senml_json, seeds: &["drivers/testdata"] },
    Target { name: "senml_cbor", run: senml_cbor, seeds: &["drivers/testdata"] },
    Target { name: "cayenne", run: drivers::codec::cayenne::fuzz, seeds: &[] },
    Target { name: "lora_datagram", run: drivers::lora::gwmp::fuzz, seeds: &[] },
    Target { name: "lora_frame", run: drivers::lora::frame::fuzz, seeds: &[] },
    Target { name: "lora_mac", run: drivers::lora::mac::fuzz, seeds: &[] },
    Target { name: "lora_record", run: drivers::lora::record::fuzz, seeds: &[] },
    Target { name: "transaction", run: transaction, seeds: &["gatewayd/ledger/testdata"] },
    Target { name: "block", run: block, seeds: &["gatewayd/ledger/testdata"] },
    Target { name: "genesis", run: genesis, seeds: &["gatewayd/ledger/testdata"] },
    Target { name: "node_id", run: node_id, seeds: &[] },
];

/// A serial line: COBS frames cut out of noise, in two pieces as reads deliver them.
pub fn serial_stream(bytes: &[u8]) {
    let mut framer = sensor::frame::Framer::new();
    let (head, tail) = bytes.split_at(bytes.len() / 3);
    for mut piece in [head, tail] {
        while let Some(frame) = framer.next(&mut piece) {
            if let Ok(frame) = frame {
                serial_frame(frame);
            }
        }
    }
}

/// One frame of a shared-key serial node, after COBS.
pub fn serial_frame(bytes: &[u8]) {
    // Whatever it says, a parsed frame lies within the bytes it came from.
    if let Ok(sensor::frame::Frame::Sealed(sealed)) = sensor::frame::Frame::parse(bytes) {
        assert_eq!(sealed.bytes, bytes, "a sealed frame is kept as it came");
    }
}

/// SenML JSON (RFC 8428 section 5), and its resolution against a clock.
pub fn senml_json(bytes: &[u8]) {
    if let Ok(pack) = Pack::from_json(bytes) {
        drop(pack.resolve(1_800_000_000.0));
    }
}

/// SenML CBOR (RFC 8428 section 6): what was read is written and reads back the same.
pub fn senml_cbor(bytes: &[u8]) {
    if let Ok(pack) = Pack::from_cbor(bytes) {
        let written = pack.to_cbor();
        let again = Pack::from_cbor(&written).expect("what we write we can read");
        assert_eq!(again.to_cbor(), written, "one pack, one encoding");
        drop(pack.resolve(1_800_000_000.0));
    }
}

/// A transaction as a peer or the operator hands it in.
pub fn transaction(bytes: &[u8]) {
    canonical::<ledger::transaction::Transaction>(bytes);
    drop(ledger::transaction::Transaction::from_raw(bytes));
}

/// A block as a peer sends it.
pub fn block(bytes: &[u8]) {
    canonical::<ledger::block::Block>(bytes);
    canonical::<ledger::certificate::Certificate>(bytes);
    canonical::<ledger::validator_set::ValidatorSet>(bytes);
}

/// The first record of a site, and its policy.
pub fn genesis(bytes: &[u8]) {
    drop(ledger::genesis::Genesis::read(bytes));
    canonical::<ledger::genesis::Genesis>(bytes);
    canonical::<ledger::policy::Policy>(bytes);
}

/// A node ID as people type it.
pub fn node_id(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Ok((_, id)) = ledger::ids::NodeId::parse(text) {
            let shown = [id.to_gateway_string(), id.to_light_node_string()];
            assert!(shown.iter().any(|shown| shown.eq_ignore_ascii_case(text)), "one ID, one text");
        }
    }
}

fn canonical<T: Decode + Encode>(bytes: &[u8]) {
    if let Ok(value) = T::from_bytes(bytes) {
        assert_eq!(value.to_bytes(), bytes, "accepted bytes are the canonical ones");
    }
}
