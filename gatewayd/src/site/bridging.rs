//! The life of a machine that is a bridge: it has a key and an order, and never a record.

use std::sync::Arc;

use attestation::tpm::IdentityInfo;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::joining::{INCOMING, SHOW_EVERY};
use super::{BROKEN, Request, Site, TPM_RETRY, refuse};
use crate::bridge::{Order, lender};
use crate::control::{
    BridgeStatus, ControlError, DaemonState, JoinProgress, JoinSite, JoinStep, Result,
};
use crate::identity::{self, IdentityError, identity_key};
use crate::peers;
use crate::status::{self, TpmView};

impl Site {
    /// Takes an order to be a bridge: the key is made, or that of an earlier order is used again.
    pub(super) async fn bridge_order(&mut self, request: JoinSite) -> Result<()> {
        let order = Order::new(&request)?;
        let (tpm, folder) = (self.tpm.clone(), self.folder());
        let keys = JoinProgress { step: JoinStep::Keys, bridge: true, ..JoinProgress::default() };
        self.join.send_replace(keys);
        let keep = move || folder?.become_bridge(&tpm, &order);
        let kept = self.attended("a key is being made", keep).await;
        let done = kept.unwrap_or(Err(BROKEN)).map_err(ControlError::from);
        if done.is_err() && !self.is_joining() && !self.is_bridge() {
            self.join.send_replace(JoinProgress::default());
        }
        done
    }

    pub(super) fn is_bridge(&self) -> bool {
        matches!(self.folder().and_then(|folder| folder.bridging()), Ok(Some(_)))
    }

    /// Lends until there is another order, or none. What is next is on the disk.
    pub(super) async fn bridging(&mut self, order: Order) {
        let Some(info) = self.unlock_to_lend().await else { return };
        let (status_in, figures) = watch::channel(BridgeStatus::default());
        let work = match self.lender(order, &info, status_in) {
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
                broke = &mut work.0 => {
                    tracing::error!(?broke, "lending broke");
                    self.wait(TPM_RETRY, true).await;
                    return;
                }
                request = self.requests.recv() => match request {
                    Some(request @ (Request::Join(..) | Request::AbandonJoin(_))) => {
                        drop(work);
                        return self.answer(request).await;
                    }
                    Some(other) => refuse(other, "this machine is a bridge"),
                    None => std::future::pending().await,
                },
                _ = often.tick() => {
                    let figures = figures.borrow().clone();
                    self.show_bridge(&info, figures);
                }
            }
        }
    }

    /// The key; none when the order has changed meanwhile.
    async fn unlock_to_lend(&mut self) -> Option<IdentityInfo> {
        loop {
            let (tpm, folder) = (self.tpm.clone(), self.folder());
            let open = move || folder?.bridge_key(&tpm);
            let opened = self.attended("a key is being opened", open).await;
            let error = match opened.unwrap_or(Err(BROKEN)) {
                Ok(info) => return Some(info),
                Err(error) => error,
            };
            let state = match &error {
                IdentityError::Tpm(error) if error.is_absence() => DaemonState::NoTpm,
                _ => DaemonState::Degraded,
            };
            let reason = error.to_string();
            self.show(state, vec![reason.clone()], Some(TpmView::failed(reason)));
            self.wait(TPM_RETRY, true).await;
            if !self.is_bridge() {
                return None;
            }
        }
    }

    /// Starts what lends, with connections of its own: a bridge listens to nobody.
    fn lender(
        &self,
        order: Order,
        info: &IdentityInfo,
        status: watch::Sender<BridgeStatus>,
    ) -> anyhow::Result<JoinHandle<()>> {
        let (events, inbox) = peers::inbox();
        let (incoming_in, incoming) = mpsc::channel(INCOMING);
        let (beats_in, beats) = mpsc::channel(INCOMING);
        let handle = peers::start(peers::Parts {
            signer: Arc::new(self.tpm.clone()),
            identity: identity_key(info)?,
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
        let lender = lender::Parts {
            peers: handle,
            own: identity::node(info)?,
            order,
            folder: self.folder()?,
            lora: self.settings.lora.clone(),
            progress: self.join.clone(),
            status,
        };
        Ok(tokio::spawn(async move {
            // Nothing comes of members that a bridge does not have; the ends are kept open.
            let _ends = (inbox, incoming, beats);
            lender::lend(lender).await;
        }))
    }

    fn show_bridge(&mut self, info: &IdentityInfo, figures: BridgeStatus) {
        let progress = self.join.borrow().clone();
        let mut reasons = Vec::new();
        if !figures.connected {
            let step = progress.step.words();
            let detail = &progress.detail;
            reasons.push(if detail.is_empty() { step.into() } else { format!("{step}: {detail}") });
        }
        reasons.extend(figures.failed.clone());
        let tpm = Some(TpmView::of(info));
        let mut status = status::without_site(DaemonState::Bridge, reasons, tpm, &self.settings);
        status.gateway = progress.gateway;
        status.site = progress.site;
        status.bridge = Some(figures);
        self.publish(status);
    }
}

/// A task that ends when nobody waits for it.
struct Aborted(JoinHandle<()>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}
