//! Fetching the record, once this gateway is a member: a snapshot that follows from the header
//! that was checked against the site code.

use ledger::genesis::Genesis;
use ledger::ids::Height;
use ledger::store::{Founding, Store, StoreError};

use super::{Newcomer, Stop};
use crate::admission::exchange::Ask;
use crate::admission::head::KnownSite;
use crate::control::JoinStep;
use crate::identity::Folder;

impl Newcomer {
    /// Founds the record in the data folder.
    pub(super) async fn fetch(
        &mut self,
        _member: &impl Ask,
        site: &KnownSite,
        admitted: Height,
    ) -> Result<Genesis, Stop> {
        let step = JoinStep::Fetching;
        self.teller.step(step, String::new());
        if site.header.height < admitted {
            return Err(Stop::after(step, "a member shows an older record", super::BLOCK_EVERY));
        }
        let (dir, genesis) = (self.parts.data_dir.clone(), site.genesis.clone());
        let found = move || {
            let folder = Folder::at(&dir)?;
            // What an interrupted fetch has left is of no site yet.
            folder.drop_record()?;
            drop(Store::found(&dir, &Founding::new(genesis.clone()))?);
            folder.joined(&genesis)?;
            Ok::<Genesis, anyhow::Error>(genesis)
        };
        let done = tokio::task::spawn_blocking(found).await;
        let failed = |error: &dyn std::fmt::Display| Stop::new(step, error.to_string());
        done.map_err(|error| failed(&error))?.map_err(|error| match error.downcast_ref() {
            Some(StoreError::DiskFull) => failed(&"the disk is full"),
            _ => failed(&format!("{error:#}")),
        })
    }
}
