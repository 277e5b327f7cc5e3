//! A kept reading as the leaf of a batch, and as people see it.

use drivers::senml::{Pack, Record, Value};
use ledger::batch::{BatchError, CutBatch, Leaf, Salt, TimeQuality};
use ledger::crypto::{Signature, sha256};
use ledger::ids::{ChainId, NodeId};

use crate::clock::quality_word;
use crate::control::{ReadingInfo, ValueInfo};
use crate::sensors::settings::hex;
use crate::store::{BatchState, Entry, StoreError, StoredBatch};

/// What leaves are bound to.
#[derive(Debug, Clone, Copy)]
pub struct Context {
    /// Chain of this site.
    pub chain_id: ChainId,
    /// This gateway.
    pub gateway: NodeId,
}

impl Context {
    /// The batch as the ledger takes it, under a sequence of the record.
    ///
    /// # Errors
    /// The readings make no batch: too many, or out of order.
    pub fn cut(&self, batch: &StoredBatch, sequence: u64) -> Result<CutBatch, BatchError> {
        CutBatch::build(sequence, self.leaves(&batch.secret, &batch.readings))
    }

    /// Root over the salted leaves; zero when there are none.
    ///
    /// # Errors
    /// As [`Context::cut`].
    pub fn root(&self, secret: &[u8; 32], readings: &[Entry]) -> Result<[u8; 32], StoreError> {
        if readings.is_empty() {
            return Ok([0; 32]);
        }
        let cut = CutBatch::build(1, self.leaves(secret, readings))
            .map_err(|error| StoreError::Io(error.to_string()))?;
        Ok(cut.head.root.0)
    }

    fn leaves(&self, secret: &[u8; 32], readings: &[Entry]) -> Vec<(Salt, Leaf)> {
        readings.iter().map(|entry| (salt(secret, entry), self.leaf(entry))).collect()
    }

    /// One reading as a leaf. Witnesses: none, while this gateway is alone.
    pub fn leaf(&self, entry: &Entry) -> Leaf {
        Leaf {
            chain_id: self.chain_id,
            node: NodeId(entry.node),
            epoch: entry.epoch,
            counter: entry.counter,
            time_ms: entry.time_ms,
            time_quality: quality(entry.quality),
            level: entry.level,
            witnesses: vec![],
            senml: entry.senml.clone(),
            device_signature: entry.signature.map(Signature::from_bytes),
        }
    }
}

fn quality(code: u8) -> TimeQuality {
    match code {
        0 => TimeQuality::Synced,
        1 => TimeQuality::Site,
        _ => TimeQuality::Unknown,
    }
}

/// Salt of a leaf: derived from the batch's secret, so that it need not be kept for each reading;
/// whoever is shown one salt learns nothing about the others.
pub fn salt(secret: &[u8; 32], entry: &Entry) -> Salt {
    let epoch = entry.epoch.to_be_bytes();
    let counter = entry.counter.to_be_bytes();
    let hash = sha256(&[b"gatewayd/salt/1", secret, &entry.node, &epoch, &counter]);
    let (salt, _) = hash.0.split_first_chunk().expect("16 of 32 bytes");
    *salt
}

/// A reading for people. `batch` says where it stands, as in the buffer.
pub fn describe(entry: &Entry, batch: Option<(BatchState, Option<u64>)>) -> ReadingInfo {
    let values = match Pack::from_cbor(&entry.senml) {
        Ok(pack) => values_of(&pack.0),
        // An uplink without payload, or bytes that only the proof explains.
        Err(_) => vec![],
    };
    ReadingInfo {
        sensor: NodeId(entry.node).to_light_node_string(),
        sensor_name: String::new(),
        epoch: entry.epoch,
        counter: entry.counter,
        time_ms: entry.time_ms,
        time_quality: quality_word(entry.quality),
        level: entry.level,
        values,
        status: match batch {
            None | Some((BatchState::Open, _)) => "durable",
            Some((BatchState::Committed, _)) => "committed",
            Some((BatchState::Unrecorded, _)) => "unrecorded",
        },
        height: batch.and_then(|(_, height)| height),
    }
}

/// SenML records for people.
pub fn values_of(records: &[Record]) -> Vec<ValueInfo> {
    let pack = Pack(records.to_vec());
    let Ok(resolved) = pack.resolve(0.0) else { return vec![] };
    resolved
        .into_iter()
        .map(|record| ValueInfo {
            name: record.name,
            unit: record.unit,
            value: match record.value {
                Some(Value::Number(number)) => number.into(),
                Some(Value::Text(text)) => text.into(),
                Some(Value::Boolean(boolean)) => boolean.into(),
                Some(Value::Data(data)) => hex(&data).into(),
                None => record.sum.into(),
            },
        })
        .collect()
}
