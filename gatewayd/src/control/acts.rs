//! Acts of the operator: prepared here, signed elsewhere, submitted here.

use std::collections::BTreeMap;

use ledger::codec::{Decode, Encode, Text};
use ledger::crypto::{PublicKey, Signature};
use ledger::ids::NodeId;
use ledger::operator::Request as ActRequest;
use ledger::policy::Policy;
use ledger::transaction::{
    Author, Body, Draft, NodeAct, OperatorRotation, Survivor, Suspend, SuspendCause, VoteKeyProof,
    vote_key_digest, vote_possession_digest,
};

use super::{CommittedInfo, Control, ControlError, Result, blocking, storage};
use crate::clock;
use crate::identity::{Folder, identity_key, normalized};
use crate::sensors::settings::unhex;
use crate::site::{Request, Running};

/// How long a prepared act may be signed and submitted, ms: a walk to the safe and back.
const VALID_MS: u64 = 7 * 24 * 3_600 * 1_000;

type Options = BTreeMap<String, String>;

impl Control {
    /// Bytes of an operator act, to be signed with the operator key.
    ///
    /// # Errors
    /// Unknown kind, wrong options, or the record would refuse it.
    pub async fn prepare_operator_act(
        &self,
        kind: &str,
        options: Options,
        caller: &str,
    ) -> Result<Vec<u8>> {
        let parts = self.parts()?;
        let caller = Text::new(caller).map_err(|_| invalid("the caller's name is too long"))?;
        let draft = match kind {
            "recover" => self.recovery(&parts, &options).await?,
            _ => act(&parts, kind, options).await?,
        };
        let site = parts.genesis.site_name.clone();
        let request = ActRequest::new(draft, site, caller).map_err(|error| invalid(&error))?;
        Ok(request.to_bytes())
    }

    /// Submits a signed operator act; returns when it is committed.
    ///
    /// # Errors
    /// Not an act, not the operator's signature, or the record refuses it.
    pub async fn submit_operator_act(
        &self,
        act: Vec<u8>,
        signature: [u8; 64],
    ) -> Result<CommittedInfo> {
        let parts = self.parts()?;
        let request = ActRequest::from_bytes(&act).map_err(|error| invalid(&error))?;
        let operator = parts.ledger.view(|state| *state.operator()).await?;
        let recovers = matches!(request.draft().body, Body::Recover(_));
        let kind = request.draft().body.kind();
        let signature = Signature::normalized(signature).map_err(|error| invalid(&error))?;
        let signed = request
            .with_signature(&operator, signature)
            .map_err(|error| ControlError::Refused(error.to_string()))?;
        let done = parts.ledger.submit(signed.into_transaction()).await?;
        if recovers {
            self.take_next_key().await?;
        }
        Ok(done.info(format!("{kind:?} is on the record")))
    }

    /// `Recover` for the sole voter: a new era on top of the newest block here, with a new vote
    /// key of this gateway.
    async fn recovery(&self, parts: &Running, options: &Options) -> Result<Draft> {
        no_more(options, &[])?;
        let (tpm, dir) = (self.tpm.clone(), self.settings.data_dir.clone());
        let (vault, info) = (parts.vault.clone(), parts.identity.clone());
        let (chain, gateway) = (parts.genesis.chain_id().0, parts.gateway);
        let known = parts.ledger.view(move |state| state.gateway(&gateway).map(|g| g.vote_key));
        let known = known.await?;
        let proof = blocking(move || {
            let key = Folder::at(&dir)?.next_vote_key(&vault, known.as_ref())?;
            let identity = identity_key(&info)?;
            let certified = vote_key_digest(&chain, &identity, &key.public_key());
            let signed = tpm
                .sign_identity(certified.0)
                .map_err(|error| ControlError::Tpm(error.to_string()))?;
            let held = vote_possession_digest(&chain, &identity, &key.public_key());
            Ok(VoteKeyProof {
                vote_key: key.public_key(),
                certificate: normalized(signed)?,
                possession: key.sign_digest(&held),
            })
        });
        let survivor = Survivor { node: parts.gateway, new_vote_key: Some(proof.await?) };
        let prepared = parts.ledger.with_node(move |node| {
            let nonce = next_nonce(node.state());
            let expiry = node.tip().time_ms.saturating_add(VALID_MS);
            node.prepare_recovery(vec![survivor], nonce, expiry)
        });
        prepared.await?.map_err(|error| ControlError::Refused(error.to_string()))
    }

    /// After a recovery the new vote key counts; the disk and the TPM's counter agree again, and
    /// the daemon starts anew on them.
    async fn take_next_key(&self) -> Result<()> {
        let (tpm, dir) = (self.tpm.clone(), self.settings.data_dir.clone());
        blocking(move || {
            Folder::at(&dir)?.take_next_vote_key()?;
            let nv = tpm.counter_read().map_err(|error| ControlError::Tpm(error.to_string()))?;
            // The old database handle is another writer of one row: SQLite lets one at a time.
            let mut store = ledger::store::Store::open(&dir).map_err(storage)?;
            store.write_counter(nv).map_err(storage)
        })
        .await?;
        // A daemon that is stopping starts anew by itself.
        let _ = self.site.send(Request::Restart).await;
        Ok(())
    }
}

async fn act(parts: &Running, kind: &str, options: Options) -> Result<Draft> {
    let policy = parts.ledger.view(|state| state.policy().clone()).await?;
    let body = body(kind, &options, policy)?;
    let draft = parts.ledger.with_node(move |node| Draft {
        chain_id: node.state().chain_id(),
        era: node.state().era(),
        author: Author::Operator,
        nonce: next_nonce(node.state()),
        expiry: node.tip().time_ms.max(clock::wall_ms()).saturating_add(VALID_MS),
        attachment: None,
        body,
    });
    draft.await
}

fn next_nonce(state: &ledger::state::State) -> u64 {
    state.activity(&Author::Operator).map_or(0, |activity| activity.nonce_highest) + 1
}

fn body(kind: &str, options: &Options, policy: Policy) -> Result<Body> {
    Ok(match kind {
        "policy" => changed(policy, options)?.into(),
        "suspend" => {
            let NodeAct { node, reason } = node_act(options)?;
            Body::Suspend(Suspend { node, reason, cause: SuspendCause::Operator })
        }
        "pardon" => Body::Pardon(node_act(options)?),
        "revoke" => Body::Revoke(node_act(options)?),
        "rotate-operator" => {
            no_more(options, &["new_key", "possession"])?;
            let new_key = PublicKey::from_sec1(&hex_option(options, "new_key")?)
                .map_err(|error| invalid(&error))?;
            let possession = hex_option(options, "possession")?;
            let possession = possession
                .try_into()
                .map_err(|_| invalid("possession: 64 bytes in hexadecimal"))?;
            let possession = Signature::normalized(possession).map_err(|error| invalid(&error))?;
            Body::OperatorRotation(OperatorRotation { new_key, possession })
        }
        _ => {
            let kinds = "policy, suspend, pardon, revoke, recover, rotate-operator";
            return Err(invalid(&format!("unknown act `{kind}`; there are {kinds}")));
        }
    })
}

fn node_act(options: &Options) -> Result<NodeAct> {
    no_more(options, &["node", "reason"])?;
    let node = options.get("node").ok_or_else(|| invalid("node=ID is missing"))?;
    let (_, node) = NodeId::parse(node).map_err(|error| invalid(&error))?;
    let reason = options.get("reason").ok_or_else(|| invalid("reason=TEXT is missing"))?;
    let reason = Text::new(reason.as_str()).map_err(|error| invalid(&error))?;
    Ok(NodeAct { node, reason })
}

/// The policy with some of its numbers changed.
fn changed(mut policy: Policy, options: &Options) -> Result<Policy> {
    for (key, value) in options {
        let wrong = || invalid(&format!("{key}: `{value}` is not a number in range"));
        let number = || value.parse::<u32>().map_err(|_| wrong());
        match key.as_str() {
            "block_interval_ms" => policy.block_interval_ms = number()?,
            "batch_interval_ms" => policy.batch_interval_ms = number()?,
            "offline_after_ms" => policy.offline_after_ms = number()?,
            "receipts" => policy.receipts = u8::try_from(number()?).map_err(|_| wrong())?,
            "nodes_per_sponsor" => policy.nodes_per_sponsor = number()?,
            "registrations_per_hour" => policy.registrations_per_hour = number()?,
            "transactions_per_author" => policy.transactions_per_author = number()?,
            "refusals_per_hour" => policy.refusals_per_hour = number()?,
            "operator_approval" => {
                policy.operator_approval = value.parse().map_err(|_| wrong())?;
            }
            _ => return Err(invalid(&format!("unknown policy setting `{key}`"))),
        }
    }
    policy.check().map_err(|error| invalid(&error))?;
    Ok(policy)
}

fn hex_option(options: &Options, key: &str) -> Result<Vec<u8>> {
    let missing = || invalid(&format!("{key}=HEX is missing"));
    unhex(options.get(key).ok_or_else(missing)?).ok_or_else(missing)
}

fn no_more(options: &Options, known: &[&str]) -> Result<()> {
    match options.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(invalid(&format!("unknown option `{key}`"))),
        None => Ok(()),
    }
}

fn invalid(what: &(impl std::fmt::Display + ?Sized)) -> ControlError {
    ControlError::InvalidArgument(what.to_string())
}
