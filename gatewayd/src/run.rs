//! The composition root: builds all parts and channels, and is the map of the running program.
//!
//! ```text
//! D-Bus ──> Control ──> site ──> TPM thread
//!                        ├────> ledger thread <── batches ── ingest thread <── readings ─┐
//!                        └────> sensors task ──> port tasks, LoRaWAN task ───────────────┘
//! ```

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use attestation::tpm::Tpm;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::config::Settings;
use crate::control::{Control, DaemonState, JoinProgress, PairingStatus};
use crate::dbus::{BusState, Service};
use crate::identity::Folder;
use crate::site::{Request, Site};
use crate::status;
use crate::systemd::{Notifier, Watchdog};

/// Events that a slow listener may be behind.
const EVENTS: usize = 1024;

/// Requests to the site's task that may wait.
const REQUESTS: usize = 16;

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// The data folder or the TPM's address is unusable; a part ended that must not.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let folder = Folder::at(&settings.data_dir)?;
    let tpm = Tpm::spawn(&settings.tcti, folder.tpm()).context("tpm.tcti")?;
    let starting = status::without_site(DaemonState::Starting, vec![], None, &settings);
    let (status_in, status) = watch::channel(Arc::new(starting));
    let idle = PairingStatus { state: "idle", ..PairingStatus::default() };
    let (pairing_in, pairing) = watch::channel(idle);
    let (join_in, join) = watch::channel(JoinProgress::default());
    let (running_in, running) = watch::channel(None);
    let (events, _) = broadcast::channel(EVENTS);
    let (requests, inbox) = mpsc::channel(REQUESTS);
    let (bus_in, bus) = watch::channel(BusState::Connecting);
    let (stop, stopping) = watch::channel(false);

    let control = Control {
        settings: Arc::new(settings.clone()),
        tpm: tpm.clone(),
        running,
        site: requests.clone(),
        status: status.clone(),
        pairing,
        join,
        events: events.clone(),
    };
    let service = Service {
        control,
        bus: settings.bus.clone(),
        default_baud: settings.serial.baud,
        state: bus_in,
    };
    let site = Site {
        configured_tpm: settings.tcti.clone(),
        settings,
        tpm,
        requests: inbox,
        status: status_in,
        pairing: pairing_in,
        join: join_in,
        running: running_in,
        events,
    };
    let mut quit = stopping.clone();
    let service = tokio::spawn(service.run(async move {
        // A closed channel means the same: the daemon stops.
        let _ = quit.wait_for(|stop| *stop).await;
    }));
    let site = tokio::spawn(site.run(stopping));

    let outcome = attend(requests, status, bus).await;
    stop.send_replace(true);
    site.await.context("the site's task broke")?;
    service.await.context("the D-Bus task broke")?;
    outcome
}

/// The owner loop: tells the service manager how it goes, feeds the watchdog with answers of the
/// site's task, and waits for the end.
async fn attend(
    requests: mpsc::Sender<Request>,
    mut status: watch::Receiver<Arc<crate::control::Status>>,
    mut bus: watch::Receiver<BusState>,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut notifier = Notifier::new();
    let mut watchdog = Watchdog::from_environment(&["site"], Instant::now());
    let mut feed = tokio::time::interval(watchdog.interval());
    let mut answer = None;
    let outcome = loop {
        tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            _ = feed.tick() => {
                watchdog.feed(Instant::now());
                answer = ask(&requests);
            }
            alive = answered(&mut answer) => if alive {
                watchdog.alive("site", Instant::now());
            },
            // A task that breaks takes its end of the channel with it.
            changed = status.changed() => if changed.is_err() {
                break Err(anyhow::anyhow!("the site's task broke"));
            },
            changed = bus.changed() => if changed.is_err() {
                break Err(anyhow::anyhow!("the D-Bus task broke"));
            },
        }
        let shown = status.borrow_and_update().clone();
        let held = matches!(*bus.borrow_and_update(), BusState::Held);
        if held && shown.state != DaemonState::Starting {
            notifier.ready();
        }
        notifier.status(&words(&shown));
    };
    notifier.stopping();
    outcome
}

/// Asks the site's task for a sign of life; it asks ledger and buffer whenever it composes the
/// status, and so answers only while they do.
fn ask(requests: &mpsc::Sender<Request>) -> Option<oneshot::Receiver<()>> {
    let (reply, answer) = oneshot::channel();
    requests.try_send(Request::Alive(reply)).is_ok().then_some(answer)
}

async fn answered(answer: &mut Option<oneshot::Receiver<()>>) -> bool {
    match answer {
        Some(waiting) => {
            let alive = waiting.await.is_ok();
            *answer = None;
            alive
        }
        None => std::future::pending().await,
    }
}

fn words(status: &crate::control::Status) -> String {
    let state = match status.state {
        DaemonState::Starting => "starting",
        DaemonState::Uninitialised => "no site yet",
        DaemonState::Joining => "joining a site",
        DaemonState::Bridge => "a bridge",
        DaemonState::NoTpm => "TPM does not answer",
        DaemonState::Degraded => "degraded",
        DaemonState::RolledBack => "rolled back",
        DaemonState::Running => "running",
    };
    match (&status.reasons[..], status.height) {
        ([], Some(height)) => format!("{state}; {} sensors, block {height}", status.sensors),
        ([], None) => state.into(),
        (reasons, _) => format!("{state}: {}", reasons.join("; ")),
    }
}
