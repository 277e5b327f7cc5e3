//! The entries of the state, each with its canonical encoding.

use alloc::vec::Vec;

use super::{activity::Activity, counters::Counters, key::Key, participation::Participation};
use crate::{
    codec::{Decode, DecodeError, Decoder, Encode, Encoder, Text, canonical, check_ascending},
    crypto::PublicKey,
    genesis::TpmName,
    ids::{ChainId, Era, Hash, Height, IdentityKind, NodeId},
    policy::Policy,
    transaction::{CounterRange, Document, Label, MAX_HOLDERS, Reason},
    validator_set::MAX_VOTERS,
};

/// How much a node is trusted; each change is a transaction with a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Standing {
    /// Known, without rights.
    Candidate = 1,
    /// Full rights.
    Active = 2,
    /// Reported: less trust, more verification.
    Marked = 3,
    /// Without rights for now.
    Suspended = 4,
    /// Refused for ever under this identity.
    Revoked = 5,
}

impl Standing {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Candidate => "candidate",
            Self::Active => "active",
            Self::Marked => "marked",
            Self::Suspended => "suspended",
            Self::Revoked => "revoked",
        }
    }

    /// Whether the node may record, and author what its role allows.
    pub fn may_record(self) -> bool {
        matches!(self, Self::Active | Self::Marked)
    }
}

impl Encode for Standing {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.uint(*self as u64);
    }
}

impl Decode for Standing {
    const MAX_BYTES: usize = 1;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(match decoder.uint8("standing")? {
            1 => Self::Candidate,
            2 => Self::Active,
            3 => Self::Marked,
            4 => Self::Suspended,
            5 => Self::Revoked,
            _ => return Err(DecodeError::Invalid("standing")),
        })
    }
}

/// Standing with its history of one: since when, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandingRecord {
    /// The standing.
    pub standing: Standing,
    /// Height of the block that changed it last.
    pub since: Height,
    /// The reason given; empty for the first standing.
    pub reason: Reason,
}

canonical!(StandingRecord, "standing", 256, [standing, since, reason]);

impl StandingRecord {
    /// Full rights from a height on, without a word.
    pub fn active(since: Height) -> Self {
        Self { standing: Standing::Active, since, reason: Reason::default() }
    }
}

/// What the ledger knows about a gateway's TPM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attestation {
    /// A hardware TPM that nobody has checked yet.
    Unverified,
    /// A software TPM: vouches for nothing.
    Unattested,
    /// A quorum appraised its evidence.
    Attested {
        /// Height of the block that recorded it.
        height: Height,
        /// Time of that block, Unix milliseconds.
        time_ms: u64,
        /// SHA-256 of the policy that was applied.
        policy_hash: Hash,
        /// Claims that were not proven and that the policy accepted, bit i for claim i.
        warnings: u32,
    },
}

impl Attestation {
    /// Whether a quorum (for the founder: the second gateway) has appraised its evidence.
    pub fn is_attested(&self) -> bool {
        matches!(self, Self::Attested { .. })
    }

    /// Whether it was attested longer ago than an attestation is valid.
    pub fn is_stale(&self, valid_s: u32, time_ms: u64) -> bool {
        match self {
            Self::Attested { time_ms: since_ms, .. } => {
                time_ms.saturating_sub(*since_ms) > u64::from(valid_s) * 1_000
            }
            Self::Unverified | Self::Unattested => false,
        }
    }
}

impl Encode for Attestation {
    fn encode(&self, encoder: &mut Encoder) {
        match self {
            Self::Unverified => encoder.array(1).uint(1),
            Self::Unattested => encoder.array(1).uint(2),
            Self::Attested { height, time_ms, policy_hash, warnings } => {
                encoder.array(5).uint(3).value(height).value(time_ms);
                encoder.value(policy_hash).value(warnings)
            }
        };
    }
}

impl Decode for Attestation {
    const MAX_BYTES: usize = 64;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let fields = decoder.array("attestation", 5)?;
        match (decoder.uint("attestation")?, fields) {
            (1, 1) => Ok(Self::Unverified),
            (2, 1) => Ok(Self::Unattested),
            (3, 5) => Ok(Self::Attested {
                height: Height::decode(decoder)?,
                time_ms: decoder.uint("time")?,
                policy_hash: Hash::decode(decoder)?,
                warnings: decoder.uint32("warnings")?,
            }),
            _ => Err(DecodeError::Invalid("attestation")),
        }
    }
}

/// The site as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// SHA-256 of the genesis record.
    pub chain_id: ChainId,
    /// Recoveries so far.
    pub era: Era,
    /// The operator's current key.
    pub operator: PublicKey,
    /// The newest recoveries, ascending by era; at most [`MAX_RECOVERIES`].
    pub recoveries: Vec<Recovery>,
}

canonical!(Site, "site", 2048, [
    chain_id, era, operator, recoveries: list(MAX_RECOVERIES),
]);

/// Recoveries that the state remembers; the chain remembers all.
pub const MAX_RECOVERIES: usize = 64;

/// A recovery of the ledger by the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// The era that began.
    pub era: Era,
    /// The block that began it.
    pub height: Height,
}

canonical!(Recovery, "recovery", 16, [era, height]);

/// Which gateways vote; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voters {
    /// The voters, ascending.
    pub nodes: Vec<NodeId>,
    /// Those that a rule took out and the operator has not yet decided on, ascending.
    pub removed: Vec<NodeId>,
}

impl Voters {
    /// Voters of whom none was taken out by a rule.
    pub fn new(nodes: Vec<NodeId>) -> Self {
        Self { nodes, removed: Vec::new() }
    }
}

impl Encode for Voters {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.array(2).list(&self.nodes).list(&self.removed);
    }
}

impl Decode for Voters {
    const MAX_BYTES: usize = 16 + 2 * MAX_VOTERS * NodeId::MAX_BYTES;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("voters", 2)?;
        let nodes: Vec<NodeId> = decoder.list("voters", MAX_VOTERS)?;
        check_ascending("voters", &nodes)?;
        let removed: Vec<NodeId> = decoder.list("removed voters", MAX_VOTERS)?;
        check_ascending("removed voters", &removed)?;
        if nodes.is_empty() {
            return Err(DecodeError::Invalid("voters"));
        }
        Ok(Self { nodes, removed })
    }
}

/// A gateway. What proofs do not need is kept elsewhere, so that they stay short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Identity key, in its TPM.
    pub identity: PublicKey,
    /// Current vote key.
    pub vote_key: PublicKey,
    /// Label full: stores payloads, serves light nodes, may vote.
    pub full: bool,
    /// Label coordinator: takes join requests and assigns.
    pub coordinator: bool,
    /// Standing.
    pub standing: StandingRecord,
    /// What is known about its TPM.
    pub attestation: Attestation,
    /// Height at which it became a member.
    pub member_since: Height,
    /// Whether it counts as online.
    pub online: bool,
    /// Counts its returns; windows and offline statements are bound to it.
    pub liveness_epoch: u32,
    /// Height at which it last showed that it is ready to vote.
    pub ready: Option<Height>,
    /// The gateway that took its place.
    pub replaced_by: Option<NodeId>,
}

canonical!(
    Gateway,
    "gateway",
    512,
    [
        identity,
        vote_key,
        full,
        coordinator,
        standing,
        attestation,
        member_since,
        online,
        liveness_epoch,
        ready,
        replaced_by,
    ]
);

impl Gateway {
    /// Whether it can serve light nodes now.
    pub fn can_serve(&self) -> bool {
        self.online && self.full && self.standing.standing.may_record()
    }

    /// Its label.
    pub fn label(&self) -> Label {
        Label { full: self.full, coordinator: self.coordinator }
    }
}

/// The gateway behind an endorsement key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endorsement {
    /// The gateway.
    pub gateway: NodeId,
    /// Name of its attestation key.
    pub ak_name: TpmName,
    /// Trusted by the operator's word, without a certificate.
    pub pinned: bool,
}

canonical!(Endorsement, "endorsement", 96, [gateway, ak_name, pinned]);

/// The operator's approval of a newcomer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Approval {
    /// SHA-256 of the EK public key that it is for.
    pub ek_digest: Hash,
    /// The label that it is for.
    pub label: Label,
    /// Attestation policy under which the newcomer was appraised.
    pub policy_hash: Hash,
    /// Whether the EK is trusted without a certificate.
    pub pin: bool,
    /// Height of the block that recorded it.
    pub height: Height,
    /// Time of that block, Unix milliseconds.
    pub time_ms: u64,
    /// Whether an `Admit` has used it: it is good once.
    pub used: bool,
}

canonical!(Approval, "approval", 128, [ek_digest, label, policy_hash, pin, height, time_ms, used,]);

/// How long an approval holds, milliseconds of block time.
pub const APPROVAL_MS: u64 = 30 * 86_400_000;

impl Approval {
    /// Whether it can still be used at a block time.
    pub fn holds(&self, time_ms: u64) -> bool {
        !self.used && time_ms <= self.time_ms.saturating_add(APPROVAL_MS)
    }
}

/// When a light node was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retirement {
    /// Height of the block.
    pub height: Height,
    /// Time of the block, Unix milliseconds.
    pub time_ms: u64,
}

canonical!(Retirement, "retirement", 24, [height, time_ms]);

/// A light node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LightNode {
    /// How it proves who it is.
    pub identity_kind: IdentityKind,
    /// Its own key, when it has one.
    pub public_key: Option<PublicKey>,
    /// Device class as the driver calls it.
    pub class: Text<16>,
    /// Highest assurance level of its readings, 0 to 3.
    pub level: u8,
    /// Expected seconds between readings; 0 for unknown.
    pub expected_interval_s: u32,
    /// Whether downlinks are needed.
    pub downlink: bool,
    /// Whether frames carry a counter of the device's own.
    pub wire_counter: bool,
    /// The owner's key; `None` for the operator.
    pub owner: Option<PublicKey>,
    /// Salted hash of name, place and calibration.
    pub descriptor_hash: Hash,
    /// The gateway that saw it prove its identity.
    pub sponsor: NodeId,
    /// Standing.
    pub standing: StandingRecord,
    /// Height of its (last) registration.
    pub registered: Height,
    /// When it was given up, if it was.
    pub retired: Option<Retirement>,
    /// Counts assignments.
    pub assign_epoch: u32,
    /// Gateways that serve it, in order of preference.
    pub gateways: Vec<NodeId>,
    /// Since when a gateway that held its keys is revoked, until it is registered anew.
    pub exposed_since: Option<Height>,
}

canonical!(LightNode, "light node", 1024, [
    identity_kind, public_key, class, level, expected_interval_s, downlink, wire_counter, owner,
    descriptor_hash, sponsor, standing, registered, retired, assign_epoch,
    gateways: list(MAX_HOLDERS), exposed_since,
]);

/// A window of downlink counters or join nonces that one gateway may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The gateway.
    pub gateway: NodeId,
    /// Its liveness epoch; void in any other.
    pub liveness_epoch: u32,
    /// First value of the window.
    pub first: u32,
}

canonical!(Window, "window", 40, [gateway, liveness_epoch, first]);

/// Downlink counters of one window.
pub const DOWN_WINDOW: u32 = 64;

/// Join nonces of one window.
pub const JOIN_WINDOW: u32 = 16;

/// Session, counters and windows of a light node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// Epoch and committed counters.
    pub counters: Counters,
    /// Digest of the current session's public parameters; zero before the first.
    pub digest: Hash,
    /// Next downlink counter that nobody has taken.
    pub down_next: u32,
    /// The last downlink window taken.
    pub down: Option<Window>,
    /// Next join nonce that nobody has taken.
    pub join_next: u32,
    /// The last join window taken.
    pub join: Option<Window>,
}

impl Default for SessionRecord {
    fn default() -> Self {
        Self {
            counters: Counters::default(),
            digest: Hash::ZERO,
            down_next: 0,
            down: None,
            // LoRaWAN 1.0.4: a device takes a JoinNonce above its last, which begins at 0.
            join_next: 1,
            join: None,
        }
    }
}

/// Most gap ranges of a stored record.
const MAX_STORED_GAPS: usize = super::counters::MAX_GAPS_OFFLINE + 1;

impl Encode for SessionRecord {
    fn encode(&self, encoder: &mut Encoder) {
        let Self { counters, digest, down_next, down, join_next, join } = self;
        let Counters { epoch, highest, gaps } = counters;
        encoder.array(8).value(epoch).value(highest).list(gaps).value(digest);
        encoder.value(down_next).value(down).value(join_next).value(join);
    }
}

impl Decode for SessionRecord {
    const MAX_BYTES: usize = 256 + MAX_STORED_GAPS * CounterRange::MAX_BYTES;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("session", 8)?;
        Ok(Self {
            counters: Counters {
                epoch: decoder.uint32("epoch")?,
                highest: decoder.option()?,
                gaps: decoder.list("gaps", MAX_STORED_GAPS)?,
            },
            digest: Hash::decode(decoder)?,
            down_next: decoder.uint32("next downlink counter")?,
            down: decoder.option()?,
            join_next: decoder.uint32("next join nonce")?,
            join: decoder.option()?,
        })
    }
}

/// A ticket that was used: it is good once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsedTicket {
    /// What its issuer signed.
    pub digest: Hash,
    /// After this block time, Unix milliseconds, it holds no more and is forgotten.
    pub expires_ms: u64,
}

canonical!(UsedTicket, "used ticket", 48, [digest, expires_ms]);

/// Used tickets of one light node that have not expired.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsedTickets {
    /// In order of use.
    pub tickets: Vec<UsedTicket>,
}

/// Most used and unexpired tickets of one light node.
pub const MAX_USED_TICKETS: usize = 16;

impl Encode for UsedTickets {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.list(&self.tickets);
    }
}

impl Decode for UsedTickets {
    const MAX_BYTES: usize = 16 + MAX_USED_TICKETS * UsedTicket::MAX_BYTES;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self { tickets: decoder.list("used tickets", MAX_USED_TICKETS)? })
    }
}

/// An entry of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Under [`Key::Site`].
    Site(Site),
    /// Under [`Key::Policy`].
    Policy(Policy),
    /// Under [`Key::Voters`].
    Voters(Voters),
    /// Under [`Key::Participation`].
    Participation(Participation),
    /// Under [`Key::Activity`].
    Activity(Activity),
    /// Under [`Key::VoteKey`].
    VoteKey(NodeId),
    /// Under [`Key::Endorsement`].
    Endorsement(Endorsement),
    /// Under [`Key::TpmModel`]: the one type of EK that is accepted.
    TpmModel(u8),
    /// Under [`Key::Approval`].
    Approval(Approval),
    /// Under [`Key::Document`].
    Document(Document),
    /// Under [`Key::Session`].
    Session(SessionRecord),
    /// Under [`Key::Tickets`].
    Tickets(UsedTickets),
    /// Under [`Key::LightNode`].
    LightNode(LightNode),
    /// Under [`Key::Gateway`].
    Gateway(Gateway),
}

impl Record {
    /// The canonical value, as stored and hashed.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Site(record) => record.to_bytes(),
            Self::Policy(record) => record.to_bytes(),
            Self::Voters(record) => record.to_bytes(),
            Self::Participation(record) => record.to_bytes(),
            Self::Activity(record) => record.to_bytes(),
            Self::VoteKey(record) => record.to_bytes(),
            Self::Endorsement(record) => record.to_bytes(),
            Self::TpmModel(record) => record.to_bytes(),
            Self::Approval(record) => record.to_bytes(),
            Self::Document(record) => record.to_bytes(),
            Self::Session(record) => record.to_bytes(),
            Self::Tickets(record) => record.to_bytes(),
            Self::LightNode(record) => record.to_bytes(),
            Self::Gateway(record) => record.to_bytes(),
        }
    }

    /// Reads the value of a key.
    ///
    /// # Errors
    /// Any departure from the canonical form.
    pub fn from_bytes(key: &Key, bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(match key {
            Key::Site => Self::Site(Decode::from_bytes(bytes)?),
            Key::Policy => Self::Policy(Decode::from_bytes(bytes)?),
            Key::Voters => Self::Voters(Decode::from_bytes(bytes)?),
            Key::Participation => Self::Participation(Decode::from_bytes(bytes)?),
            Key::Activity(_) => Self::Activity(Decode::from_bytes(bytes)?),
            Key::VoteKey(_) => Self::VoteKey(Decode::from_bytes(bytes)?),
            Key::Endorsement(_) => Self::Endorsement(Decode::from_bytes(bytes)?),
            Key::TpmModel(_) => Self::TpmModel(Decode::from_bytes(bytes)?),
            Key::Approval(_) => Self::Approval(Decode::from_bytes(bytes)?),
            Key::Document(_) => Self::Document(Decode::from_bytes(bytes)?),
            Key::Session(_) => Self::Session(Decode::from_bytes(bytes)?),
            Key::Tickets(_) => Self::Tickets(Decode::from_bytes(bytes)?),
            Key::LightNode(_) => Self::LightNode(Decode::from_bytes(bytes)?),
            Key::Gateway(_) => Self::Gateway(Decode::from_bytes(bytes)?),
        })
    }
}
