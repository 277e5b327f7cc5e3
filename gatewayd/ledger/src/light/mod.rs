//! The light client: judges a proof file, with an anchor and nothing else.
//!
//! No daemon, no network, no clock: what time it is may be told by the caller. The verdict is a
//! list of named checks, each with a sentence, and, when all of them hold, statements about
//! what is proved and what is not.

mod chain;
mod reading;
mod words;

use alloc::{format, string::String, vec::Vec};

use crate::{
    batch::Leaf,
    codec::{Decode, Encode},
    ids::{Height, NodeId},
    policy::Policy,
    proof::{Anchor, Proof, Subject},
    state::{Key, LightNode, Record},
};

/// An anchor older than this is not enough by itself: whoever collected retired vote keys since
/// then could have forged what followed. Milliseconds.
pub const OLD_ANCHOR_MS: u64 = 30 * 24 * 3_600 * 1_000;

/// What the verifier decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Accept an anchor that is older than [`OLD_ANCHOR_MS`].
    pub old_anchor: bool,
    /// The time, Unix milliseconds, when the caller knows it.
    pub now_ms: Option<u64>,
    /// Who gave the anchor, in the caller's words ("printed site card of 3 May").
    pub anchor_from: Option<String>,
}

/// A time as `2026-11-23 04:05:06.789 UTC`, from Unix milliseconds.
pub fn time_in_words(unix_ms: u64) -> String {
    words::time(unix_ms)
}

/// One thing that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name; stable, for scripts.
    pub name: &'static str,
    /// Whether it holds.
    pub ok: bool,
    /// What was found, as a sentence.
    pub sentence: String,
}

/// The judgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Every check that could be made.
    pub checks: Vec<Check>,
    /// What is proved and what is not; empty unless all checks hold.
    pub statements: Vec<String>,
    /// The reading, when one is proved.
    pub reading: Option<Leaf>,
    /// Height of the certified header that the statements are as of.
    pub height: Option<Height>,
}

impl Verdict {
    /// Whether every check holds.
    pub fn is_valid(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.ok)
    }

    /// The first check that fails.
    pub fn failure(&self) -> Option<&Check> {
        self.checks.iter().find(|check| !check.ok)
    }
}

/// Judges the bytes of a proof file.
pub fn verify_bytes(bytes: &[u8], anchor: &Anchor, options: &Options) -> Verdict {
    match Proof::from_bytes(bytes) {
        Ok(proof) => judge(&proof, anchor, options),
        Err(error) => {
            let sentence = format!("The file is damaged or no proof: {error}.");
            let checks = alloc::vec![Check { name: "form", ok: false, sentence }];
            Verdict { checks, statements: Vec::new(), reading: None, height: None }
        }
    }
}

/// Judges a proof that was put together here: as its file would be judged.
pub fn verify(proof: &Proof, anchor: &Anchor, options: &Options) -> Verdict {
    verify_bytes(&proof.to_bytes(), anchor, options)
}

/// Relies on what decoding has checked: one chain ID throughout, at least one set.
fn judge(proof: &Proof, anchor: &Anchor, options: &Options) -> Verdict {
    let mut checks = Checks(Vec::new());
    checks.add("form", true, "The file is a whole proof in its one valid form.".into());
    let mut statements = Vec::new();
    let trusted = chain::check_target(&mut checks, &proof.target, anchor, options);
    let entries = check_states(&mut checks, proof);
    let mut reading = None;
    match &proof.subject {
        Subject::Reading(proved) => {
            let batch = reading::check(&mut checks, proved, &proof.target);
            if let Some(batch) = &batch {
                reading::state(&mut statements, proved, batch, &proof.target, &entries);
            }
            reading = batch.map(|_| proved.leaf.clone());
        }
        Subject::Identity(node) => {
            let as_of_ms = proof.target.header.time_ms;
            check_identity(&mut checks, &mut statements, node, &entries, as_of_ms);
        }
    }
    chain::state(&mut statements, &proof.target, &entries, &trusted, anchor, options);
    let mut verdict =
        Verdict { checks: checks.0, statements, reading, height: Some(proof.target.header.height) };
    // A proof that fails proves nothing: no statement may be read out of it.
    if !verdict.is_valid() {
        verdict.statements = Vec::new();
        verdict.reading = None;
        verdict.height = None;
    }
    verdict
}

/// For fuzzing: reads bytes as a proof and judges it with anchors taken from itself, so that
/// every check runs.
///
/// # Panics
/// When one proof has two encodings.
pub fn fuzz(bytes: &[u8]) {
    let Ok(proof) = Proof::from_bytes(bytes) else {
        return;
    };
    assert_eq!(proof.to_bytes(), bytes, "one proof, one encoding");
    let headers = proof.target.anchors.iter().chain([&proof.target.header]);
    for anchor in headers.map(Anchor::of) {
        for old_anchor in [false, true] {
            let options = Options { old_anchor, ..Options::default() };
            let verdict = verify_bytes(bytes, &anchor, &options);
            assert_eq!(verdict.is_valid(), verdict.failure().is_none());
        }
    }
}

struct Checks(Vec<Check>);

impl Checks {
    fn add(&mut self, name: &'static str, ok: bool, sentence: String) {
        self.0.push(Check { name, ok, sentence });
    }
}

/// State entries that hold under the certified header.
struct Entries(Vec<(Key, Option<Record>)>);

impl Entries {
    /// What is under a key: `None` when the file does not say.
    fn get(&self, key: &Key) -> Option<Option<&Record>> {
        let entry = self.0.iter().find(|(found, _)| found == key)?;
        Some(entry.1.as_ref())
    }

    fn policy(&self) -> Option<&Policy> {
        match self.get(&Key::Policy) {
            Some(Some(Record::Policy(policy))) => Some(policy),
            _ => None,
        }
    }

    fn light_node(&self, node: &NodeId) -> Option<&LightNode> {
        match self.get(&Key::LightNode(*node)) {
            Some(Some(Record::LightNode(light_node))) => Some(light_node),
            _ => None,
        }
    }
}

fn check_states(checks: &mut Checks, proof: &Proof) -> Entries {
    let root = &proof.target.header.state_root;
    let mut entries = Vec::new();
    let mut doubled = false;
    for state in &proof.states {
        doubled |= entries.iter().any(|(key, _)| key == state.key());
        if let Some(record) = state.under(root) {
            entries.push((*state.key(), record));
        }
    }
    if !proof.states.is_empty() {
        let ok = entries.len() == proof.states.len() && !doubled;
        let sentence = if ok {
            format!("{} entries of the site's state are under the header.", entries.len())
        } else {
            "An entry of the site's state is not under the header.".into()
        };
        checks.add("state", ok, sentence);
    }
    Entries(entries)
}

/// What is, or provably is not, registered under an ID.
fn check_identity(
    checks: &mut Checks,
    statements: &mut Vec<String>,
    node: &NodeId,
    entries: &Entries,
    as_of_ms: u64,
) {
    let as_gateway = entries.get(&Key::Gateway(*node));
    let as_light_node = entries.get(&Key::LightNode(*node));
    let (gateway, light_node) = (node.to_gateway_string(), node.to_light_node_string());
    let (Some(as_gateway), Some(as_light_node)) = (as_gateway, as_light_node) else {
        let sentence = "The file does not say what is under the ID.".into();
        checks.add("identity", false, sentence);
        return;
    };
    match (as_gateway, as_light_node) {
        (None, None) => {
            let sentence = "Nothing is under the ID, neither gateway nor light node.".into();
            checks.add("identity", true, sentence);
            statements.push(format!(
                "No node with the ID {gateway} or {light_node} was ever registered on this site."
            ));
        }
        (Some(Record::Gateway(record)), _) => {
            checks.add("identity", true, "The ID is that of a gateway.".into());
            statements.push(words::gateway(&gateway, record, as_of_ms, entries.policy()));
        }
        (_, Some(Record::LightNode(record))) => {
            checks.add("identity", true, "The ID is that of a light node.".into());
            statements.push(words::light_node(&light_node, record));
        }
        _ => checks.add("identity", false, "The entry is of another kind than its ID.".into()),
    }
}

#[cfg(test)]
mod tests;
