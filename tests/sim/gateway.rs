//! One gateway: what is on its disk, what is in its TPM, and what runs.

use std::fs;
use std::path::Path;

use ledger::crypto::{PublicKey, SigningKey};
use ledger::header::Header;
use ledger::host::Host;
use ledger::ids::NodeId;
use ledger::node::Now;
use ledger::state::State;
use ledger::store::{StartCheck, Store, check_start};
use ledger::sync::Client;
use tempfile::TempDir;

use crate::adversary::Adversary;
use crate::clock::WallClock;
use crate::disk::{Disk, Fuse};

pub(crate) struct Gateway {
    pub(crate) node: NodeId,
    pub(crate) directory: TempDir,
    pub(crate) disks: [Disk; 2],
    pub(crate) fuse: Fuse,
    /// The vote keys on its disk.
    pub(crate) keys: Vec<SigningKey>,
    /// The vote key that its host has.
    pub(crate) voting_with: Option<PublicKey>,
    /// What its TPM has counted; no copy of a disk brings that back.
    starts: u64,
    /// Its disk was an old copy: it must not vote until it was attested again.
    pub(crate) barred: bool,
    image: Option<Image>,
    /// None while the power is off, or there is no ledger.
    pub(crate) host: Option<Host<Disk>>,
    /// It asks for a snapshot.
    pub(crate) client: Option<Client>,
    /// A header that is certified, for the next snapshot.
    pub(crate) trusted: Option<Header>,
    /// Virtual time of its last start: its monotonic clock counts from there.
    pub(crate) booted_ms: u64,
    /// Virtual time at which it began to wait for the next block.
    pub(crate) tip_since_ms: u64,
    pub(crate) wake_ms: Option<u64>,
    pub(crate) clock: WallClock,
    pub(crate) adversary: Option<Adversary>,
    /// Of its own transactions.
    nonce: u64,
}

/// A copy of a disk.
struct Image {
    directory: TempDir,
    disks: [Vec<u8>; 2],
    keys: Vec<SigningKey>,
}

impl Gateway {
    pub(crate) fn new(
        node: NodeId,
        key: SigningKey,
        clock: WallClock,
        adversary: Option<Adversary>,
    ) -> Self {
        let fuse = Fuse::default();
        Self {
            node,
            directory: folder(),
            disks: [Disk::new(&fuse), Disk::new(&fuse)],
            fuse,
            keys: vec![key],
            voting_with: None,
            starts: 0,
            barred: false,
            image: None,
            host: None,
            client: None,
            trusted: None,
            booted_ms: 0,
            tip_since_ms: 0,
            wake_ms: None,
            clock,
            adversary,
            nonce: 0,
        }
    }

    pub(crate) fn has_ledger(&self) -> bool {
        self.directory.path().join(ledger::store::schema::FILE_NAME).exists()
    }

    /// Counts a start, as a hardware TPM does. When the disk turns out to be an old copy, the vote
    /// keys are destroyed and there is no vote until the gateway was attested again.
    pub(crate) fn count_start(&mut self, store: &mut Store) -> bool {
        let check = check_start(store.counter().unwrap(), self.starts);
        let rolled_back = matches!(check, StartCheck::RolledBack { .. });
        if rolled_back {
            self.keys.clear();
            self.barred = true;
        }
        self.starts += 1;
        store.write_counter(self.starts).unwrap();
        rolled_back
    }

    /// A fresh ledger begins with what the TPM has counted.
    pub(crate) fn begin_count(&self, store: &mut Store) {
        store.write_counter(self.starts).unwrap();
    }

    /// The vote key that a state names, if it is on the disk and may be used.
    pub(crate) fn vote_key(&self, state: &State) -> Option<SigningKey> {
        let named = state.gateway(&self.node)?.vote_key;
        self.keys.iter().find(|key| key.public_key() == named && !self.barred).cloned()
    }

    /// Keeps a copy of the disk, while the power is off.
    pub(crate) fn copy_disk(&mut self) {
        let directory = folder();
        copy_files(self.directory.path(), directory.path());
        let disks = self.disks.each_ref().map(Disk::image);
        self.image = Some(Image { directory, disks, keys: self.keys.clone() });
    }

    /// Puts the copy in the place of the disk, while the power is off.
    pub(crate) fn put_copy_back(&mut self) {
        let Image { directory, disks, keys } = self.image.take().expect("there is a copy");
        self.directory = directory;
        self.keys = keys;
        for (disk, bytes) in self.disks.iter().zip(&disks) {
            disk.replace(bytes);
        }
    }

    pub(crate) fn next_nonce(&mut self) -> u64 {
        self.nonce += 1;
        self.nonce
    }

    pub(crate) fn now(&self, now_ms: u64) -> Now {
        Now {
            mono_ms: now_ms - self.booted_ms,
            wall_ms: self.clock.wall_ms(now_ms),
            synchronised: self.clock.is_synchronised(),
        }
    }
}

/// Copies the files of a folder, but for those that only a running process needs.
pub(crate) fn copy_files(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let transient = entry.file_name().to_string_lossy().ends_with("-shm");
        if entry.file_type().unwrap().is_file() && !transient {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// A folder in memory where there is one: what a sync is worth is the simulated disk's to say.
pub(crate) fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}
