//! The body of a transaction: one variant for each delivered kind.

use alloc::boxed::Box;

use super::{
    Activate, Admit, Assign, Attest, Authorship, BatchHead, GatewayApproval, Kind, Leave, NodeAct,
    Offline, Online, OperatorRotation, PolicyAct, Recover, Refusal, Register, Replace, Reserve,
    Retire, RotateKey, Session, Suspend, SuspendCause, Tally,
};
use crate::codec::{Decode, DecodeError, Decoder, Encode, Encoder};

/// What a transaction does, with its particulars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Replaces the site's policy.
    Policy(Box<PolicyAct>),
    /// Makes a gateway a member.
    Admit(Box<Admit>),
    /// Makes members ready, and voters when the site may grow.
    Activate(Activate),
    /// Renews a member's attestation.
    Attest(Box<Attest>),
    /// States that a gateway is unreachable.
    Offline(Offline),
    /// States that the author is back.
    Online(Online),
    /// Takes a node's rights away for now.
    Suspend(Suspend),
    /// Gives a marked or suspended node its rights back.
    Pardon(NodeAct),
    /// Refuses an identity for ever.
    Revoke(NodeAct),
    /// Moves a gateway's place to another TPM.
    Replace(Box<Replace>),
    /// Begins a new era.
    Recover(Recover),
    /// Changes the operator key.
    OperatorRotation(OperatorRotation),
    /// Lets a newcomer in.
    GatewayApproval(GatewayApproval),
    /// Commits a group of readings.
    Batch(BatchHead),
    /// Opens a new session of a light node.
    Session(Session),
    /// Takes downlink counters and join nonces.
    Reserve(Reserve),
    /// Makes a light node known.
    Register(Register),
    /// Gives a light node up.
    Retire(Retire),
    /// Says which gateways serve light nodes.
    Assign(Assign),
    /// Hourly aggregate of strangers.
    Tally(Tally),
    /// Records a refusal.
    Refusal(Refusal),
    /// Replaces a gateway's vote key.
    RotateKey(RotateKey),
    /// Ends the author's membership.
    Leave(Leave),
}

impl Body {
    /// The kind, which stands before the body on the wire.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Policy(_) => Kind::Policy,
            Self::Admit(_) => Kind::Admit,
            Self::Activate(_) => Kind::Activate,
            Self::Attest(_) => Kind::Attest,
            Self::Offline(_) => Kind::Offline,
            Self::Online(_) => Kind::Online,
            Self::Suspend(_) => Kind::Suspend,
            Self::Pardon(_) => Kind::Pardon,
            Self::Revoke(_) => Kind::Revoke,
            Self::Replace(_) => Kind::Replace,
            Self::Recover(_) => Kind::Recover,
            Self::OperatorRotation(_) => Kind::OperatorRotation,
            Self::GatewayApproval(_) => Kind::GatewayApproval,
            Self::Batch(_) => Kind::Batch,
            Self::Session(_) => Kind::Session,
            Self::Reserve(_) => Kind::Reserve,
            Self::Register(_) => Kind::Register,
            Self::Retire(_) => Kind::Retire,
            Self::Assign(_) => Kind::Assign,
            Self::Tally(_) => Kind::Tally,
            Self::Refusal(_) => Kind::Refusal,
            Self::RotateKey(_) => Kind::RotateKey,
            Self::Leave(_) => Kind::Leave,
        }
    }

    /// Who may author it: as its kind says, but a `Suspend` by rule is a quorum's.
    pub fn authorship(&self) -> Authorship {
        match self {
            Self::Suspend(body) if body.cause != SuspendCause::Operator => Authorship::Quorum,
            other => other.kind().authorship(),
        }
    }

    /// Reads the body of a kind.
    ///
    /// # Errors
    /// Kinds that are not delivered ([`DecodeError::UnsupportedKind`]), and a bad body.
    pub fn decode(kind: Kind, decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(match kind {
            Kind::Policy => Self::Policy(Box::new(Decode::decode(decoder)?)),
            Kind::Admit => Self::Admit(Box::new(Decode::decode(decoder)?)),
            Kind::Activate => Self::Activate(Decode::decode(decoder)?),
            Kind::Attest => Self::Attest(Box::new(Decode::decode(decoder)?)),
            Kind::Offline => Self::Offline(Decode::decode(decoder)?),
            Kind::Online => Self::Online(Decode::decode(decoder)?),
            Kind::Suspend => Self::Suspend(Decode::decode(decoder)?),
            Kind::Pardon => Self::Pardon(Decode::decode(decoder)?),
            Kind::Revoke => Self::Revoke(Decode::decode(decoder)?),
            Kind::Replace => Self::Replace(Box::new(Decode::decode(decoder)?)),
            Kind::Recover => Self::Recover(Decode::decode(decoder)?),
            Kind::OperatorRotation => Self::OperatorRotation(Decode::decode(decoder)?),
            Kind::GatewayApproval => Self::GatewayApproval(Decode::decode(decoder)?),
            Kind::Batch => Self::Batch(Decode::decode(decoder)?),
            Kind::Session => Self::Session(Decode::decode(decoder)?),
            Kind::Reserve => Self::Reserve(Decode::decode(decoder)?),
            Kind::Register => Self::Register(Decode::decode(decoder)?),
            Kind::Retire => Self::Retire(Decode::decode(decoder)?),
            Kind::Assign => Self::Assign(Decode::decode(decoder)?),
            Kind::Tally => Self::Tally(Decode::decode(decoder)?),
            Kind::Refusal => Self::Refusal(Decode::decode(decoder)?),
            Kind::RotateKey => Self::RotateKey(Decode::decode(decoder)?),
            Kind::Leave => Self::Leave(Decode::decode(decoder)?),
            Kind::Grant | Kind::RevokeGrant | Kind::Receipts | Kind::Report | Kind::Label => {
                return Err(DecodeError::UnsupportedKind(kind.number()));
            }
        })
    }
}

impl Encode for Body {
    fn encode(&self, encoder: &mut Encoder) {
        match self {
            Self::Policy(body) => body.encode(encoder),
            Self::Admit(body) => body.encode(encoder),
            Self::Activate(body) => body.encode(encoder),
            Self::Attest(body) => body.encode(encoder),
            Self::Offline(body) => body.encode(encoder),
            Self::Online(body) => body.encode(encoder),
            Self::Suspend(body) => body.encode(encoder),
            Self::Pardon(body) | Self::Revoke(body) => body.encode(encoder),
            Self::Replace(body) => body.encode(encoder),
            Self::Recover(body) => body.encode(encoder),
            Self::OperatorRotation(body) => body.encode(encoder),
            Self::GatewayApproval(body) => body.encode(encoder),
            Self::Batch(body) => body.encode(encoder),
            Self::Session(body) => body.encode(encoder),
            Self::Reserve(body) => body.encode(encoder),
            Self::Register(body) => body.encode(encoder),
            Self::Retire(body) => body.encode(encoder),
            Self::Assign(body) => body.encode(encoder),
            Self::Tally(body) => body.encode(encoder),
            Self::Refusal(body) => body.encode(encoder),
            Self::RotateKey(body) => body.encode(encoder),
            Self::Leave(body) => body.encode(encoder),
        }
    }
}

impl From<PolicyAct> for Body {
    fn from(act: PolicyAct) -> Self {
        Self::Policy(Box::new(act))
    }
}

impl From<crate::policy::Policy> for Body {
    /// A policy that brings no documents.
    fn from(policy: crate::policy::Policy) -> Self {
        PolicyAct::from(policy).into()
    }
}
