//! Fetching the record, once this gateway is a member: a snapshot that follows from the header
//! that was checked against the site code. Who sends it is believed nothing.

use std::path::Path;

use ledger::genesis::Genesis;
use ledger::header::Header;
use ledger::ids::Height;
use ledger::store::{Store, StoreError};
use ledger::sync::VerifiedSnapshot;
use ledger::sync::client::{Client, Effect, Input};

use super::{BLOCK_EVERY, Newcomer, Stop};
use crate::admission::exchange::Ask;
use crate::admission::head::KnownSite;
use crate::admission::messages::{Bytes, Request, Response};
use crate::clock;
use crate::control::JoinStep;
use crate::identity::Folder;

impl Newcomer {
    /// Founds the record in the data folder.
    pub(super) async fn fetch(
        &mut self,
        member: &impl Ask,
        site: &KnownSite,
        admitted: Height,
    ) -> Result<Genesis, Stop> {
        let step = JoinStep::Fetching;
        self.teller.step(step, String::new());
        if site.header.height < admitted {
            return Err(Stop::after(step, "a member shows an older record", BLOCK_EVERY));
        }
        let snapshot = self.snapshot(member, site).await?;
        let (dir, genesis) = (self.parts.data_dir.clone(), site.genesis.clone());
        let held = site.anchor_header.clone();
        let found = move || found(&dir, &genesis, &snapshot, held.as_ref()).map(|()| genesis);
        let done = tokio::task::spawn_blocking(found).await;
        let failed = |error: &dyn std::fmt::Display| Stop::new(step, error.to_string());
        done.map_err(|error| failed(&error))?.map_err(|error| match error.downcast_ref() {
            Some(StoreError::DiskFull) => failed(&"the disk is full"),
            _ => failed(&format!("{error:#}")),
        })
    }

    async fn snapshot(
        &self,
        member: &impl Ask,
        site: &KnownSite,
    ) -> Result<Box<VerifiedSnapshot>, Stop> {
        let step = JoinStep::Fetching;
        let stop = |why: &dyn std::fmt::Display| Stop::new(step, why.to_string());
        let mut client = Client::new(site.header.clone());
        let mut effects = client.step(clock::boot_ms(), Input::PeerUp(site.node));
        loop {
            let mut question = None;
            for effect in effects {
                match effect {
                    Effect::Done(snapshot) => return Ok(snapshot),
                    Effect::Failed { error, .. } => return Err(stop(&error)),
                    Effect::Request { bytes, .. } => question = Some(bytes),
                }
            }
            let question = question.ok_or_else(|| stop(&"the member sends nothing more"))?;
            let question = Bytes::new(question).map_err(|error| stop(&error))?;
            let answer = member.ask(&Request::Snapshot(question)).await;
            let bytes = match answer.map_err(|error| stop(&error))?.0 {
                Response::Snapshot(part) => part.into_vec(),
                Response::Wait(wait) => return Err(super::waiting(step, &wait)),
                Response::Refused(refused) => return Err(stop(&refused.reason.as_str())),
                _ => return Err(stop(&"a member answers something else than was asked")),
            };
            effects = client.step(clock::boot_ms(), Input::Answer { from: site.node, bytes });
            let so_far = client.progress();
            if so_far.of > 0 {
                let detail = format!("{} of {} entries of the state", so_far.entries, so_far.of);
                self.teller.step(step, detail);
            }
        }
    }
}

/// Founds the record, and then says that there is a site: in this order, so that a site is never
/// there without its record.
fn found(
    dir: &Path,
    genesis: &Genesis,
    snapshot: &VerifiedSnapshot,
    held: Option<&Header>,
) -> anyhow::Result<()> {
    let folder = Folder::at(dir)?;
    // What an interrupted fetch has left is of no site yet.
    folder.drop_record()?;
    let mut store = Store::found_from(dir, snapshot)?;
    // Who comes with the same site code is shown the way from it.
    if let Some(header) = held {
        store.keep_header(header)?;
    }
    drop(store);
    folder.joined(genesis)?;
    Ok(())
}
