//! What a transaction changed, for histories and for the daemon; also kept beside the blocks.

use alloc::{format, string::String, vec::Vec};

use super::records::Standing;
use crate::{
    codec::{Decode, DecodeError, Decoder, Encode, Encoder, Text},
    ids::{Era, Height, NodeId},
    transaction::{CounterRange, Label, Reason, TallyCount},
};

/// One change. Numbers on the wire are fixed and never reused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The policy was replaced.
    PolicyChanged,
    /// A node's standing changed.
    StandingChanged {
        /// Gateway or light node.
        node: NodeId,
        /// Before.
        from: Standing,
        /// After.
        to: Standing,
        /// Why.
        reason: Reason,
    },
    /// A new era began.
    Recovered {
        /// The era.
        era: Era,
        /// The block that began it.
        height: Height,
    },
    /// The operator changed its key.
    OperatorRotated,
    /// A gateway changed its vote key.
    KeyRotated {
        /// The gateway.
        gateway: NodeId,
    },
    /// Readings were committed.
    BatchCommitted {
        /// The gateway.
        gateway: NodeId,
        /// Number of the batch among the gateway's.
        sequence: u64,
        /// Number of readings.
        count: u32,
        /// Receipts of other holders.
        receipts: u32,
    },
    /// Counters that were open were closed for good: no room for more gaps.
    GapClosed {
        /// The light node.
        node: NodeId,
        /// The counters.
        range: CounterRange,
    },
    /// A light node opened a session.
    SessionOpened {
        /// The light node.
        node: NodeId,
        /// The new session epoch.
        epoch: u32,
        /// The gateway that answered.
        gateway: NodeId,
    },
    /// A gateway took windows for its use alone.
    Reserved {
        /// The light node.
        node: NodeId,
        /// The gateway.
        gateway: NodeId,
        /// First of the downlink counters taken.
        down: Option<u32>,
        /// First of the join nonces taken.
        join: Option<u32>,
    },
    /// A light node became known.
    Registered {
        /// The light node.
        node: NodeId,
        /// The gateway that saw it prove its identity.
        sponsor: NodeId,
        /// Whether it was known before and had been retired.
        again: bool,
    },
    /// A light node was given up.
    Retired {
        /// The light node.
        node: NodeId,
        /// Why.
        reason: Reason,
    },
    /// A light node got a new list of gateways.
    Assigned {
        /// The light node.
        node: NodeId,
        /// The new assignment epoch.
        epoch: u32,
        /// The gateway that serves it now; `None`: unserved.
        serving: Option<NodeId>,
    },
    /// Strangers were counted.
    Tallied {
        /// The gateway that heard them.
        gateway: NodeId,
        /// Hours since the Unix epoch.
        hour: u64,
        /// The counts.
        counts: Vec<TallyCount>,
    },
    /// A node was refused.
    Refused {
        /// The node.
        node: NodeId,
        /// The gateway that refused it.
        gateway: NodeId,
        /// Why.
        reason: Text<120>,
    },
    /// The operator let a newcomer in, for 30 days.
    GatewayApproved {
        /// The newcomer.
        gateway: NodeId,
        /// Whether its EK is trusted without a certificate.
        pin: bool,
    },
    /// A gateway became a member.
    Admitted {
        /// The gateway.
        gateway: NodeId,
        /// What it does.
        label: Label,
        /// The gateway with the same TPM whose place it took.
        replaces: Option<NodeId>,
    },
    /// A gateway's attestation was recorded.
    Attested {
        /// The gateway.
        gateway: NodeId,
    },
    /// A member showed that it is ready to vote.
    Ready {
        /// The gateway.
        gateway: NodeId,
    },
    /// A gateway votes from the next block on.
    VoteGiven {
        /// The gateway.
        gateway: NodeId,
        /// Number of voters from then on.
        voters: u32,
    },
    /// A gateway votes no more.
    VoteTaken {
        /// The gateway.
        gateway: NodeId,
        /// Number of voters from then on.
        voters: u32,
    },
    /// A quorum found a gateway unreachable.
    WentOffline {
        /// The gateway.
        gateway: NodeId,
    },
    /// A gateway is back.
    CameOnline {
        /// The gateway.
        gateway: NodeId,
        /// Its new liveness epoch.
        epoch: u32,
    },
    /// The operator moved a gateway's place.
    Replaced {
        /// The gateway that went.
        old: NodeId,
        /// The one in its place.
        new: NodeId,
        /// Why.
        reason: Reason,
    },
    /// A gateway left.
    Left {
        /// The gateway.
        gateway: NodeId,
        /// Why.
        reason: Reason,
    },
}

impl Event {
    /// The nodes in whose history the event belongs.
    pub fn nodes(&self) -> Vec<NodeId> {
        match self {
            Self::PolicyChanged | Self::Recovered { .. } | Self::OperatorRotated => Vec::new(),
            Self::StandingChanged { node, .. }
            | Self::GapClosed { node, .. }
            | Self::Retired { node, .. }
            | Self::Assigned { node, .. } => alloc::vec![*node],
            Self::KeyRotated { gateway }
            | Self::BatchCommitted { gateway, .. }
            | Self::Tallied { gateway, .. }
            | Self::GatewayApproved { gateway, .. }
            | Self::Attested { gateway }
            | Self::Ready { gateway }
            | Self::VoteGiven { gateway, .. }
            | Self::VoteTaken { gateway, .. }
            | Self::WentOffline { gateway }
            | Self::CameOnline { gateway, .. }
            | Self::Left { gateway, .. } => alloc::vec![*gateway],
            Self::Admitted { gateway, replaces, .. } => {
                [*gateway].into_iter().chain(*replaces).collect()
            }
            Self::Replaced { old, new, .. } => alloc::vec![*old, *new],
            Self::SessionOpened { node, gateway, .. } | Self::Reserved { node, gateway, .. } => {
                alloc::vec![*node, *gateway]
            }
            Self::Registered { node, sponsor, .. } => alloc::vec![*node, *sponsor],
            Self::Refused { node, gateway, .. } => alloc::vec![*node, *gateway],
        }
    }

    /// The event as a sentence. IDs are not in it: the caller knows whose history it shows.
    pub fn describe(&self) -> String {
        match self {
            Self::PolicyChanged => "the operator replaced the policy".into(),
            Self::StandingChanged { from, to, reason, .. } => {
                let (from, to, reason) = (from.word(), to.word(), reason.as_str());
                format!("standing changed from {from} to {to}: {reason}")
            }
            Self::Recovered { era, height } => {
                format!("the operator recovered the ledger at height {height}: era {era} began")
            }
            Self::OperatorRotated => "the operator changed its key".into(),
            Self::KeyRotated { .. } => "the gateway changed its vote key".into(),
            Self::BatchCommitted { sequence, count, receipts, .. } => {
                format!("batch {sequence} with {count} readings committed, {receipts} receipts")
            }
            Self::GapClosed { range, .. } => {
                let CounterRange { epoch, first, last } = range;
                format!("counters {first} to {last} of session epoch {epoch} closed unrecorded")
            }
            Self::SessionOpened { epoch, .. } => format!("session epoch {epoch} opened"),
            Self::Reserved { down, join, .. } => match (down, join) {
                (Some(down), None) => format!("downlink counters from {down} reserved"),
                (None, Some(join)) => format!("join nonces from {join} reserved"),
                _ => "downlink counters and join nonces reserved".into(),
            },
            Self::Registered { again: false, .. } => "registered".into(),
            Self::Registered { again: true, .. } => "registered again".into(),
            Self::Retired { reason, .. } => format!("retired: {}", reason.as_str()),
            Self::Assigned { epoch, serving: Some(_), .. } => {
                format!("assigned for the {epoch}. time")
            }
            Self::Assigned { serving: None, .. } => "assigned, and unserved".into(),
            Self::Tallied { counts, .. } => {
                let frames: u64 = counts.iter().fold(0, |sum, c| c.frames.saturating_add(sum));
                format!("{frames} frames of strangers in an hour")
            }
            Self::Refused { reason, .. } => format!("refused: {}", reason.as_str()),
            other => other.describe_membership(),
        }
    }

    fn describe_membership(&self) -> String {
        match self {
            Self::GatewayApproved { pin: false, .. } => "the operator approved the gateway".into(),
            Self::GatewayApproved { pin: true, .. } => {
                "the operator approved the gateway and trusts its TPM without a certificate".into()
            }
            Self::Admitted { label, replaces: None, .. } => {
                format!("admitted by a quorum as {}", label.words())
            }
            Self::Admitted { label, replaces: Some(_), .. } => {
                let label = label.words();
                format!("admitted by a quorum as {label}, in place of the one with the same TPM")
            }
            Self::Attested { .. } => "its TPM was attested".into(),
            Self::Ready { .. } => "ready to vote".into(),
            Self::VoteGiven { voters, .. } => {
                format!("votes from the next block on, as one of {voters}")
            }
            Self::VoteTaken { voters, .. } => format!("votes no more; {voters} voters are left"),
            Self::WentOffline { .. } => "found offline by a quorum".into(),
            Self::CameOnline { epoch, .. } => format!("back online, for the {epoch}. time"),
            Self::Replaced { reason, .. } => {
                format!("the operator moved its place to another TPM: {}", reason.as_str())
            }
            Self::Left { reason, .. } => format!("left the site: {}", reason.as_str()),
            // Told above.
            _ => String::new(),
        }
    }
}

impl Encode for Event {
    fn encode(&self, e: &mut Encoder) {
        match self {
            Self::PolicyChanged => e.array(1).uint(1),
            Self::StandingChanged { node, from, to, reason } => {
                e.array(5).uint(2).value(node).value(from).value(to).value(reason)
            }
            Self::Recovered { era, height } => e.array(3).uint(3).value(era).value(height),
            Self::OperatorRotated => e.array(1).uint(4),
            Self::KeyRotated { gateway } => e.array(2).uint(5).value(gateway),
            Self::BatchCommitted { gateway, sequence, count, receipts } => {
                e.array(5).uint(6).value(gateway).value(sequence).value(count).value(receipts)
            }
            Self::GapClosed { node, range } => e.array(3).uint(7).value(node).value(range),
            Self::SessionOpened { node, epoch, gateway } => {
                e.array(4).uint(8).value(node).value(epoch).value(gateway)
            }
            Self::Reserved { node, gateway, down, join } => {
                e.array(5).uint(9).value(node).value(gateway).value(down).value(join)
            }
            Self::Registered { node, sponsor, again } => {
                e.array(4).uint(10).value(node).value(sponsor).value(again)
            }
            Self::Retired { node, reason } => e.array(3).uint(11).value(node).value(reason),
            Self::Assigned { node, epoch, serving } => {
                e.array(4).uint(12).value(node).value(epoch).value(serving)
            }
            Self::Tallied { gateway, hour, counts } => {
                e.array(4).uint(13).value(gateway).value(hour).list(counts)
            }
            Self::Refused { node, gateway, reason } => {
                e.array(4).uint(14).value(node).value(gateway).value(reason)
            }
            Self::GatewayApproved { gateway, pin } => e.array(3).uint(15).value(gateway).value(pin),
            Self::Admitted { gateway, label, replaces } => {
                e.array(4).uint(16).value(gateway).value(label).value(replaces)
            }
            Self::Attested { gateway } => e.array(2).uint(17).value(gateway),
            Self::Ready { gateway } => e.array(2).uint(18).value(gateway),
            Self::VoteGiven { gateway, voters } => e.array(3).uint(19).value(gateway).value(voters),
            Self::VoteTaken { gateway, voters } => e.array(3).uint(20).value(gateway).value(voters),
            Self::WentOffline { gateway } => e.array(2).uint(21).value(gateway),
            Self::CameOnline { gateway, epoch } => e.array(3).uint(22).value(gateway).value(epoch),
            Self::Replaced { old, new, reason } => {
                e.array(4).uint(23).value(old).value(new).value(reason)
            }
            Self::Left { gateway, reason } => e.array(3).uint(24).value(gateway).value(reason),
        };
    }
}

impl Decode for Event {
    const MAX_BYTES: usize = 1024;

    fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let fields = d.array("event", 5)?;
        Ok(match (d.uint("event")?, fields) {
            (1, 1) => Self::PolicyChanged,
            (2, 5) => Self::StandingChanged {
                node: Decode::decode(d)?,
                from: Decode::decode(d)?,
                to: Decode::decode(d)?,
                reason: Decode::decode(d)?,
            },
            (3, 3) => Self::Recovered { era: Decode::decode(d)?, height: Decode::decode(d)? },
            (4, 1) => Self::OperatorRotated,
            (5, 2) => Self::KeyRotated { gateway: Decode::decode(d)? },
            (6, 5) => Self::BatchCommitted {
                gateway: Decode::decode(d)?,
                sequence: Decode::decode(d)?,
                count: Decode::decode(d)?,
                receipts: Decode::decode(d)?,
            },
            (7, 3) => Self::GapClosed { node: Decode::decode(d)?, range: Decode::decode(d)? },
            (8, 4) => Self::SessionOpened {
                node: Decode::decode(d)?,
                epoch: Decode::decode(d)?,
                gateway: Decode::decode(d)?,
            },
            (9, 5) => Self::Reserved {
                node: Decode::decode(d)?,
                gateway: Decode::decode(d)?,
                down: Decode::decode(d)?,
                join: Decode::decode(d)?,
            },
            (10, 4) => Self::Registered {
                node: Decode::decode(d)?,
                sponsor: Decode::decode(d)?,
                again: Decode::decode(d)?,
            },
            (11, 3) => Self::Retired { node: Decode::decode(d)?, reason: Decode::decode(d)? },
            (12, 4) => Self::Assigned {
                node: Decode::decode(d)?,
                epoch: Decode::decode(d)?,
                serving: Decode::decode(d)?,
            },
            (13, 4) => Self::Tallied {
                gateway: Decode::decode(d)?,
                hour: Decode::decode(d)?,
                counts: d.list("tally counts", 8)?,
            },
            (14, 4) => Self::Refused {
                node: Decode::decode(d)?,
                gateway: Decode::decode(d)?,
                reason: Decode::decode(d)?,
            },
            (number, fields) => return decode_membership(d, number, fields),
        })
    }
}

fn decode_membership(
    d: &mut Decoder<'_>,
    number: u64,
    fields: usize,
) -> Result<Event, DecodeError> {
    let gateway = |d: &mut Decoder<'_>| NodeId::decode(d);
    Ok(match (number, fields) {
        (15, 3) => Event::GatewayApproved { gateway: gateway(d)?, pin: Decode::decode(d)? },
        (16, 4) => Event::Admitted {
            gateway: gateway(d)?,
            label: Decode::decode(d)?,
            replaces: Decode::decode(d)?,
        },
        (17, 2) => Event::Attested { gateway: gateway(d)? },
        (18, 2) => Event::Ready { gateway: gateway(d)? },
        (19, 3) => Event::VoteGiven { gateway: gateway(d)?, voters: Decode::decode(d)? },
        (20, 3) => Event::VoteTaken { gateway: gateway(d)?, voters: Decode::decode(d)? },
        (21, 2) => Event::WentOffline { gateway: gateway(d)? },
        (22, 3) => Event::CameOnline { gateway: gateway(d)?, epoch: Decode::decode(d)? },
        (23, 4) => Event::Replaced {
            old: Decode::decode(d)?,
            new: Decode::decode(d)?,
            reason: Decode::decode(d)?,
        },
        (24, 3) => Event::Left { gateway: gateway(d)?, reason: Decode::decode(d)? },
        _ => return Err(DecodeError::Invalid("event")),
    })
}
