//! What goes into the network server and what comes out of it.

use std::fmt;
use std::net::SocketAddr;

use super::gwmp::TxError;
use super::ids::{DevAddr, DevEui, ForwarderEui};
use crate::device::Identity;
use crate::reading::VerifiedReading;

/// The way that datagrams of a packet forwarder come, and that their answers go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It speaks to this gateway's own UDP port.
    Udp(SocketAddr),
    /// It speaks to that of a bridge.
    Bridge {
        /// The bridge.
        bridge: BridgeId,
        /// What the bridge calls it.
        forwarder: u32,
    },
}

impl Way {
    /// The bridge on the way, if there is one.
    pub(crate) fn bridge(&self) -> Option<BridgeId> {
        match self {
            Self::Udp(_) => None,
            Self::Bridge { bridge, .. } => Some(*bridge),
        }
    }
}

impl From<SocketAddr> for Way {
    fn from(address: SocketAddr) -> Self {
        Self::Udp(address)
    }
}

/// A bridge, as the gateway names it that it serves.
pub type BridgeId = [u8; 20];

/// A packet forwarder. The EUI is its own word, and nobody stands for it but who brings its
/// datagrams: so a forwarder beside a bridge is never taken for one of this gateway's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ForwarderId {
    /// The bridge that it is beside; none: this gateway.
    pub bridge: Option<BridgeId>,
    /// Its own word.
    pub eui: ForwarderEui,
}

/// An event for [`super::server::Server::step`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input<'a> {
    /// A datagram arrived on the UDP port.
    Datagram {
        /// Sender.
        from: Way,
        /// Content, as received.
        bytes: &'a [u8],
    },
    /// The time that [`super::server::Server::next_wake`] gave has come.
    Wake,
    /// A [`Effect::Send`] could not be executed before its deadline and was dropped.
    SendMissed {
        /// Its token.
        token: [u8; 2],
    },
}

/// What the caller has to do, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Send a datagram. With `after_durable`, only after every [`Effect::Deliver`] and
    /// [`Effect::Persist`] of this and of earlier steps is on disk. Past `deadline_ms` (same clock
    /// as `now_ms`) it must be dropped and reported with [`Input::SendMissed`].
    Send {
        /// Receiver.
        to: Way,
        /// Content.
        bytes: Vec<u8>,
        /// Whether durability comes first.
        after_durable: bool,
        /// Latest time to send, if it matters.
        deadline_ms: Option<u64>,
        /// Identifies a downlink in [`Input::SendMissed`]; of no meaning without a deadline.
        token: [u8; 2],
    },
    /// A reading: to be made durable, then batched. An uplink without application payload has an
    /// empty SenML.
    Deliver(VerifiedReading),
    /// Replace the saved record of this device. It holds session keys: seal it.
    Persist {
        /// Whose.
        identity: Identity,
        /// What [`super::server::Server::add_device`] takes as `saved`.
        record: Vec<u8>,
    },
    /// The first uplink of a new session came: commit the new epoch before its readings.
    SessionOpened {
        /// Whose.
        identity: Identity,
        /// Last epoch + 1.
        epoch: u32,
        /// SHA-256 over the session's public parameters: `"gatewayd/lora-session/1"`, DevNonce
        /// (2 bytes, big-endian), JoinNonce (4 bytes, big-endian).
        digest: [u8; 32],
    },
    /// A registered device proved its AppKey with a fresh JoinRequest. One that is not admitted
    /// yet gets its JoinAccept if [`super::server::Server::admit`] is called within 5 s.
    JoinProved {
        /// Whose.
        identity: Identity,
        /// Whether it is admitted already.
        admitted: bool,
    },
    /// A JoinAccept goes out.
    JoinAnswered {
        /// Whose.
        identity: Identity,
        /// Address in the new session.
        dev_addr: DevAddr,
    },
    /// A verified frame was heard by this forwarder (each copy counts).
    Heard {
        /// Whose frame.
        identity: Identity,
        /// Who heard it.
        forwarder: ForwarderId,
        /// Signal strength in dBm.
        rssi_dbm: f32,
        /// Signal-to-noise ratio in dB.
        snr_db: f32,
    },
    /// A frame of somebody who is not ours: counted by the caller, never recorded. Rate-limited:
    /// the counters know how many there were.
    Stranger(Stranger),
    /// A frame of one of our devices was refused. Rate-limited like strangers.
    Refused {
        /// Whose.
        identity: Identity,
        /// Why.
        reason: Refusal,
    },
    /// An answer that was owed did not go out, or nobody knows whether it did.
    Unanswered {
        /// To whom.
        identity: Identity,
        /// Why.
        reason: Lost,
    },
    /// A window of counters runs low: commit a `Reserve` and grant it.
    NeedWindow {
        /// Whose.
        identity: Identity,
        /// Which counter.
        window: WindowKind,
    },
    /// The device told its state (DevStatusAns).
    DeviceStatus {
        /// Whose.
        identity: Identity,
        /// 0 external power, 1 to 254 level, 255 unknown.
        battery: u8,
        /// Demodulation margin of the last downlink in dB.
        margin_db: i8,
    },
}

/// Which counter a window belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowKind {
    /// FCntDown of the session with this epoch, 64 at a time.
    Down {
        /// Session epoch.
        epoch: u32,
    },
    /// JoinNonce, 16 at a time.
    Join,
}

/// A frame of somebody unknown, or that nobody's key fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stranger {
    /// JoinRequest of a DevEUI that is not registered.
    UnknownDevEui(DevEui),
    /// JoinRequest of a registered DevEUI with another JoinEUI.
    WrongJoinEui(DevEui),
    /// JoinRequest of a registered DevEUI whose MIC is wrong.
    JoinBadMic(DevEui),
    /// Data frame for an address that no session has.
    UnknownDevAddr(DevAddr),
    /// Data frame for a known address whose MIC is wrong.
    DataBadMic(DevAddr),
}

/// Why a frame with a valid MIC was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The DevNonce was used before, or is not above the last one (1.0.4).
    DevNonceReused(u16),
    /// The frame counter was used before: a replay.
    Replayed(u32),
    /// The same counter with another payload: the first one stands.
    Conflict(u32),
    /// The 32-bit counter is used up: the device must join again.
    CounterExhausted,
    /// The device is registered here but not admitted yet.
    NotAdmitted,
}

/// Why an answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Both windows were over, or too close.
    Late,
    /// This gateway may not transmit now (lease).
    NoLease,
    /// No forwarder that heard the uplink has opened its way back (PULL_DATA), or it gave no time.
    NoRoute,
    /// The duty cycle of every usable sub-band is used up.
    DutyCycle,
    /// No FCntDown or JoinNonce is reserved.
    NoWindow,
    /// The device was not admitted before its windows closed.
    NotAdmitted,
    /// The forwarder refused, in RX2 or with no time left for it.
    Forwarder(TxError),
    /// The forwarder did not say what became of it.
    ForwarderSilent,
    /// Too many answers are owed at once.
    TooMany,
    /// The same uplink was answered too often already.
    Repeated,
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownDevEui(eui) => write!(f, "JoinRequest of the unknown DevEUI {eui}"),
            Self::WrongJoinEui(eui) => {
                write!(f, "JoinRequest of DevEUI {eui} with another JoinEUI than registered")
            }
            Self::JoinBadMic(eui) => {
                write!(f, "JoinRequest of DevEUI {eui} that another AppKey signed")
            }
            Self::UnknownDevAddr(address) => write!(f, "frame for the unknown address {address}"),
            Self::DataBadMic(address) => {
                write!(f, "frame for the address {address} with a wrong MIC")
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DevNonceReused(nonce) => {
                write!(f, "DevNonce {nonce} was used before, or is not above the last one")
            }
            Self::Replayed(fcnt) => write!(f, "frame counter {fcnt} was used before: a replay"),
            Self::Conflict(fcnt) => {
                write!(f, "frame counter {fcnt} came again with another payload")
            }
            Self::CounterExhausted => f.write_str("the frame counter is used up: join again"),
            Self::NotAdmitted => f.write_str("the device is not admitted yet"),
        }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Late => "both receive windows were over",
            Self::NoLease => "this gateway may not transmit now",
            Self::NoRoute => "no forwarder that heard the device has opened its way back",
            Self::DutyCycle => "the duty cycle is used up",
            Self::NoWindow => "no downlink or join counter is reserved",
            Self::NotAdmitted => "the device was not admitted in time",
            Self::Forwarder(error) => return write!(f, "the forwarder refused: {error}"),
            Self::ForwarderSilent => "the forwarder did not say whether it transmitted",
            Self::TooMany => "too many answers are owed at once",
            Self::Repeated => "the same uplink was answered too often already",
        })
    }
}
