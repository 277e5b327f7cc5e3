//! The kinds of transactions: their numbers, fixed for ever, and who may author each.

use crate::codec::DecodeError;

/// What a transaction does. The numbers are part of the wire format and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum Kind {
    /// The operator replaces the site's policy.
    Policy = 1,
    /// A quorum makes a gateway a member.
    Admit = 2,
    /// A quorum gives a member its vote.
    Activate = 3,
    /// A quorum renews the attestation of a gateway.
    Attest = 4,
    /// A quorum states that a gateway is unreachable.
    Offline = 5,
    /// A gateway states that it is back.
    Online = 6,
    /// The operator (or a quorum, by rule) takes a node's rights away for now.
    Suspend = 7,
    /// The operator gives a marked or suspended node its rights back.
    Pardon = 8,
    /// The operator refuses an identity for ever.
    Revoke = 9,
    /// The operator moves a gateway's place to another TPM.
    Replace = 10,
    /// The owner lets a reader read.
    Grant = 11,
    /// The owner ends a grant.
    RevokeGrant = 12,
    /// The operator begins a new era after the quorum was lost for ever.
    Recover = 13,
    /// The operator changes its key.
    OperatorRotation = 14,
    /// The operator approves the admission of a gateway.
    GatewayApproval = 15,
    /// A gateway commits a group of readings under one root.
    Batch = 16,
    /// Receipts that came after their batch.
    Receipts = 17,
    /// A light node opened a new session.
    Session = 18,
    /// A gateway takes downlink counters and join nonces for its use alone.
    Reserve = 19,
    /// A light node becomes known to the ledger.
    Register = 20,
    /// A light node is given up.
    Retire = 21,
    /// Which gateways serve a light node, in order.
    Assign = 22,
    /// A member reports bad behaviour.
    Report = 23,
    /// Hourly aggregate of strangers heard by a gateway.
    Tally = 24,
    /// A gateway records that it refused a node, with the reason.
    Refusal = 25,
    /// A gateway replaces its vote key.
    RotateKey = 26,
    /// A gateway leaves.
    Leave = 27,
    /// A quorum changes a gateway's label.
    Label = 28,
}

/// Whose signature a kind needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authorship {
    /// The operator key.
    Operator,
    /// The vote key of any member, and in the body those of a quorum of voters.
    Quorum,
    /// The current vote key of a gateway that serves or holds the light nodes concerned.
    Holder,
    /// The current vote key of a gateway with the label coordinator.
    Coordinator,
    /// The current vote key of any member.
    Member,
    /// The gateway's own identity key.
    IdentityKey,
}

impl Kind {
    /// Every kind, in order of its number.
    pub const ALL: [Self; 28] = [
        Self::Policy,
        Self::Admit,
        Self::Activate,
        Self::Attest,
        Self::Offline,
        Self::Online,
        Self::Suspend,
        Self::Pardon,
        Self::Revoke,
        Self::Replace,
        Self::Grant,
        Self::RevokeGrant,
        Self::Recover,
        Self::OperatorRotation,
        Self::GatewayApproval,
        Self::Batch,
        Self::Receipts,
        Self::Session,
        Self::Reserve,
        Self::Register,
        Self::Retire,
        Self::Assign,
        Self::Report,
        Self::Tally,
        Self::Refusal,
        Self::RotateKey,
        Self::Leave,
        Self::Label,
    ];

    /// The number on the wire.
    pub fn number(self) -> u16 {
        self as u16
    }

    /// The kind with a number.
    ///
    /// # Errors
    /// [`DecodeError::UnknownKind`].
    pub fn from_number(number: u64) -> Result<Self, DecodeError> {
        let index = number.checked_sub(1).and_then(|index| usize::try_from(index).ok());
        index
            .and_then(|index| Self::ALL.get(index).copied())
            .ok_or(DecodeError::UnknownKind(number))
    }

    /// Who may author it.
    pub fn authorship(self) -> Authorship {
        match self {
            Self::Policy
            | Self::Suspend
            | Self::Pardon
            | Self::Revoke
            | Self::Replace
            | Self::Grant
            | Self::RevokeGrant
            | Self::Recover
            | Self::OperatorRotation
            | Self::GatewayApproval => Authorship::Operator,
            Self::Admit | Self::Activate | Self::Attest | Self::Offline | Self::Label => {
                Authorship::Quorum
            }
            Self::Batch | Self::Receipts | Self::Session | Self::Reserve => Authorship::Holder,
            Self::Register | Self::Retire | Self::Assign => Authorship::Coordinator,
            Self::Report | Self::Tally | Self::Refusal => Authorship::Member,
            Self::RotateKey | Self::Leave | Self::Online => Authorship::IdentityKey,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_dense_and_read_back() {
        for (index, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(kind.number()), index + 1);
            assert_eq!(Kind::from_number(u64::from(kind.number())), Ok(kind));
        }
        assert_eq!(Kind::from_number(0), Err(DecodeError::UnknownKind(0)));
        assert_eq!(Kind::from_number(29), Err(DecodeError::UnknownKind(29)));
        assert_eq!(Kind::from_number(u64::MAX), Err(DecodeError::UnknownKind(u64::MAX)));
    }
}
