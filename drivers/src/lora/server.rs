//! The network server: `step(now, input) -> effects`. No clock, socket, disk or randomness here.
//!
//! One uplink takes this way: [`super::gwmp`] → copy of a known transmission? → [`super::frame`] →
//! JoinRequest: [`super::join`]; data: the sessions at its DevAddr → reading. What it is owed waits
//! in `super::downlink` until the copies of other forwarders are in.
//!
//! Here is the face and the way in; `uplink` decides about frames, `answer` makes downlinks.

use super::dedup::Dedup;
use super::downlink::{Awaiting, Forwarders, Queue, Reception};
use super::effect::{Effect, ForwarderId, Input, Lost, Refusal, Stranger, Way};
use super::frame::{self, Frame};
use super::gwmp::{self, Datagram, GwmpError, MAX_PHY_BYTES, TxError};
use super::ids::{DevAddr, DevEui, ForwarderEui};
use super::record;
pub use super::registry::{AddDeviceError, DeviceConfig, Highest, MAX_DEVICES};
use super::registry::{Device, Registry, Slot};
use super::session::FIRST_DOWN_WINDOW;
use crate::codec;
use crate::device::Identity;

mod answer;
mod uplink;

/// JoinNonces that a gateway reserves at a time.
pub const JOIN_WINDOW: u32 = 16;

/// FCntDown values that a gateway reserves at a time.
pub const DOWN_WINDOW: u32 = FIRST_DOWN_WINDOW;

/// Strangers and refusals told at once at most, and then this many a second.
const TOLD_BURST: u64 = 32;
const TOLD_PER_SECOND: u64 = 8;

/// How the server behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long copies of one transmission are gathered before it is answered, in ms. It is taken
    /// from the second that a device waits for RX1.
    pub dedup_window_ms: u64,
    /// Forwarders that are listened to.
    pub forwarders: Vec<ForwarderEui>,
    /// Whether any forwarder on a loopback address is listened to.
    pub any_on_loopback: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { dedup_window_ms: 200, forwarders: Vec::new(), any_on_loopback: true }
    }
}

/// What happened since the server was made. Each only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams received.
    pub datagrams: u64,
    /// Datagrams that were no GWMP of a forwarder, or whose JSON was malformed.
    pub bad_datagrams: u64,
    /// Datagrams of forwarders that are not allowed, or one too many.
    pub foreign_forwarders: u64,
    /// Packets beyond the limit of one PUSH_DATA, or with a bad CRC or bad fields.
    pub bad_packets: u64,
    /// Packets that were no uplink of LoRaWAN 1.0.x.
    pub bad_frames: u64,
    /// Copies of a transmission that another forwarder (or antenna) brought first.
    pub copies: u64,
    /// Readings delivered.
    pub readings: u64,
    /// Retransmissions by the device: not delivered again.
    pub retransmissions: u64,
    /// Frames of strangers, or with a MIC that no key made.
    pub strangers: u64,
    /// Frames with a valid MIC that were refused.
    pub refused: u64,
    /// JoinAccepts sent.
    pub joins: u64,
    /// MAC commands understood.
    pub mac_commands: u64,
    /// Lists of MAC commands cut short, or with an unknown command.
    pub bad_mac_commands: u64,
    /// Downlinks handed to a forwarder.
    pub downlinks: u64,
    /// Downlinks that a forwarder confirmed.
    pub transmitted: u64,
    /// Downlinks tried again in RX2.
    pub retried: u64,
    /// Answers lost for any reason but the next one.
    pub unanswered: u64,
    /// Answers lost because they were too late.
    pub late: u64,
}

/// A packet forwarder, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForwarderState {
    /// Which.
    pub id: ForwarderId,
    /// Where downlinks go to; `None` before its first PULL_DATA.
    pub way_back: Option<Way>,
    /// When it spoke last, on the clock of `now_ms`.
    pub heard_ms: u64,
}

/// A device, for people. Holds no keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceState {
    /// Whether its joins are answered.
    pub admitted: bool,
    /// Epoch of the last session that was opened; 0 before the first.
    pub epoch: u32,
    /// Address in the session in use.
    pub dev_addr: Option<DevAddr>,
    /// Highest uplink counter in the session in use.
    pub fcnt_up: Option<u32>,
    /// FCntDown values that are reserved and not used.
    pub downlinks_left: u32,
    /// JoinNonces that are reserved and not used.
    pub joins_left: u32,
    /// Sessions whose first uplink has not come.
    pub sessions_waiting: usize,
}

/// At most so many events told in a time, by a bucket of tokens.
#[derive(Clone, Copy, Debug)]
struct Limiter {
    tokens: u64,
    filled_ms: u64,
}

impl Limiter {
    fn allow(&mut self, now_ms: u64) -> bool {
        let earned = now_ms.saturating_sub(self.filled_ms) * TOLD_PER_SECOND / 1_000;
        if earned > 0 {
            self.tokens = (self.tokens + earned).min(TOLD_BURST);
            self.filled_ms = now_ms;
        }
        let allowed = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        allowed
    }
}

/// The network server of one gateway.
#[derive(Debug)]
pub struct Server {
    settings: Settings,
    registry: Registry,
    forwarders: Forwarders,
    dedup: Dedup,
    queue: Queue,
    awaiting: Awaiting,
    transmit_allowed: bool,
    /// Unix time in ms at `now_ms` 0, when it is known.
    unix_ms_at_zero: Option<i64>,
    limiter: Limiter,
    counters: Counters,
}

impl Server {
    /// A server without devices that may not transmit yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            registry: Registry::default(),
            forwarders: Forwarders::default(),
            dedup: Dedup::default(),
            queue: Queue::default(),
            awaiting: Awaiting::default(),
            transmit_allowed: false,
            unix_ms_at_zero: None,
            limiter: Limiter { tokens: TOLD_BURST, filled_ms: 0 },
            counters: Counters::default(),
        }
    }

    /// Adds a device with its saved record (last [`Effect::Persist`]) and the highest counter that
    /// is durable.
    ///
    /// # Errors
    ///
    /// [`AddDeviceError`]; the device is not added then.
    pub fn add_device(
        &mut self,
        config: DeviceConfig,
        saved: Option<&[u8]>,
        highest: Option<Highest>,
    ) -> Result<(), AddDeviceError> {
        self.registry.add(config, saved, highest)
    }

    /// Removes a device and its sessions; `false` when it was not there. What it is owed is not
    /// sent any more. So a caller whose disk failed can put a device back as it was on disk: remove
    /// it, and add it with the last durable record.
    pub fn remove_device(&mut self, dev_eui: DevEui) -> bool {
        self.queue.forget(dev_eui);
        self.awaiting.forget(dev_eui);
        self.dedup.forget(dev_eui);
        self.registry.remove(dev_eui)
    }

    /// The ledger knows the device now: its JoinRequests are answered, one that waits at once (the
    /// caller wakes the server).
    pub fn admit(&mut self, dev_eui: DevEui) {
        if let Some(device) = self.device_mut(dev_eui) {
            device.config.admitted = true;
            self.queue.hasten(dev_eui);
        }
    }

    /// Reserved FCntDown values `from .. from + count` for the session with this epoch.
    pub fn grant_down(&mut self, dev_eui: DevEui, epoch: u32, from: u32, count: u32) {
        let session = self.device_mut(dev_eui).and_then(|device| device.current.as_mut());
        if let Some(session) = session.filter(|session| session.epoch == epoch) {
            session.down.grant(from, count);
        }
    }

    /// Reserved JoinNonce values `from .. from + count`. 0 is not used: a device of 1.0.4 starts
    /// there and takes larger ones only. A JoinRequest that waits is answered when next woken.
    pub fn grant_join(&mut self, dev_eui: DevEui, from: u32, count: u32) {
        if let Some(device) = self.device_mut(dev_eui) {
            let end = from.saturating_add(count).min(1 << 24);
            device.join_window.grant(from.max(1), end.saturating_sub(from.max(1)));
            self.queue.hasten(dev_eui);
        }
    }

    /// Whether this gateway may transmit (it holds the lease). Without it, it listens.
    pub fn set_transmit_allowed(&mut self, allowed: bool) {
        self.transmit_allowed = allowed;
    }

    /// Unix time in ms at `now_ms` = 0, or `None` while the time is not known: DeviceTimeReq is
    /// answered only with a known time.
    pub fn set_unix_ms_at_zero(&mut self, unix_ms: Option<i64>) {
        self.unix_ms_at_zero = unix_ms;
    }

    /// What happened so far.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How many devices are here.
    #[must_use]
    pub fn device_count(&self) -> usize {
        self.registry.len()
    }

    /// How many forwarders spoke to us.
    #[must_use]
    pub fn forwarder_count(&self) -> usize {
        self.forwarders.len()
    }

    /// The forwarders that spoke to us, in no order.
    pub fn forwarders(&self) -> impl Iterator<Item = ForwarderState> {
        self.forwarders.iter().map(|(id, forwarder)| ForwarderState {
            id,
            way_back: forwarder.pull,
            heard_ms: forwarder.heard_ms,
        })
    }

    /// What there is to know of a device, for people; `None` when it is not here.
    #[must_use]
    pub fn device(&self, dev_eui: DevEui) -> Option<DeviceState> {
        let device = self.registry.get(self.registry.slot(dev_eui)?)?;
        let session = device.current.as_ref();
        Some(DeviceState {
            admitted: device.config.admitted,
            epoch: device.last_epoch,
            dev_addr: session.map(|session| session.dev_addr),
            fcnt_up: session.and_then(|session| session.fcnt_up),
            downlinks_left: session.map_or(0, |session| session.down.left()),
            joins_left: device.join_window.left(),
            sessions_waiting: device.pending.len(),
        })
    }

    /// When [`Input::Wake`] is due, on the clock of `now_ms`; `None` while nothing waits.
    #[must_use]
    pub fn next_wake(&self) -> Option<u64> {
        match (self.queue.next_due(), self.awaiting.next_overdue()) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// Takes one input. `now_ms` is a clock that never goes back; for a datagram it should be when
    /// it was received, since the receive windows are counted from there.
    pub fn step(&mut self, now_ms: u64, input: Input<'_>) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.step_into(now_ms, input, &mut effects);
        effects
    }

    /// As [`Server::step`], appending to `effects`: for callers that take many inputs at once.
    pub fn step_into(&mut self, now_ms: u64, input: Input<'_>, effects: &mut Vec<Effect>) {
        match input {
            Input::Datagram { from, bytes } => self.datagram(now_ms, from, bytes, effects),
            Input::Wake => {}
            Input::SendMissed { token } => {
                if let Some(awaited) = self.awaiting.take_unsent(token) {
                    self.not_transmitted(now_ms, awaited, TxError::TooLate, effects);
                }
            }
        }
        self.send_what_is_due(now_ms, effects);
    }

    fn device_mut(&mut self, dev_eui: DevEui) -> Option<&mut Device> {
        self.registry.slot(dev_eui).and_then(|slot| self.registry.get_mut(slot))
    }

    fn datagram(&mut self, now_ms: u64, from: Way, bytes: &[u8], out: &mut Vec<Effect>) {
        self.counters.datagrams += 1;
        let Ok(datagram) = gwmp::parse(bytes) else {
            self.counters.bad_datagrams += 1;
            return;
        };
        let (Datagram::PushData { eui, .. }
        | Datagram::PullData { eui, .. }
        | Datagram::TxAck { eui, .. }) = datagram;
        let allowed = match from {
            Way::Udp(from) => {
                self.settings.forwarders.contains(&eui)
                    || (self.settings.any_on_loopback && from.ip().is_loopback())
            }
            // Which ones may speak there is the bridge's own setting.
            Way::Bridge { .. } => true,
        };
        let id = ForwarderId { bridge: from.bridge(), eui };
        let forwarder = if allowed { self.forwarders.hear(now_ms, id) } else { None };
        let Some(forwarder) = forwarder else {
            self.counters.foreign_forwarders += 1;
            return;
        };
        match datagram {
            Datagram::PushData { token, json, .. } => {
                out.push(send_now(from, &gwmp::push_ack(token)));
                if let Err(GwmpError::Json { .. }) = self.push_data(now_ms, id, json, out) {
                    self.counters.bad_datagrams += 1;
                }
            }
            Datagram::PullData { token, .. } => {
                forwarder.pull = Some(from);
                out.push(send_now(from, &gwmp::pull_ack(token)));
            }
            Datagram::TxAck { token, outcome, .. } => {
                let Some(awaited) = self.awaiting.take(token, id) else { return };
                match outcome {
                    Ok(()) => self.counters.transmitted += 1,
                    Err(error) => self.not_transmitted(now_ms, awaited, error, out),
                }
            }
        }
    }

    fn push_data(
        &mut self,
        now_ms: u64,
        id: ForwarderId,
        json: &[u8],
        out: &mut Vec<Effect>,
    ) -> Result<(), GwmpError> {
        let push = gwmp::parse_push(json)?;
        self.counters.bad_packets += push.rxpk.left_out as u64;
        let mut buffer = [0; MAX_PHY_BYTES];
        for packet in &push.rxpk.list {
            match packet.uplink(&mut buffer) {
                Ok(uplink) => {
                    let reception = Reception::new(id, &uplink, now_ms);
                    self.uplink(now_ms, reception, uplink.phy, out);
                }
                Err(_) => self.counters.bad_packets += 1,
            }
        }
        Ok(())
    }

    fn uplink(&mut self, now_ms: u64, copy: Reception, phy: &[u8], out: &mut Vec<Effect>) {
        self.dedup.expire(now_ms.saturating_sub(self.settings.dedup_window_ms));
        if let Some(known) = self.dedup.find(phy) {
            self.counters.copies += 1;
            let (device, answer) = (known.device, known.answer);
            if let Some(answer) = answer {
                self.queue.add_copy(answer, copy);
            }
            out.extend(device.map(|dev_eui| heard(Identity::DevEui(dev_eui.0), &copy)));
            return;
        }
        let (device, answer) = match frame::parse(phy) {
            Ok(Frame::JoinRequest(request)) => self.join_request(now_ms, copy, request, out),
            Ok(Frame::Data(data)) => self.data_up(now_ms, copy, data, out),
            Err(_) => {
                self.counters.bad_frames += 1;
                (None, None)
            }
        };
        self.dedup.insert(now_ms, phy, device, answer);
    }

    fn persist(&mut self, slot: Slot, out: &mut Vec<Effect>) {
        if let Some(device) = self.registry.get_mut(slot) {
            let (identity, record) = (device.identity(), record::encode(device));
            out.push(Effect::Persist { identity, record });
        }
    }

    fn stranger(&mut self, now_ms: u64, stranger: Stranger, out: &mut Vec<Effect>) {
        self.counters.strangers += 1;
        if self.limiter.allow(now_ms) {
            out.push(Effect::Stranger(stranger));
        }
    }

    fn refused(&mut self, now_ms: u64, id: Identity, reason: Refusal, out: &mut Vec<Effect>) {
        self.counters.refused += 1;
        if self.limiter.allow(now_ms) {
            out.push(Effect::Refused { identity: id, reason });
        }
    }

    fn lost(&mut self, identity: Identity, reason: Lost, out: &mut Vec<Effect>) {
        match reason {
            Lost::Late => self.counters.late += 1,
            _ => self.counters.unanswered += 1,
        }
        out.push(Effect::Unanswered { identity, reason });
    }
}

fn heard(identity: Identity, copy: &Reception) -> Effect {
    let Reception { forwarder, rssi_dbm, snr_db, .. } = *copy;
    Effect::Heard { identity, forwarder, rssi_dbm, snr_db }
}

fn send_now(to: Way, bytes: &[u8]) -> Effect {
    let bytes = bytes.to_vec();
    Effect::Send { to, bytes, after_durable: false, deadline_ms: None, token: [0, 0] }
}

/// For a fuzzer: bytes as a series of datagrams from one forwarder to a server with one device.
pub fn fuzz(bytes: &[u8]) {
    let config = DeviceConfig {
        dev_eui: DevEui([1; 8]),
        join_eui: super::ids::JoinEui([2; 8]),
        app_key: super::ids::Key::new([3; 16]),
        version: super::join::Version::V1_0_4,
        codec: codec::Codec::CayenneLpp,
        admitted: true,
    };
    let mut server = Server::new(Settings::default());
    server.set_transmit_allowed(true);
    let added = server.add_device(config, None, None);
    assert!(added.is_ok(), "the first device is added");
    server.grant_join(DevEui([1; 8]), 0, JOIN_WINDOW);
    let from = Way::from(std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
    let mut now_ms = 0;
    // Two bytes of length before each datagram; the time moves with the length.
    let mut rest = bytes;
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length));
        let (datagram, after) = after.split_at(length.min(after.len()));
        now_ms += length as u64;
        server.step(now_ms, Input::Datagram { from, bytes: datagram });
        rest = after;
    }
    server.step(now_ms + 60_000, Input::Wake);
    assert!(server.next_wake().is_none(), "nothing waits for ever");
}

#[cfg(test)]
mod tests;
