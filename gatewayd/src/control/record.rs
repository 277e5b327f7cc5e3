//! The record as people read it: head, blocks, history, proofs. Reads are snapshots of the store.

use ledger::block::Block;
use ledger::certificate::Signers;
use ledger::ids::{Height, NodeId};
use ledger::proof::Anchor;
use ledger::store::Reader;
use ledger::transaction::{Author, Body, Draft, SuspendCause, Transaction};

use super::policy::policy_words;
use super::{
    BlockInfo, Control, ControlError, HistoryEntry, Result, SiteInfo, TransactionInfo, blocking,
    storage,
};
use crate::sensors::settings::hex;
use crate::status::attestation_word;

/// Most entries of one history.
const MAX_HISTORY: u32 = 1_000;

impl Control {
    /// The site this gateway belongs to.
    ///
    /// # Errors
    /// No site runs.
    pub async fn site(&self) -> Result<SiteInfo> {
        let parts = self.parts()?;
        let gateway = parts.gateway;
        let (tip, state) = parts
            .ledger
            .with_node(move |node| {
                let state = node.state();
                let own = state.gateway(&gateway).map(|own| attestation_word(&own.attestation));
                (node.tip().clone(), (own, *state.operator(), state.policy().clone()))
            })
            .await?;
        let (attestation, operator, policy) = state;
        let genesis = ledger::state::State::genesis_header(&parts.genesis);
        let checkpoint = self.checkpoint(tip.height).await?;
        Ok(SiteInfo {
            name: parts.genesis.site_name.as_str().to_owned(),
            chain_id: parts.genesis.chain_id().to_string(),
            site_code: Anchor::of(&checkpoint).to_code(),
            height: checkpoint.height.0,
            genesis_code: Anchor::of(&genesis).to_code(),
            gateway: gateway.to_gateway_string(),
            operator_key: hex(operator.as_bytes()),
            attestation: attestation.unwrap_or("not a member").into(),
            era: tip.era.0,
            policy: policy_words(&policy),
        })
    }

    /// Newest block.
    ///
    /// # Errors
    /// No site runs; the store cannot be read.
    pub async fn ledger_head(&self) -> Result<BlockInfo> {
        self.parts()?;
        self.read(|reader| {
            let height = reader.tip().map_err(storage)?.height;
            block_info(reader, height)
        })
        .await
    }

    /// Block at a height.
    ///
    /// # Errors
    /// There is none; the store cannot be read.
    pub async fn ledger_show(&self, height: u64) -> Result<BlockInfo> {
        self.parts()?;
        self.read(move |reader| block_info(reader, Height(height))).await
    }

    /// Changes of a sensor on the record, newest first.
    ///
    /// # Errors
    /// No such sensor; the store cannot be read.
    pub async fn sensor_history(&self, id_or_name: &str, limit: u32) -> Result<Vec<HistoryEntry>> {
        let parts = self.parts()?;
        // One that was forgotten is still on the record: an ID is enough.
        let node = match NodeId::parse(id_or_name) {
            Ok((_, node)) => node,
            Err(_) => NodeId(parts.sensors.find(id_or_name).await?.0),
        };
        let limit = limit.min(MAX_HISTORY) as usize;
        let entries = self.read(move |reader| {
            let found = reader.history(&node, None, limit).map_err(storage)?;
            found.into_iter().map(|entry| history_entry(reader, &entry)).collect()
        });
        entries.await
    }

    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Reader) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let dir = self.settings.data_dir.clone();
        blocking(move || work(&Reader::open(&dir).map_err(storage)?)).await
    }
}

fn history_entry(reader: &Reader, entry: &ledger::store::HistoryEntry) -> Result<HistoryEntry> {
    let at = entry.at;
    let block = reader.block(at.height).map_err(storage)?;
    let transaction = block.as_ref().and_then(|block| block.transactions.get(at.position as usize));
    Ok(HistoryEntry {
        height: at.height.0,
        time_ms: entry.time_ms,
        what: entry.event.describe(),
        transaction: transaction.map(|made| made.hash().to_string()).unwrap_or_default(),
    })
}

fn block_info(reader: &Reader, height: Height) -> Result<BlockInfo> {
    let not_found = || ControlError::NotFound { what: "block", name: height.0.to_string() };
    let Block { header, transactions, .. } =
        reader.block(height).map_err(storage)?.ok_or_else(not_found)?;
    let certificate = reader.certificate(height).map_err(storage)?;
    let voters = reader.validators(height).map_err(storage)?.count();
    let signed = certificate.map_or(0, |certificate| match certificate.signers {
        Signers::Votes(votes) => votes.signatures.len(),
        // The operator alone certifies a recovery.
        Signers::Operator(_) => 0,
    });
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Ok(BlockInfo {
        height: height.0,
        era: header.era.0,
        hash: header.hash().to_string(),
        parent: header.parent_hash.to_string(),
        time_ms: header.time_ms,
        proposer: header.proposer.to_gateway_string(),
        state_root: header.state_root.to_string(),
        signed: (count(signed), count(voters)),
        transactions: transactions.iter().map(transaction_info).collect(),
    })
}

fn transaction_info(transaction: &Transaction) -> TransactionInfo {
    let draft = transaction.draft();
    TransactionInfo {
        hash: transaction.hash().to_string(),
        kind: format!("{:?}", draft.body.kind()),
        author: match &draft.author {
            Author::Operator => "operator".into(),
            Author::Node(node) => node.to_gateway_string(),
        },
        summary: sentence(draft),
    }
}

/// A transaction in a sentence.
fn sentence(draft: &Draft) -> String {
    let light = |node: &NodeId| node.to_light_node_string();
    match &draft.body {
        Body::Policy(_) => "the operator changed the site's policy".into(),
        Body::Suspend(act) => {
            let by = match act.cause {
                SuspendCause::Operator => "the operator suspended it",
                SuspendCause::FailedAttestation(_) => "suspended, its attestation failed",
                SuspendCause::Equivocation(_) => "suspended, it voted twice",
            };
            format!("{by}: {}", act.reason.as_str())
        }
        Body::Pardon(act) => format!("the operator pardoned it: {}", act.reason.as_str()),
        Body::Revoke(act) => format!("the operator revoked it: {}", act.reason.as_str()),
        Body::Recover(recover) => {
            format!("recovered by the operator: era {} begins", recover.era.0)
        }
        Body::OperatorRotation(_) => "the operator changed its key".into(),
        Body::Batch(head) => {
            format!("batch {} with {} readings was committed", head.sequence, head.count)
        }
        Body::Session(session) => {
            let epoch = session.expected_epoch.saturating_add(1);
            format!("{} opened session epoch {epoch}", light(&session.node))
        }
        Body::Reserve(reserve) => {
            format!("downlink counters reserved for {} sensor(s)", reserve.items.len())
        }
        Body::Register(register) => {
            let (node, sponsor) = (light(&register.node), register.sponsor.to_gateway_string());
            format!("{node} was registered; {sponsor} saw it prove its identity")
        }
        Body::Retire(retire) => {
            format!("{} was given up: {}", light(&retire.node), retire.reason.as_str())
        }
        Body::Assign(assign) => {
            let served: Vec<_> = assign
                .items
                .iter()
                .take(3)
                .map(|item| {
                    let by = item
                        .gateways
                        .first()
                        .map_or("nobody".into(), |gateway| gateway.to_gateway_string());
                    format!("{} by {by}", light(&item.node))
                })
                .collect();
            format!("{} sensor(s) assigned: {}", assign.items.len(), served.join(", "))
        }
        Body::Tally(tally) => {
            let frames: u64 = tally.counts.iter().map(|count| count.frames).sum();
            format!("{frames} frames of strangers in an hour")
        }
        Body::Refusal(refusal) => format!("refused: {}", refusal.reason.as_str()),
        Body::RotateKey(_) => "the gateway changed its vote key".into(),
        other => membership_sentence(other),
    }
}

fn membership_sentence(body: &Body) -> String {
    match body {
        Body::Admit(admit) => {
            let node = admit.statement.node().to_gateway_string();
            format!("{node} was admitted as {}", admit.statement.label.words())
        }
        Body::Activate(activate) => {
            format!("{} gateway(s) are ready to vote", activate.nodes.len())
        }
        Body::Attest(attest) => {
            let node = attest.statement.node().to_gateway_string();
            format!("the attestation of {node} was renewed")
        }
        Body::Offline(offline) => {
            format!("{} was found offline", offline.node.to_gateway_string())
        }
        Body::Online(_) => "the gateway is back online".into(),
        Body::Leave(leave) => format!("the gateway left: {}", leave.reason.as_str()),
        Body::Replace(replace) => {
            let old = replace.old.to_gateway_string();
            let new = NodeId::of_key(&replace.identity).to_gateway_string();
            format!("{new} took the place of {old}: {}", replace.reason.as_str())
        }
        Body::GatewayApproval(approval) => {
            format!("the operator approved {}", approval.node().to_gateway_string())
        }
        // Told above.
        other => format!("{:?}", other.kind()),
    }
}
