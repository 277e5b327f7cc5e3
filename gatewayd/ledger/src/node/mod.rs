//! One gateway's ledger: `step(now, input) -> effects`, and nothing else touches it.
//!
//! ```text
//! Submit ─> mempool ─┐                      ┌─> Publish, Send, Serve (peers)
//! Message ──────────>├─> Node ─> consensus ─┼─> WalAppend, WalSync (log)
//! Wake, Stored ─────>┘    │                 └─> Store (database) ─ Stored ─> Committed
//!                     candidate blocks, each executed on a copy of the state
//! ```
//!
//! No clock, disk, socket, thread or randomness: time comes in with each input, the shell
//! (`host`) executes the effects in their order. A height starts only when there is a reason for
//! a block and the one below it is stored. Idle, nothing runs but the wait for the heartbeat.

mod candidate;
mod catch_up;
mod doubt;
mod early;
mod gossip;
mod heights;
mod peers;
mod reasons;
mod recovery;

use std::collections::BTreeMap;

use thiserror::Error;

use crate::block::Block;
use crate::certificate::Certificate;
use crate::chain::{BlockError, Tip};
use crate::codec::{Decode, Encode, Encoder};
use crate::consensus::DriverError;
use crate::consensus::driver::Driver;
use crate::consensus::message::Message;
use crate::consensus::record::Record;
use crate::consensus::wal::Recovery;
use crate::crypto::SigningKey;
use crate::header::Header;
use crate::ids::{ChainId, Hash, Height, NodeId};
use crate::mempool::{Mempool, MempoolError};
use crate::merkle::Frontier;
use crate::state::{ApplyError, Change, Event, Outcome, State, StateError, VerifyError};
use crate::store::Loaded;
use crate::sync::wire::Request;
use crate::transaction::{Equivocation, Transaction};
use crate::validator_set::ValidatorSet;

use candidate::Candidate;
use heights::Storing;
use peers::Peers;
pub use recovery::RecoveryError;

/// The clocks at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic milliseconds; never goes back while the process runs.
    pub mono_ms: u64,
    /// Wall clock, Unix milliseconds.
    pub wall_ms: u64,
    /// Whether the wall clock was set by NTP, GNSS or a clock with a battery.
    pub synchronised: bool,
}

/// What can happen to a node.
#[derive(Clone, Debug)]
pub enum Input {
    /// The first input, once.
    Start,
    /// A transaction made or handed in at this gateway.
    Submit(Box<Transaction>),
    /// The time of [`Node::next_wake`] has come.
    Wake,
    /// The block of [`Effect::Store`] is in the store.
    Stored(Height),
    /// Bytes of a peer whose identity the transport has proven.
    Message {
        /// The peer.
        from: NodeId,
        /// An encoded [`Message`], unverified.
        bytes: Vec<u8>,
    },
    /// A member can be reached from now on.
    PeerUp(NodeId),
    /// A member cannot be reached any more.
    PeerDown(NodeId),
}

/// What the shell must do, in this order.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Append to the write-ahead log.
    WalAppend(Vec<u8>),
    /// Sync the write-ahead log before any effect that follows.
    WalSync,
    /// All records of the write-ahead log are void.
    WalDiscard,
    /// Send to all gateways.
    Publish(Vec<u8>),
    /// Send to one gateway.
    Send {
        /// To whom.
        to: NodeId,
        /// An encoded [`Message`].
        bytes: Vec<u8>,
    },
    /// Send decided blocks to one gateway, as [`Message::Decided`].
    Serve {
        /// To whom.
        to: NodeId,
        /// The first of them.
        from: Height,
        /// How many at most.
        count: usize,
    },
    /// Answer a gateway that asks for a snapshot, as [`Message::Snapshot`].
    ServeSnapshot {
        /// To whom.
        to: NodeId,
        /// Its question.
        request: Request,
    },
    /// Send the stored block of this height to all gateways, as [`Message::Decided`].
    Announce(Height),
    /// Store decided blocks in one transaction, then feed [`Input::Stored`] with the last height.
    Store(Vec<Decided>),
    /// A peer says that the operator recovered the ledger below this node's tip. If the store
    /// agrees that this block follows an older one of its own, this node must begin anew.
    JudgeRecovery(Box<(Block, Certificate)>),
    /// This node cannot go on from its store alone.
    Behind(Box<Behind>),
    /// A block is final and stored.
    Committed(Box<Committed>),
    /// A transaction submitted here will not be recorded.
    Refused {
        /// Its hash.
        tx_hash: Hash,
        /// Why.
        error: Refusal,
    },
    /// A voter signed two different votes: the evidence, as a `Suspend` carries it.
    Equivocation(Box<Equivocation>),
    /// The node has stopped: nothing more comes from it until it is loaded anew.
    Fault(Fault),
}

/// A decided block with everything that its storing writes.
#[derive(Clone, Debug)]
pub struct Decided {
    /// The block.
    pub block: Block,
    /// Why it is final.
    pub certificate: Certificate,
    /// Values of the state that it changed.
    pub changes: Vec<Change>,
    /// Events of each transaction, by its hash, in order.
    pub events: Vec<(Hash, Vec<Event>)>,
    /// The voters after it, when they differ from those before.
    pub next_validators: Option<ValidatorSet>,
}

impl Decided {
    /// Takes what is written about a block out of its outcome; the events are left there too.
    fn new(
        block: Block,
        certificate: Certificate,
        outcome: &mut Outcome,
        validators: &ValidatorSet,
    ) -> Self {
        let changed = outcome.validators != *validators;
        Self {
            block,
            certificate,
            changes: std::mem::take(&mut outcome.changes),
            events: outcome.events.clone(),
            next_validators: changed.then(|| outcome.validators.clone()),
        }
    }
}

/// Why blocks alone do not lead on from the store, and a header from which a snapshot can be
/// verified (`sync::Client`). Until one is, the store stays as it is: the peers who say so may
/// be lying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behind {
    /// Everybody who is ahead has begun above the next block.
    NoBlocks {
        /// The newest header here.
        trusted: Header,
    },
    /// The operator has recovered the ledger on top of an older block: the newer ones here are
    /// not on the record. Proven by the operator's signature.
    Recovered {
        /// The header that began the era.
        trusted: Header,
        /// The newest block that both ledgers have.
        parent: Height,
    },
}

/// What subscribers learn about a block.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Its height.
    pub height: Height,
    /// Its header.
    pub header: Header,
    /// Hash and events of each transaction, in order.
    pub receipts: Vec<(Hash, Vec<Event>)>,
}

/// How far a node is beside its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Its newest block.
    pub height: Height,
    /// Blocks that a connected peer says it has and this node has not.
    pub behind: u64,
    /// Who was asked for them last.
    pub from: Option<NodeId>,
}

/// Why a submitted transaction will not be recorded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Its author may not do this, or did not sign it.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// There is no place for it now.
    #[error(transparent)]
    Mempool(#[from] MempoolError),
    /// The state machine does not accept it.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// It is a recovery that does not fit this ledger.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
}

/// Why a node stopped.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// The consensus engine failed.
    #[error(transparent)]
    Engine(#[from] DriverError),
    /// The next block follows rules that this build does not know.
    #[error(
        "the site's rules have version {version} from now on; this build knows {known}: \
         update gatewayd"
    )]
    Version {
        /// The version of the rules.
        version: u32,
        /// The newest that this build knows.
        known: u32,
    },
    /// A decided block cannot be executed here: this build or this state is wrong.
    #[error("the decided block {height} cannot be executed: {error}")]
    Decided {
        /// Its height.
        height: Height,
        /// Why.
        error: BlockError,
    },
}

/// Why a node cannot be made from what the store holds.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SetupError {
    /// The stored values make no state, or not that of the newest header.
    #[error(transparent)]
    State(#[from] StateError),
    /// The history tree does not fit the newest header.
    #[error("the stored history is not that of block {0}")]
    OtherHistory(Height),
}

/// What a node is made from.
pub struct Setup {
    /// This gateway.
    pub node: NodeId,
    /// Its vote key; none: it follows.
    pub vote_key: Option<SigningKey>,
    /// What the store holds.
    pub loaded: Loaded,
    /// The records of the write-ahead log.
    pub records: Vec<Vec<u8>>,
    /// How the log was found.
    pub recovery: Recovery,
}

/// One gateway's ledger.
pub struct Node {
    id: NodeId,
    chain: ChainId,
    vote_key: Option<SigningKey>,
    state: State,
    validators: ValidatorSet,
    tip: Tip,
    /// Makes the tip final; none at height 0.
    certificate: Option<Certificate>,
    /// Who certified the tip.
    certifiers: ValidatorSet,
    /// Monotonic time at which the tip became it.
    tip_since_ms: u64,
    mempool: Mempool,
    driver: Driver,
    candidates: BTreeMap<Hash, Candidate>,
    /// The decided block whose storing is under way.
    storing: Option<Storing>,
    peers: Peers,
    /// The oldest block that the store can give.
    first: Height,
    /// Log records of the height above the tip, until it starts.
    replay: Vec<Record>,
    /// Those of the height in work, when they hold own votes and the key for more is not here.
    held: Vec<Record>,
    damaged: bool,
    /// The log may be that of an older copy of the disk.
    doubt: Option<doubt::Doubt>,
    /// No vote up to this height.
    silent_through: Height,
    /// Another voter works on the next height.
    called: bool,
    /// When the others are told that the height in work takes long.
    tell_ms: u64,
    /// The block whose lack was reported.
    left_behind: Option<Height>,
    /// The last recovery that was given to be judged.
    judged: Option<Hash>,
    /// The next height is decided and its block must be fetched.
    missing_body: bool,
    now: Now,
    effects: Vec<Effect>,
    stopped: bool,
}

impl Node {
    /// Makes a node from the store and the log; [`Input::Start`] sets it going.
    ///
    /// # Errors
    /// [`SetupError`]: what is stored does not belong together.
    pub fn new(setup: Setup) -> Result<Self, SetupError> {
        let Setup { node, vote_key, loaded, records, recovery } = setup;
        let Loaded { tip: header, certificate, certifiers, peaks, entries, first, .. } = loaded;
        let height = header.height;
        let state = State::from_entries(entries, &header.state_root)?;
        let history = frontier(height, &peaks).ok_or(SetupError::OtherHistory(height))?;
        let validators = state.validator_set();
        let chain = header.chain_id;
        let driver = Driver::new(chain, state.era(), node, vote_key.clone(), &validators);
        let mut node = Self {
            id: node,
            chain,
            vote_key,
            state,
            validators,
            tip: Tip { hash: header.hash(), header, history },
            certificate,
            certifiers,
            tip_since_ms: 0,
            mempool: Mempool::default(),
            driver,
            candidates: BTreeMap::new(),
            storing: None,
            peers: Peers::default(),
            first,
            replay: Vec::new(),
            held: Vec::new(),
            damaged: recovery == Recovery::Damaged,
            doubt: None,
            silent_through: Height::GENESIS,
            called: false,
            tell_ms: 0,
            left_behind: None,
            judged: None,
            missing_body: false,
            now: Now::default(),
            effects: Vec::new(),
            stopped: false,
        };
        node.read_log(&records);
        Ok(node)
    }

    fn read_log(&mut self, records: &[Vec<u8>]) {
        for bytes in records {
            match Record::from_bytes(bytes) {
                Ok(Record::Silent { height }) => {
                    self.silent_through = self.silent_through.max(height);
                }
                Ok(Record::Afresh { height }) if height == self.next_height() => {
                    self.replay.clear();
                }
                Ok(record) if record.height() == self.next_height() => self.replay.push(record),
                // At or below the tip: void.
                Ok(_) => {}
                Err(_) => self.damaged = true,
            }
        }
        if self.damaged {
            self.replay.clear();
        }
    }

    /// The newest header.
    pub fn tip(&self) -> &Header {
        &self.tip.header
    }

    /// The state after the newest block.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The voters of the next height.
    pub fn validators(&self) -> &ValidatorSet {
        &self.validators
    }

    /// Transactions that wait for a block.
    pub fn waiting(&self) -> usize {
        self.mempool.len()
    }

    /// The last height at which this node does not vote because its log was damaged.
    pub fn silent_through(&self) -> Option<Height> {
        (self.silent_through > self.tip.header.height).then_some(self.silent_through)
    }

    /// How this node stands beside the others.
    pub fn progress(&self) -> Progress {
        let height = self.tip.header.height;
        let (from, known) = self.peers.source(height);
        Progress { height, behind: known.0.saturating_sub(height.0), from }
    }

    /// Time for a reading or a block now, Unix milliseconds: the wall clock, or without a
    /// synchronised one the tip's time plus what has passed since.
    pub fn site_time_ms(&self, now: Now) -> u64 {
        if now.synchronised {
            return now.wall_ms;
        }
        let passed = now.mono_ms.saturating_sub(self.tip_since_ms);
        self.tip.header.time_ms.saturating_add(passed)
    }

    /// Monotonic time at which the shell feeds [`Input::Wake`], if nothing comes before.
    pub fn next_wake(&self) -> Option<u64> {
        if self.stopped || self.storing.is_some() {
            return None;
        }
        let work = match self.driver.running() {
            Some(_) => self.driver.next_timer().into_iter().chain(self.tell_due_ms()).min(),
            None if self.missing_body || self.is_in_doubt() => None,
            None => self.due_ms(),
        };
        work.into_iter().chain(self.ask_again_ms()).chain(self.ask_votes_ms()).min()
    }

    /// Takes one input; the effects must be executed in their order.
    pub fn step(&mut self, now: Now, input: Input) -> Vec<Effect> {
        if self.stopped {
            return Vec::new();
        }
        self.now = now;
        match input {
            Input::Start => self.start(),
            Input::Submit(transaction) => self.submit(*transaction),
            Input::Wake => {
                self.drive(|driver, now| driver.wake(now.mono_ms));
                self.tell_when_stuck();
                self.ask_votes();
                self.fetch_more();
            }
            Input::Stored(height) => self.stored(height),
            Input::Message { from, bytes } => self.message(from, &bytes),
            Input::PeerUp(peer) => self.peer_up(peer),
            Input::PeerDown(peer) => self.peers.forget(&peer),
        }
        self.vote_after_all();
        self.start_if_due();
        std::mem::take(&mut self.effects)
    }

    fn start(&mut self) {
        self.tip_since_ms = self.now.mono_ms;
        if std::mem::take(&mut self.damaged) {
            self.fall_silent();
        }
        self.settle_doubt();
    }

    fn submit(&mut self, transaction: Transaction) {
        let tx_hash = transaction.hash();
        let result = if recovery::is_recovery(&transaction) {
            self.recover(transaction).map_err(Refusal::from)
        } else {
            self.accept(transaction, true)
        };
        if let Err(error) = result {
            self.effects.push(Effect::Refused { tx_hash, error });
        }
    }

    /// Takes a transaction into the mempool, and tells the others when it is from here.
    fn accept(&mut self, transaction: Transaction, local: bool) -> Result<(), Refusal> {
        if self.mempool.contains(&transaction.hash()) {
            return Err(MempoolError::Known.into());
        }
        let (author, nonce) = (transaction.draft().author, transaction.draft().nonce);
        if self.state.activity(&author).is_some_and(|known| !known.clone().use_nonce(nonce)) {
            // Most often a transaction that is in a block already and was told once more.
            return Err(ApplyError::Nonce(nonce).into());
        }
        let gossip = (local && self.has_peers()).then(|| transaction.to_bytes());
        let verified = self.state.verify(transaction)?;
        self.mempool.insert(verified, self.now.mono_ms, local)?;
        if let Some(bytes) = gossip {
            self.publish(&Message::Transactions(vec![bytes]));
        }
        Ok(())
    }

    /// Where there is somebody to tell.
    fn tell_due_ms(&self) -> Option<u64> {
        (self.validators.count() > 1 || !self.is_voter()).then_some(self.tell_ms)
    }

    fn next_height(&self) -> Height {
        self.tip.header.height.next()
    }

    /// Whether this node's vote counts for the next block, with the vote key that it has.
    pub fn is_voter(&self) -> bool {
        let key = self.vote_key.as_ref().map(SigningKey::public_key);
        key.is_some() && self.validators.vote_key(&self.id) == key.as_ref()
    }

    fn has_peers(&self) -> bool {
        self.validators.count() > 1 || !self.is_voter() || self.state.gateways().nth(1).is_some()
    }

    fn publish(&mut self, message: &Message) {
        if self.has_peers() {
            self.effects.push(Effect::Publish(message.to_bytes()));
        }
    }
}

/// The tree over all headers up to `tip`, from its peaks.
fn frontier(tip: Height, peaks: &[Hash]) -> Option<Frontier> {
    let mut encoder = Encoder::new();
    encoder.array(2).uint(tip.next().0).list(peaks);
    Frontier::from_bytes(&encoder.into_bytes()).ok()
}
