//! Proof files: the ledger's half from a snapshot of the store and the state, the reading's half
//! from the buffer.

use std::path::Path;
use std::time::Duration;

use ledger::batch::LeafPath;
use ledger::certificate::Signers;
use ledger::codec::Encode;
use ledger::header::Header;
use ledger::ids::{Era, Height, NodeId};
use ledger::proof::{
    Anchor, MAX_STEPS, Proof, ReadingProof, SetChange, Subject, Target, Way, shortest_way,
};
use ledger::state::{Key, StateProof};
use ledger::store::{BatchInclusion, MAX_PAGE, Reader, SetStep};
use ledger::transaction::Body;

use super::{Control, ControlError, ReadingSelector, Result, blocking, storage};
use crate::ingest::leaf;
use crate::ledger_task;
use crate::site::Running;
use crate::store::{BatchState, BufferReader, NodeBytes, StoredBatch};

/// The site code changes every so many blocks, so that a proof need carry one old header only: a
/// verifier with an older code has it named at the export.
const CHECKPOINT_BLOCKS: u64 = 256;

/// Longest wait for a reading to be committed.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(30);

/// The tip may move between two looks at it; so often it is looked again.
const ATTEMPTS: u32 = 8;

impl Control {
    /// Header of the newest checkpoint at or below a height.
    pub(super) async fn checkpoint(&self, tip: Height) -> Result<Header> {
        self.read(move |reader| checkpoint(reader, tip)).await
    }

    /// Proof file of one reading; commits it first if it waits.
    ///
    /// # Errors
    /// No such reading, not committed in time, kept here unrecorded.
    pub async fn export_reading(&self, reading: ReadingSelector) -> Result<Vec<u8>> {
        let parts = self.parts()?;
        let (node, name) = parts.sensors.find(&reading.sensor).await?;
        let (batch, place) = self.committed(&parts, node, &name, reading.counter).await?;
        let Some((_, sequence)) = batch.committed else {
            return Err(ControlError::Internal("a committed batch has no place".into()));
        };
        let gateway = self.author(&parts, &batch, sequence).await?;
        let kept = leaf_path(&parts, &batch, sequence, place)?;
        let held = held(reading.anchor.as_deref())?;
        let wanted = vec![Key::Gateway(gateway), Key::LightNode(NodeId(node))];
        for _ in 0..ATTEMPTS {
            let (height, states) = states(&parts.ledger, wanted.clone()).await?;
            let found = self.read(move |reader| {
                let found = reader.batch_inclusion(&gateway, sequence).map_err(storage)?;
                let Some(found) = found.filter(|found| found.tip.height == height) else {
                    return Ok(None);
                };
                let signers = found.certificate.signers.clone();
                let target = target(reader, found.tip.clone(), signers, held)?;
                Ok(Some((found, target)))
            });
            if let Some((found, target)) = found.await? {
                let proof = Proof { subject: subject(kept, found), target, states };
                return Ok(proof.to_bytes());
            }
        }
        Err(ControlError::Busy("the record moves on too fast; try again".into()))
    }

    /// Proof file that an ID is on the record with this standing, or that it is not.
    ///
    /// # Errors
    /// Not an ID.
    pub async fn prove(&self, id: &str) -> Result<Vec<u8>> {
        let parts = self.parts()?;
        let (_, node) =
            NodeId::parse(id).map_err(|error| ControlError::InvalidArgument(error.to_string()))?;
        identity_proof(&parts.ledger, &self.settings.data_dir, node, &[], None).await
    }

    /// Who recorded a batch: this gateway, or an identity whose place it took.
    async fn author(&self, parts: &Running, batch: &StoredBatch, sequence: u64) -> Result<NodeId> {
        let own = parts.gateway;
        let lineage = parts.ledger.view(move |state| state.lineage(&own)).await?;
        if lineage == [own] {
            return Ok(own);
        }
        let root = batch.root;
        self.read(move |reader| {
            for author in lineage {
                let found = reader.batch_inclusion(&author, sequence).map_err(storage)?;
                let body = found.as_ref().map(|found| &found.transaction.draft().body);
                if matches!(body, Some(Body::Batch(head)) if head.root.0 == root) {
                    return Ok(author);
                }
            }
            Err(ControlError::Internal("a committed batch is not on the record".into()))
        })
        .await
    }

    /// The committed batch that holds the reading; waits for it.
    async fn committed(
        &self,
        parts: &Running,
        node: NodeBytes,
        name: &str,
        counter: Option<(u32, u64)>,
    ) -> Result<(StoredBatch, usize)> {
        let not_found = || ControlError::NotFound { what: "reading", name: name.to_owned() };
        let path = self.settings.data_dir.join("buffer.db");
        let (epoch, counter) = match counter {
            Some(wanted) => wanted,
            // The newest of this moment: later ones do not put the answer off.
            None => {
                let path = path.clone();
                let newest = blocking(move || {
                    let reader = BufferReader::open(&path).map_err(storage)?;
                    reader.newest(Some(&node), 1).map_err(storage)
                });
                let newest = newest.await?.pop().ok_or_else(not_found)?.entry;
                (newest.epoch, newest.counter)
            }
        };
        parts.ingest.flush().await?;
        let mut tip = parts.ledger.tip();
        let deadline = tokio::time::Instant::now() + COMMIT_TIMEOUT;
        loop {
            tip.mark_unchanged();
            let path = path.clone();
            let found = blocking(move || {
                let reader = BufferReader::open(&path).map_err(storage)?;
                reader.find(&node, epoch, counter).map_err(storage)
            });
            match found.await? {
                Some((batch, place)) if batch.state == BatchState::Committed => {
                    return Ok((batch, place));
                }
                Some((batch, _)) if batch.state == BatchState::Unrecorded => {
                    return Err(ControlError::Refused(
                        "this reading is kept here, unrecorded: its counter was closed".into(),
                    ));
                }
                Some(_) => {}
                // What was durable is cut by now.
                None => return Err(not_found()),
            }
            // Marking a batch as committed comes a moment after its block.
            let moved = tokio::time::timeout(Duration::from_millis(200), tip.changed()).await;
            if matches!(moved, Ok(Err(_))) || tokio::time::Instant::now() > deadline {
                return Err(ControlError::Timeout("it was not committed within 30 s".into()));
            }
        }
    }
}

/// Proof that an ID is on the record with this standing, or that it is not; with more entries of
/// the state beside it, and from an older header that the verifier holds.
///
/// # Errors
/// The header is not of this record; there is no block yet.
pub(crate) async fn identity_proof(
    ledger: &ledger_task::Handle,
    data_dir: &Path,
    node: NodeId,
    more: &[Key],
    held: Option<Anchor>,
) -> Result<Vec<u8>> {
    let mut wanted = vec![Key::Gateway(node), Key::LightNode(node)];
    wanted.extend(more);
    for _ in 0..ATTEMPTS {
        let (height, states) = states(ledger, wanted.clone()).await?;
        let dir = data_dir.to_owned();
        let found = blocking(move || {
            let reader = Reader::open(&dir).map_err(storage)?;
            let tip = reader.tip().map_err(storage)?;
            let certificate = reader.certificate(tip.height).map_err(storage)?;
            match certificate.filter(|_| tip.height == height) {
                Some(certificate) => Ok(Some(target(&reader, tip, certificate.signers, held)?)),
                None => Ok(None),
            }
        });
        if let Some(target) = found.await? {
            return Ok(Proof { subject: Subject::Identity(node), target, states }.to_bytes());
        }
        // Genesis has no certificate; the first block comes with the first transaction, or
        // with the heartbeat.
        if height == Height::GENESIS {
            return Err(ControlError::Busy("there is no block yet; try in a minute".into()));
        }
    }
    Err(ControlError::Busy("the record moves on too fast; try again".into()))
}

fn leaf_path(
    parts: &Running,
    batch: &StoredBatch,
    sequence: u64,
    place: usize,
) -> Result<LeafPath> {
    let internal = |error: &dyn std::fmt::Display| ControlError::Internal(error.to_string());
    let context = leaf::Context { chain_id: parts.genesis.chain_id(), gateway: parts.gateway };
    let cut = context.cut(batch, sequence).map_err(|error| internal(&error))?;
    let missing = || internal(&"a reading is not where its batch says");
    let path = cut.path(place).ok_or_else(missing)?;
    let (salt, leaf) = cut.leaves.into_iter().nth(place).ok_or_else(missing)?;
    let index = u32::try_from(place).map_err(|error| internal(&error))?;
    Ok(LeafPath { salt, index, path, leaf })
}

fn subject(kept: LeafPath, found: BatchInclusion) -> Subject {
    let block = (found.header != found.tip).then_some((found.header, found.history_path));
    let transaction = found.transaction.raw().to_vec();
    let reading = ReadingProof::new(kept, transaction, found.position, found.tx_path, block);
    Subject::Reading(Box::new(reading))
}

/// State entries as of the newest block, with its height.
async fn states(
    ledger: &ledger_task::Handle,
    mut wanted: Vec<Key>,
) -> Result<(Height, Vec<StateProof>)> {
    let proved = ledger.with_node(move |node| {
        let state = node.state();
        if state.era() > Era(0) {
            wanted.push(Key::Site);
        }
        wanted.sort();
        let proofs = wanted.iter().map(|key| state.state_proof(key)).collect();
        (node.tip().height, proofs)
    });
    proved.await
}

/// The site code that a verifier holds.
fn held(code: Option<&str>) -> Result<Option<Anchor>> {
    let parse = |code| Anchor::parse(code).map_err(|error| format!("the site code: {error}"));
    code.map(parse).transpose().map_err(ControlError::InvalidArgument)
}

/// The header that a site code names.
fn named(reader: &Reader, anchor: &Anchor) -> Result<Header> {
    let header = reader.header(anchor.height).map_err(storage)?;
    let other = "the site code is of another site, or newer than this record";
    header
        .filter(|header| header.hash() == anchor.hash)
        .ok_or_else(|| ControlError::InvalidArgument(other.into()))
}

/// The certified header with the ways to it from the newest checkpoints and from the site code
/// that the verifier holds.
fn target(
    reader: &Reader,
    header: Header,
    signers: Signers,
    held: Option<Anchor>,
) -> Result<Target> {
    let mut anchors = Vec::new();
    if let Some(anchor) = &held {
        anchors.push(named(reader, anchor)?);
    }
    anchors.push(checkpoint(reader, header.height)?);
    anchors.sort_by_key(|anchor| anchor.height);
    anchors.dedup();
    anchors.retain(|anchor| *anchor != header);
    let from = anchors.first().map_or(Height(header.height.0.saturating_sub(1)), |a| a.height);
    let stops: Vec<Height> = anchors.iter().map(|anchor| anchor.height).collect();
    let (sets, steps) = voters_between(reader, from, header.height, &stops)?;
    Ok(Target { header, signers, sets, steps, anchors })
}

/// The shortest way from the voters above one height to those of another.
fn voters_between(reader: &Reader, from: Height, to: Height, stops: &[Height]) -> Result<Way> {
    let first = reader.validators(from.next()).map_err(storage)?;
    let mut changes = Vec::new();
    let mut after = from;
    // The store answers page by page.
    while changes.len() <= MAX_CHANGES {
        let page = reader.set_steps(after, MAX_PAGE).map_err(storage)?;
        let Some(last) = page.last() else { break };
        after = last.header.height;
        for step in page.into_iter().take_while(|step| step.header.height < to) {
            let SetStep { header, certificate, next } = step;
            changes.push(SetChange { header, signers: certificate.signers, next });
        }
        if after >= to {
            break;
        }
    }
    let many = changes.len() > MAX_CHANGES;
    let (sets, steps) = shortest_way(first, changes, stops);
    if many || steps.len() > MAX_STEPS {
        let why = format!(
            "the voting gateways changed too often since height {from}: take a newer site code"
        );
        return Err(ControlError::Refused(why));
    }
    Ok((sets, steps))
}

/// More changes of the voters are not even read: the shortest way over them is too long.
const MAX_CHANGES: usize = 10 * MAX_STEPS;

/// Header of the newest checkpoint at or below a height.
fn checkpoint(reader: &Reader, tip: Height) -> Result<Header> {
    let height = Height(tip.0 / CHECKPOINT_BLOCKS * CHECKPOINT_BLOCKS);
    let missing = || ControlError::Storage(format!("the header of block {} is missing", height.0));
    reader.header(height).map_err(storage)?.ok_or_else(missing)
}
