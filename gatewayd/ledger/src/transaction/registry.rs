//! Bodies about light nodes: `Register`, `Retire`, `Assign`, `Session`, `Reserve`.

use alloc::vec::Vec;

use crate::{
    codec::{Decode, DecodeError, Decoder, Encode, Encoder, Text, canonical, check_ascending},
    crypto::{CryptoError, Domain, PublicKey, Signature, SigningKey, verify_digest},
    ids::{ChainId, Era, Hash, IdentityKind, NodeId},
};

/// Most light nodes of one `Assign` or `Reserve`.
pub const MAX_GROUP: usize = 1000;

/// Most gateways in the list of one light node.
pub const MAX_HOLDERS: usize = 16;

/// What a ticket permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TicketPurpose {
    /// To register a light node.
    Register = 1,
    /// To retire it.
    Retire = 2,
}

/// Who issued a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TicketIssuer {
    /// The operator, beforehand, for this identity.
    Operator,
    /// A gateway on which the operator opened a pairing window.
    Window {
        /// The gateway that saw the node prove its identity.
        sponsor: NodeId,
        /// When the window was opened, Unix milliseconds.
        opened_ms: u64,
    },
}

/// Permission to register or retire one light node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Who gave it.
    pub issuer: TicketIssuer,
    /// Last block time at which it holds, Unix milliseconds.
    pub expires_ms: u64,
    /// Signature of the operator key or the sponsor's vote key over [`Ticket::digest`].
    pub signature: Signature,
}

impl Ticket {
    /// Signs a ticket for one node.
    pub fn sign(
        chain_id: &ChainId,
        purpose: TicketPurpose,
        node: &NodeId,
        issuer: TicketIssuer,
        expires_ms: u64,
        key: &SigningKey,
    ) -> Self {
        let digest = Self::digest(chain_id, purpose, node, &issuer, expires_ms);
        Self { issuer, expires_ms, signature: key.sign_digest(&digest) }
    }

    /// SHA-256(domain ‖ chain ‖ purpose ‖ node ‖ expiry ‖ issuer type ‖ sponsor ‖ opened);
    /// the last two for a window alone, integers big-endian.
    pub fn digest(
        chain_id: &ChainId,
        purpose: TicketPurpose,
        node: &NodeId,
        issuer: &TicketIssuer,
        expires_ms: u64,
    ) -> Hash {
        let purpose = [purpose as u8];
        let expires = expires_ms.to_be_bytes();
        let common: [&[u8]; 4] = [&chain_id.0.0, &purpose, &node.0, &expires];
        let [chain, purpose, node, expires] = common;
        match issuer {
            TicketIssuer::Operator => {
                Domain::TICKET.digest(&[chain, purpose, node, expires, &[OPERATOR]])
            }
            TicketIssuer::Window { sponsor, opened_ms } => Domain::TICKET.digest(&[
                chain,
                purpose,
                node,
                expires,
                &[WINDOW],
                &sponsor.0,
                &opened_ms.to_be_bytes(),
            ]),
        }
    }

    /// Checks the issuer's signature under its key.
    ///
    /// # Errors
    /// [`CryptoError::Signature`].
    pub fn verify(
        &self,
        chain_id: &ChainId,
        purpose: TicketPurpose,
        node: &NodeId,
        key: &PublicKey,
    ) -> Result<(), CryptoError> {
        let digest = Self::digest(chain_id, purpose, node, &self.issuer, self.expires_ms);
        verify_digest(key, &digest, &self.signature)
    }
}

const OPERATOR: u8 = 1;
const WINDOW: u8 = 2;

impl Encode for Ticket {
    fn encode(&self, encoder: &mut Encoder) {
        match &self.issuer {
            TicketIssuer::Operator => {
                encoder.array(3).uint(u64::from(OPERATOR));
            }
            TicketIssuer::Window { sponsor, opened_ms } => {
                encoder.array(5).uint(u64::from(WINDOW)).value(sponsor).uint(*opened_ms);
            }
        }
        encoder.uint(self.expires_ms).value(&self.signature);
    }
}

impl Decode for Ticket {
    const MAX_BYTES: usize = 128;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let fields = decoder.array("ticket", 5)?;
        let issuer = match (decoder.uint8("ticket issuer")?, fields) {
            (OPERATOR, 3) => TicketIssuer::Operator,
            (WINDOW, 5) => TicketIssuer::Window {
                sponsor: NodeId::decode(decoder)?,
                opened_ms: decoder.uint("opened")?,
            },
            _ => return Err(DecodeError::Invalid("ticket issuer")),
        };
        let expires_ms = decoder.uint("expiry")?;
        Ok(Self { issuer, expires_ms, signature: Signature::decode(decoder)? })
    }
}

/// `Register`: a light node becomes known to the ledger.
///
/// The identity itself stays with the gateways unless it is a public key: a DevEUI on the ledger
/// would name the device to every later reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Register {
    /// The light node.
    pub node: NodeId,
    /// How it proves who it is.
    pub identity_kind: IdentityKind,
    /// Its own key; for [`IdentityKind::PublicKey`] and no other.
    pub public_key: Option<PublicKey>,
    /// Device class as the driver calls it (LoRaWAN: `A`).
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
    /// The gateway that saw the node prove its identity.
    pub sponsor: NodeId,
    /// The permission.
    pub ticket: Ticket,
}

canonical!(
    Register,
    "registration",
    512,
    [
        node,
        identity_kind,
        public_key,
        class,
        level,
        expected_interval_s,
        downlink,
        wire_counter,
        owner,
        descriptor_hash,
        sponsor,
        ticket,
    ]
);

/// `Retire`: a light node is given up; its ID and counters stay known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retire {
    /// The light node.
    pub node: NodeId,
    /// Why, in a sentence of at most 200 bytes.
    pub reason: Text<200>,
    /// The permission.
    pub ticket: Ticket,
}

canonical!(Retire, "retirement", 512, [node, reason, ticket]);

/// Why an assignment changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum AssignReason {
    /// First assignment, or more holders in the list.
    Refill = 1,
    /// The serving gateway is being drained, with its agreement.
    Drain = 2,
    /// Rotation by policy.
    Rotation = 3,
}

impl Encode for AssignReason {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.uint(*self as u64);
    }
}

impl Decode for AssignReason {
    const MAX_BYTES: usize = 1;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(match decoder.uint8("assignment reason")? {
            1 => Self::Refill,
            2 => Self::Drain,
            3 => Self::Rotation,
            _ => return Err(DecodeError::Invalid("assignment reason")),
        })
    }
}

/// One light node of an `Assign`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssignItem {
    /// The light node.
    pub node: NodeId,
    /// Assignment epoch that is being replaced; 0 for none yet (compare-and-set).
    pub expected_epoch: u32,
    /// Session epoch that the listed gateways hold; 0 for none yet.
    pub session_epoch: u32,
    /// Gateways in order of preference; none twice. Empty: unserved.
    pub gateways: Vec<NodeId>,
}

canonical!(AssignItem, "assignment", 512, [
    node, expected_epoch, session_epoch, gateways: list(MAX_HOLDERS),
]);

/// A gateway's statement that it holds the sessions of every item that lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HolderProof {
    /// The gateway.
    pub gateway: NodeId,
    /// Its vote key's signature over [`holder_digest`].
    pub signature: Signature,
}

canonical!(HolderProof, "holder proof", 96, [gateway, signature]);

/// What a holder signs: SHA-256(domain ‖ chain ‖ era ‖ gateway ‖ CBOR list of the items that
/// list it), so that it agrees to its place in each list.
pub fn holder_digest(chain_id: &ChainId, era: Era, gateway: &NodeId, items: &[AssignItem]) -> Hash {
    let own: Vec<_> = items.iter().filter(|item| item.gateways.contains(gateway)).collect();
    let mut encoder = Encoder::new();
    encoder.array(own.len());
    for item in own {
        encoder.value(item);
    }
    Domain::HOLDER.digest(&[&chain_id.0.0, &era.0.to_be_bytes(), &gateway.0, &encoder.into_bytes()])
}

/// `Assign`: which gateways serve light nodes, in order of preference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assign {
    /// Why.
    pub reason: AssignReason,
    /// Ascending by node; at least one.
    pub items: Vec<AssignItem>,
    /// Ascending by gateway: one for every listed gateway. The author's may be left out, as its
    /// signature on the transaction says the same.
    pub holders: Vec<HolderProof>,
}

impl Encode for Assign {
    fn encode(&self, encoder: &mut Encoder) {
        let Self { reason, items, holders } = self;
        encoder.array(3).value(reason).list(items).list(holders);
    }
}

impl Decode for Assign {
    const MAX_BYTES: usize = super::MAX_TRANSACTION;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("assign", 3)?;
        let reason = AssignReason::decode(decoder)?;
        let items: Vec<AssignItem> = decoder.list("assignments", MAX_GROUP)?;
        let holders: Vec<HolderProof> = decoder.list("holder proofs", 128)?;
        let nodes: Vec<_> = items.iter().map(|item| item.node).collect();
        check_ascending("assignments", &nodes)?;
        if items.is_empty() {
            return Err(DecodeError::Invalid("assign without items"));
        }
        for item in &items {
            let mut gateways = item.gateways.clone();
            gateways.sort_unstable();
            check_ascending("gateways of an assignment", &gateways)?;
        }
        let gateways: Vec<_> = holders.iter().map(|holder| holder.gateway).collect();
        check_ascending("holder proofs", &gateways)?;
        Ok(Self { reason, items, holders })
    }
}

/// `Session`: a light node opened a new session (compare-and-set on the epoch).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// The light node.
    pub node: NodeId,
    /// Session epoch that ends; the new one is one more.
    pub expected_epoch: u32,
    /// Digest of the session's public parameters (DevNonce and JoinNonce; handshake).
    pub digest: Hash,
    /// The answering gateway's liveness epoch: it holds the implied first downlink window.
    pub liveness_epoch: u32,
}

canonical!(Session, "session", 96, [node, expected_epoch, digest, liveness_epoch]);

/// One light node of a `Reserve`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReserveItem {
    /// The light node.
    pub node: NodeId,
    /// Session epoch that the downlink counters belong to.
    pub session_epoch: u32,
    /// Take the next downlink window.
    pub down: bool,
    /// Take the next join window.
    pub join: bool,
}

canonical!(ReserveItem, "reservation", 32, [node, session_epoch, down, join]);

/// `Reserve`: the serving gateway takes downlink counters and join nonces for its use alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// The author's liveness epoch; the windows are void in every other.
    pub liveness_epoch: u32,
    /// Ascending by node; at least one; each takes at least one window.
    pub items: Vec<ReserveItem>,
}

impl Encode for Reserve {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.array(2).value(&self.liveness_epoch).list(&self.items);
    }
}

impl Decode for Reserve {
    const MAX_BYTES: usize = 64 + MAX_GROUP * ReserveItem::MAX_BYTES;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("reserve", 2)?;
        let liveness_epoch = decoder.uint32("liveness epoch")?;
        let items: Vec<ReserveItem> = decoder.list("reservations", MAX_GROUP)?;
        let nodes: Vec<_> = items.iter().map(|item| item.node).collect();
        check_ascending("reservations", &nodes)?;
        if items.is_empty() || items.iter().any(|item| !item.down && !item.join) {
            return Err(DecodeError::Invalid("reservation"));
        }
        Ok(Self { liveness_epoch, items })
    }
}
