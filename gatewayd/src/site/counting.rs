//! The start counter between two starts: raised now and then, when others get or lose a vote, and
//! at a clean stop, so that a copy of the disk that was made while this gateway ran is told from
//! the disk itself. Seldom, for the TPM's memory wears.

use std::path::Path;
use std::time::Duration;

use attestation::tpm::Tpm;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::disk::{Count, count_again};
use super::{Running, Site};

/// How old a copy of the disk of a sole voter may be and not be noticed: some nine thousand writes
/// a year, of the hundred thousand and more that a TPM is made for.
const COUNT_EVERY: Duration = Duration::from_secs(3_600);

/// Longest wait for the TPM at a stop.
const STOP_COUNT: Duration = Duration::from_secs(5);

/// When it is counted next.
pub(super) struct Counting {
    due: Instant,
    /// So many voted when it was counted last.
    voters: u32,
    work: Option<JoinHandle<()>>,
    /// An older copy was put back: what disk and TPM say must stay apart.
    off: bool,
}

impl Counting {
    pub(super) fn new(running: &Running) -> Self {
        let voters = running.ledger.tip().borrow().voters;
        let due = Instant::now() + COUNT_EVERY;
        Self { due, voters, work: None, off: running.rolled_back }
    }

    /// Counts when it is time.
    pub(super) fn look(&mut self, dir: &Path, tpm: &Tpm, voters: u32) {
        if self.voters == 0 {
            // The ledger's thread had not said so yet.
            self.voters = voters;
        }
        let busy = self.work.as_ref().is_some_and(|work| !work.is_finished());
        if self.off || busy || (self.due > Instant::now() && self.voters == voters) {
            return;
        }
        self.due = Instant::now() + COUNT_EVERY;
        self.voters = voters;
        let (dir, tpm) = (dir.to_owned(), tpm.clone());
        self.work =
            Some(tokio::task::spawn_blocking(move || match count_again(&dir, &tpm, Count::Now) {
                Ok(()) => tracing::debug!("the start counter was raised"),
                Err(error) => tracing::warn!("the start counter was not raised: {error:#}"),
            }));
    }
}

impl Site {
    /// Everything has stopped: says so on the disk and in the TPM.
    pub(super) async fn count_stop(&mut self) {
        let (dir, tpm) = (self.settings.data_dir.clone(), self.tpm.clone());
        let work = move || count_again(&dir, &tpm, Count::Stopped);
        let counted = self.attended("the daemon is stopping", work);
        match tokio::time::timeout(STOP_COUNT, counted).await {
            Ok(Some(Ok(()))) => {}
            Ok(Some(Err(error))) => tracing::warn!("the stop was not counted: {error:#}"),
            // The next start asks the other voters what this gateway has signed.
            Ok(None) | Err(_) => tracing::warn!("the stop was not counted: no answer of the TPM"),
        }
    }
}
