//! The packet forwarders' UDP port of a bridge.

use std::time::Duration;

use drivers::lora::ids::ForwarderEui;
use drivers::lora::link::{Batch, Link};
use ledger::codec::{Decode, DecodeError, Encode};

use super::forwarders::{Allowed, Forwarders};
use super::frame::Radio;
use crate::clock;
use crate::config::Lora;
use crate::peers::BridgeSender;

/// A port that is taken is tried again after this long.
const AGAIN: Duration = Duration::from_secs(2);

/// Forwarders, and the socket that they speak to.
pub(super) struct RadioSide {
    settings: Lora,
    link: Option<Link>,
    batch: Batch,
    pub(super) forwarders: Forwarders,
    /// Datagrams handed to the member, handed to forwarders, and those that reached nobody.
    pub(super) uplinks: u64,
    pub(super) downlinks: u64,
    pub(super) lost: u64,
    /// Why nothing is heard, in words.
    pub(super) failed: Option<String>,
}

impl RadioSide {
    pub(super) fn new(settings: &Lora) -> Self {
        let euis: Vec<_> = settings.forwarders.iter().map(|eui| ForwarderEui(*eui)).collect();
        let allowed = Allowed { any_on_loopback: euis.is_empty(), euis };
        // Without randomness what was meant for an earlier process may reach a forwarder: it is
        // too late for its window, and dropped there.
        let first = u32::from_be_bytes(crate::vault::random().unwrap_or_default());
        Self {
            settings: settings.clone(),
            link: None,
            batch: Batch::default(),
            forwarders: Forwarders::new(allowed, first),
            uplinks: 0,
            downlinks: 0,
            lost: 0,
            failed: None,
        }
    }

    /// Hears forwarders while there is no member; ends never.
    pub(super) async fn idle(&mut self) {
        loop {
            self.up(None).await;
        }
    }

    /// Waits for datagrams and hands them to the member. Cancellation loses nothing.
    pub(super) async fn up(&mut self, member: Option<&BridgeSender>) {
        self.open().await;
        let Some(link) = &self.link else { return };
        if let Err(error) = link.receive(&mut self.batch).await {
            tracing::error!(%error, "packet forwarders' socket");
            tokio::time::sleep(AGAIN).await;
            return;
        }
        let now = clock::boot_ms();
        for (from, datagram) in self.batch.iter() {
            let told = self.forwarders.up(now, from, datagram);
            let sent = told.zip(member).map(|(radio, member)| member.radio(radio.to_bytes()));
            match sent {
                Some(Ok(())) => self.uplinks += 1,
                Some(Err(_)) | None => self.lost += 1,
            }
        }
    }

    /// Opens the ways back at a member that has just connected.
    pub(super) fn reopen(&self, member: &BridgeSender) {
        for radio in self.forwarders.ways_back() {
            // A connection that has ended is noticed where it is read.
            let _ = member.radio(radio.to_bytes());
        }
    }

    /// What the member tells a forwarder.
    pub(super) async fn down(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        let Radio { forwarder, datagram } = Radio::from_bytes(bytes)?;
        let way = self.link.as_ref().zip(self.forwarders.way(forwarder));
        let Some((link, to)) = way else {
            self.lost += 1;
            return Ok(());
        };
        match link.send(to, &datagram).await {
            Ok(()) => self.downlinks += 1,
            Err(error) => {
                tracing::warn!(%error, %to, "cannot send to the packet forwarder");
                self.lost += 1;
            }
        }
        Ok(())
    }

    /// Opens the socket when it is not open yet; where it cannot be, some time passes.
    async fn open(&mut self) {
        if !self.settings.enabled {
            std::future::pending::<()>().await;
        }
        if self.link.is_none() {
            match Link::bind(self.settings.listen).await {
                Ok(link) => (self.link, self.failed) = (Some(link), None),
                Err(error) => {
                    let why = format!("lora.listen {}: {error}", self.settings.listen);
                    if self.failed.as_ref() != Some(&why) {
                        tracing::error!(why, "packet forwarders are not heard");
                    }
                    self.failed = Some(why);
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }
}
