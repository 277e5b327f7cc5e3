//! From a reading to the header of its block.

use alloc::{format, string::String, vec::Vec};

use super::{Checks, Entries, words};
use crate::{
    batch::Leaf,
    chain::history_leaf,
    header::Header,
    ids::{Height, NodeId},
    merkle::root_from_path,
    proof::{ReadingProof, ShownReceipts, Target},
    state::{Key, LightNode, Record},
    transaction::{Attachment, Author, BatchHead, Body, Transaction},
};

/// What the checks found out about the batch.
pub(super) struct Proved {
    gateway: NodeId,
    head: BatchHead,
    block: Height,
    block_time_ms: u64,
    receipts: Option<Vec<NodeId>>,
}

/// Checks the reading; `None` when the `Batch` transaction cannot be read or is no batch.
pub(super) fn check(
    checks: &mut Checks,
    reading: &ReadingProof,
    target: &Target,
) -> Option<Proved> {
    let block = reading.block.as_ref().map_or(&target.header, |(header, _)| header);
    let batch = read_batch(reading, block);
    let (gateway, head, transaction) = match batch {
        Ok(batch) => batch,
        Err(sentence) => {
            checks.add("transaction", false, sentence);
            return None;
        }
    };
    check_leaf(checks, reading, &head);
    check_transaction(checks, reading, &transaction, block);
    check_history(checks, reading, target);
    let receipts = check_receipts(checks, reading, &transaction);
    Some(Proved { gateway, head, block: block.height, block_time_ms: block.time_ms, receipts })
}

fn read_batch(
    reading: &ReadingProof,
    block: &Header,
) -> Result<(NodeId, BatchHead, Transaction), String> {
    let transaction = Transaction::from_raw(&reading.transaction)
        .map_err(|error| format!("The batch transaction is damaged: {error}."))?;
    let draft = transaction.draft();
    match (&draft.body, draft.author) {
        (Body::Batch(head), Author::Node(gateway)) if draft.chain_id == block.chain_id => {
            Ok((gateway, *head, transaction))
        }
        _ => Err("The transaction is no batch of this site.".into()),
    }
}

/// The size of the tree is the signed count, never one from the file.
fn check_leaf(checks: &mut Checks, reading: &ReadingProof, head: &BatchHead) {
    let leaf = reading.leaf.hash(&reading.salt);
    let (index, count) = (u64::from(reading.index), u64::from(head.count));
    let ok = root_from_path(&leaf, index, count, &reading.path) == Some(head.root);
    let sentence = if ok {
        format!("The reading is number {} of the {count} in its batch.", index + 1)
    } else {
        "The reading is not in the batch: it, its salt or its path was changed.".into()
    };
    checks.add("reading", ok, sentence);
}

fn check_transaction(
    checks: &mut Checks,
    reading: &ReadingProof,
    transaction: &Transaction,
    block: &Header,
) {
    let (index, count) = (u64::from(reading.tx_index), u64::from(block.tx_count));
    let root = root_from_path(&transaction.hash(), index, count, &reading.tx_path);
    let ok = root == Some(block.tx_root);
    let sentence = if ok {
        format!("The batch was recorded in the block of height {}.", block.height)
    } else {
        format!("The batch is not in the block of height {}.", block.height)
    };
    checks.add("transaction", ok, sentence);
}

/// The tree of a header's history has as many leaves as the header's height.
fn check_history(checks: &mut Checks, reading: &ReadingProof, target: &Target) {
    let Some((block, path)) = &reading.block else {
        checks.add("history", true, "The block is the certified one itself.".into());
        return;
    };
    let leaf = history_leaf(&block.hash());
    let root = root_from_path(&leaf, block.height.0, target.header.height.0, path);
    let ok = root == Some(target.header.history_root);
    let sentence = if ok {
        format!(
            "The block is part of the history of the header of height {}.",
            target.header.height
        )
    } else {
        "The block is not part of the certified history.".into()
    };
    checks.add("history", ok, sentence);
}

/// The block's acceptance says that the receipts were valid; here that they are the batch's.
fn check_receipts(
    checks: &mut Checks,
    reading: &ReadingProof,
    transaction: &Transaction,
) -> Option<Vec<NodeId>> {
    let ShownReceipts { list_digest, receipts } = reading.receipts.as_ref()?;
    let digest =
        Attachment::digest_of_parts(list_digest, &Attachment::digest_of_receipts(receipts));
    let ok = transaction.draft().attachment == Some(digest);
    let sentence = if ok {
        format!("{} receipts belong to the batch.", receipts.len())
    } else {
        "The receipts do not belong to the batch.".into()
    };
    checks.add("receipts", ok, sentence);
    Some(receipts.iter().map(|receipt| receipt.holder).collect())
}

/// Statements about the reading.
pub(super) fn state(
    statements: &mut Vec<String>,
    reading: &ReadingProof,
    proved: &Proved,
    target: &Target,
    entries: &Entries,
) {
    let leaf = &reading.leaf;
    statements.push(what(leaf));
    statements.push(format!(
        "It was received at {}, {}.",
        words::time(leaf.time_ms),
        words::time_quality(leaf.time_quality)
    ));
    statements.push(format!(
        "Its gateway recorded it in batch {} at height {}, {}.",
        proved.head.sequence,
        proved.block,
        words::time(proved.block_time_ms)
    ));
    statements.push(format!("Assurance {}.", words::level(leaf.level)));
    if leaf.device_signature.is_some() {
        statements.push(
            "It carries a signature of the sensor, which this program does not check.".into(),
        );
    } else if leaf.level == 3 {
        statements.push("Level 3 is claimed WITHOUT a signature of the sensor.".into());
    }
    statements.push(witnesses(leaf, proved));
    statements.push(vouching_gateway(proved, target, entries));
    match entries.light_node(&leaf.node) {
        Some(light_node) => {
            statements.push(serving(proved, light_node));
            statements.push(words::light_node(&leaf.node.to_light_node_string(), light_node));
        }
        None => statements.push("The file does not show how the sensor stands.".into()),
    }
}

fn what(leaf: &Leaf) -> String {
    let payload = if leaf.senml.is_empty() {
        "without a payload".into()
    } else {
        format!("{} bytes of SenML", leaf.senml.len())
    };
    format!(
        "Sensor {} sent the reading with counter {} of its session epoch {}: {payload}.",
        leaf.node.to_light_node_string(),
        leaf.counter,
        leaf.epoch
    )
}

fn witnesses(leaf: &Leaf, proved: &Proved) -> String {
    let named = leaf.witnesses.len();
    match (&proved.receipts, named) {
        (None, 0) => "No other gateway is named as a witness.".into(),
        (None, _) => format!("{named} witnesses named; the file does not show who countersigned."),
        (Some(holders), _) => {
            let both = leaf.witnesses.iter().filter(|node| holders.contains(node)).count();
            format!("{named} witnesses named, {both} of them countersigned.")
        }
    }
}

/// That the gateway served the sensor is what the other gateways checked when the batch was
/// recorded; a proof carries the batch's head only, so it shows what holds as of its header.
fn serving(proved: &Proved, light_node: &LightNode) -> String {
    if light_node.gateways.contains(&proved.gateway) {
        return "That gateway is among those that the site assigned the sensor to.".into();
    }
    "That gateway is NOT AMONG those that the site assigned the sensor to, as of that height; it \
     may have been when it recorded the reading."
        .into()
}

/// Who vouches, and how it was attested: the part that must not be overlooked.
fn vouching_gateway(proved: &Proved, target: &Target, entries: &Entries) -> String {
    let name = proved.gateway.to_gateway_string();
    match entries.get(&Key::Gateway(proved.gateway)) {
        Some(Some(Record::Gateway(gateway))) => {
            let as_of_ms = target.header.time_ms;
            let words = words::gateway(&name, gateway, as_of_ms, entries.policy());
            format!("It is vouched for by: {words}")
        }
        Some(_) => format!("It is vouched for by {name}, which is NO MEMBER any more."),
        None => format!(
            "It is vouched for by {name}; HOW THAT GATEWAY WAS ATTESTED THE FILE DOES NOT SHOW \
             (height {}).",
            target.header.height
        ),
    }
}
