//! Snapshots of the record for a member that has none yet. One is open at a time, and whoever asks
//! for the newest gets that one while it is fresh.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ledger::codec::{Decode, Encode};
use ledger::consensus::message::Message;
use ledger::store::{SnapshotServer, Store};

use super::Member;
use super::serving::{Reply, denied, refused, send};
use crate::admission::messages::{Bytes, Response};
use crate::admission::verifier::Denial;
use crate::clock;
use crate::control::{ControlError, Result};
use crate::peers::Session;

/// The open snapshot; made when it is first asked for.
pub(super) type Snapshots = Arc<Mutex<Option<SnapshotServer>>>;

impl Member {
    /// Answers a question about a snapshot: to members alone, whom it lets read everything.
    pub(super) fn snapshot(&mut self, session: &Session, question: &[u8], reply: Reply) {
        if !session.member {
            return send(reply, &denied(&Denial::NotAMember));
        }
        let request = match Message::from_bytes(question) {
            Ok(Message::SnapshotRequest(request)) => request,
            _ => return send(reply, &denied(&Denial::Malformed("question about a snapshot"))),
        };
        self.beside(session, reply, move |shared| async move {
            let (snapshots, dir) = (shared.snapshots, shared.data_dir);
            let work = move || answer(&snapshots, &dir, &request);
            let done = tokio::task::spawn_blocking(work).await;
            done.map_err(|error| ControlError::Internal(error.to_string()))?
        });
    }

    /// Closes a snapshot that nobody uses any more: SQLite's log grows meanwhile.
    pub(super) fn close_idle_snapshot(&self) {
        // One that is being read from is in use.
        if let Ok(mut open) = self.shared.snapshots.try_lock()
            && let Some(server) = open.as_mut()
        {
            server.close_idle(clock::boot_ms());
        }
    }
}

fn answer(
    snapshots: &Snapshots,
    dir: &Path,
    request: &ledger::sync::wire::Request,
) -> Result<Response> {
    let storage = |error: ledger::store::StoreError| ControlError::Storage(error.to_string());
    // The server is whole at any moment: it opens or closes a reader as one step.
    let mut open = snapshots.lock().unwrap_or_else(PoisonError::into_inner);
    let server = match open.as_mut() {
        Some(server) => server,
        None => open.insert(Store::open(dir).map_err(storage)?.snapshot_server()),
    };
    let part = server.answer(clock::boot_ms(), request).map_err(storage)?;
    Ok(match Bytes::new(Message::Snapshot(part).to_bytes()) {
        Ok(part) => Response::Snapshot(part),
        Err(_) => refused("a part of the snapshot is too long for a message"),
    })
}
