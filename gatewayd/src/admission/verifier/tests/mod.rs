//! The verifier on software chips and a real ledger state: an admission from the introduction to
//! the member, and every refusal by name.

#[path = "../../../../../attestation/tests/verifier/authority.rs"]
#[expect(dead_code, reason = "the authority issues more than is asked of it here")]
mod authority;
mod bounds;
pub(in crate::admission) mod chip;
mod logs;
mod members;
mod newcomers;
mod site;

use ledger::ids::NodeId;

use crate::peers::Session;
use chip::Chip;

fn node_of(chip: &Chip) -> NodeId {
    NodeId::of_key(&chip.identity.public_key())
}

/// A guest's session; sessions differ by their exporter.
fn session(chip: &Chip, exporter: u8) -> Session {
    let identity = chip.identity.public_key();
    Session {
        node: NodeId::of_key(&identity),
        identity,
        exporter: [exporter; 32],
        member: false,
        remote: "192.0.2.7:40000".parse().unwrap(),
    }
}
