//! The daemon's side of the bus: takes the name, publishes the objects, turns events into signals,
//! and comes back with a growing pause when the bus goes away.
//!
//! ```text
//! Control::events ─────────┐
//! Control::status_changes ─┼─> session ─> signals, PropertiesChanged, sensor objects
//! Control::pairing_changes ┘      │
//!                                 └─ bus gone ─> pause ─> a new session
//! ```

use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::Instant;
use zbus::fdo::RequestNameFlags;

use super::NAME;
use super::objects::Objects;
use crate::config::Bus;
use crate::control::Control;

/// First pause before another try, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// Whether the management interface is offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BusState {
    /// Not yet.
    Connecting,
    /// The name is held and all objects are there.
    Held,
    /// Not now; why, in a sentence. It is tried again.
    Lost(String),
}

/// What the service needs.
pub struct Service {
    /// The running daemon.
    pub control: Control,
    /// Which bus.
    pub bus: Bus,
    /// Baud rate when a pairing names none, bit/s.
    pub default_baud: u32,
    /// Told whether the interface is offered: READY waits for [`BusState::Held`].
    pub state: watch::Sender<BusState>,
}

impl Service {
    /// Serves until `shutdown` completes; the name is given back before it returns.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        tokio::select! {
            () = self.serve_for_ever() => {}
            () = shutdown => {}
        }
    }

    async fn serve_for_ever(&self) {
        let mut pause = PAUSES.0;
        loop {
            let started = Instant::now();
            let reason = match self.session().await {
                Ok(()) => "the bus closed the connection".to_string(),
                Err(zbus::Error::NameTaken) => format!("another process holds {NAME}"),
                Err(error) => error.to_string(),
            };
            tracing::warn!(%reason, "no management interface; trying again");
            self.state.send_replace(BusState::Lost(reason));
            if started.elapsed() > PAUSES.1 {
                pause = PAUSES.0;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// One life of a connection; returns when the bus has closed it.
    async fn session(&self) -> zbus::Result<()> {
        // Subscribed before the first listing, so that nothing falls between.
        let mut events = self.control.events();
        let mut statuses = self.control.status_changes();
        let mut pairings = self.control.pairing_changes();
        let mut objects = Objects::publish(&self.control, &self.bus, self.default_baud).await?;
        objects.list_sensors().await?;
        objects.list_gateways().await?;
        let connection = objects.connection().clone();
        connection.request_name_with_flags(NAME, RequestNameFlags::DO_NOT_QUEUE).await?;
        self.state.send_replace(BusState::Held);
        tracing::info!(name = NAME, "the management interface is offered");
        loop {
            tokio::select! {
                () = connection.closed() => return Ok(()),
                event = events.recv() => match event {
                    Ok(event) => objects.event(event).await?,
                    // Some were lost: what they would have said is read anew.
                    Err(RecvError::Lagged(_)) => objects.list_sensors().await?,
                    Err(RecvError::Closed) => {
                        return Err(zbus::Error::Failure("the daemon is stopping".into()));
                    }
                },
                Ok(()) = statuses.changed() => {
                    let new = statuses.borrow_and_update().clone();
                    objects.status(new).await?;
                }
                Ok(()) = pairings.changed() => {
                    let state = pairings.borrow_and_update().state;
                    objects.pairing_state(state).await?;
                }
            }
        }
    }
}
