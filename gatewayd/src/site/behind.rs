//! When blocks alone do not lead on from the record here: nobody near has the next one, or the
//! operator has recovered the record on top of an older one. A snapshot is fetched from one member
//! after the other; only when one is whole and verified the record here is set aside for it.

use std::time::Duration;

use ledger::codec::{Decode, Encode};
use ledger::header::Header;
use ledger::ids::{Era, Height, NodeId};
use ledger::node::Behind;
use ledger::sync::VerifiedSnapshot;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Running, Site};
use crate::admission::exchange::{ANSWER_LIMIT, Ask, AskError};
use crate::admission::fetching;
use crate::admission::messages::{Request, Response};
use crate::control::{DaemonState, Status};
use crate::ledger_task::Tip;
use crate::peers;

/// Pause after all members were asked in vain; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What could not be begun anew is tried again after this long.
const RETRY: Duration = Duration::from_secs(15);

/// A snapshot on its way.
pub(super) struct Fetching {
    behind: Behind,
    work: JoinHandle<Box<VerifiedSnapshot>>,
    told: watch::Receiver<String>,
}

impl Drop for Fetching {
    fn drop(&mut self) {
        self.work.abort();
    }
}

impl Fetching {
    fn begin(behind: Behind, running: &Running) -> Self {
        let (tell, told) = watch::channel(String::new());
        let (peers, trusted) = (running.peers.clone(), trusted(&behind).clone());
        tracing::warn!("{}", words(&behind, "members are asked"));
        let work = tokio::spawn(fetch(peers, trusted, newer_than(&behind), tell));
        Self { behind, work, told }
    }
}

/// What is being fetched, if anything is. May be dropped half-way and asked again.
pub(super) async fn fetched(fetching: &mut Option<Fetching>) -> Option<Box<VerifiedSnapshot>> {
    match fetching {
        Some(Fetching { work, .. }) => {
            let done = work.await;
            *fetching = None;
            done.inspect_err(|error| tracing::error!(%error, "fetching a snapshot broke")).ok()
        }
        None => std::future::pending().await,
    }
}

/// Begins to fetch when the ledger says so, and ends when it has gone on by itself.
pub(super) fn look(fetching: &mut Option<Fetching>, running: &Running) {
    let tip = *running.ledger.tip().borrow();
    if fetching.as_ref().is_some_and(|fetching| is_moot(&fetching.behind, tip)) {
        *fetching = None;
    }
    let behind = running.ledger.behind().borrow().clone();
    let Some(behind) = behind else { return };
    let known = fetching.as_ref().is_some_and(|fetching| fetching.behind == behind);
    if !known && !is_moot(&behind, tip) {
        *fetching = Some(Fetching::begin(behind, running));
    }
}

/// Whether the record has gone on by itself since.
fn is_moot(behind: &Behind, tip: Tip) -> bool {
    match behind {
        Behind::NoBlocks { trusted } => tip.height > trusted.height.0,
        Behind::Recovered { trusted, .. } => tip.era >= trusted.era.0,
    }
}

/// Says in status how far it is.
pub(super) fn describe(fetching: Option<&Fetching>, status: &mut Status) {
    let Some(Fetching { behind, told, .. }) = fetching else { return };
    if status.state == DaemonState::Running {
        status.state = DaemonState::Degraded;
    }
    status.reasons.push(words(behind, &told.borrow()));
}

fn trusted(behind: &Behind) -> &Header {
    match behind {
        Behind::NoBlocks { trusted } | Behind::Recovered { trusted, .. } => trusted,
    }
}

/// A snapshot must be of above this, to be of use.
fn newer_than(behind: &Behind) -> (Era, Height) {
    match behind {
        Behind::NoBlocks { trusted } => (trusted.era, trusted.height),
        Behind::Recovered { trusted, .. } => {
            (Era(trusted.era.0.saturating_sub(1)), Height(u64::MAX))
        }
    }
}

fn words(behind: &Behind, so_far: &str) -> String {
    match behind {
        Behind::NoBlocks { trusted } => format!(
            "no gateway near has block {}, which is the next one here; a snapshot of the record \
             is being fetched: {so_far}",
            trusted.height.next()
        ),
        Behind::Recovered { trusted, parent } => format!(
            "the operator recovered the record on top of block {parent} (era {}); the blocks above \
             it that this gateway alone has are set aside when a snapshot of the record is here: \
             {so_far}",
            trusted.era
        ),
    }
}

/// A connected member.
struct Connected {
    peers: peers::Handle,
    node: NodeId,
}

impl Ask for Connected {
    async fn ask(&self, request: &Request) -> Result<(Response, [u8; 32]), AskError> {
        let answer = self.peers.request(self.node, request.to_bytes(), ANSWER_LIMIT).await?;
        Ok((Response::from_bytes(&answer.bytes)?, answer.session.exporter))
    }
}

/// Asks members in turn until one has sent a snapshot that follows from `trusted` and is newer.
async fn fetch(
    peers: peers::Handle,
    trusted: Header,
    newer_than: (Era, Height),
    told: watch::Sender<String>,
) -> Box<VerifiedSnapshot> {
    let mut pause = FIRST_PAUSE;
    loop {
        let members: Vec<NodeId> = peers.peers().borrow().iter().map(|peer| peer.node).collect();
        if members.is_empty() {
            told.send_replace("no member is connected".into());
        }
        for node in members {
            let name = node.to_gateway_string();
            let member = Connected { peers: peers.clone(), node };
            let tell = |detail: String| {
                told.send_replace(format!("{detail}, from {name}"));
            };
            let why = match fetching::snapshot(&member, node, &trusted, tell).await {
                Ok(snapshot) if place(snapshot.header()) > newer_than => return snapshot,
                Ok(_) => "it has nothing newer".to_owned(),
                Err(error) => error.to_string(),
            };
            tracing::warn!(gateway = name, why, "no snapshot of the record from it");
            told.send_replace(format!("{name} is of no use ({why}); another member is asked"));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn place(header: &Header) -> (Era, Height) {
    (header.era, header.height)
}

/// A verified snapshot with what the record here says for the one that follows it.
pub(super) struct Successor {
    snapshot: Box<VerifiedSnapshot>,
    silent: Option<Height>,
}

impl Successor {
    /// Up to where this gateway must not vote, it knows itself.
    pub(super) async fn of(snapshot: Box<VerifiedSnapshot>, running: &Running) -> Option<Self> {
        let silent = running.ledger.with_node(ledger::node::Node::silent_through).await.ok()?;
        Some(Self { snapshot, silent })
    }
}

impl Site {
    /// Sets the record aside, which nobody has open, and begins it anew. What fails leaves it as
    /// it was.
    pub(super) async fn succeed(&mut self, successor: Successor) {
        let dir = self.settings.data_dir.clone();
        let Successor { snapshot, silent } = successor;
        let height = snapshot.header().height;
        let work = move || ledger::store::begin_anew(&dir, &snapshot, silent);
        match self.attended("the record is begun anew", work).await {
            Some(Ok(aside)) => {
                let (aside, last) = (aside.directory.display().to_string(), aside.tip.height);
                tracing::warn!(aside, %last, %height, "the record goes on from a snapshot");
            }
            Some(Err(error)) => {
                tracing::error!(%error, "the record stays as it was");
                let why = format!("the record could not be begun anew from a snapshot: {error}");
                self.show(DaemonState::Degraded, vec![why], None);
                self.wait(RETRY, false).await;
            }
            None => tracing::error!("the record could not be begun anew: a task of ours broke"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::head::tests::Small;

    #[test]
    fn it_is_said_why_and_how_far() {
        let site = Small::new(1);
        let trusted = ledger::state::State::genesis_header(&site.genesis);
        let behind = Behind::NoBlocks { trusted: trusted.clone() };
        let said = words(&behind, "3 of 9 entries of the state, from gw1x");
        assert!(said.starts_with("no gateway near has block 1,"), "{said}");
        assert!(said.ends_with("3 of 9 entries of the state, from gw1x"), "{said}");
        assert!(place(&trusted) <= newer_than(&behind), "what is as old is of no use");
        let mut begun = trusted;
        (begun.era, begun.height) = (Era(1), Height(6));
        let behind = Behind::Recovered { trusted: begun.clone(), parent: Height(5) };
        assert!(words(&behind, "").contains("on top of block 5 (era 1)"));
        assert!(place(&begun) > newer_than(&behind));
        begun.era = Era(0);
        assert!(place(&begun) < newer_than(&behind), "whatever its height");
    }
}
