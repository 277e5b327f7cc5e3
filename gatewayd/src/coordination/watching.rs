//! Carries out what `liveness` says: beats over the connections to members, statements kept on the
//! disk before they are signed, and what goes onto the record. One task owns the state.
//!
//! Full is answered thus: a beat that finds no place is lost, another comes; a question of another
//! voter waits, and is given up by the one who asked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use attestation::tpm::Tpm;
use ledger::codec::{Decode, Encode};
use ledger::ids::{Era, Height, NodeId};
use ledger::state::Event as Changed;
use ledger::store::Reader;
use ledger::transaction::{Body, Offline, Online, QuorumSignature, offline_digest};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::Beat;
use super::liveness::{Effect, Facts, Input, Known, Liveness, Now, Signed};
use crate::admission::endorsing::sign_offline;
use crate::admission::messages::Endorse;
use crate::admission::quorum::{self, Question};
use crate::control::{ControlError, Event, Result};
use crate::peers;
use crate::store::Statements;
use crate::vote_keys::record_with_identity;
use crate::{clock, ledger_task};

/// Questions of other voters that may wait.
const ASKS: usize = 32;

/// The record is looked at again after this long at the earliest, however many blocks there are.
const READ_EVERY: Duration = Duration::from_millis(100);

/// Entries of a history among which the newest `Offline` is.
const HISTORY: usize = 64;

/// What the task is started with.
pub struct Parts {
    /// This gateway.
    pub gateway: NodeId,
    /// The TPM: `Online` is signed with the identity key.
    pub tpm: Tpm,
    /// The ledger's thread.
    pub ledger: ledger_task::Handle,
    /// Connections to other members.
    pub peers: peers::Handle,
    /// What members say about being there.
    pub beats: mpsc::Receiver<peers::Beat>,
    /// Data folder.
    pub data_dir: PathBuf,
    /// For `monitor`.
    pub events: broadcast::Sender<Event>,
}

/// Since when a gateway is offline, and who found it so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    /// The liveness epoch that ended.
    pub epoch: u32,
    /// Block that says so.
    pub height: u64,
    /// Its time, Unix ms.
    pub time_ms: u64,
    /// The voters that signed.
    pub by: Vec<NodeId>,
}

/// What is known of the other gateways beside the record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The newest block of each that has acknowledged a heartbeat.
    pub heights: BTreeMap<NodeId, u64>,
    /// Those that are offline.
    pub gone: BTreeMap<NodeId, Gone>,
}

/// Handle of the task.
#[derive(Clone)]
pub struct Handle {
    asks: mpsc::Sender<Ask>,
    seen: watch::Receiver<Seen>,
}

/// Another voter's question, or this one's own: to sign that a gateway is silent.
struct Ask {
    node: NodeId,
    epoch: u32,
    reply: oneshot::Sender<Result<QuorumSignature>>,
}

/// Starts the task. It ends when its handles are gone.
pub fn start(parts: Parts) -> Handle {
    let (asks_in, asks) = mpsc::channel(ASKS);
    let (seen_in, seen) = watch::channel(Seen::default());
    // For the task's own collections: it must not keep itself alive.
    let own = asks_in.downgrade();
    tokio::spawn(async move {
        let statements = Statements::at(&parts.data_dir);
        let kept = read(statements.clone()).await;
        let liveness = Liveness::new(parts.gateway, clock::boot_ms(), kept);
        let watching = Watching {
            parts,
            own,
            seen: seen_in,
            statements,
            liveness,
            jobs: JoinSet::new(),
            reading: false,
            read: None,
            looked_up: BTreeMap::new(),
        };
        watching.run(asks).await;
    });
    Handle { asks: asks_in, seen }
}

impl Handle {
    /// Signs that a gateway is silent in this life of its, if this gateway finds so too.
    ///
    /// # Errors
    /// It does not, or what it signs cannot be kept; in words.
    pub async fn sign(&self, node: NodeId, epoch: u32) -> Result<QuorumSignature> {
        sign(&self.asks, node, epoch).await
    }

    /// What is known of the other gateways beside the record.
    pub fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }
}

async fn sign(asks: &mpsc::Sender<Ask>, node: NodeId, epoch: u32) -> Result<QuorumSignature> {
    let gone = || ControlError::Unavailable("this gateway is stopping".into());
    let (reply, answer) = oneshot::channel();
    asks.send(Ask { node, epoch, reply }).await.map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}

/// A job beside the task has ended.
enum Done {
    Read(Result<Facts>),
    Collected { node: NodeId, done: bool },
    Came,
    Found(NodeId, Option<Gone>),
    Answered,
}

struct Watching {
    parts: Parts,
    own: mpsc::WeakSender<Ask>,
    seen: watch::Sender<Seen>,
    statements: Statements,
    liveness: Liveness,
    /// Jobs beside this task; they end with it, and with them their hold on the ledger.
    jobs: JoinSet<Done>,
    reading: bool,
    read: Option<Instant>,
    /// In which lives those who are offline were looked up.
    looked_up: BTreeMap<NodeId, u32>,
}

impl Watching {
    async fn run(mut self, mut asks: mpsc::Receiver<Ask>) {
        let mut tip = self.parts.ledger.tip();
        let (mut news, mut connected) = (true, true);
        loop {
            let again = self.read.map_or_else(Instant::now, |read| read + READ_EVERY);
            let due = news && !self.reading;
            if due && again <= Instant::now() {
                news = false;
                self.look();
            }
            let wake = self.wake();
            tokio::select! {
                ask = asks.recv() => match ask {
                    Some(ask) => self.asked(ask).await,
                    None => return,
                },
                beat = self.parts.beats.recv(), if connected => match beat {
                    Some(beat) => self.heard(&beat).await,
                    // The transport has ended: the daemon stops.
                    None => connected = false,
                },
                Some(done) = self.jobs.join_next() => match done {
                    Ok(done) => self.done(done).await,
                    Err(error) => tracing::error!(%error, "a job of liveness broke"),
                },
                // A ledger that has ended moves on no more; management still holds this task.
                Ok(()) = tip.changed(), if !news => news = true,
                () = sleep_until(again), if due => {}
                () = sleep_until(wake) => self.step(Input::Tick).await,
            }
        }
    }

    fn wake(&self) -> Instant {
        let now_ms = clock::boot_ms();
        let wait_ms = self.liveness.next_wake(now_ms).saturating_sub(now_ms);
        Instant::now() + Duration::from_millis(wait_ms)
    }

    fn now(&self) -> Now {
        let (site_ms, _) = self.parts.ledger.clock().borrow().now();
        let tip = Height(self.parts.ledger.tip().borrow().height);
        Now { mono_ms: clock::boot_ms(), site_ms, tip }
    }

    /// Reads the record, beside the task: the ledger's thread may be busy.
    fn look(&mut self) {
        self.reading = true;
        let ledger = self.parts.ledger.clone();
        self.jobs.spawn(async move { Done::Read(ledger.view(Facts::of).await) });
    }

    async fn heard(&mut self, beat: &peers::Beat) {
        match Beat::from_bytes(&beat.bytes) {
            Ok(said) => self.step(Input::Beat { from: beat.from, beat: said }).await,
            Err(error) => {
                let gateway = beat.from.to_gateway_string();
                tracing::debug!(gateway, %error, "a malformed beat");
            }
        }
    }

    async fn asked(&mut self, Ask { node, epoch, reply }: Ask) {
        let effects = self.liveness.step(self.now(), Input::Asked { node, epoch });
        for effect in effects {
            let answer = match effect {
                Effect::Sign { statement, keep } => match self.keep(keep).await {
                    Ok(()) => return self.answer(statement, reply),
                    Err(error) => Err(error),
                },
                Effect::Decline(why) => Err(ControlError::Unavailable(why.to_string())),
                _ => continue,
            };
            // Who has gone away is not told.
            let _ = reply.send(answer);
            return;
        }
    }

    /// Makes statements durable. While it waits for the disk nobody is acknowledged.
    async fn keep(&self, keep: Option<Vec<Signed>>) -> Result<()> {
        let Some(keep) = keep else { return Ok(()) };
        let rows: Vec<_> = keep.iter().map(|it| (it.node.0, it.era.0, it.epoch)).collect();
        let statements = self.statements.clone();
        let written = tokio::task::spawn_blocking(move || statements.write(&rows)).await;
        let broke = |error: tokio::task::JoinError| ControlError::Internal(error.to_string());
        written.map_err(broke)?.map_err(|error| ControlError::Storage(error.to_string()))
    }

    /// Signs, against the state of that instant, and answers.
    fn answer(&mut self, statement: Signed, reply: oneshot::Sender<Result<QuorumSignature>>) {
        let ledger = self.parts.ledger.clone();
        self.jobs.spawn(async move {
            let signed = ledger.with_key(move |here| sign_offline(here, &statement)).await;
            let refused = |denial: crate::admission::verifier::Denial| {
                ControlError::Unavailable(denial.to_string())
            };
            // Who has gone away is not told.
            let _ = reply.send(signed.and_then(|signed| signed.map_err(refused)));
            Done::Answered
        });
    }

    async fn done(&mut self, done: Done) {
        match done {
            Done::Read(facts) => {
                (self.reading, self.read) = (false, Some(Instant::now()));
                match facts {
                    Ok(facts) => {
                        self.look_up(&facts);
                        self.step(Input::Record(facts)).await;
                    }
                    Err(error) => tracing::debug!(%error, "who is there is not known now"),
                }
            }
            Done::Collected { node, done } => self.step(Input::Collected { node, done }).await,
            Done::Came => self.step(Input::Came).await,
            Done::Found(node, gone) => {
                self.seen.send_modify(|seen| match gone {
                    Some(gone) => drop(seen.gone.insert(node, gone)),
                    None => drop(seen.gone.remove(&node)),
                });
            }
            Done::Answered => {}
        }
    }

    async fn step(&mut self, input: Input) {
        let effects = self.liveness.step(self.now(), input);
        for effect in effects {
            match effect {
                Effect::Send(to, beat) => self.parts.peers.beat(to, &beat.to_bytes()),
                Effect::Collect { statement, voters, needed } => {
                    self.collect(statement, voters, needed);
                }
                Effect::ComeOnline { epoch } => self.come_online(epoch),
                Effect::Changed(known) => self.tell(&known),
                // Answers to questions: see `asked`.
                Effect::Sign { .. } | Effect::Decline(_) => {}
            }
        }
        let heights = self.liveness.tips().map(|(node, tip)| (node, tip.0)).collect();
        self.seen.send_if_modified(|seen| {
            let news = seen.heights != heights;
            seen.heights = heights;
            news
        });
    }

    fn collect(&mut self, statement: Signed, voters: Vec<NodeId>, needed: usize) {
        let (ledger, peers) = (self.parts.ledger.clone(), self.parts.peers.clone());
        let (own, node) = (self.own.clone(), statement.node);
        self.jobs.spawn(async move {
            let recorded = record_offline(&ledger, &peers, &own, statement, &voters, needed).await;
            let gateway = node.to_gateway_string();
            match &recorded {
                Ok(done) => tracing::warn!(gateway, height = done.height, "found offline"),
                Err(error) => tracing::info!(gateway, %error, "silent, and not offline yet"),
            }
            Done::Collected { node, done: recorded.is_ok() }
        });
    }

    fn come_online(&mut self, epoch: u32) {
        let (ledger, tpm) = (self.parts.ledger.clone(), self.parts.tpm.clone());
        self.jobs.spawn(async move {
            let body = Body::Online(Online { liveness_epoch: epoch });
            match record_with_identity(&ledger, &tpm, body).await {
                Ok(done) => {
                    let height = done.height;
                    tracing::info!(epoch, height, "the record has this gateway online again");
                }
                Err(error) => {
                    tracing::warn!(%error, "the record does not have this gateway online yet");
                }
            }
            Done::Came
        });
    }

    /// Tells people.
    fn tell(&self, known: &Known) {
        let id = known.node.to_gateway_string();
        let (change, message) = match known.online {
            true => ("online", format!("{id} is online again")),
            false => ("offline", format!("{id} is UNREACHABLE: a quorum found it offline")),
        };
        tracing::info!(gateway = id, change, "liveness");
        // Nobody listening is no error.
        let _ = self.parts.events.send(Event::Gateway { id, change, message });
    }

    /// Looks up since when those are offline of whom that is not known.
    fn look_up(&mut self, facts: &Facts) {
        let offline =
            |node: &NodeId| facts.gateways.iter().any(|known| known.node == *node && !known.online);
        self.seen.send_if_modified(|seen| {
            let before = seen.gone.len();
            seen.gone.retain(|node, _| offline(node));
            seen.gone.len() != before
        });
        self.looked_up.retain(|node, _| offline(node));
        for known in facts.gateways.iter().filter(|known| known.rights && !known.online) {
            let epoch = known.epoch;
            if self.looked_up.insert(known.node, epoch) == Some(epoch) {
                continue;
            }
            let (dir, node) = (self.parts.data_dir.clone(), known.node);
            self.jobs.spawn(async move {
                let found = tokio::task::spawn_blocking(move || gone(&dir, &node, epoch));
                // A record that cannot be read says so elsewhere.
                Done::Found(node, found.await.ok().flatten())
            });
        }
    }
}

/// Asks the others and then this gateway itself: it is the last to sign, and signs nothing for a
/// collection that leads nowhere.
async fn record_offline(
    ledger: &ledger_task::Handle,
    peers: &peers::Handle,
    own: &mpsc::WeakSender<Ask>,
    statement: Signed,
    voters: &[NodeId],
    needed: usize,
) -> Result<ledger_task::Done> {
    let Signed { node, era, epoch } = statement;
    let chain_id = ledger.view(|state| state.chain_id()).await?;
    let digest = offline_digest(&chain_id, era, &node, epoch);
    let asked = Endorse::Offline { node, liveness_epoch: epoch };
    let others = needed.saturating_sub(1);
    let question = Question { voters, asked: &asked, digest: &digest, enough: others };
    let mut quorum = quorum::ask(ledger, peers, question).await?.signed;
    if quorum.len() < others {
        let what = format!("{} other voters miss it, and {others} are needed", quorum.len());
        return Err(ControlError::Unavailable(what));
    }
    let gone = || ControlError::Unavailable("this gateway is stopping".into());
    quorum.push(sign(&own.upgrade().ok_or_else(gone)?, node, epoch).await?);
    quorum.sort_by_key(|signed| signed.voter);
    let body = Body::Offline(Offline { node, liveness_epoch: epoch, quorum });
    ledger.propose(move |_| Ok(body)).await
}

/// What was signed before; `None` when that is not known any more.
async fn read(statements: Statements) -> Option<Vec<Signed>> {
    let kept = tokio::task::spawn_blocking(move || statements.read()).await.ok()?;
    match kept {
        Ok(rows) => {
            let row = |(node, era, epoch)| Signed { node: NodeId(node), era: Era(era), epoch };
            Some(rows.into_iter().map(row).collect())
        }
        Err(error) => {
            tracing::error!(
                %error,
                "what was signed about silent gateways is not known: each of them is asked to \
                 come back"
            );
            None
        }
    }
}

/// The newest `Offline` about a gateway; nothing where the record here begins after it.
fn gone(dir: &Path, node: &NodeId, epoch: u32) -> Option<Gone> {
    let reader = Reader::open(dir).ok()?;
    let history = reader.history(node, None, HISTORY).ok()?;
    let newest = history.iter().find(|entry| matches!(entry.event, Changed::WentOffline { .. }))?;
    let (height, time_ms) = (newest.at.height, newest.time_ms);
    let block = reader.block(height).ok().flatten();
    let made = block.as_ref().and_then(|it| it.transactions.get(newest.at.position as usize));
    let by = match made.map(|made| &made.draft().body) {
        Some(Body::Offline(offline)) => offline.quorum.iter().map(|it| it.voter).collect(),
        // Its body is no longer kept.
        _ => vec![],
    };
    Some(Gone { epoch, height: height.0, time_ms, by })
}
