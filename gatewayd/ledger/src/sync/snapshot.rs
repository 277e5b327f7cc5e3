//! A snapshot and its check: certificate, voters, state root and history, all under one header.

use thiserror::Error;

use super::wire::Manifest;
use crate::certificate::CertificateError;
use crate::codec::{Decode, DecodeError, Encoder};
use crate::crypto::CryptoError;
use crate::header::Header;
use crate::ids::{Era, Hash, Height};
use crate::merkle::{Frontier, Tag};
use crate::state::map::{MapProof, Path, SparseMap, value_hash};
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
    /// The state, in the order of its map.
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
    /// Entries that are out of order, doubled, or missing though more are promised.
    #[error("the entries of the state are out of order")]
    Order,
    /// Entries that are not in the state of the header, or not all up to the last one.
    #[error("the entries are not those of the state of the header")]
    Entries,
    /// The state is not the header's.
    #[error("the state is not that of the header: {0}")]
    State(#[from] StateError),
    /// More changes of the voters than any site has.
    #[error("the snapshot has more changes of the voters than any ledger can have")]
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
fn check_voters(
    manifest: &Manifest,
    steps: &[SetStep],
    trusted: &Header,
) -> Result<(), SnapshotError> {
    let mut walk = Walk::new(manifest, trusted)?;
    steps.iter().try_for_each(|step| walk.take(step, trusted))?;
    walk.finish(manifest, trusted)
}

/// Where a walk through the changes of the voters is; each is checked when it comes.
pub(super) struct Walk {
    set: ValidatorSet,
    /// The set before the last change, and that change.
    last: Option<(ValidatorSet, Header)>,
    height: Height,
    era: Era,
    /// The trusted header was passed.
    passed: bool,
}

impl Walk {
    pub(super) fn new(manifest: &Manifest, trusted: &Header) -> Result<Self, SnapshotError> {
        if manifest.base > trusted.height {
            return Err(SnapshotError::Voters);
        }
        let (set, height) = (manifest.validators.clone(), manifest.base);
        Ok(Self { set, last: None, height, era: Era(0), passed: false })
    }

    /// The set after the trusted header must be the one that it names.
    fn pass(&mut self, trusted: &Header) -> Result<(), SnapshotError> {
        let first = !std::mem::replace(&mut self.passed, true);
        if first && self.set.hash() != trusted.next_validators_hash {
            return Err(SnapshotError::Voters);
        }
        Ok(())
    }

    /// The next change of the voters.
    pub(super) fn take(&mut self, step: &SetStep, trusted: &Header) -> Result<(), SnapshotError> {
        let SetStep { header, certificate, next } = step;
        let height = header.height;
        if height > trusted.height {
            self.pass(trusted)?;
        }
        if height == trusted.height && header.hash() != trusted.hash() {
            return Err(SnapshotError::Fork(height));
        }
        let grows = height > self.height && header.era >= self.era;
        let follows = header.chain_id == trusted.chain_id
            && next.hash() == header.next_validators_hash
            && certificate.verify(header, &self.set).is_ok();
        if !(grows && follows) {
            return Err(SnapshotError::Step(height));
        }
        let before = std::mem::replace(&mut self.set, next.clone());
        self.last = Some((before, header.clone()));
        (self.height, self.era) = (height, header.era);
        Ok(())
    }

    /// There are no more changes: the snapshot's header is certified by the set that they give.
    pub(super) fn finish(
        mut self,
        manifest: &Manifest,
        trusted: &Header,
    ) -> Result<(), SnapshotError> {
        self.pass(trusted)?;
        let tip = &manifest.header;
        let last = self.last.as_ref().filter(|(_, header)| header.height == tip.height);
        let fits = last.is_none_or(|(_, header)| header == tip)
            && tip.height >= self.height
            && tip.era >= self.era
            && self.set.hash() == tip.next_validators_hash;
        if !fits {
            return Err(SnapshotError::Voters);
        }
        let certifiers = last.map_or(&self.set, |(before, _)| before);
        manifest.certificate.verify(tip, certifiers).map_err(SnapshotError::Certificate)
    }
}

/// Entries as they come, checked against the state's root piece by piece: what is kept of them is
/// what the certified header commits to, however much a server sends.
#[derive(Default)]
pub(super) struct Arriving {
    map: SparseMap,
    last: Option<Path>,
}

impl Arriving {
    /// Takes the next entries; `more` shows the last of them when others follow.
    pub(super) fn take(
        &mut self,
        entries: &[Entry],
        more: Option<&MapProof>,
        root: &Hash,
    ) -> Result<(), SnapshotError> {
        let mut updates = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let key = Key::from_bytes(key)?;
            Record::from_bytes(&key, value)?;
            let path = key.path();
            if self.last.replace(path).is_some_and(|last| last >= path) {
                return Err(SnapshotError::Order);
            }
            updates.push((path, Some(value_hash(value))));
        }
        // An answer that promises more and brings nothing would go on for ever.
        let last = self.last.filter(|_| !entries.is_empty()).ok_or(SnapshotError::Order)?;
        self.map.update(updates);
        let good = match more {
            Some(proof) => self.map.is_beginning_of(root, &last, proof),
            None => self.map.root() == *root,
        };
        if good { Ok(()) } else { Err(SnapshotError::Entries) }
    }
}
