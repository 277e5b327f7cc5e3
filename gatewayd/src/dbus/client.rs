//! The other side of the bus: what `gatewayctl` connects with.

use std::num::NonZeroUsize;
use std::pin::Pin;
use std::time::Duration;

use futures_core::Stream;
use zbus::names::BusName;
use zbus::{Connection, MatchRule, MessageStream, OwnedVariant, connection, fdo, message};

use super::attestation::AttestationProxy;
use super::error::Error;
use super::gateway::GatewayProxy;
use super::ledger::LedgerProxy;
use super::manager::ManagerProxy;
use super::pairing::PairingProxy;
use super::sensor::SensorProxy;
use super::variant::Dict;
use super::{NAME, PATH};
use crate::config::Bus;

/// A connection to the daemon.
pub struct Client {
    connection: Connection,
}

impl Client {
    /// Connects to the bus. `timeout` bounds the connecting and each call.
    ///
    /// # Errors
    /// There is no bus at this address, or it does not let us in.
    pub async fn connect(bus: &Bus, timeout: Duration) -> Result<Self, Error> {
        let builder = match bus {
            Bus::System => connection::Builder::system(),
            Bus::Address(address) => connection::Builder::address(address.as_str()),
        };
        let connecting = builder.method_timeout(timeout).build();
        match tokio::time::timeout(timeout, connecting).await {
            Ok(connection) => Ok(Self { connection: connection? }),
            Err(_) => Err(Error::Timeout("the bus does not answer".into())),
        }
    }

    /// Proxy of the daemon and its site.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn manager(&self) -> Result<ManagerProxy<'static>, Error> {
        Ok(uncached(ManagerProxy::builder(&self.connection)).build().await?)
    }

    /// Proxy of the pairing window.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn pairing(&self) -> Result<PairingProxy<'static>, Error> {
        Ok(uncached(PairingProxy::builder(&self.connection)).build().await?)
    }

    /// Proxy of blocks, proofs and readings.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn ledger(&self) -> Result<LedgerProxy<'static>, Error> {
        Ok(uncached(LedgerProxy::builder(&self.connection)).build().await?)
    }

    /// Proxy of TPM and keys.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn attestation(&self) -> Result<AttestationProxy<'static>, Error> {
        Ok(uncached(AttestationProxy::builder(&self.connection)).build().await?)
    }

    /// Proxy of one sensor, by `ln1…` or its name.
    ///
    /// # Errors
    /// There is no such sensor, or no daemon.
    pub async fn sensor(&self, id_or_name: &str) -> Result<SensorProxy<'static>, Error> {
        let path = self.manager().await?.find_sensor(id_or_name.into()).await?;
        Ok(uncached(SensorProxy::builder(&self.connection).path(path)).build().await?)
    }

    /// Proxy of one gateway, by `gw1…`, by an unambiguous beginning of it, or `self`.
    ///
    /// # Errors
    /// There is no such gateway, or no daemon.
    pub async fn gateway(&self, id: &str) -> Result<GatewayProxy<'static>, Error> {
        let path = self.manager().await?.find_gateway(id.into()).await?;
        Ok(uncached(GatewayProxy::builder(&self.connection).path(path)).build().await?)
    }

    /// Everything the daemon signals from now on.
    ///
    /// # Errors
    /// There is no daemon, or no bus.
    pub async fn signals(&self) -> Result<Signals, Error> {
        let bus = fdo::DBusProxy::new(&self.connection).await?;
        let left = MatchRule::builder()
            .msg_type(message::Type::Signal)
            .sender("org.freedesktop.DBus")
            .interface("org.freedesktop.DBus")
            .member("NameOwnerChanged")
            .arg(0, NAME)
            .build()?;
        let left = MessageStream::for_match_rule(left, &self.connection, Some(QUEUE)).await?;
        // Its unique name, so that no other process can speak for it.
        let owner =
            bus.get_name_owner(BusName::try_from(NAME)?).await.map_err(zbus::Error::from)?;
        let said = MatchRule::builder()
            .msg_type(message::Type::Signal)
            .sender(owner.as_ref())
            .path_namespace(PATH)
            .build()?;
        let said = MessageStream::for_match_rule(said, &self.connection, Some(QUEUE)).await?;
        Ok(Signals { said, left })
    }
}

/// Signals that wait in this process; a reader that is slower makes the bus wait.
const QUEUE: NonZeroUsize = NonZeroUsize::new(256).expect("256 is not 0");

/// Properties are asked for when they are shown: nothing has to be kept in step.
fn uncached<'a, T>(builder: zbus::proxy::Builder<'a, T>) -> zbus::proxy::Builder<'a, T> {
    builder.cache_properties(zbus::proxy::CacheProperties::No)
}

/// One signal of the daemon.
#[derive(Debug)]
pub enum Signal {
    /// A reading is durable.
    Reading(Dict),
    /// A block is stored: height, transactions, readings.
    Committed(u64, u32, u32),
    /// The pairing window moved on.
    Pairing(Dict),
    /// Anything else: see its key `event`.
    Event(Dict),
    /// The daemon has left the bus; nothing follows.
    Gone,
}

/// Signals in the order in which the daemon sent them.
pub struct Signals {
    said: MessageStream,
    left: MessageStream,
}

impl Signals {
    /// The next one. It can be cancelled without losing any.
    ///
    /// # Errors
    /// The bus is gone, or a signal has another shape than it should.
    pub async fn next(&mut self) -> Result<Signal, Error> {
        loop {
            let message = tokio::select! {
                biased;
                said = next(&mut self.said) => said,
                left = next(&mut self.left) => match left {
                    Some(_) => return Ok(Signal::Gone),
                    None => None,
                },
            };
            let Some(message) = message else { return Ok(Signal::Gone) };
            if let Some(signal) = classify(&message?)? {
                return Ok(signal);
            }
        }
    }
}

fn classify(message: &zbus::Message) -> Result<Option<Signal>, Error> {
    let (header, body) = (message.header(), message.body());
    let interface = header.interface().map(|name| name.as_str()).unwrap_or_default();
    let member = header.member().map(|name| name.as_str()).unwrap_or_default();
    Ok(match (interface, member) {
        ("org.gatewayd.Gateway1.Sensor", "Reading") => Some(Signal::Reading(body.deserialize()?)),
        ("org.gatewayd.Gateway1.Ledger", "Committed") => {
            let (height, transactions, readings) = body.deserialize()?;
            Some(Signal::Committed(height, transactions, readings))
        }
        ("org.gatewayd.Gateway1.Pairing", "Progress") => Some(Signal::Pairing(body.deserialize()?)),
        ("org.gatewayd.Gateway1.Manager", "Event") => Some(Signal::Event(body.deserialize()?)),
        _ => None,
    })
}

async fn next(stream: &mut MessageStream) -> Option<zbus::Result<zbus::Message>> {
    std::future::poll_fn(|context| Pin::new(&mut *stream).poll_next(context)).await
}

/// Options of a call being put together.
#[derive(Default)]
pub struct Arguments(Dict);

impl Arguments {
    /// Adds text.
    #[must_use]
    pub fn text(self, key: &str, value: &str) -> Self {
        self.put(key, zbus::Str::from(value.to_owned()).into())
    }

    /// Adds text if there is any.
    #[must_use]
    pub fn optional_text(self, key: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.text(key, value),
            None => self,
        }
    }

    /// Adds a number.
    #[must_use]
    pub fn u32(self, key: &str, value: u32) -> Self {
        self.put(key, value.into())
    }

    /// Adds a number if there is one.
    #[must_use]
    pub fn optional_u32(self, key: &str, value: Option<u32>) -> Self {
        match value {
            Some(value) => self.u32(key, value),
            None => self,
        }
    }

    /// Adds a large number.
    #[must_use]
    pub fn u64(self, key: &str, value: u64) -> Self {
        self.put(key, value.into())
    }

    /// Adds a truth value.
    #[must_use]
    pub fn flag(self, key: &str, value: bool) -> Self {
        self.put(key, value.into())
    }

    /// Adds bytes.
    #[must_use]
    pub fn bytes(self, key: &str, value: &[u8]) -> Self {
        match OwnedVariant::try_from(zbus::Array::from(value)) {
            Ok(value) => self.put(key, value),
            // Only file descriptors can fail to become owned, and bytes are none.
            Err(_) => self,
        }
    }

    /// All of them.
    pub fn dict(self) -> Dict {
        self.0
    }

    fn put(mut self, key: &str, value: OwnedVariant) -> Self {
        self.0.insert(key.into(), value);
        self
    }
}

/// An error of the bus itself.
pub use zbus::Error as BusError;

/// Why a call did not reach the daemon, or its answer not us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreached {
    /// There is no bus, or nobody holds the name on it.
    NotRunning,
    /// The bus does not allow the call.
    NotAllowed,
    /// No answer in time.
    TimedOut,
    /// Anything else.
    Other,
}

/// Sorts errors that are not the daemon's own.
pub fn unreached(error: &zbus::Error) -> Unreached {
    match error {
        zbus::Error::InputOutput(io) | zbus::Error::Connection(io, _) => match io.kind() {
            std::io::ErrorKind::TimedOut => Unreached::TimedOut,
            std::io::ErrorKind::PermissionDenied => Unreached::NotAllowed,
            _ => Unreached::NotRunning,
        },
        zbus::Error::Address(_) => Unreached::NotRunning,
        zbus::Error::FDO(error) => match &**error {
            fdo::Error::ServiceUnknown(_)
            | fdo::Error::NameHasNoOwner(_)
            | fdo::Error::NoReply(_)
            | fdo::Error::NoServer(_)
            | fdo::Error::Disconnected(_)
            | fdo::Error::UnknownObject(_)
            | fdo::Error::SpawnFailed(_)
            | fdo::Error::SpawnExecFailed(_)
            | fdo::Error::SpawnChildExited(_)
            | fdo::Error::SpawnChildSignaled(_)
            | fdo::Error::SpawnServiceNotFound(_) => Unreached::NotRunning,
            fdo::Error::AccessDenied(_) | fdo::Error::AuthFailed(_) => Unreached::NotAllowed,
            fdo::Error::Timeout(_) | fdo::Error::TimedOut(_) => Unreached::TimedOut,
            fdo::Error::ZBus(inner) => unreached(inner),
            _ => Unreached::Other,
        },
        // systemd answers for a unit that it could not start.
        zbus::Error::MethodError(name, _, _)
            if name.as_str().starts_with("org.freedesktop.systemd1.") =>
        {
            Unreached::NotRunning
        }
        _ => Unreached::Other,
    }
}
