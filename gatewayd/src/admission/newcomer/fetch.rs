//! Fetching the record, once this gateway is a member: a snapshot that follows from the header
//! that was checked against the site code. Who sends it is believed nothing.

use std::path::Path;

use ledger::genesis::Genesis;
use ledger::header::Header;
use ledger::ids::{Height, NodeId};
use ledger::state::{Key, Record};
use ledger::store::{Store, StoreError};
use ledger::sync::VerifiedSnapshot;

use super::{BLOCK_EVERY, Newcomer, Stop};
use crate::admission::exchange::Ask;
use crate::admission::fetching::{self, FetchError};
use crate::admission::head::KnownSite;
use crate::control::JoinStep;
use crate::identity::{Folder, identity_key};

impl Newcomer {
    fn gateway(&self, step: JoinStep) -> Result<NodeId, Stop> {
        let own = identity_key(&self.parts.info);
        own.map(|key| NodeId::of_key(&key)).map_err(|error| Stop::new(step, error.to_string()))
    }

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
        let teller = &self.teller;
        let snapshot =
            fetching::snapshot(member, site.node, &site.header, |detail| teller.step(step, detail));
        let snapshot = snapshot.await?;
        if !names(&snapshot, &self.gateway(step)?) {
            // Else a member's lie would leave this gateway with a site that does not know it.
            let what = "a member says that this gateway is admitted, and the record does not";
            return Err(Stop::new(step, what));
        }
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
}

/// Whether a gateway has rights in the state of a snapshot.
fn names(snapshot: &VerifiedSnapshot, gateway: &NodeId) -> bool {
    let key = Key::Gateway(*gateway);
    let bytes = key.to_bytes();
    let entry = snapshot.snapshot().entries.iter().find(|(key, _)| *key == bytes);
    let record = entry.and_then(|(_, value)| Record::from_bytes(&key, value).ok());
    matches!(record, Some(Record::Gateway(found)) if found.standing.standing.may_record())
}

impl From<FetchError> for Stop {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Wait(wait) => super::waiting(JoinStep::Fetching, &wait),
            other => Self::new(JoinStep::Fetching, other.to_string()),
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use ledger::codec::{Decode, Encode};
    use ledger::consensus::message::Message;
    use ledger::proof::Anchor;
    use ledger::state::State;
    use ledger::store::SnapshotServer;

    use super::*;
    use crate::admission::exchange::AskError;
    use crate::admission::head;
    use crate::admission::head::tests::Small;
    use crate::admission::messages::{Bytes, Request, Response};

    /// A member that serves its record, or bytes of another.
    struct Member {
        server: Mutex<SnapshotServer>,
        flip: bool,
    }

    impl Ask for Member {
        async fn ask(&self, request: &Request) -> Result<(Response, [u8; 32]), AskError> {
            let Request::Snapshot(question) = request else { return Err(AskError::Unexpected) };
            let Ok(Message::SnapshotRequest(request)) = Message::from_bytes(question) else {
                return Err(AskError::Unexpected);
            };
            let part = self.server.lock().unwrap().answer(1, &request).unwrap();
            let mut bytes = Message::Snapshot(part).to_bytes();
            if self.flip {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            }
            Ok((Response::Snapshot(Bytes::new(bytes)?), [0; 32]))
        }
    }

    async fn fetched(
        member: &Member,
        site: &KnownSite,
    ) -> Result<Box<VerifiedSnapshot>, FetchError> {
        fetching::snapshot(member, site.node, &site.header, |_| {}).await
    }

    fn known(site: &mut Small) -> KnownSite {
        let anchor = Anchor::of(&State::genesis_header(&site.genesis));
        head::check(&site.good(), &anchor, &site.founder(), None).unwrap()
    }

    #[tokio::test]
    async fn a_record_is_founded_from_what_a_member_serves() {
        let mut site = Small::new(1);
        let known = known(&mut site);
        let member =
            Member { server: Mutex::new(site.host.store().snapshot_server()), flip: false };
        let snapshot = fetched(&member, &known).await.unwrap();
        let here = tempfile::tempdir().unwrap();
        // Left by a fetch that was cut off.
        std::fs::write(here.path().join("wal-a"), b"half").unwrap();
        let held = known.anchor_header.as_ref();
        found(here.path(), &known.genesis, &snapshot, held).unwrap();
        let folder = Folder::at(here.path()).unwrap();
        assert_eq!(folder.genesis().unwrap(), Some(known.genesis.clone()));
        let loaded = Store::open(here.path()).unwrap().load().unwrap();
        assert_eq!(loaded.tip, known.header);
        assert!(names(&snapshot, &known.node), "the founder");
        assert!(!names(&snapshot, &NodeId([9; 20])), "whatever a member says");
        let again = found(here.path(), &known.genesis, &snapshot, held);
        assert!(again.is_err(), "a site is never replaced");
    }

    #[tokio::test]
    async fn a_member_that_sends_something_else_is_of_no_use() {
        let (mut site, mut other) = (Small::new(1), Small::new(2));
        let known = known(&mut site);
        let server = Mutex::new(other.host.store().snapshot_server());
        let stranger = Member { server, flip: false };
        let error = fetched(&stranger, &known).await.unwrap_err();
        assert!(matches!(error, FetchError::Client(_)), "{error}");
        let server = Mutex::new(site.host.store().snapshot_server());
        let liar = Member { server, flip: true };
        assert!(fetched(&liar, &known).await.is_err());
    }
}
