//! What uplinks are to the server: joins that are proved, readings that are delivered, frames that
//! are refused. Sends nothing: what an uplink is owed goes to `super::answer`.

use super::super::dedup::AnswerKey;
use super::super::downlink::{Answer, Reception};
use super::super::effect::{Effect, Lost, Refusal, Stranger};
use super::super::frame::{DataUp, JoinRequest};
use super::super::gwmp::MAX_PHY_BYTES;
use super::super::ids::DevEui;
use super::super::mac::{self, Command};
use super::super::registry::Slot;
use super::super::session::{Check, Session, session_digest};
use super::{Server, heard};
use crate::codec;
use crate::reading::{Checked, Level, VerifiedReading};

impl Server {
    pub(super) fn join_request(
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

    pub(super) fn data_up(
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
