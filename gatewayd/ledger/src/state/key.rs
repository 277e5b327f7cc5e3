//! Names of the state's entries, and where they are in the authenticated map.

use alloc::vec::Vec;

use super::map::Path;
use crate::{
    codec::DecodeError,
    crypto::{PublicKey, sha256},
    ids::{Hash, NodeId},
    transaction::Author,
};

/// Name of an entry of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// Chain, era, operator key.
    Site,
    /// The policy.
    Policy,
    /// Which gateways vote.
    Voters,
    /// When each voter was last seen.
    Participation,
    /// Nonces and budgets of an author.
    Activity(Author),
    /// The gateway that uses or used a vote key.
    VoteKey(PublicKey),
    /// The gateway in whose TPM an endorsement key is.
    Endorsement(Hash),
    /// The one type of EK that is accepted of a TPM model.
    TpmModel(Hash),
    /// The operator's approval of a newcomer.
    Approval(NodeId),
    /// A document that a policy names.
    Document(Hash),
    /// Session, counters and windows of a light node.
    Session(NodeId),
    /// Tickets that were used for a light node and have not expired.
    Tickets(NodeId),
    /// A light node.
    LightNode(NodeId),
    /// A gateway.
    Gateway(NodeId),
}

// The first byte of a path. Gateways have the upper half of the map for themselves and light
// nodes a quarter, so that the proofs that travel are the short ones.
const SITE: u8 = 0x01;
const POLICY: u8 = 0x02;
const VOTERS: u8 = 0x03;
const PARTICIPATION: u8 = 0x04;
const ACTIVITY: u8 = 0x08;
const VOTE_KEY: u8 = 0x10;
const ENDORSEMENT: u8 = 0x11;
const TPM_MODEL: u8 = 0x12;
const APPROVAL: u8 = 0x13;
const DOCUMENT: u8 = 0x14;
const SESSION: u8 = 0x20;
const TICKETS: u8 = 0x21;
const LIGHT_NODE: u8 = 0x40;
const GATEWAY: u8 = 0x80;

impl Key {
    /// The stored form: a type byte and the identifier.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (kind, id): (u8, &[u8]) = match self {
            Self::Site => (SITE, &[]),
            Self::Policy => (POLICY, &[]),
            Self::Voters => (VOTERS, &[]),
            Self::Participation => (PARTICIPATION, &[]),
            Self::Activity(Author::Operator) => (ACTIVITY, &[]),
            Self::Activity(Author::Node(node)) => (ACTIVITY, &node.0),
            Self::VoteKey(key) => (VOTE_KEY, key.as_bytes()),
            Self::Endorsement(digest) => (ENDORSEMENT, &digest.0),
            Self::TpmModel(model) => (TPM_MODEL, &model.0),
            Self::Approval(node) => (APPROVAL, &node.0),
            Self::Document(hash) => (DOCUMENT, &hash.0),
            Self::Session(node) => (SESSION, &node.0),
            Self::Tickets(node) => (TICKETS, &node.0),
            Self::LightNode(node) => (LIGHT_NODE, &node.0),
            Self::Gateway(node) => (GATEWAY, &node.0),
        };
        let mut bytes = Vec::with_capacity(1 + id.len());
        bytes.push(kind);
        bytes.extend_from_slice(id);
        bytes
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] for an unknown type byte or a wrong length.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let invalid = DecodeError::Invalid("state key");
        let (kind, id) = bytes.split_first().ok_or(invalid)?;
        let hash = || <[u8; 32]>::try_from(id).map(Hash).map_err(|_| invalid);
        let node = || <[u8; 20]>::try_from(id).map(NodeId).map_err(|_| invalid);
        Ok(match (*kind, id.is_empty()) {
            (SITE, true) => Self::Site,
            (POLICY, true) => Self::Policy,
            (VOTERS, true) => Self::Voters,
            (PARTICIPATION, true) => Self::Participation,
            (ACTIVITY, true) => Self::Activity(Author::Operator),
            (ACTIVITY, false) => Self::Activity(Author::Node(node()?)),
            (VOTE_KEY, false) => Self::VoteKey(vote_key(id)?),
            (ENDORSEMENT, false) => Self::Endorsement(hash()?),
            (TPM_MODEL, false) => Self::TpmModel(hash()?),
            (APPROVAL, false) => Self::Approval(node()?),
            (DOCUMENT, false) => Self::Document(hash()?),
            (SESSION, false) => Self::Session(node()?),
            (TICKETS, false) => Self::Tickets(node()?),
            (LIGHT_NODE, false) => Self::LightNode(node()?),
            (GATEWAY, false) => Self::Gateway(node()?),
            _ => return Err(invalid),
        })
    }

    /// Where the entry is: the type byte, then 31 bytes of SHA-256 over the stored form.
    pub fn path(&self) -> Path {
        let bytes = self.to_bytes();
        let mut path = sha256(&[b"gatewayd/state-key/1", &bytes]).0;
        path.copy_within(..31, 1);
        path[0] = bytes[0];
        path
    }
}

fn vote_key(id: &[u8]) -> Result<PublicKey, DecodeError> {
    use crate::codec::{Decode, Encoder};

    let mut encoder = Encoder::new();
    encoder.bytes(id);
    PublicKey::from_bytes(&encoder.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SigningKey;

    #[test]
    fn keys_read_back_and_have_paths_of_their_own() {
        let node = NodeId([7; 20]);
        let key = SigningKey::from_bytes(&[1; 32]).unwrap().public_key();
        let keys = [
            Key::Site,
            Key::Policy,
            Key::Voters,
            Key::Participation,
            Key::Activity(Author::Operator),
            Key::Activity(Author::Node(node)),
            Key::VoteKey(key),
            Key::Endorsement(Hash([7; 32])),
            Key::TpmModel(Hash([7; 32])),
            Key::Approval(node),
            Key::Document(Hash([7; 32])),
            Key::Session(node),
            Key::Tickets(node),
            Key::LightNode(node),
            Key::Gateway(node),
        ];
        let mut paths: Vec<_> = keys.iter().map(Key::path).collect();
        for key in keys {
            assert_eq!(Key::from_bytes(&key.to_bytes()), Ok(key));
            assert_eq!(key.path()[0], key.to_bytes()[0]);
        }
        paths.sort_unstable();
        paths.dedup();
        assert_eq!(paths.len(), keys.len());
        for bad in [&[][..], &[0], &[SITE, 1], &[GATEWAY], &[GATEWAY, 1], &[0xff; 21]] {
            assert!(Key::from_bytes(bad).is_err(), "{bad:?}");
        }
    }
}
