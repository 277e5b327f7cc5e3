//! Looking at the TPM now and then, without waiting for it.

use std::sync::Arc;
use std::time::Duration;

use attestation::tpm::{IdentityInfo, Tpm};

use super::{TPM_LOOK, TPM_RETRY};
use crate::config::Settings;
use crate::status::TpmView;

/// The next look at the TPM.
pub(super) enum Look {
    Later(tokio::time::Instant),
    Now(tokio::task::JoinHandle<TpmView>, tokio::time::Instant),
}

impl Look {
    /// Waits for what it shows; may be called again after it was dropped half-way.
    pub(super) async fn next(&mut self, tpm: &Tpm, was: &Arc<IdentityInfo>) -> TpmView {
        if let Self::Later(at) = self {
            tokio::time::sleep_until(*at).await;
            let (tpm, was) = (tpm.clone(), Arc::clone(was));
            let looking = tokio::task::spawn_blocking(move || look_at_tpm(&tpm, &was));
            *self = Self::Now(looking, tokio::time::Instant::now());
        }
        let Self::Now(looking, _) = self else { return std::future::pending().await };
        let seen = looking.await.unwrap_or_else(|error| TpmView::failed(error.to_string()));
        let wait = if seen.failed.is_some() { TPM_RETRY } else { TPM_LOOK };
        *self = Self::Later(tokio::time::Instant::now() + wait);
        seen
    }

    /// For how long an answer has been waited for.
    pub(super) fn silent(&self) -> Option<Duration> {
        match self {
            Self::Later(_) => None,
            Self::Now(_, since) => Some(since.elapsed()),
        }
    }
}

fn look_at_tpm(tpm: &Tpm, was: &IdentityInfo) -> TpmView {
    match tpm.load_identity() {
        Ok(info) if info.identity == was.identity => TpmView::of(&info),
        Ok(_) => TpmView::failed("this is not the TPM of this gateway's identity".into()),
        Err(error) => TpmView::failed(error.to_string()),
    }
}

pub(super) fn not_answering(settings: &Settings, time: Duration) -> String {
    let (tcti, seconds) = (&settings.tcti, time.as_secs());
    format!(
        "the TPM {tcti} has not answered for {seconds} s: it hangs or is very slow; if that lasts, \
         restart the machine (a software TPM: its service)"
    )
}
