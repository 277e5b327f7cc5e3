//! Identifiers: hashes, heights, eras and node IDs, each its own type.
//!
//! A node ID is 20 bytes of SHA-256 over the identity that the node can prove; it is shown as
//! bech32m (BIP 350), `gw1…` for gateways and `ln1…` for light nodes. Nothing here looks at the
//! ledger: whether an ID is registered is a question to the state.

use alloc::{string::String, vec::Vec};
use core::fmt;

use bech32::{Bech32m, Hrp, primitives::decode::CheckedHrpstring};
use thiserror::Error;

use crate::{
    codec::{Decode, DecodeError, Decoder, Encode, Encoder},
    crypto::{PublicKey, sha256},
};

/// A SHA-256 value.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// Thirty-two zero bytes: stands for "none" where a hash is required.
    pub const ZERO: Self = Self([0; 32]);
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

impl Encode for Hash {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.bytes(&self.0);
    }
}

impl Decode for Hash {
    const MAX_BYTES: usize = 34;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self(decoder.fixed("hash")?))
    }
}

/// SHA-256 of the genesis record: names one site's ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainId(pub Hash);

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Encode for ChainId {
    fn encode(&self, encoder: &mut Encoder) {
        self.0.encode(encoder);
    }
}

impl Decode for ChainId {
    const MAX_BYTES: usize = Hash::MAX_BYTES;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Hash::decode(decoder).map(Self)
    }
}

/// Height of a block; genesis is 0, the first block 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Height(pub u64);

impl Height {
    /// Genesis.
    pub const GENESIS: Self = Self(0);

    /// The height after this one.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Height {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Encode for Height {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.uint(self.0);
    }
}

impl Decode for Height {
    const MAX_BYTES: usize = 9;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self(decoder.uint("height")?))
    }
}

/// Counts operator recoveries of the ledger; part of every vote's signed bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Era(pub u32);

impl fmt::Display for Era {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Encode for Era {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.uint(u64::from(self.0));
    }
}

impl Decode for Era {
    const MAX_BYTES: usize = 5;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self(decoder.uint32("era")?))
    }
}

/// How a node proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// An own P-256 key, compressed SEC1.
    PublicKey([u8; 33]),
    /// A LoRaWAN DevEUI, most significant byte first, as printed on devices.
    DevEui([u8; 8]),
    /// A BLE identity address with its type.
    Ble {
        /// The address, most significant byte first.
        addr: [u8; 6],
        /// Random (true) or public (false).
        random: bool,
    },
    /// The 8-byte device ID of a shared-key serial node's printed code.
    SerialDevice([u8; 8]),
    /// A legacy serial device: a bus and its unit on it.
    Bus {
        /// 16 random bytes made at pairing.
        bus: [u8; 16],
        /// Address on the bus; 0 for a line source.
        unit: u8,
    },
}

impl Identity {
    /// What kind of identity it is.
    pub fn kind(&self) -> IdentityKind {
        match self {
            Self::PublicKey(_) => IdentityKind::PublicKey,
            Self::DevEui(_) => IdentityKind::DevEui,
            Self::Ble { .. } => IdentityKind::Ble,
            Self::SerialDevice(_) => IdentityKind::SerialDevice,
            Self::Bus { .. } => IdentityKind::Bus,
        }
    }

    fn identity_bytes(&self) -> Vec<u8> {
        match self {
            Self::PublicKey(key) => key.to_vec(),
            Self::DevEui(eui) | Self::SerialDevice(eui) => eui.to_vec(),
            Self::Ble { addr, random } => [&addr[..], &[u8::from(*random)]].concat(),
            Self::Bus { bus, unit } => [&bus[..], &[*unit]].concat(),
        }
    }
}

/// The kinds of [`Identity`], by the type byte that goes into the node ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum IdentityKind {
    /// Own P-256 key.
    PublicKey = 1,
    /// LoRaWAN DevEUI.
    DevEui = 2,
    /// BLE identity address.
    Ble = 3,
    /// Shared-key serial node.
    SerialDevice = 4,
    /// Legacy serial device.
    Bus = 5,
}

impl Encode for IdentityKind {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.uint(*self as u64);
    }
}

impl Decode for IdentityKind {
    const MAX_BYTES: usize = 1;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(match decoder.uint8("identity kind")? {
            1 => Self::PublicKey,
            2 => Self::DevEui,
            3 => Self::Ble,
            4 => Self::SerialDevice,
            5 => Self::Bus,
            _ => return Err(DecodeError::Invalid("identity kind")),
        })
    }
}

/// Which prefix a node ID is shown with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// `gw1…`
    Gateway,
    /// `ln1…`
    LightNode,
}

/// Why a text is no node ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ParseIdError {
    /// Not bech32m: wrong characters, mixed case or a wrong checksum (a typing mistake).
    #[error("not a valid code: a character is missing or mistyped")]
    Bech32,
    /// Another prefix than the expected ones.
    #[error("unknown prefix: expected {0}")]
    Prefix(&'static str),
    /// A right prefix with the wrong amount of data.
    #[error("wrong length")]
    Length,
}

/// The ID of a node and its account: 20 bytes of a SHA-256 over its identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 20]);

impl NodeId {
    /// SHA-256("gatewayd/node-id/1" ‖ type ‖ chain ID unless a public key ‖ length ‖ identity),
    /// first 20 bytes.
    ///
    /// The chain ID keeps the IDs of guessable identities apart between sites.
    pub fn derive(identity: &Identity, chain_id: &ChainId) -> Self {
        let bytes = identity.identity_bytes();
        let chain: &[u8] = match identity {
            Identity::PublicKey(_) => &[],
            _ => &chain_id.0.0,
        };
        let kind = identity.kind() as u8;
        let hash = sha256(&[b"gatewayd/node-id/1", &[kind], chain, &[bytes.len() as u8], &bytes]);
        let mut id = [0; 20];
        id.copy_from_slice(&hash.0[..20]);
        Self(id)
    }

    /// The ID of an own key, the same on every site.
    pub fn of_key(key: &PublicKey) -> Self {
        Self::derive(&Identity::PublicKey(*key.as_bytes()), &ChainId(Hash::ZERO))
    }

    /// The text form of a gateway, `gw1…`.
    pub fn to_gateway_string(self) -> String {
        encode_bech32m(GATEWAY_PREFIX, &self.0)
    }

    /// The text form of a light node, `ln1…`.
    pub fn to_light_node_string(self) -> String {
        encode_bech32m(LIGHT_NODE_PREFIX, &self.0)
    }

    /// Reads either text form.
    ///
    /// # Errors
    /// [`ParseIdError`], which tells a typing mistake from another kind of code.
    pub fn parse(text: &str) -> Result<(NodeKind, Self), ParseIdError> {
        let (prefix, data) = decode_bech32m(text)?;
        let kind = match prefix.as_str() {
            GATEWAY_PREFIX => NodeKind::Gateway,
            LIGHT_NODE_PREFIX => NodeKind::LightNode,
            _ => return Err(ParseIdError::Prefix("gw1… or ln1…")),
        };
        let id = data.try_into().map_err(|_| ParseIdError::Length)?;
        Ok((kind, Self(id)))
    }
}

const GATEWAY_PREFIX: &str = "gw";
const LIGHT_NODE_PREFIX: &str = "ln";

/// Longest code that is read, in characters.
const MAX_CODE: usize = 120;

pub(crate) fn encode_bech32m(prefix: &'static str, data: &[u8]) -> String {
    let hrp = Hrp::parse(prefix).expect("prefixes are lower-case ASCII constants");
    bech32::encode::<Bech32m>(hrp, data).expect("at most 40 bytes fit into a bech32m code")
}

pub(crate) fn decode_bech32m(text: &str) -> Result<(String, Vec<u8>), ParseIdError> {
    if text.len() > MAX_CODE {
        return Err(ParseIdError::Length);
    }
    let checked = CheckedHrpstring::new::<Bech32m>(text).map_err(|_| ParseIdError::Bech32)?;
    let data: Vec<u8> = checked.byte_iter().collect();
    let prefix = checked.hrp().to_lowercase();
    // One code per value: padding bits that are not zero would be another text of the same ID.
    let again =
        bech32::encode::<Bech32m>(checked.hrp(), &data).map_err(|_| ParseIdError::Bech32)?;
    if !again.eq_ignore_ascii_case(text) {
        return Err(ParseIdError::Bech32);
    }
    Ok((prefix, data))
}

impl Encode for NodeId {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.bytes(&self.0);
    }
}

impl Decode for NodeId {
    const MAX_BYTES: usize = 21;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self(decoder.fixed("node id")?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAIN: ChainId = ChainId(Hash([9; 32]));

    #[test]
    fn ids_round_trip_as_text_and_refuse_typing_mistakes() {
        let id = NodeId::derive(&Identity::DevEui([1, 2, 3, 4, 5, 6, 7, 8]), &CHAIN);
        let text = id.to_light_node_string();
        assert!(text.starts_with("ln1"));
        assert_eq!(NodeId::parse(&text), Ok((NodeKind::LightNode, id)));
        assert_eq!(NodeId::parse(&text.to_uppercase()), Ok((NodeKind::LightNode, id)));
        let gateway = id.to_gateway_string();
        assert_eq!(NodeId::parse(&gateway), Ok((NodeKind::Gateway, id)));
        for index in 3..text.len() {
            let mut wrong = text.clone().into_bytes();
            wrong[index] = if wrong[index] == b'q' { b'p' } else { b'q' };
            let wrong = String::from_utf8(wrong).unwrap();
            assert_eq!(NodeId::parse(&wrong), Err(ParseIdError::Bech32), "at {index}");
        }
    }

    #[test]
    fn other_codes_are_told_apart() {
        let anchor = encode_bech32m("gws", &[1; 40]);
        assert!(matches!(NodeId::parse(&anchor), Err(ParseIdError::Prefix(_))));
        let short = encode_bech32m("gw", &[1; 19]);
        assert_eq!(NodeId::parse(&short), Err(ParseIdError::Length));
        assert_eq!(NodeId::parse(&"q".repeat(121)), Err(ParseIdError::Length));
        assert_eq!(NodeId::parse(""), Err(ParseIdError::Bech32));
    }

    #[test]
    fn guessable_identities_differ_between_sites_and_keys_do_not() {
        let other = ChainId(Hash([8; 32]));
        let key = Identity::PublicKey([2; 33]);
        assert_eq!(NodeId::derive(&key, &CHAIN), NodeId::derive(&key, &other));
        for identity in [
            Identity::DevEui([1; 8]),
            Identity::SerialDevice([1; 8]),
            Identity::Ble { addr: [1; 6], random: true },
            Identity::Bus { bus: [1; 16], unit: 0 },
        ] {
            assert_ne!(NodeId::derive(&identity, &CHAIN), NodeId::derive(&identity, &other));
        }
        let public = Identity::Ble { addr: [1; 6], random: false };
        let random = Identity::Ble { addr: [1; 6], random: true };
        assert_ne!(NodeId::derive(&public, &CHAIN), NodeId::derive(&random, &CHAIN));
        let eui = NodeId::derive(&Identity::DevEui([1; 8]), &CHAIN);
        assert_ne!(eui, NodeId::derive(&Identity::SerialDevice([1; 8]), &CHAIN));
    }
}
