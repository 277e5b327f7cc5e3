//! A stage for tests of the interface: a private bus, the real service, and a control face of a
//! daemon that has no site and whose TPM does not answer.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use attestation::tpm::Tpm;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::private_bus::PrivateBus;
use crate::config::{Bus, Settings};
use crate::control::{Control, DaemonState, Event, PairingStatus, Status};
use crate::dbus::client::Client;
use crate::dbus::{BusState, NAME, PATH, Service};

/// Longest wait for anything that should happen.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// User that no policy knows: `nobody`.
const STRANGER: &str = "65534";

/// Everything that acts in one test.
pub(super) struct Stage {
    pub(super) bus: PrivateBus,
    pub(super) control: Control,
    pub(super) status: watch::Sender<Arc<Status>>,
    pub(super) events: broadcast::Sender<Event>,
    pub(super) state: watch::Receiver<BusState>,
    stop: Option<oneshot::Sender<()>>,
    service: Option<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl Stage {
    /// The service holds its name on a bus of its own.
    pub(super) async fn set() -> Self {
        let bus = PrivateBus::start().expect("dbus-daemon");
        let folder = tempfile::tempdir().expect("temporary folder");
        let (status, statuses) = watch::channel(Arc::new(status(DaemonState::Uninitialised)));
        let (_, pairing) = watch::channel(PairingStatus { state: "idle", ..Default::default() });
        let (events, _) = broadcast::channel(64);
        let tpm = Tpm::spawn("swtpm:host=127.0.0.1,port=1", folder.path().into()).expect("thread");
        let control = Control {
            settings: Arc::new(Settings { data_dir: folder.path().into(), ..Settings::default() }),
            tpm,
            running: watch::channel(None).1,
            site: mpsc::channel(1).0,
            status: statuses,
            pairing,
            join: watch::channel(Default::default()).1,
            events: events.clone(),
        };
        let (state, held) = watch::channel(BusState::Connecting);
        let (stop, stopped) = oneshot::channel();
        let service = serve(&control, &bus, state, stopped);
        let mut stage = Self {
            bus,
            control,
            status,
            events,
            state: held,
            stop: Some(stop),
            service: Some(service),
            _folder: folder,
        };
        stage.wait(|state| *state == BusState::Held).await;
        stage
    }

    /// Waits for a state of the service.
    pub(super) async fn wait(&mut self, wanted: impl FnMut(&BusState) -> bool) {
        let waiting = tokio::time::timeout(PATIENCE, self.state.wait_for(wanted)).await;
        waiting.expect("in time").expect("the service lives");
    }

    /// A second service for the same name.
    pub(super) fn rival(&self) -> (watch::Receiver<BusState>, oneshot::Sender<()>) {
        let (state, held) = watch::channel(BusState::Connecting);
        let (stop, stopped) = oneshot::channel();
        serve(&self.control, &self.bus, state, stopped);
        (held, stop)
    }

    /// Ends the service and waits until it has ended.
    pub(super) async fn stop(&mut self) {
        drop(self.stop.take());
        let service = self.service.take().expect("stopped once");
        tokio::time::timeout(PATIENCE, service).await.expect("in time").expect("no panic");
    }

    /// The address of the bus.
    pub(super) fn address(&self) -> Bus {
        Bus::Address(self.bus.address().into())
    }

    /// A client as `gatewayctl` has one.
    pub(super) async fn client(&self) -> Client {
        Client::connect(&self.address(), PATIENCE).await.expect("the bus is there")
    }

    /// Calls as a stranger where the test runs as root, else as the daemon's own user; the error's
    /// sentence, if it is one. `arguments` begin with their signature.
    pub(super) async fn call_as_stranger(
        &self,
        member: &'static str,
        arguments: &[&str],
    ) -> Option<String> {
        let mut command = match runs_as_root() {
            true => {
                let mut command = Command::new("setpriv");
                command.arg(format!("--reuid={STRANGER}")).args(["--clear-groups", "busctl"]);
                command
            }
            false => Command::new("busctl"),
        };
        let (interface, method) = member.split_once('.').expect("Interface.Method");
        command
            .arg(format!("--address={}", self.bus.address()))
            .args(["call", NAME, PATH])
            .arg(format!("org.gatewayd.Gateway1.{interface}"))
            .arg(method)
            .args(arguments);
        let output = tokio::task::spawn_blocking(move || command.output()).await;
        let output = output.expect("no panic").expect("busctl and setpriv are installed");
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        (!output.status.success()).then_some(words)
    }
}

/// Whether strangers can be played.
pub(super) fn runs_as_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn serve(
    control: &Control,
    bus: &PrivateBus,
    state: watch::Sender<BusState>,
    stopped: oneshot::Receiver<()>,
) -> JoinHandle<()> {
    let service = Service {
        control: control.clone(),
        bus: Bus::Address(bus.address().into()),
        default_baud: 9600,
        state,
    };
    tokio::spawn(service.run(async {
        // A dropped sender is the signal.
        let _ = stopped.await;
    }))
}

/// A status of a daemon without a site.
pub(super) fn status(state: DaemonState) -> Status {
    Status {
        version: "0.0.0",
        state,
        reasons: vec!["a reason".into()],
        warnings: vec![],
        site: None,
        gateway: None,
        attestation: None,
        height: None,
        era: None,
        block_time_ms: None,
        members: 0,
        voters: 0,
        voters_may_fail: 0,
        endurance: String::new(),
        gateways: vec![],
        silent_voters: vec![],
        connected: 0,
        behind: 0,
        syncing_from: None,
        join: None,
        bridge: None,
        bridges: vec![],
        sensors: 0,
        presence: [0; 3],
        readings_waiting: 0,
        readings_committed: 0,
        readings_unrecorded: 0,
        strangers: 0,
        clock: "unknown",
        disk_used_bytes: 0,
        disk_budget_bytes: 1,
        tpm: "does not answer".into(),
        tpm_software: false,
    }
}
