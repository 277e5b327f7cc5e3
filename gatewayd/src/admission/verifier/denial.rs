//! Every reason for which an attester is sent away, by name.

use ledger::ids::NodeId;

/// Why an attester is sent away.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// A part of it does not parse.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// The EK certificate does not parse.
    #[error("malformed EK certificate: {0}")]
    Certificate(String),
    /// The EK follows no TCG template.
    #[error("the endorsement key does not follow a TCG template")]
    EkTemplate,
    /// The AK is no attestation key.
    #[error("{0}")]
    AttestationKey(String),
    /// The identity key shown is not that of the connection.
    #[error("the identity key that was shown is not the key of this connection")]
    AnotherIdentity,
    /// Evidence about other keys than those that were introduced.
    #[error("the evidence is about other keys than were introduced")]
    OtherKeys,
    /// The vote key is not certified by the identity key for this site, or not held.
    #[error("the vote key is not certified for this site by the identity key, or is not held")]
    VoteKey,
    /// The vote key is on the record already.
    #[error("the vote key is or was that of {}", .0.to_gateway_string())]
    VoteKeyTaken(NodeId),
    /// Another label than on the record.
    #[error("the label is not the one on the record")]
    OtherLabel,
    /// A member asks to be admitted.
    #[error("a member already; it renews its attestation instead of joining")]
    Member,
    /// Who is no member asks for a renewal.
    #[error("no member: there is no attestation to renew")]
    NotAMember,
    /// Its rights were taken.
    #[error("this identity is {0}")]
    Standing(&'static str),
    /// Its place was taken by another identity.
    #[error("this identity was replaced by {}", .0.to_gateway_string())]
    Replaced(NodeId),
    /// The same TPM is in a gateway that is online.
    #[error("this TPM is of {}, which is online: one TPM, one gateway", .0.to_gateway_string())]
    SameTpm(NodeId),
    /// The same TPM was in a gateway that is revoked.
    #[error("this TPM is that of {}, which is revoked", .0.to_gateway_string())]
    RevokedTpm(NodeId),
    /// Another EK or AK than was admitted.
    #[error("the TPM's keys are not those that were admitted")]
    OtherTpm,
    /// A second type of EK of one TPM model.
    #[error("this site takes another type of endorsement key from this TPM model")]
    SecondEkType,
    /// A full node beside a founder whose TPM is a program.
    #[error(
        "a voter of this site runs on a software TPM: no second full node until it has a \
         hardware TPM (`gatewayctl identity upgrade`)"
    )]
    UnattestedFounder,
    /// The base is too old, or older than the last change of standing.
    #[error("the base height is too old; take the newest block")]
    OldBase,
    /// This gateway does not know the base yet.
    #[error("this gateway does not have that block yet")]
    NotThereYet,
    /// This gateway has no vote.
    #[error("this gateway has no vote; ask the voters")]
    NoVote,
    /// This gateway's own attestation is stale.
    #[error("this gateway's own attestation is stale: it endorses renewals alone")]
    Stale,
    /// No challenge of this session fits.
    #[error("there is no such open challenge in this connection: answered, expired or another's")]
    NoChallenge,
    /// The policy changed in between.
    #[error("the site's policy has changed since the challenge")]
    PolicyChanged,
    /// Too many at once.
    #[error("too many challenges are open")]
    Busy,
    /// A claim does not hold.
    #[error("{claim}: {reason}")]
    Contraindicated {
        /// Which.
        claim: &'static str,
        /// Why.
        reason: String,
    },
    /// The evidence is malformed.
    #[error("{0}")]
    Evidence(String),
    /// A document of the policy cannot be read: nothing is judged without it.
    #[error("a document of the site's policy cannot be read here")]
    Documents,
    /// A log, or a part of it, was not asked for, or is not what was announced.
    #[error("the {0} was not asked for, or is not as it was announced")]
    Log(&'static str),
    /// A log is longer than any that is looked at.
    #[error("the {what} has {len} bytes; {max} is the most that is looked at")]
    LogTooLong {
        /// Which log.
        what: &'static str,
        /// Its length as announced, bytes.
        len: u64,
        /// Limit, bytes.
        max: usize,
    },
    /// Another event log than was announced.
    #[error("the event log is not the one that the TPM has attested over")]
    LogDigest,
}

impl Denial {
    /// After how many seconds to ask again, when the reason passes by itself.
    pub fn wait_s(&self) -> Option<u32> {
        match self {
            Self::NotThereYet => Some(2),
            Self::Busy => Some(10),
            Self::PolicyChanged | Self::OldBase => Some(1),
            Self::NoVote | Self::Stale => Some(30),
            _ => None,
        }
    }

    /// Whether it goes onto the record: what says something about the attester.
    pub fn is_recorded(&self) -> bool {
        let asked_wrongly =
            matches!(self, Self::Member | Self::NotAMember | Self::NoChallenge | Self::Documents);
        !asked_wrongly && self.wait_s().is_none()
    }
}
