//! A snapshot and its check: certificate, voters, state root and history, all under one header.

use thiserror::Error;

use super::wire::Manifest;
use crate::certificate::CertificateError;
use crate::codec::{Decode, DecodeError, Encoder};
use crate::crypto::CryptoError;
use crate::header::Header;
use crate::ids::{Era, Height};
use crate::merkle::{Frontier, Tag};
use crate::state::{Key, Record, State, StateError};
use crate::store::SetStep;
use crate::validator_set::ValidatorSet;

/// A stored key and value of the state.
pub type Entry = (Vec<u8>, Vec<u8>);

/// What a member sent, unverified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Header, certificate, history and first voters.
    pub manifest: Manifest,
    /// The blocks that changed the voters since `manifest.base`, ascending.
    pub steps: Vec<SetStep>,
    /// The state, ascending by key.
    pub entries: Vec<Entry>,
}

/// A snapshot that follows from a trusted header. Only [`Snapshot::verify`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedSnapshot(Snapshot);

impl VerifiedSnapshot {
    /// The header whose state it is: newest block of the ledger that is founded from it.
    pub fn header(&self) -> &Header {
        &self.0.manifest.header
    }

    /// The parts.
    pub fn snapshot(&self) -> &Snapshot {
        &self.0
    }
}

/// Why a snapshot is not believed. Its server is at fault, or behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SnapshotError {
    /// The bytes are none, or not in the one valid form.
    #[error("not a snapshot: {0}")]
    Decode(#[from] DecodeError),
    /// Another site's.
    #[error("the snapshot is of another site")]
    OtherSite,
    /// The genesis record contradicts itself.
    #[error("the genesis record is not valid: {0}")]
    Genesis(#[from] CryptoError),
    /// Older than what is known already.
    #[error("the snapshot is of height {found}; height {trusted} is known already")]
    Stale {
        /// Height of the snapshot.
        found: Height,
        /// Height of the trusted header.
        trusted: Height,
    },
    /// Another block at the trusted height.
    #[error("at height {0} the snapshot has another block than the trusted one")]
    Fork(Height),
    /// The header is not certified.
    #[error("the header is not certified: {0}")]
    Certificate(CertificateError),
    /// A change of the voters does not follow from the one before.
    #[error("the change of the voters at height {0} does not follow from the one before")]
    Step(Height),
    /// The voters do not lead from the trusted header to the snapshot's.
    #[error("the voters of the snapshot do not follow from the trusted header")]
    Voters,
    /// The history peaks are not those of the header.
    #[error("the history is not that of the header")]
    History,
    /// Entries that are out of order or doubled.
    #[error("the entries of the state are out of order")]
    Order,
    /// The state is not the header's.
    #[error("the state is not that of the header: {0}")]
    State(#[from] StateError),
    /// More than any site has.
    #[error("the snapshot is larger than any ledger can be")]
    TooLarge,
}

impl Snapshot {
    /// Checks everything under `trusted`, a header that is certified already.
    ///
    /// Changes of the voters below the trusted header are checked to lead to it; what was before
    /// the oldest known set cannot be judged by anybody.
    ///
    /// # Errors
    /// [`SnapshotError`], the first thing that is wrong.
    pub fn verify(self, trusted: &Header) -> Result<VerifiedSnapshot, SnapshotError> {
        self.manifest.check(trusted)?;
        check_voters(&self.manifest, &self.steps, trusted)?;
        self.verify_entries()
    }

    /// The last check: the entries are the state of the header, which was certified before.
    pub(super) fn verify_entries(self) -> Result<VerifiedSnapshot, SnapshotError> {
        let header = &self.manifest.header;
        check_order(None, &self.entries)?;
        let entries = self.entries.iter().map(|(key, value)| (key, value));
        let state = State::from_entries(entries, &header.state_root)?;
        let same = state.chain_id() == header.chain_id
            && state.era() == header.era
            && state.validator_set().hash() == header.next_validators_hash;
        if same { Ok(VerifiedSnapshot(self)) } else { Err(SnapshotError::Voters) }
    }
}

impl Manifest {
    /// Everything that needs no signature: site, height, genesis, history.
    pub(super) fn check(&self, trusted: &Header) -> Result<(), SnapshotError> {
        let Self { genesis, header, peaks, .. } = self;
        if header.chain_id != trusted.chain_id || genesis.chain_id() != trusted.chain_id {
            return Err(SnapshotError::OtherSite);
        }
        genesis.verify()?;
        if header.height < trusted.height {
            let (found, trusted) = (header.height, trusted.height);
            return Err(SnapshotError::Stale { found, trusted });
        }
        if header.height == trusted.height && header.hash() != trusted.hash() {
            return Err(SnapshotError::Fork(header.height));
        }
        let mut encoder = Encoder::new();
        encoder.array(2).uint(header.height.0).list(peaks);
        let history = Frontier::from_bytes(&encoder.into_bytes());
        let root = history.map(|history| history.root(Tag::HISTORY));
        if root != Ok(header.history_root) {
            return Err(SnapshotError::History);
        }
        Ok(())
    }
}

/// Follows the voters from the first known set to the header, through the trusted one, and
/// checks the header's certificate under the set that this gives.
pub(super) fn check_voters(
    manifest: &Manifest,
    steps: &[SetStep],
    trusted: &Header,
) -> Result<(), SnapshotError> {
    let tip = &manifest.header;
    if manifest.base > trusted.height {
        return Err(SnapshotError::Voters);
    }
    let mut walk =
        Walk { set: &manifest.validators, height: manifest.base, era: Era(0), trusted: None };
    let mut certifiers = &manifest.validators;
    for step in steps {
        if step.header.height > trusted.height {
            walk.pass(trusted)?;
        }
        certifiers = walk.set;
        walk.take(step, trusted)?;
    }
    walk.pass(trusted)?;
    let last = steps.last().filter(|step| step.header.height == tip.height);
    if last.is_none() {
        certifiers = walk.set;
    }
    let fits = last.is_none_or(|step| step.header == *tip)
        && tip.height >= walk.height
        && tip.era >= walk.era
        && walk.set.hash() == tip.next_validators_hash;
    if !fits {
        return Err(SnapshotError::Voters);
    }
    manifest.certificate.verify(tip, certifiers).map_err(SnapshotError::Certificate)
}

/// Where a walk through the changes of the voters is.
struct Walk<'a> {
    set: &'a ValidatorSet,
    height: Height,
    era: Era,
    /// Set once the trusted header was passed.
    trusted: Option<()>,
}

impl<'a> Walk<'a> {
    /// The set after the trusted header must be the one that it names.
    fn pass(&mut self, trusted: &Header) -> Result<(), SnapshotError> {
        if self.trusted.replace(()).is_none() && self.set.hash() != trusted.next_validators_hash {
            return Err(SnapshotError::Voters);
        }
        Ok(())
    }

    fn take(&mut self, step: &'a SetStep, trusted: &Header) -> Result<(), SnapshotError> {
        let SetStep { header, certificate, next } = step;
        let height = header.height;
        if height == trusted.height && header.hash() != trusted.hash() {
            return Err(SnapshotError::Fork(height));
        }
        let grows = height > self.height && header.era >= self.era;
        let follows = header.chain_id == trusted.chain_id
            && next.hash() == header.next_validators_hash
            && certificate.verify(header, self.set).is_ok();
        if !(grows && follows) {
            return Err(SnapshotError::Step(height));
        }
        (self.set, self.height, self.era) = (next, height, header.era);
        Ok(())
    }
}

/// Entries ascend strictly behind `after`, and each is one that a state can hold.
pub(super) fn check_order(after: Option<&[u8]>, entries: &[Entry]) -> Result<(), SnapshotError> {
    let mut before = after;
    for (key, _) in entries {
        if before.is_some_and(|before| before >= key.as_slice()) {
            return Err(SnapshotError::Order);
        }
        before = Some(key);
    }
    Ok(())
}

/// Reads entries as they come, so that garbage is noticed before the last one.
pub(super) fn check_form(entries: &[Entry]) -> Result<(), SnapshotError> {
    for (key, value) in entries {
        let key = Key::from_bytes(key)?;
        Record::from_bytes(&key, value)?;
    }
    Ok(())
}
