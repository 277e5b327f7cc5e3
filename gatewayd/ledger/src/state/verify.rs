//! Checks every signature of a transaction, once, and remembers under which keys.

use alloc::{collections::BTreeMap, vec::Vec};

use super::{State, error::VerifyError};
use crate::{
    codec::DecodeError,
    crypto::{PublicKey, verify_digest},
    ids::{Hash, NodeId},
    transaction::{
        Activate, Admit, Assign, Attachment, Author, Authorship, BatchHead, Body, Draft,
        FounderResult, QuorumSignature, Receipt, Recover, SuspendCause, Ticket, TicketIssuer,
        TicketPurpose, Transaction, activate_digest, holder_digest, offline_digest, ready_digest,
        vote_possession_digest,
    },
};

/// A transaction all of whose signatures are right. Only [`State::verify`] makes one.
///
/// Keys may change between this check and the block: the keys that were used are kept, and
/// `apply` compares them with the current ones.
#[derive(Clone, Debug)]
pub struct VerifiedTransaction {
    transaction: Transaction,
    keys: BTreeMap<Signer, PublicKey>,
}

impl VerifiedTransaction {
    /// The transaction.
    pub fn transaction(&self) -> &Transaction {
        &self.transaction
    }

    /// Gives the transaction back, for another check or to be sent on.
    pub fn into_transaction(self) -> Transaction {
        self.transaction
    }

    pub(super) fn keys(&self) -> &BTreeMap<Signer, PublicKey> {
        &self.keys
    }
}

/// Whose key a signature was checked under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Signer {
    Operator,
    Vote(NodeId),
    Identity(NodeId),
}

impl State {
    /// Checks form, author and every signature, under the keys that are current in this state.
    ///
    /// # Errors
    /// [`VerifyError`]. Rights, nonces, epochs and budgets are checked when it is applied.
    pub fn verify(&self, transaction: Transaction) -> Result<VerifiedTransaction, VerifyError> {
        let draft = transaction.draft();
        if draft.chain_id != self.chain_id() {
            return Err(VerifyError::Chain(draft.chain_id));
        }
        // A draft that was built here, not read, may hold lists in another than the canonical
        // order; nobody else could read it.
        if Transaction::from_raw(transaction.raw())?.draft() != draft {
            return Err(VerifyError::Body(DecodeError::Invalid("encoding")));
        }
        let mut keys = Keys { state: self, used: BTreeMap::new() };
        let author = keys.take(author_signer(draft)?)?;
        transaction.verify_signature(&author).map_err(|_| VerifyError::Signature)?;
        keys.check_parts(&transaction)?;
        let keys = keys.used;
        Ok(VerifiedTransaction { transaction, keys })
    }

    /// The current key of a signer; `None` when the gateway is no member.
    pub(super) fn key_of(&self, signer: Signer) -> Option<PublicKey> {
        match signer {
            Signer::Operator => Some(*self.operator()),
            Signer::Vote(node) => self.gateway(&node).map(|gateway| gateway.vote_key),
            Signer::Identity(node) => self.gateway(&node).map(|gateway| gateway.identity),
        }
    }
}

/// The authorship table of the design, as far as one signature can tell.
fn author_signer(draft: &Draft) -> Result<Signer, VerifyError> {
    let kind = draft.body.kind();
    let needed = draft.body.authorship();
    match (needed, draft.author) {
        (Authorship::Operator, Author::Operator) => Ok(Signer::Operator),
        (Authorship::IdentityKey, Author::Node(node)) => Ok(Signer::Identity(node)),
        (
            Authorship::Holder | Authorship::Coordinator | Authorship::Member | Authorship::Quorum,
            Author::Node(node),
        ) => Ok(Signer::Vote(node)),
        _ => Err(VerifyError::Author { kind, needed }),
    }
}

struct Keys<'a> {
    state: &'a State,
    used: BTreeMap<Signer, PublicKey>,
}

impl Keys<'_> {
    fn take(&mut self, signer: Signer) -> Result<PublicKey, VerifyError> {
        let node = match signer {
            Signer::Operator => NodeId([0; 20]),
            Signer::Vote(node) | Signer::Identity(node) => node,
        };
        let key = self.state.key_of(signer).ok_or(VerifyError::NotAMember(node))?;
        self.used.insert(signer, key);
        Ok(key)
    }

    fn check_parts(&mut self, transaction: &Transaction) -> Result<(), VerifyError> {
        let draft = transaction.draft();
        match &draft.body {
            Body::Register(body) => {
                self.check_ticket(draft, TicketPurpose::Register, &body.node, &body.ticket)
            }
            Body::Retire(body) => {
                self.check_ticket(draft, TicketPurpose::Retire, &body.node, &body.ticket)
            }
            Body::Assign(body) => self.check_holders(draft, body),
            Body::Batch(head) => {
                let attachment = transaction.attachment().ok_or(VerifyError::Attachment)?;
                self.check_receipts(draft, head, attachment)
            }
            Body::OperatorRotation(body) => body
                .verify(&draft.chain_id.0)
                .map_err(|_| VerifyError::Part("new operator key's signature")),
            Body::RotateKey(body) => {
                let Author::Node(node) = draft.author else {
                    return Err(VerifyError::Signature);
                };
                let identity = self.take(Signer::Identity(node))?;
                let digest = vote_possession_digest(&draft.chain_id.0, &identity, &body.vote_key);
                verify_digest(&body.vote_key, &digest, &body.possession)
                    .map_err(|_| VerifyError::Part("new vote key's signature"))
            }
            Body::Recover(body) => self.check_survivors(draft, body),
            Body::Admit(body) => self.check_admit(body),
            Body::Attest(body) => self.check_quorum(&body.statement.digest(), &body.endorsements),
            Body::Activate(body) => self.check_activate(draft, body),
            Body::Offline(body) => {
                let digest =
                    offline_digest(&draft.chain_id, draft.era, &body.node, body.liveness_epoch);
                self.check_quorum(&digest, &body.quorum)
            }
            Body::Suspend(body) => self.check_cause(draft, &body.cause),
            Body::Replace(body) => body
                .vote
                .verify(&draft.chain_id.0, &body.identity)
                .map_err(|_| VerifyError::Part("vote key's certificate or possession")),
            Body::Policy(_)
            | Body::Online(_)
            | Body::Pardon(_)
            | Body::Revoke(_)
            | Body::GatewayApproval(_)
            | Body::Leave(_)
            | Body::Session(_)
            | Body::Reserve(_)
            | Body::Tally(_)
            | Body::Refusal(_) => Ok(()),
        }
    }

    fn check_ticket(
        &mut self,
        draft: &Draft,
        purpose: TicketPurpose,
        node: &NodeId,
        ticket: &Ticket,
    ) -> Result<(), VerifyError> {
        let issuer = match ticket.issuer {
            TicketIssuer::Operator => Signer::Operator,
            TicketIssuer::Window { sponsor, .. } => Signer::Vote(sponsor),
        };
        let key = self.take(issuer)?;
        ticket.verify(&draft.chain_id, purpose, node, &key).map_err(|_| VerifyError::Part("ticket"))
    }

    /// Every listed gateway has signed, the author perhaps by the transaction alone, and nobody
    /// else.
    fn check_holders(&mut self, draft: &Draft, assign: &Assign) -> Result<(), VerifyError> {
        let mut listed: Vec<NodeId> =
            assign.items.iter().flat_map(|item| item.gateways.iter().copied()).collect();
        listed.sort_unstable();
        listed.dedup();
        let signed = |gateway: &NodeId| assign.holders.iter().any(|each| each.gateway == *gateway);
        listed.retain(|gateway| Author::Node(*gateway) != draft.author || signed(gateway));
        if !listed.iter().eq(assign.holders.iter().map(|proof| &proof.gateway)) {
            return Err(VerifyError::Part("list of holder signatures"));
        }
        for proof in &assign.holders {
            let key = self.take(Signer::Vote(proof.gateway))?;
            let digest = holder_digest(&draft.chain_id, draft.era, &proof.gateway, &assign.items);
            verify_digest(&key, &digest, &proof.signature)
                .map_err(|_| VerifyError::Part("holder signature"))?;
        }
        Ok(())
    }

    /// Signatures of members over one digest; that they are voters, and enough, is for the rules.
    fn check_quorum(
        &mut self,
        digest: &Hash,
        signatures: &[QuorumSignature],
    ) -> Result<(), VerifyError> {
        for each in signatures {
            let key = self.take(Signer::Vote(each.voter))?;
            each.verify(digest, &key).map_err(|_| VerifyError::Part("signature of a voter"))?;
        }
        Ok(())
    }

    /// The newcomer's keys are in the body: its identity key certifies its vote key.
    fn check_admit(&mut self, admit: &Admit) -> Result<(), VerifyError> {
        let Admit { statement, vote, endorsements, founder } = admit;
        let keys = VerifyError::Part("vote key's certificate or possession");
        if vote.vote_key != statement.vote_key {
            return Err(keys);
        }
        vote.verify(&self.state.chain_id().0, &statement.identity).map_err(|_| keys)?;
        if let Some(FounderResult { statement: founder, signature }) = founder {
            verify_digest(&vote.vote_key, &founder.digest(), signature)
                .map_err(|_| VerifyError::Part("founder's attestation result"))?;
        }
        self.check_quorum(&statement.digest(), endorsements)
    }

    fn check_activate(&mut self, draft: &Draft, body: &Activate) -> Result<(), VerifyError> {
        let (chain_id, era) = (&draft.chain_id, draft.era);
        let ready = ready_digest(chain_id, era, body.height, &body.hash);
        self.check_quorum(&ready, &body.nodes)?;
        let heard = activate_digest(chain_id, era, body.height, &body.hash, &body.node_ids());
        self.check_quorum(&heard, &body.quorum)
    }

    fn check_cause(&mut self, draft: &Draft, cause: &SuspendCause) -> Result<(), VerifyError> {
        match cause {
            SuspendCause::Operator => Ok(()),
            SuspendCause::FailedAttestation(failed) => {
                self.check_quorum(&failed.statement.digest(), &failed.endorsements)
            }
            // Under the key that it names: whose that key is or was, the rules look up.
            SuspendCause::Equivocation(votes) => votes
                .verify(&draft.chain_id)
                .map_err(|_| VerifyError::Part("signature of a contradicting vote")),
        }
    }

    fn check_receipts(
        &mut self,
        draft: &Draft,
        head: &BatchHead,
        attachment: &Attachment,
    ) -> Result<(), VerifyError> {
        let Author::Node(author) = draft.author else {
            return Err(VerifyError::Signature);
        };
        for receipt in &attachment.receipts {
            let key = self.take(Signer::Vote(receipt.holder))?;
            let digest = Receipt::digest(
                &draft.chain_id,
                draft.era,
                &author,
                head.sequence,
                &head.root,
                receipt.retained_until_ms,
            );
            verify_digest(&key, &digest, &receipt.signature)
                .map_err(|_| VerifyError::Part("receipt"))?;
        }
        Ok(())
    }

    fn check_survivors(&mut self, draft: &Draft, recover: &Recover) -> Result<(), VerifyError> {
        recover.check()?;
        for survivor in &recover.survivors {
            let identity = self.take(Signer::Identity(survivor.node))?;
            if let Some(proof) = &survivor.new_vote_key {
                proof
                    .verify(&draft.chain_id.0, &identity)
                    .map_err(|_| VerifyError::Part("survivor's vote key"))?;
            }
        }
        Ok(())
    }
}
