//! The life of a gateway that has keys and an order to join, and no record yet.

use std::sync::Arc;
use std::time::Duration;

use ledger::genesis::Genesis;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::{BROKEN, Request, Site, TPM_RETRY, refuse};
use crate::admission::join::JoinOrder;
use crate::admission::logs::MachineLogs;
use crate::admission::newcomer;
use crate::control::{ControlError, DaemonState, JoinProgress, JoinSite, JoinStep, Result};
use crate::identity::{IdentityError, Unlocked, identity_key};
use crate::peers;
use crate::status::{self, TpmView};

/// Requests of others that may wait while joining: nobody may ask a newcomer anything.
pub(super) const INCOMING: usize = 1;

/// How often progress is looked at for the daemon's status.
pub(super) const SHOW_EVERY: Duration = Duration::from_millis(500);

impl Site {
    /// Takes an order to join: keys are made, or those of an earlier order are used again.
    pub(super) async fn join_order(&mut self, request: JoinSite) -> Result<()> {
        if request.bridge {
            return self.bridge_order(request).await;
        }
        let order = JoinOrder::new(&request)?;
        let (tpm, folder) = (self.tpm.clone(), self.folder());
        self.join.send_replace(JoinProgress { step: JoinStep::Keys, ..JoinProgress::default() });
        let keep = move || {
            let folder = folder?;
            folder.join(&tpm, &order)?;
            folder.abandon_bridge()
        };
        let kept = self.attended("keys are being made", keep).await;
        let done = kept.unwrap_or(Err(BROKEN)).map_err(ControlError::from);
        if done.is_err() && !self.is_joining() && !self.is_bridge() {
            self.join.send_replace(JoinProgress::default());
        }
        done
    }

    /// Gives up joining.
    pub(super) async fn abandon(&mut self) -> Result<()> {
        if !self.is_joining() && !self.is_bridge() {
            return Err(ControlError::Unavailable("nothing is being joined".into()));
        }
        let folder = self.folder();
        let give_up = move || {
            let folder = folder?;
            folder.abandon_join()?;
            folder.abandon_bridge()
        };
        let gone = self.attended("a join is being given up", give_up).await;
        gone.unwrap_or(Err(BROKEN)).map_err(ControlError::from)?;
        self.join.send_replace(JoinProgress::default());
        Ok(())
    }

    pub(super) fn is_joining(&self) -> bool {
        matches!(self.folder().and_then(|folder| folder.joining()), Ok(Some(_)))
    }

    /// Joins until there is a record, or another order, or none. What is next is on the disk.
    pub(super) async fn joining(&mut self, order: JoinOrder) {
        let Some(unlocked) = self.unlock_to_join().await else { return };
        let work = match self.newcomer(order, unlocked) {
            Ok(work) => work,
            Err(error) => {
                self.show(DaemonState::Degraded, vec![format!("{error:#}")], None);
                self.wait(TPM_RETRY, true).await;
                return;
            }
        };
        let mut work = Aborted(work);
        let mut often = tokio::time::interval(SHOW_EVERY);
        loop {
            tokio::select! {
                done = &mut work.0 => {
                    match done {
                        Ok(genesis) => tracing::info!(chain = %genesis.chain_id(), "joined"),
                        Err(error) => {
                            tracing::error!(%error, "joining broke");
                            self.wait(TPM_RETRY, true).await;
                        }
                    }
                    return;
                }
                request = self.requests.recv() => match request {
                    Some(Request::Join(request, reply)) => {
                        drop(work);
                        return self.answer(Request::Join(request, reply)).await;
                    }
                    Some(Request::AbandonJoin(reply)) => {
                        drop(work);
                        return self.answer(Request::AbandonJoin(reply)).await;
                    }
                    Some(other) => refuse(other, "this gateway is joining a site"),
                    None => std::future::pending().await,
                },
                _ = often.tick() => self.show_join(),
            }
        }
    }

    /// Does what is asked about a join.
    pub(super) async fn answer(&mut self, request: Request) {
        let (done, reply): (_, oneshot::Sender<Result<()>>) = match request {
            Request::Join(request, reply) => (self.join_order(*request).await, reply),
            Request::AbandonJoin(reply) => (self.abandon().await, reply),
            other => return refuse(other, "this gateway is joining a site"),
        };
        // A caller that has gone away sees it in the progress.
        let _ = reply.send(done);
    }

    /// The keys; none when the order has changed meanwhile.
    async fn unlock_to_join(&mut self) -> Option<Unlocked> {
        loop {
            let (tpm, folder) = (self.tpm.clone(), self.folder());
            let unlock = move || folder?.unlock(&tpm);
            let opened = self.attended("an identity is being opened", unlock).await;
            let error = match opened.unwrap_or(Err(BROKEN)) {
                Ok(unlocked) => return Some(unlocked),
                Err(error) => error,
            };
            let state = match &error {
                IdentityError::Tpm(error) if error.is_absence() => DaemonState::NoTpm,
                _ => DaemonState::Degraded,
            };
            let reason = error.to_string();
            self.show(state, vec![reason.clone()], Some(TpmView::failed(reason)));
            self.wait(TPM_RETRY, true).await;
            if !self.is_joining() {
                return None;
            }
        }
    }

    /// Starts what joins, with connections of its own: a newcomer listens to nobody.
    fn newcomer(
        &self,
        order: JoinOrder,
        unlocked: Unlocked,
    ) -> anyhow::Result<JoinHandle<Genesis>> {
        let Unlocked { info, vote, .. } = unlocked;
        let vote = vote.ok_or_else(|| {
            anyhow::anyhow!(
                "the vote key is missing: give up the join \
             and begin anew"
            )
        })?;
        let (events, inbox) = peers::inbox();
        let (incoming_in, incoming) = mpsc::channel(INCOMING);
        let (beats_in, beats) = mpsc::channel(INCOMING);
        let handle = peers::start(peers::Parts {
            signer: Arc::new(self.tpm.clone()),
            identity: identity_key(&info)?,
            listen: None,
            addresses: vec![],
            discovery: order.discover,
            interface: self.settings.peers.interface.clone(),
            events,
            incoming: incoming_in,
            beats: beats_in,
            bridges: None,
            data_dir: None,
        })?;
        let newcomer = newcomer::Parts {
            peers: handle,
            tpm: self.tpm.clone(),
            info: Arc::new(info),
            vote,
            order,
            data_dir: self.settings.data_dir.clone(),
            logs: MachineLogs::by_helper(&self.settings.logs_socket),
            progress: self.join.clone(),
        };
        Ok(tokio::spawn(async move {
            // Nothing comes of members that a newcomer does not have; the ends are kept open.
            let _ends = (inbox, incoming, beats);
            newcomer::join(newcomer).await
        }))
    }

    fn show_join(&mut self) {
        let progress = self.join.borrow().clone();
        let mut reason = progress.step.words().to_owned();
        if !progress.detail.is_empty() {
            reason = format!("{reason}: {}", progress.detail);
        }
        let mut status =
            status::without_site(DaemonState::Joining, vec![reason], None, &self.settings);
        status.gateway = progress.gateway;
        status.site = progress.site;
        self.publish(status);
    }
}

/// A task that ends when nobody waits for it.
struct Aborted(JoinHandle<Genesis>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}
