//! The network server: `step(now, input) -> effects`. No clock, socket, disk or randomness here.
//!
//! One uplink takes this way: [`super::gwmp`] → copy of a known transmission? → [`super::frame`] →
//! JoinRequest: [`super::join`]; data: the sessions at its DevAddr → reading. What it is owed waits
//! in [`super::downlink`] until the copies of other forwarders are in.

use std::net::SocketAddr;

use sha2::{Digest, Sha256};

use super::dedup::{AnswerKey, Dedup};
use super::downlink::{
    Answer, Awaited, Awaiting, Forwarders, Owed, Plan, Queue, ReceiveWindow, Reception,
    last_try_ms, plan, plan_one, refund,
};
use super::effect::{Effect, Input, Lost, Refusal, Stranger, WindowKind};
use super::frame::{self, DataDown, DataUp, Frame, JoinRequest};
use super::gwmp::{self, Datagram, GwmpError, MAX_PHY_BYTES, TxError};
use super::ids::{DevAddr, DevEui, ForwarderEui};
use super::join::Activation;
use super::mac::{self, Command};
use super::record;
use super::region::{JOIN_ACCEPT_DELAY1_MS, RECEIVE_DELAY1_MS};
pub use super::registry::{AddDeviceError, DeviceConfig, Highest, MAX_DEVICES};
use super::registry::{Registry, Slot};
use super::session::{Check, FIRST_DOWN_WINDOW, Session};
use crate::codec;
use crate::device::Identity;
use crate::reading::{Checked, Level, VerifiedReading};

/// JoinNonces that a gateway reserves at a time.
pub const JOIN_WINDOW: u32 = 16;

/// FCntDown values that a gateway reserves at a time.
pub const DOWN_WINDOW: u32 = FIRST_DOWN_WINDOW;

/// Strangers and refusals told at once at most, and then this many a second.
const TOLD_BURST: u64 = 32;
const TOLD_PER_SECOND: u64 = 8;

/// Bytes of a data downlink without commands: MHDR, FHDR, MIC; and of a JoinAccept with CFList.
const DATA_DOWN_BYTES: usize = 12;
const JOIN_ACCEPT_BYTES: usize = 33;

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

    /// Removes a device and its sessions; `false` when it was not there.
    pub fn remove_device(&mut self, dev_eui: DevEui) -> bool {
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

    fn device_mut(&mut self, dev_eui: DevEui) -> Option<&mut super::registry::Device> {
        self.registry.slot(dev_eui).and_then(|slot| self.registry.get_mut(slot))
    }

    // ---- From the forwarder -------------------------------------------------------------------

    fn datagram(&mut self, now_ms: u64, from: SocketAddr, bytes: &[u8], out: &mut Vec<Effect>) {
        self.counters.datagrams += 1;
        let Ok(datagram) = gwmp::parse(bytes) else {
            self.counters.bad_datagrams += 1;
            return;
        };
        let (Datagram::PushData { eui, .. }
        | Datagram::PullData { eui, .. }
        | Datagram::TxAck { eui, .. }) = datagram;
        let allowed = self.settings.forwarders.contains(&eui)
            || (self.settings.any_on_loopback && from.ip().is_loopback());
        let forwarder = if allowed { self.forwarders.hear(now_ms, eui) } else { None };
        let Some(forwarder) = forwarder else {
            self.counters.foreign_forwarders += 1;
            return;
        };
        match datagram {
            Datagram::PushData { token, json, .. } => {
                out.push(send_now(from, &gwmp::push_ack(token)));
                if let Err(GwmpError::Json { .. }) = self.push_data(now_ms, eui, json, out) {
                    self.counters.bad_datagrams += 1;
                }
            }
            Datagram::PullData { token, .. } => {
                forwarder.pull = Some(from);
                out.push(send_now(from, &gwmp::pull_ack(token)));
            }
            Datagram::TxAck { token, outcome, .. } => {
                let Some(awaited) = self.awaiting.take(token, eui) else { return };
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
        eui: ForwarderEui,
        json: &[u8],
        out: &mut Vec<Effect>,
    ) -> Result<(), GwmpError> {
        let push = gwmp::parse_push(json)?;
        self.counters.bad_packets += push.rxpk.left_out as u64;
        let mut buffer = [0; MAX_PHY_BYTES];
        for packet in &push.rxpk.list {
            match packet.uplink(&mut buffer) {
                Ok(uplink) => {
                    let reception = Reception::new(eui, &uplink, now_ms);
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

    // ---- Join ---------------------------------------------------------------------------------

    fn join_request(
        &mut self,
        now_ms: u64,
        copy: Reception,
        request: JoinRequest<'_>,
        out: &mut Vec<Effect>,
    ) -> (Option<DevEui>, Option<AnswerKey>) {
        let dev_eui = request.dev_eui();
        let Some(device) = self.device_mut(dev_eui) else {
            self.stranger(now_ms, Stranger::UnknownDevEui(dev_eui), out);
            return (None, None);
        };
        if device.config.join_eui != request.join_eui() {
            self.stranger(now_ms, Stranger::WrongJoinEui(dev_eui), out);
            return (None, None);
        }
        if !request.verify(&device.config.app_key) {
            self.stranger(now_ms, Stranger::JoinBadMic(dev_eui), out);
            return (None, None);
        }
        let (identity, dev_nonce) = (device.identity(), request.dev_nonce());
        let admitted = device.config.admitted;
        if !device.nonces.take(dev_nonce) {
            self.refused(now_ms, identity, Refusal::DevNonceReused(dev_nonce), out);
            return (None, None);
        }
        out.push(heard(identity, &copy));
        out.push(Effect::JoinProved { identity, admitted });
        let answer = self.owe(now_ms, dev_eui, Answer::Join { dev_nonce }, copy, out);
        (Some(dev_eui), answer)
    }

    /// Makes the JoinAccept and the session. The record is saved before the accept leaves.
    fn join_accept(
        &mut self,
        slot: Slot,
        dev_nonce: u16,
        out: &mut Vec<Effect>,
    ) -> Option<(Vec<u8>, DevAddr)> {
        let device = self.registry.get_mut(slot)?;
        let join_nonce = device.join_window.take()?;
        let (dev_eui, join_eui) = (device.config.dev_eui, device.config.join_eui);
        let dev_addr = self.registry.free_address(dev_eui, join_nonce);
        let activation = Activation { join_eui, dev_nonce, join_nonce, dev_addr };
        let app_key = &self.registry.get(slot)?.config.app_key;
        let phy = activation.join_accept(app_key)?;
        let keys = activation.session_keys(app_key)?;
        self.registry.add_pending(slot, Session::new(dev_addr, keys, dev_nonce, join_nonce));
        self.persist(slot, out);
        Some((phy, dev_addr))
    }

    // ---- Data ---------------------------------------------------------------------------------

    fn data_up(
        &mut self,
        now_ms: u64,
        copy: Reception,
        frame: DataUp<'_>,
        out: &mut Vec<Effect>,
    ) -> (Option<DevEui>, Option<AnswerKey>) {
        let address = frame.dev_addr();
        let Some((slot, found, check)) = self.find_session(&frame) else {
            let known = !self.registry.slots_at(address).is_empty();
            let stranger = if known {
                Stranger::DataBadMic(address)
            } else {
                Stranger::UnknownDevAddr(address)
            };
            self.stranger(now_ms, stranger, out);
            return (None, None);
        };
        let Some(device) = self.registry.get(slot) else { return (None, None) };
        let (identity, dev_eui) = (device.identity(), device.config.dev_eui);
        let refusal = match check {
            _ if !device.config.admitted => Some(Refusal::NotAdmitted),
            Check::Replayed(fcnt) => Some(Refusal::Replayed(fcnt)),
            Check::Conflict(fcnt) => Some(Refusal::Conflict(fcnt)),
            Check::Exhausted => Some(Refusal::CounterExhausted),
            Check::New(_) | Check::Again(_) | Check::BadMic => None,
        };
        if let Some(reason) = refusal {
            self.refused(now_ms, identity, reason, out);
            return (None, None);
        }
        out.push(heard(identity, &copy));
        let asked = match check {
            Check::New(fcnt) => self.new_uplink(now_ms, slot, found, fcnt, &frame, out),
            _ => {
                self.counters.retransmissions += 1;
                self.read_commands(slot, &frame, fcnt_of(check), None)
            }
        };
        let Some(asked) = asked else { return (Some(dev_eui), None) };
        let (ack, Asked { link_check, device_time }) = (frame.confirmed(), asked);
        let answer = Answer::Data { dev_addr: address, ack, link_check, device_time };
        if !(ack || link_check || device_time || frame.adr_ack_requested()) {
            return (Some(dev_eui), None);
        }
        let session = self.registry.get_mut(slot).and_then(|device| device.current.as_mut());
        if !session.is_some_and(Session::count_answer) {
            // Somebody may be playing the frame back: not worth an effect each time.
            self.counters.unanswered += 1;
            if self.limiter.allow(now_ms) {
                out.push(Effect::Unanswered { identity, reason: Lost::Repeated });
            }
            return (Some(dev_eui), None);
        }
        (Some(dev_eui), self.owe(now_ms, dev_eui, answer, copy, out))
    }

    /// The session whose key made the MIC, tried over all sessions with the frame's DevAddr; a
    /// refusal counts only if no other session accepts the frame.
    fn find_session(&self, frame: &DataUp<'_>) -> Option<(Slot, Found, Check)> {
        let mut best = None;
        for &slot in self.registry.slots_at(frame.dev_addr()) {
            let Some(device) = self.registry.get(slot) else { continue };
            let current = device.current.iter().map(|session| (Found::Current, session));
            let pending = device.pending.iter().enumerate();
            let pending = pending.map(|(index, session)| (Found::Pending(index), session));
            for (found, session) in current.chain(pending) {
                if session.dev_addr != frame.dev_addr() {
                    continue;
                }
                match session.check(frame) {
                    Check::BadMic => {}
                    check @ (Check::New(_) | Check::Again(_)) => return Some((slot, found, check)),
                    check => best = Some((slot, found, check)),
                }
            }
        }
        best
    }

    /// A counter that was not seen before: opens the session if it is its first, delivers.
    fn new_uplink(
        &mut self,
        now_ms: u64,
        slot: Slot,
        found: Found,
        fcnt: u32,
        frame: &DataUp<'_>,
        out: &mut Vec<Effect>,
    ) -> Option<Asked> {
        if let Found::Pending(index) = found {
            let epoch = self.registry.open(slot, index)?;
            let device = self.registry.get(slot)?;
            let session = device.current.as_ref()?;
            let digest = session_digest(session.dev_nonce, session.join_nonce);
            out.push(Effect::SessionOpened { identity: device.identity(), epoch, digest });
        }
        let mut senml = Vec::new();
        let asked = self.read_commands(slot, frame, fcnt, Some((&mut senml, out)))?;
        let device = self.registry.get_mut(slot)?;
        let identity = device.identity();
        let session = device.current.as_mut()?;
        session.accept(fcnt, frame.sealed());
        let epoch = session.epoch;
        if matches!(found, Found::Pending(_)) {
            self.persist(slot, out);
        }
        self.counters.readings += 1;
        out.push(Effect::Deliver(VerifiedReading::new(Checked {
            identity,
            epoch,
            counter: u64::from(fcnt),
            received_ms: now_ms,
            level: Level::SharedKey,
            senml,
            device_signature: None,
        })));
        Some(asked)
    }

    /// Reads the MAC commands of a verified frame, and with `new` its application payload.
    fn read_commands(
        &mut self,
        slot: Slot,
        frame: &DataUp<'_>,
        fcnt: u32,
        new: Option<(&mut Vec<u8>, &mut Vec<Effect>)>,
    ) -> Option<Asked> {
        let device = self.registry.get(slot)?;
        let (identity, session) = (device.identity(), device.current.as_ref()?);
        let port = frame.port();
        let mut asked = Asked::default();
        let mut commands = frame.fopts();
        let mut buffer = [0; MAX_PHY_BYTES];
        let mut effects = None;
        if port == Some(0) || new.is_some() {
            let payload =
                frame.decrypt(&session.keys.nwk_s_key, &session.keys.app_s_key, fcnt, &mut buffer);
            if port == Some(0) {
                commands = payload;
            }
            if let Some((senml, out)) = new {
                if let Some(port) = port.filter(|port| *port > 0) {
                    *senml = codec::decode(device.config.codec, port, payload);
                }
                effects = Some(out);
            }
        }
        for command in mac::uplink_commands(commands) {
            let Ok(command) = command else {
                self.counters.bad_mac_commands += 1;
                break;
            };
            self.counters.mac_commands += 1;
            match command {
                Command::LinkCheckReq => asked.link_check = true,
                Command::DeviceTimeReq => asked.device_time = true,
                Command::DevStatusAns { battery, margin_db } => {
                    if let Some(out) = effects.as_deref_mut() {
                        out.push(Effect::DeviceStatus { identity, battery, margin_db });
                    }
                }
                Command::Other(_) => {}
            }
        }
        Some(asked)
    }

    // ---- Answers ------------------------------------------------------------------------------

    fn owe(
        &mut self,
        now_ms: u64,
        device: DevEui,
        answer: Answer,
        copy: Reception,
        out: &mut Vec<Effect>,
    ) -> Option<AnswerKey> {
        let owed = Owed { device, answer, receptions: vec![copy], waiting: false };
        let key = self.queue.owe(now_ms + self.settings.dedup_window_ms, owed);
        if key.is_none() {
            self.lost(Identity::DevEui(device.0), Lost::TooMany, out);
        }
        key
    }

    fn send_what_is_due(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        while let Some(owed) = self.queue.due(now_ms) {
            let identity = Identity::DevEui(owed.device.0);
            if let Err(lost) = self.answer(now_ms, owed, out) {
                self.lost(identity, lost, out);
            }
        }
        while let Some(awaited) = self.awaiting.overdue(now_ms) {
            self.lost(Identity::DevEui(awaited.device.0), Lost::ForwarderSilent, out);
        }
    }

    fn answer(&mut self, now_ms: u64, owed: Owed, out: &mut Vec<Effect>) -> Result<(), Lost> {
        if !self.transmit_allowed {
            return Err(Lost::NoLease);
        }
        let slot = self.registry.slot(owed.device).ok_or(Lost::NotAdmitted)?;
        match owed.answer {
            Answer::Join { dev_nonce } => self.answer_join(now_ms, slot, dev_nonce, owed, out),
            Answer::Data { .. } => self.answer_data(now_ms, slot, owed, out),
        }
    }

    fn answer_join(
        &mut self,
        now_ms: u64,
        slot: Slot,
        dev_nonce: u16,
        mut owed: Owed,
        out: &mut Vec<Effect>,
    ) -> Result<(), Lost> {
        let device = self.registry.get_mut(slot).ok_or(Lost::NotAdmitted)?;
        let identity = device.identity();
        if device.join_window.ask(JOIN_WINDOW) {
            out.push(Effect::NeedWindow { identity, window: WindowKind::Join });
        }
        let missing = match (device.config.admitted, device.join_window.left()) {
            (false, _) => Some(Lost::NotAdmitted),
            (true, 0) => Some(Lost::NoWindow),
            (true, _) => None,
        };
        if let Some(lost) = missing {
            // Registration or reservation may still commit before RX2 closes.
            let last_try_ms = last_try_ms(JOIN_ACCEPT_DELAY1_MS, &owed.receptions);
            owed.waiting = true;
            let waits = now_ms < last_try_ms && self.queue.owe(last_try_ms, owed).is_some();
            return if waits { Ok(()) } else { Err(lost) };
        }
        let plan = plan(
            &mut self.forwarders,
            now_ms,
            JOIN_ACCEPT_DELAY1_MS,
            &mut owed.receptions,
            JOIN_ACCEPT_BYTES,
        )?;
        let Some((phy, dev_addr)) = self.join_accept(slot, dev_nonce, out) else {
            refund(&mut self.forwarders, &plan);
            return Err(Lost::NoWindow);
        };
        self.send(now_ms, owed.device, plan, JOIN_ACCEPT_DELAY1_MS, phy, out)?;
        self.counters.joins += 1;
        out.push(Effect::JoinAnswered { identity, dev_addr });
        Ok(())
    }

    fn answer_data(
        &mut self,
        now_ms: u64,
        slot: Slot,
        mut owed: Owed,
        out: &mut Vec<Effect>,
    ) -> Result<(), Lost> {
        let Answer::Data { dev_addr, ack, link_check, device_time } = owed.answer else {
            return Err(Lost::NotAdmitted);
        };
        let best = owed.receptions.iter().max_by(|a, b| a.snr_db.total_cmp(&b.snr_db));
        let best = best.copied().ok_or(Lost::NoRoute)?;
        let margin_db = best.snr_db - best.data_rate.required_snr_db();
        let mut heard_by: Vec<_> = owed.receptions.iter().map(|copy| copy.forwarder).collect();
        heard_by.sort_unstable();
        heard_by.dedup();
        let link_answer = mac::link_check_answer(margin_db, heard_by.len());
        let time_answer = self
            .unix_ms_at_zero
            .and_then(|zero| mac::device_time_answer(zero.checked_add_unsigned(best.arrived_ms)?))
            .filter(|_| device_time);
        let mut commands: Vec<(u8, &[u8])> = Vec::new();
        if link_check {
            commands.push((mac::LINK_CHECK, &link_answer));
        }
        if let Some(answer) = &time_answer {
            commands.push((mac::DEVICE_TIME, answer));
        }
        let bytes: usize = commands.iter().map(|(_, body)| 1 + body.len()).sum();
        let device = self.registry.get_mut(slot).ok_or(Lost::NotAdmitted)?;
        let identity = device.identity();
        let session = device.current.as_mut().filter(|session| session.dev_addr == dev_addr);
        let session = session.ok_or(Lost::NoWindow)?;
        if session.down.ask(DOWN_WINDOW) {
            let window = WindowKind::Down { epoch: session.epoch };
            out.push(Effect::NeedWindow { identity, window });
        }
        if session.down.left() == 0 {
            return Err(Lost::NoWindow);
        }
        let plan = plan(
            &mut self.forwarders,
            now_ms,
            RECEIVE_DELAY1_MS,
            &mut owed.receptions,
            DATA_DOWN_BYTES + bytes,
        )?;
        let (fcnt, save) = session.take_down().ok_or(Lost::NoWindow)?;
        let down = DataDown { dev_addr, ack, fcnt, commands: &commands };
        let phy = down.build(&session.keys.nwk_s_key, &session.keys.app_s_key);
        if save {
            self.persist(slot, out);
        }
        let phy = phy.ok_or(Lost::NoWindow)?;
        self.send(now_ms, owed.device, plan, RECEIVE_DELAY1_MS, phy, out)
    }

    fn send(
        &mut self,
        now_ms: u64,
        device: DevEui,
        plan: Plan,
        rx1_delay_ms: u64,
        phy: Vec<u8>,
        out: &mut Vec<Effect>,
    ) -> Result<(), Lost> {
        let txpk = plan.txpk(&phy);
        let mut bytes = gwmp::pull_resp([0, 0], &txpk);
        let (to, deadline_ms) = (plan.to, plan.deadline_ms);
        let awaited = Awaited { device, plan, rx1_delay_ms, phy };
        let Some(token) = self.awaiting.add(now_ms, awaited) else {
            refund(&mut self.forwarders, &plan);
            return Err(Lost::TooMany);
        };
        bytes[1..3].copy_from_slice(&token);
        self.counters.downlinks += 1;
        let deadline_ms = Some(deadline_ms);
        out.push(Effect::Send { to, bytes, after_durable: true, deadline_ms, token });
        Ok(())
    }

    /// RX2 after RX1 failed; after RX2 it is given up.
    fn not_transmitted(
        &mut self,
        now_ms: u64,
        awaited: Awaited,
        error: TxError,
        out: &mut Vec<Effect>,
    ) {
        let Awaited { device, plan, rx1_delay_ms, phy } = awaited;
        refund(&mut self.forwarders, &plan);
        let identity = Identity::DevEui(device.0);
        if plan.window == ReceiveWindow::Rx2 || !self.transmit_allowed {
            return self.lost(identity, Lost::Forwarder(error), out);
        }
        let again = plan_one(
            &mut self.forwarders,
            now_ms,
            rx1_delay_ms,
            &plan.reception,
            ReceiveWindow::Rx2,
            phy.len(),
        );
        let sent = again.and_then(|plan| self.send(now_ms, device, plan, rx1_delay_ms, phy, out));
        match sent {
            Ok(()) => self.counters.retried += 1,
            Err(Lost::Late) => self.lost(identity, Lost::Late, out),
            Err(_) => self.lost(identity, Lost::Forwarder(error), out),
        }
    }

    // ---- What is told -------------------------------------------------------------------------

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

/// Which of a device's sessions a frame belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Current,
    Pending(usize),
}

/// What the MAC commands of an uplink ask for.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    link_check: bool,
    device_time: bool,
}

/// The counter that a check found.
fn fcnt_of(check: Check) -> u32 {
    match check {
        Check::New(fcnt) | Check::Again(fcnt) | Check::Conflict(fcnt) | Check::Replayed(fcnt) => {
            fcnt
        }
        Check::Exhausted | Check::BadMic => 0,
    }
}

fn heard(identity: Identity, copy: &Reception) -> Effect {
    let Reception { forwarder, rssi_dbm, snr_db, .. } = *copy;
    Effect::Heard { identity, forwarder, rssi_dbm, snr_db }
}

fn send_now(to: SocketAddr, bytes: &[u8]) -> Effect {
    let bytes = bytes.to_vec();
    Effect::Send { to, bytes, after_durable: false, deadline_ms: None, token: [0, 0] }
}

/// See [`Effect::SessionOpened`].
fn session_digest(dev_nonce: u16, join_nonce: u32) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"gatewayd/lora-session/1");
    hash.update(dev_nonce.to_be_bytes());
    hash.update(join_nonce.to_be_bytes());
    hash.finalize().into()
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
    let from = SocketAddr::from(([127, 0, 0, 1], 1));
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
