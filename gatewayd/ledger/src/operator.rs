//! Operator acts: prepared by the daemon, shown and signed elsewhere, applied by the daemon.
//!
//! ```text
//! daemon: prepare ─bytes─> laptop: read, describe, sign ─bytes─> daemon: apply (submit)
//! ```
//!
//! The request carries the caller's name, which is shown and not signed; what is signed is the
//! draft's canonical bytes. Nothing here holds a key for longer than one call.

use alloc::{boxed::Box, format, string::String, vec, vec::Vec};

use thiserror::Error;

use crate::{
    certificate::{Certificate, Signers},
    chain::Tip,
    codec::{Decode, DecodeError, Decoder, Encode, Encoder, Text, check_size},
    crypto::{CryptoError, PublicKey, Signature, SigningKey},
    genesis::FounderAttestation,
    header::Header,
    ids::{Hash, NodeId},
    state::{ApplyError, State},
    transaction::{
        Author, Body, DocumentKind, Draft, GatewayApproval, MAX_TRANSACTION, PolicyAct, Reason,
        Recover, Replace, Survivor, Transaction,
    },
};

/// Largest request or signed act, in bytes.
pub const MAX_ACT: usize = MAX_TRANSACTION + 1024;

/// Version of both file formats.
const ACT_VERSION: u64 = 1;

/// Why an act cannot be prepared, signed or applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ActError {
    /// The bytes are no request or signed act.
    #[error("not an operator act: {0}")]
    Decode(#[from] DecodeError),
    /// The draft is not the operator's.
    #[error("this is not an act of the operator")]
    NotTheOperator,
    /// The key is not the site's operator key, or the signature is not its.
    #[error("the operator key does not fit: {0}")]
    Key(#[from] CryptoError),
    /// The ledger would refuse it.
    #[error("the ledger would refuse it: {0}")]
    Apply(#[from] ApplyError),
}

/// An act that waits for the operator's signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    draft: Draft,
    site_name: Text<64>,
    caller: Text<64>,
}

impl Request {
    /// Prepares an act.
    ///
    /// # Errors
    /// [`ActError::NotTheOperator`] when the draft's author is not the operator, or its kind is
    /// not one that the operator may author.
    pub fn new(draft: Draft, site_name: Text<64>, caller: Text<64>) -> Result<Self, ActError> {
        let authored = draft.body.authorship() == crate::transaction::Authorship::Operator;
        if draft.author != Author::Operator || !authored {
            return Err(ActError::NotTheOperator);
        }
        Ok(Self { draft, site_name, caller })
    }

    /// What will be signed.
    pub fn draft(&self) -> &Draft {
        &self.draft
    }

    /// The act as sentences, for the person who is asked to sign.
    pub fn describe(&self) -> Vec<String> {
        let mut lines = vec![
            format!("Site: {}", self.site_name.as_str()),
            format!("Ledger: {}", self.draft.chain_id),
            format!("Asked for by: {} (a claim, not checked)", self.caller.as_str()),
        ];
        lines.extend(describe_body(&self.draft.body));
        lines.push(format!("Era: {}; number of this act: {}", self.draft.era, self.draft.nonce));
        lines.push(format!("Valid until {}", crate::light::time_in_words(self.draft.expiry)));
        lines
    }

    /// Signs with the operator key.
    pub fn sign(self, key: &SigningKey) -> SignedAct {
        SignedAct { transaction: self.draft.sign(key) }
    }

    /// Adds a signature made elsewhere over `Draft::signing_digest`.
    ///
    /// # Errors
    /// [`ActError::Key`] when it is not this key's.
    pub fn with_signature(
        self,
        key: &PublicKey,
        signature: Signature,
    ) -> Result<SignedAct, ActError> {
        let transaction = self.draft.with_signature(signature);
        transaction.verify_signature(key)?;
        Ok(SignedAct { transaction })
    }
}

impl Encode for Request {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.array(5).text(REQUEST).uint(ACT_VERSION);
        encoder.bytes(&self.draft.to_bytes()).value(&self.site_name).value(&self.caller);
    }
}

impl Decode for Request {
    const MAX_BYTES: usize = MAX_ACT;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("operator act", 5)?;
        read_version(decoder, REQUEST)?;
        let draft = Draft::from_bytes(decoder.bytes("draft", MAX_ACT)?)?;
        let site_name = Text::decode(decoder)?;
        Self::new(draft, site_name, Text::decode(decoder)?)
            .map_err(|_| DecodeError::Invalid("author of an operator act"))
    }
}

const REQUEST: &str = "gatewayd operator request";
const SIGNED: &str = "gatewayd operator act";

fn read_version(decoder: &mut Decoder<'_>, magic: &'static str) -> Result<(), DecodeError> {
    if decoder.text("magic", 32)? != magic {
        return Err(DecodeError::Invalid("kind of operator file"));
    }
    match decoder.uint("version")? {
        ACT_VERSION => Ok(()),
        found => Err(DecodeError::Version { what: "operator act", found }),
    }
}

/// An act with the operator's signature: a transaction ready to submit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedAct {
    transaction: Transaction,
}

impl SignedAct {
    /// The transaction, for `State::verify` like every other.
    pub fn into_transaction(self) -> Transaction {
        self.transaction
    }

    /// The transaction.
    pub fn transaction(&self) -> &Transaction {
        &self.transaction
    }
}

impl Encode for SignedAct {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.array(3).text(SIGNED).uint(ACT_VERSION).bytes(self.transaction.raw());
    }
}

impl Decode for SignedAct {
    const MAX_BYTES: usize = MAX_ACT;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("signed operator act", 3)?;
        read_version(decoder, SIGNED)?;
        let raw = decoder.bytes("transaction", MAX_ACT)?;
        check_size("transaction", raw.len(), MAX_ACT)?;
        let transaction = Transaction::from_raw(raw)?;
        if transaction.draft().author != Author::Operator {
            return Err(DecodeError::Invalid("author of an operator act"));
        }
        Ok(Self { transaction })
    }
}

fn describe_body(body: &Body) -> Vec<String> {
    match body {
        Body::Policy(act) => describe_policy(act),
        Body::Suspend(act) => {
            on_node("Suspend (no rights until pardoned):", &act.node, &act.reason)
        }
        Body::Pardon(act) => on_node("Pardon (full rights again):", &act.node, &act.reason),
        Body::Revoke(act) => {
            on_node("Revoke FOR EVER, this cannot be undone:", &act.node, &act.reason)
        }
        Body::OperatorRotation(rotation) => vec![
            String::from("Hand the site over to another operator key:"),
            format!("New key: {}", hex(rotation.new_key.as_bytes())),
        ],
        Body::GatewayApproval(approval) => describe_approval(approval),
        Body::Replace(replace) => describe_replace(replace),
        Body::Recover(recover) => describe_recover(recover),
        other => vec![format!("{:?}", other.kind())],
    }
}

fn on_node(verb: &str, node: &NodeId, reason: &Reason) -> Vec<String> {
    vec![
        format!("{verb} {} / {}", node.to_gateway_string(), node.to_light_node_string()),
        format!("Reason, recorded for ever: {}", reason.as_str()),
    ]
}

/// Documents are shown by their hashes, which the tool can compare with files at hand.
fn describe_policy(act: &PolicyAct) -> Vec<String> {
    let mut lines = vec![String::from("Replace the site's policy. The new one:")];
    lines.extend(act.policy.describe());
    lines.extend(act.documents.iter().map(|document| {
        let kind = match document.kind {
            DocumentKind::Anchor => "EK anchor (may vouch for TPMs)",
            DocumentKind::ReferenceValues => "reference values (what may boot)",
        };
        format!("Comes along: {kind}, {} bytes, {}", document.bytes.len(), document.hash())
    }));
    lines
}

fn describe_approval(approval: &GatewayApproval) -> Vec<String> {
    let GatewayApproval { identity: _, ek_digest, label, policy_hash, pin } = approval;
    let mut lines = vec![
        format!("Let in, within 30 days: {}", approval.node().to_gateway_string()),
        format!("Label: {}", label.words()),
        format!("Its TPM's EK: {ek_digest}"),
        format!("Attestation policy: {policy_hash}"),
        String::from("A quorum attests it once more, afresh, before it becomes a member."),
    ];
    if *pin {
        lines.push(String::from(
            "TRUST THIS TPM WITHOUT A CERTIFICATE: nobody but you vouches that it is one",
        ));
    }
    lines
}

fn describe_replace(replace: &Replace) -> Vec<String> {
    let new = NodeId::of_key(&replace.identity).to_gateway_string();
    let mut lines = vec![
        format!("Replace {} for ever by {new}", replace.old.to_gateway_string()),
        format!("Label: {}", replace.label.words()),
        format!("The new TPM's EK: {}", replace.ek_digest),
        String::from("The new one takes over standing, budgets and vote AT ONCE, unattested yet."),
        format!("Reason, recorded for ever: {}", replace.reason.as_str()),
    ];
    if replace.attestation == FounderAttestation::Unattested {
        lines.push(String::from("ITS TPM IS SOFTWARE: it vouches for nothing"));
    }
    lines
}

fn describe_recover(recover: &Recover) -> Vec<String> {
    let mut lines = vec![
        String::from("RECOVER the ledger. Only when a quorum is lost for ever."),
        format!("A new era begins: {}, with block {}", recover.era, recover.height),
        format!("Blocks after header {} are given up", recover.parent),
    ];
    lines.extend(recover.survivors.iter().map(|survivor| {
        let key = if survivor.new_vote_key.is_some() { ", with a new vote key" } else { "" };
        format!("Votes from then on: {}{key}", survivor.node.to_gateway_string())
    }));
    lines
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is needed to make a recovery, apart from the operator's signature.
#[derive(Clone, Debug)]
pub struct Recovery<'a> {
    /// State after the parent.
    pub state: &'a State,
    /// The last block that is kept.
    pub tip: &'a Tip,
    /// Certificate of the parent; `None` on top of genesis.
    pub last_commit: Option<&'a Certificate>,
    /// Time of the block to be made, Unix milliseconds; must exceed the parent's.
    pub time_ms: u64,
    /// The gateway that makes it.
    pub proposer: NodeId,
    /// Who votes afterwards, ascending by node.
    pub survivors: Vec<Survivor>,
    /// Nonce of the operator's act.
    pub nonce: u64,
    /// Last block time at which it may be recorded, Unix milliseconds.
    pub expiry_ms: u64,
}

impl Recovery<'_> {
    /// The draft for the operator to sign, and the header that it fixes (but for `tx_root`).
    ///
    /// # Errors
    /// [`ActError::Apply`] when the state machine would refuse it, [`ActError::Decode`] when the
    /// survivors are none or not ascending.
    pub fn draft(&self) -> Result<(Draft, Header), ActError> {
        let era = self.tip.header.era;
        let recover = Recover {
            era: crate::ids::Era(era.0.saturating_add(1)),
            parent: self.tip.hash,
            height: self.tip.header.height.next(),
            survivors: self.survivors.clone(),
            block_digest: Hash::ZERO,
        };
        recover.check()?;
        let mut draft = Draft {
            chain_id: self.tip.header.chain_id,
            era,
            author: Author::Operator,
            nonce: self.nonce,
            expiry: self.expiry_ms,
            attachment: None,
            body: Body::Recover(recover.clone()),
        };
        // The state after the block depends neither on the digest nor on the signature.
        let unsigned = draft.clone().with_signature(Signature::from_bytes([0; 64]));
        let mut execution = self.state.begin(self.tip.next_context(self.time_ms));
        execution.preview(&unsigned)?;
        let outcome = execution.finish();
        let header = self.header(&outcome, core::slice::from_ref(&unsigned));
        let block_digest = header.recovery_digest();
        draft.body = Body::Recover(Recover { block_digest, ..recover });
        Ok((draft, header))
    }

    fn header(&self, outcome: &crate::state::Outcome, transactions: &[Transaction]) -> Header {
        let (time, proposer) = (self.time_ms, self.proposer);
        self.tip.next_header(self.state, outcome, transactions, self.last_commit, time, proposer)
    }
}

/// The block's header and certificate, once the operator has signed the draft of a recovery.
///
/// `header` is the one that [`Recovery::draft`] gave; its `tx_root` is filled in here.
pub fn certify_recovery(mut header: Header, transaction: Transaction) -> (Header, Certificate) {
    header.tx_root = crate::block::Block::tx_root(core::slice::from_ref(&transaction));
    let certificate = Certificate {
        height: header.height,
        block_hash: header.hash(),
        signers: Signers::Operator(Box::new(transaction)),
    };
    (header, certificate)
}
