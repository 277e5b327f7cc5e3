//! One node on its disk: when it makes blocks, what it refuses, and what survives a restart.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod site;

use std::path::Path;

use ledger::codec::Encode;
use ledger::consensus::wal::FILE_NAMES;
use ledger::crypto::SigningKey;
use ledger::host::{Host, HostError, Outward};
use ledger::ids::{Era, Height};
use ledger::mempool::MempoolError;
use ledger::node::{Committed, Input, Now, RecoveryError, Refusal};
use ledger::state::ApplyError;
use ledger::store::{Reader, Store};
use ledger::transaction::{Survivor, Transaction};
use site::{START_MS, Site};

/// A host with a clock and a list of what left it.
struct Bench {
    host: Host,
    now: Now,
    out: Vec<Outward>,
}

impl Bench {
    fn found(site: &Site, directory: &Path) -> Self {
        Store::found(directory, &site.founding()).unwrap();
        Self::open(site, directory, site.votes[0].clone())
    }

    fn open(site: &Site, directory: &Path, vote_key: SigningKey) -> Self {
        let host = Host::open(directory, site.nodes[0], Some(vote_key)).unwrap();
        let now = Now { mono_ms: 1_000, wall_ms: START_MS + 1_000, synchronised: true };
        let mut bench = Self { host, now, out: Vec::new() };
        bench.step(Input::Start);
        bench
    }

    fn step(&mut self, input: Input) {
        let out = &mut self.out;
        self.host.step(self.now, input, &mut |each| out.push(each)).unwrap();
    }

    fn submit(&mut self, transaction: Transaction) {
        self.step(Input::Submit(Box::new(transaction)));
    }

    /// Moves the clocks and wakes the node whenever it asks for it.
    fn pass(&mut self, ms: u64) {
        let end = self.now.mono_ms + ms;
        while let Some(wake) = self.host.next_wake(self.now).filter(|wake| *wake <= end) {
            let forward = wake.saturating_sub(self.now.mono_ms);
            self.now.mono_ms += forward;
            self.now.wall_ms += forward;
            self.step(Input::Wake);
        }
        self.now.wall_ms += end - self.now.mono_ms;
        self.now.mono_ms = end;
    }

    fn height(&self) -> u64 {
        self.host.node().tip().height.0
    }

    fn committed(&self) -> Vec<&Committed> {
        let committed = self.out.iter().filter_map(|out| match out {
            Outward::Committed(committed) => Some(committed.as_ref()),
            _ => None,
        });
        committed.collect()
    }

    fn refusals(&self) -> Vec<Refusal> {
        let refused = |out: &Outward| match out {
            Outward::Refused { error, .. } => Some(error.clone()),
            _ => None,
        };
        self.out.iter().filter_map(refused).collect()
    }
}

#[test]
fn idle_costs_nothing_but_a_heartbeat_a_minute() {
    let (site, directory) = (Site::new(1), tempfile::tempdir().unwrap());
    let mut bench = Bench::found(&site, directory.path());
    bench.pass(59_999);
    assert_eq!(bench.height(), 0);
    assert_eq!(bench.host.next_wake(bench.now), Some(61_000));
    bench.pass(1);
    assert_eq!(bench.height(), 1);
    bench.pass(180_000);
    assert_eq!(bench.height(), 4);
    assert!(bench.out.iter().all(|out| matches!(out, Outward::Committed(_))), "nobody to talk to");
}

#[test]
fn urgent_work_makes_a_block_at_once_and_other_work_after_the_interval() {
    let (site, directory) = (Site::new(1), tempfile::tempdir().unwrap());
    let mut bench = Bench::found(&site, directory.path());
    bench.submit(site.act(1));
    assert_eq!(bench.height(), 1);
    bench.submit(site.refusal(0, 1));
    bench.pass(499);
    bench.submit(site.refusal(0, 2));
    assert_eq!(bench.height(), 1);
    bench.pass(1);
    assert_eq!(bench.height(), 2);
    assert_eq!(bench.committed()[1].receipts.len(), 2);
    assert!(bench.refusals().is_empty());
}

#[test]
fn what_cannot_be_recorded_is_refused_with_its_reason() {
    let (site, directory) = (Site::new(1), tempfile::tempdir().unwrap());
    let mut bench = Bench::found(&site, directory.path());
    bench.submit(site.act(1));
    // The same nonce again, with another content.
    bench.submit(site.operator_draft(1, site.act(2).draft().body.clone()).sign(&site.operator));
    assert_eq!(bench.refusals(), [Refusal::Apply(ApplyError::Nonce(1))]);
    let refusal = site.refusal(0, 1);
    bench.submit(refusal.clone());
    bench.submit(refusal);
    assert_eq!(bench.refusals()[1], Refusal::Mempool(MempoolError::Known));
    let mut draft = site.refusal(0, 2).draft().clone();
    draft.expiry = 1;
    bench.submit(draft.sign(&site.votes[0]));
    bench.pass(500);
    assert_eq!(bench.refusals()[2], Refusal::Apply(ApplyError::Expired(1)));
    let stranger = site.refusal(0, 3).draft().clone().sign(&site::key(b"stranger", 0));
    bench.submit(stranger);
    assert!(matches!(bench.refusals()[3], Refusal::Verify(_)));
    assert_eq!(bench.refusals().len(), 4);
    assert_eq!(bench.host.node().waiting(), 0);
}

#[test]
fn an_unsynchronised_clock_goes_on_from_the_tip_and_time_never_goes_back() {
    let (site, directory) = (Site::new(1), tempfile::tempdir().unwrap());
    let mut bench = Bench::found(&site, directory.path());
    bench.now = Now { mono_ms: 3_000, wall_ms: 5, synchronised: false };
    bench.submit(site.act(1));
    assert_eq!(bench.host.node().tip().time_ms, START_MS + 2_000);
    bench.now = Now { mono_ms: 3_000, wall_ms: 5, synchronised: true };
    bench.submit(site.act(2));
    assert_eq!(bench.host.node().tip().time_ms, START_MS + 2_001);
}

#[test]
fn a_restart_goes_on_from_the_store() {
    let (site, directory) = (Site::new(1), tempfile::tempdir().unwrap());
    let mut bench = Bench::found(&site, directory.path());
    for nonce in 1..=70 {
        bench.submit(site.act(nonce));
    }
    let tip = bench.host.node().tip().clone();
    drop(bench);
    let mut bench = Bench::open(&site, directory.path(), site.votes[0].clone());
    assert_eq!(*bench.host.node().tip(), tip);
    bench.submit(site.act(71));
    assert_eq!(bench.height(), 71);
    bench.submit(site.act(70));
    assert_eq!(bench.refusals(), [Refusal::Apply(ApplyError::Nonce(70))]);
}

#[test]
fn a_sole_voter_goes_on_from_the_tip_when_its_log_is_damaged_or_lost() {
    let (site, directory) = (Site::new(1), tempfile::tempdir().unwrap());
    let mut bench = Bench::found(&site, directory.path());
    bench.submit(site.act(1));
    drop(bench);
    for name in FILE_NAMES {
        let path = directory.path().join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[30] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    let mut bench = Bench::open(&site, directory.path(), site.votes[0].clone());
    bench.submit(site.act(2));
    assert_eq!(bench.height(), 2);
    drop(bench);
    FILE_NAMES.iter().for_each(|name| std::fs::remove_file(directory.path().join(name)).unwrap());
    let mut bench = Bench::open(&site, directory.path(), site.votes[0].clone());
    bench.submit(site.act(3));
    assert_eq!(bench.height(), 3);
}

#[test]
fn a_gateway_without_the_vote_key_follows_in_silence() {
    let (site, directory) = (Site::new(1), tempfile::tempdir().unwrap());
    Store::found(directory.path(), &site.founding()).unwrap();
    let mut bench = Bench::open(&site, directory.path(), site::key(b"another", 0));
    bench.submit(site.act(1));
    bench.pass(200_000);
    assert_eq!(bench.height(), 0);
}

fn recovery(site: &Site, bench: &Bench, vote: &SigningKey, nonce: u64) -> Transaction {
    let proof = site::prove_vote_key(&site.chain_id().0, &site.identities[0], vote);
    let survivors = vec![Survivor { node: site.nodes[0], new_vote_key: Some(proof) }];
    let draft = bench.host.node().prepare_recovery(survivors, nonce, u64::MAX).unwrap();
    draft.sign(&site.operator)
}

#[test]
fn the_operator_gives_the_sole_voter_a_new_key_once() {
    let (site, directory) = (Site::new(1), tempfile::tempdir().unwrap());
    let mut bench = Bench::found(&site, directory.path());
    bench.submit(site.act(1));
    drop(bench);
    // The old vote key is gone: the disk was an old copy.
    let new_key = site::key(b"new vote", 0);
    let bench = Bench::open(&site, directory.path(), new_key.clone());
    let act = recovery(&site, &bench, &new_key, 2);
    drop(bench);
    // A restart between preparing and applying changes nothing.
    let mut bench = Bench::open(&site, directory.path(), new_key.clone());
    bench.submit(act.clone());
    assert_eq!(bench.refusals(), []);
    assert_eq!((bench.height(), bench.host.node().tip().era), (2, Era(1)));
    bench.submit(site.act(3));
    assert_eq!(bench.height(), 3, "the new key votes");
    bench.submit(act);
    let known = Refusal::Recovery(RecoveryError::KnownEra(Era(1)));
    assert_eq!(bench.refusals(), [known]);
    drop(bench);
    let mut bench = Bench::open(&site, directory.path(), new_key);
    bench.submit(site.act(4));
    assert_eq!(bench.height(), 4);
    let reader = Reader::open(directory.path()).unwrap();
    let steps = reader.set_steps(Height(0), 10).unwrap();
    assert_eq!(steps.len(), 1);
    assert_eq!(steps[0].header.height, Height(2));
    steps[0].certificate.verify(&steps[0].header, &site.validators()).unwrap();
}

#[test]
fn a_recovery_of_another_block_or_by_another_key_is_refused() {
    let (site, directory) = (Site::new(1), tempfile::tempdir().unwrap());
    let mut bench = Bench::found(&site, directory.path());
    let new_key = site::key(b"new vote", 0);
    let early = recovery(&site, &bench, &new_key, 5);
    bench.submit(site.act(1));
    bench.submit(early);
    assert_eq!(bench.refusals(), [Refusal::Recovery(RecoveryError::OtherParent)]);
    let stolen = recovery(&site, &bench, &new_key, 5).draft().clone().sign(&new_key);
    bench.submit(stolen);
    assert!(matches!(bench.refusals()[1], Refusal::Recovery(RecoveryError::Block(_))));
    assert_eq!((bench.height(), bench.host.node().tip().era), (1, Era(0)));
}

#[test]
fn a_ledger_of_another_site_or_none_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let site = Site::new(1);
    let missing = Host::open(directory.path(), site.nodes[0], None);
    assert!(matches!(missing, Err(HostError::Store(ledger::store::StoreError::Missing))));
    Store::found(directory.path(), &site.founding()).unwrap();
    let twice = Store::found(directory.path(), &site.founding());
    assert!(matches!(twice, Err(ledger::store::StoreError::Exists)));
    assert_eq!(
        site.genesis.to_bytes(),
        Reader::open(directory.path()).unwrap().genesis().unwrap().to_bytes()
    );
}
