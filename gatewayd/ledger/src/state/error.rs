//! Why the state machine refuses.

use thiserror::Error;

use super::counters::CounterError;
use crate::{
    codec::DecodeError,
    ids::{ChainId, Era, Hash, NodeId},
    transaction::{Authorship, Kind},
};

/// Why a transaction's signatures are not accepted. The author (or its peer) is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum VerifyError {
    /// Made for another site.
    #[error("the transaction is for another ledger, {0}")]
    Chain(ChainId),
    /// This kind cannot be authored by this sort of author.
    #[error("{kind:?} cannot be authored so: it needs the {needed:?}")]
    Author {
        /// What was asked.
        kind: Kind,
        /// Who may.
        needed: Authorship,
    },
    /// The author, or a gateway whose signature is needed, is no member.
    #[error("a signer is no member of this site")]
    NotAMember(NodeId),
    /// The author's signature is wrong.
    #[error("the author's signature is not valid")]
    Signature,
    /// A signature inside of the body or attachment is wrong.
    #[error("the {0} is not valid")]
    Part(&'static str),
    /// The attachment is missing, or does not fit the head.
    #[error("the attachment does not fit")]
    Attachment,
    /// The body contradicts itself.
    #[error("the body is not consistent: {0}")]
    Body(#[from] DecodeError),
}

/// Why a transaction cannot be recorded in this state. A block that contains one is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ApplyError {
    /// Made in an era that has not begun.
    #[error("made in era {0}, which has not begun")]
    Era(Era),
    /// Past its expiry.
    #[error("expired at {0}")]
    Expired(u64),
    /// Used, too old, zero or too far ahead.
    #[error("nonce {0} is used, too old or too far ahead")]
    Nonce(u64),
    /// A key that signed was replaced after the signature was checked.
    #[error("a key that signed it is not current any more")]
    KeyChanged,
    /// The author has too many transactions in this block.
    #[error("more than {0} transactions of one author in a block")]
    TooMany(u32),
    /// A `Recover` shares its block with others.
    #[error("a recovery is the only transaction of its block")]
    RecoveryNotAlone,
    /// A `Recover` that does not fit: wrong era, parent, height or survivors.
    #[error("the recovery does not fit: {0}")]
    Recovery(&'static str),
    /// The author is no member.
    #[error("the author is no member")]
    NotAMember,
    /// The author's standing takes this right away.
    #[error("the author's standing does not allow it")]
    NoRights,
    /// The author has not the label coordinator.
    #[error("the author is no coordinator")]
    NotACoordinator,
    /// The author neither serves nor holds the light node.
    #[error("the author does not hold this light node")]
    NotAHolder(NodeId),
    /// The author does not serve the light node.
    #[error("the author does not serve this light node")]
    NotServing(NodeId),
    /// No such node.
    #[error("the node is not registered")]
    UnknownNode(NodeId),
    /// The light node was given up.
    #[error("the light node is retired")]
    Retired(NodeId),
    /// The light node's standing takes this right away.
    #[error("the light node is suspended or revoked")]
    Quarantined(NodeId),
    /// The ID is registered and alive.
    #[error("the ID is registered already")]
    Registered(NodeId),
    /// The identity is refused for ever.
    #[error("the identity is revoked")]
    Revoked(NodeId),
    /// The registration contradicts itself.
    #[error("the registration is not consistent: {0}")]
    Registration(&'static str),
    /// The ticket does not permit this, or not now.
    #[error("the ticket does not hold: {0}")]
    Ticket(&'static str),
    /// A budget is used up.
    #[error("over the budget of {0}")]
    Budget(&'static str),
    /// Compare-and-set: the epoch is another.
    #[error("expected epoch {expected}, it is {found}")]
    Epoch {
        /// What the author expected.
        expected: u32,
        /// What is.
        found: u32,
    },
    /// The liveness epoch is not the author's current one.
    #[error("liveness epoch {0} is not the current one")]
    Liveness(u32),
    /// The assignment breaks a rule.
    #[error("the assignment is not allowed: {0}")]
    Assignment(&'static str),
    /// All counters or nonces are used up.
    #[error("no {0} are left")]
    Exhausted(&'static str),
    /// The batch is not the author's next.
    #[error("batch {found}, expected {expected}")]
    Sequence {
        /// The author's next.
        expected: u64,
        /// The one given.
        found: u64,
    },
    /// The batch contradicts itself.
    #[error("the batch is not consistent: {0}")]
    Batch(&'static str),
    /// Counters cannot be committed.
    #[error("{error}")]
    Counter {
        /// The light node.
        node: NodeId,
        /// Why.
        error: CounterError,
    },
    /// A receipt's holder may not give it.
    #[error("a receipt is not allowed: {0}")]
    Receipt(&'static str),
    /// The standing cannot change so.
    #[error("the standing cannot change so: {0}")]
    Standing(&'static str),
    /// A signature that counts among those of the voters is of somebody else.
    #[error("a signer is no voter")]
    NotAVoter(NodeId),
    /// Too few signed.
    #[error("{found} signatures, {needed} are needed")]
    NoQuorum {
        /// Signatures in the body.
        found: usize,
        /// Fewest that decide.
        needed: usize,
    },
    /// A voter endorses that is stale or was never attested.
    #[error("an endorser's own attestation does not hold")]
    Endorser(NodeId),
    /// The statement of the verifiers does not hold.
    #[error("the statement does not hold: {0}")]
    Statement(&'static str),
    /// The operator's approval is missing or another.
    #[error("no approval: {0}")]
    Approval(&'static str),
    /// One TPM, one gateway; one type of EK a model.
    #[error("the TPM is refused: {0}")]
    Tpm(&'static str),
    /// The founder's own attestation stands in the way.
    #[error("the founder: {0}")]
    Founder(&'static str),
    /// A member cannot become ready or a voter.
    #[error("no vote yet: {0}")]
    Activation(&'static str),
    /// The statement that a gateway is offline does not hold.
    #[error("the gateway is not found offline: {0}")]
    Offline(&'static str),
    /// Rules have taken out as many voters as they may; the operator decides.
    #[error("rules take out at most {0} voters until the operator decides")]
    RemovalLimit(usize),
    /// The votes prove nothing against the gateway.
    #[error("no evidence of two votes: {0}")]
    Evidence(&'static str),
    /// The policy names what is not there, or brings what it does not name.
    #[error("the policy does not hold: {0}")]
    Policy(&'static str),
    /// A key was used before or belongs to someone else.
    #[error("the key is in use or was")]
    KeyInUse,
    /// The policy asks for a state machine that this build does not have.
    #[error("state machine version {0} is not supported")]
    StateVersion(u32),
    /// The tally's hour was counted already or is not over.
    #[error("hour {0} was tallied already or lies ahead")]
    Hour(u64),
}

/// Why stored entries make no state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StateError {
    /// An entry is damaged.
    #[error("a stored entry is damaged: {0}")]
    Entry(#[from] DecodeError),
    /// An entry that every state has is missing.
    #[error("the {0} entry is missing")]
    Missing(&'static str),
    /// The entries do not lead to the expected root.
    #[error("the stored entries lead to root {found}, the header says {expected}")]
    Root {
        /// What the header says.
        expected: Hash,
        /// What the entries lead to.
        found: Hash,
    },
}
