//! Whether whoever answers is a member of the site that the site code names. Pure: a newcomer
//! checks this before it says anything about itself.

use ledger::codec::DecodeError;
use ledger::crypto::PublicKey;
use ledger::genesis::{Genesis, GenesisError};
use ledger::header::Header;
use ledger::ids::{ChainId, Hash, NodeId};
use ledger::light::{self, Options};
use ledger::policy::Policy;
use ledger::proof::{Anchor, Proof, Subject};
use ledger::state::{Gateway, Key, Record};
use ledger::validator_set::ValidatorSet;

use super::messages::HeadAnswer;

/// Why nothing is said to whoever answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Not a genesis record.
    #[error("it shows no valid genesis record: {0}")]
    Genesis(#[from] GenesisError),
    /// Not a proof.
    #[error("it shows no valid proof: {0}")]
    Proof(#[from] DecodeError),
    /// The genesis record is not that of the proof's ledger.
    #[error("it shows the genesis record of another site")]
    OtherGenesis,
    /// The proof does not hold under the site code.
    #[error("it is not of the site that the site code names ({check}): {sentence}")]
    SiteCode {
        /// The check that fails.
        check: &'static str,
        /// What was found.
        sentence: String,
    },
    /// The proof is about another gateway than the one whose key this session proves.
    #[error("it shows the membership of another gateway, {}", .0.to_gateway_string())]
    OtherGateway(NodeId),
    /// Nobody of that key is on the record.
    #[error("its key is not that of a member of the site")]
    NotAMember,
    /// A member without rights.
    #[error("it is no member in good standing: it is {0}")]
    Standing(&'static str),
    /// The state proof of the policy is missing.
    #[error("it does not show the site's policy")]
    NoPolicy,
}

/// A site whose record hangs on the site code.
#[derive(Debug, Clone)]
pub struct KnownSite {
    /// Its first record.
    pub genesis: Genesis,
    /// Its chain.
    pub chain_id: ChainId,
    /// The newest certified header that was shown.
    pub header: Header,
    /// Its policy there.
    pub policy: Policy,
    /// The voters that certified it.
    pub voters: ValidatorSet,
    /// The member that answered.
    pub node: NodeId,
    /// Its record.
    pub gateway: Gateway,
    /// Its EK, when the operator pinned it and the proof shows that.
    pub pinned_ek: Option<Hash>,
    /// The header that the site code names, when it is older than `header`.
    pub anchor_header: Option<Header>,
}

/// Checks what was answered to `Head` in a session that proves the key `peer`.
///
/// # Errors
/// [`HeadError`]: a forged code, a spoofed address, another site, no member.
pub fn check(
    answer: &HeadAnswer,
    anchor: &Anchor,
    peer: &PublicKey,
    now_ms: Option<u64>,
) -> Result<KnownSite, HeadError> {
    let genesis = Genesis::read(&answer.genesis)?;
    let proof = <Proof as ledger::codec::Decode>::from_bytes(&answer.proof)?;
    let header = proof.target.header.clone();
    let node = NodeId::of_key(peer);
    if genesis.chain_id() != header.chain_id {
        return Err(HeadError::OtherGenesis);
    }
    match &proof.subject {
        Subject::Identity(shown) if *shown == node => {}
        Subject::Identity(shown) => return Err(HeadError::OtherGateway(*shown)),
        Subject::Reading(_) => return Err(HeadError::NotAMember),
    }
    let options = Options { now_ms, ..Options::default() };
    let verdict = light::verify(&proof, anchor, &options);
    if let Some(failed) = verdict.failure() {
        let (check, sentence) = (failed.name, failed.sentence.clone());
        return Err(HeadError::SiteCode { check, sentence });
    }
    let gateway = match entry(&proof, &Key::Gateway(node)) {
        Some(Record::Gateway(gateway)) if gateway.identity == *peer => gateway,
        _ => return Err(HeadError::NotAMember),
    };
    if gateway.replaced_by.is_some() {
        return Err(HeadError::Standing("replaced"));
    }
    if !gateway.standing.standing.may_record() {
        return Err(HeadError::Standing(gateway.standing.standing.word()));
    }
    let Some(Record::Policy(policy)) = entry(&proof, &Key::Policy) else {
        return Err(HeadError::NoPolicy);
    };
    // The proof was judged: it has at least one set, and the last certified the header.
    let voters = proof.target.sets.last().cloned().ok_or(HeadError::NotAMember)?;
    let (chain_id, pinned_ek) = (header.chain_id, pinned_ek(&proof, &node));
    let steps = proof.target.steps.iter().map(|(header, _)| header);
    let mut older = proof.target.anchors.iter().chain(steps);
    let anchor_header = older.find(|older| Anchor::of(older) == *anchor).cloned();
    Ok(KnownSite {
        genesis,
        chain_id,
        header,
        policy,
        voters,
        node,
        gateway,
        pinned_ek,
        anchor_header,
    })
}

/// The EK of a gateway that the operator trusts without a certificate.
fn pinned_ek(proof: &Proof, node: &NodeId) -> Option<Hash> {
    proof.states.iter().find_map(|state| {
        let Key::Endorsement(digest) = *state.key() else { return None };
        match entry(proof, state.key()) {
            Some(Record::Endorsement(found)) if found.gateway == *node && found.pinned => {
                Some(digest)
            }
            _ => None,
        }
    })
}

/// An entry that the proof shows under its header.
fn entry(proof: &Proof, key: &Key) -> Option<Record> {
    let shown = proof.states.iter().find(|state| state.key() == key)?;
    shown.under(&proof.target.header.state_root).flatten()
}

#[cfg(test)]
#[path = "head_tests.rs"]
pub(crate) mod tests;
