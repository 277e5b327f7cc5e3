//! The body of a transaction: one variant for each delivered kind.

use super::{
    Assign, BatchHead, Kind, NodeAct, OperatorRotation, Recover, Refusal, Register, Reserve,
    Retire, RotateKey, Session, Tally,
};
use crate::{
    codec::{Decode, DecodeError, Decoder, Encode, Encoder},
    policy::Policy,
};

/// What a transaction does, with its particulars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Replaces the site's policy.
    Policy(Policy),
    /// Takes a node's rights away for now.
    Suspend(NodeAct),
    /// Gives a marked or suspended node its rights back.
    Pardon(NodeAct),
    /// Refuses an identity for ever.
    Revoke(NodeAct),
    /// Begins a new era.
    Recover(Recover),
    /// Changes the operator key.
    OperatorRotation(OperatorRotation),
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
}

impl Body {
    /// The kind, which stands before the body on the wire.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Policy(_) => Kind::Policy,
            Self::Suspend(_) => Kind::Suspend,
            Self::Pardon(_) => Kind::Pardon,
            Self::Revoke(_) => Kind::Revoke,
            Self::Recover(_) => Kind::Recover,
            Self::OperatorRotation(_) => Kind::OperatorRotation,
            Self::Batch(_) => Kind::Batch,
            Self::Session(_) => Kind::Session,
            Self::Reserve(_) => Kind::Reserve,
            Self::Register(_) => Kind::Register,
            Self::Retire(_) => Kind::Retire,
            Self::Assign(_) => Kind::Assign,
            Self::Tally(_) => Kind::Tally,
            Self::Refusal(_) => Kind::Refusal,
            Self::RotateKey(_) => Kind::RotateKey,
        }
    }

    /// Reads the body of a kind.
    ///
    /// # Errors
    /// Kinds that are not delivered ([`DecodeError::UnsupportedKind`]), and a bad body.
    pub fn decode(kind: Kind, decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(match kind {
            Kind::Policy => Self::Policy(Decode::decode(decoder)?),
            Kind::Suspend => Self::Suspend(Decode::decode(decoder)?),
            Kind::Pardon => Self::Pardon(Decode::decode(decoder)?),
            Kind::Revoke => Self::Revoke(Decode::decode(decoder)?),
            Kind::Recover => Self::Recover(Decode::decode(decoder)?),
            Kind::OperatorRotation => Self::OperatorRotation(Decode::decode(decoder)?),
            Kind::Batch => Self::Batch(Decode::decode(decoder)?),
            Kind::Session => Self::Session(Decode::decode(decoder)?),
            Kind::Reserve => Self::Reserve(Decode::decode(decoder)?),
            Kind::Register => Self::Register(Decode::decode(decoder)?),
            Kind::Retire => Self::Retire(Decode::decode(decoder)?),
            Kind::Assign => Self::Assign(Decode::decode(decoder)?),
            Kind::Tally => Self::Tally(Decode::decode(decoder)?),
            Kind::Refusal => Self::Refusal(Decode::decode(decoder)?),
            Kind::RotateKey => Self::RotateKey(Decode::decode(decoder)?),
            Kind::Admit
            | Kind::Activate
            | Kind::Attest
            | Kind::Offline
            | Kind::Online
            | Kind::Replace
            | Kind::Grant
            | Kind::RevokeGrant
            | Kind::GatewayApproval
            | Kind::Receipts
            | Kind::Report
            | Kind::Leave
            | Kind::Label => return Err(DecodeError::UnsupportedKind(kind.number())),
        })
    }
}

impl Encode for Body {
    fn encode(&self, encoder: &mut Encoder) {
        match self {
            Self::Policy(body) => body.encode(encoder),
            Self::Suspend(body) | Self::Pardon(body) | Self::Revoke(body) => body.encode(encoder),
            Self::Recover(body) => body.encode(encoder),
            Self::OperatorRotation(body) => body.encode(encoder),
            Self::Batch(body) => body.encode(encoder),
            Self::Session(body) => body.encode(encoder),
            Self::Reserve(body) => body.encode(encoder),
            Self::Register(body) => body.encode(encoder),
            Self::Retire(body) => body.encode(encoder),
            Self::Assign(body) => body.encode(encoder),
            Self::Tally(body) => body.encode(encoder),
            Self::Refusal(body) => body.encode(encoder),
            Self::RotateKey(body) => body.encode(encoder),
        }
    }
}
