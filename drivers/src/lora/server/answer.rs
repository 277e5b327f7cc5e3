//! What the server owes its devices: JoinAccepts and data downlinks, made when they are due, sent
//! once, and tried again in RX2 when the forwarder refuses.

use super::super::dedup::AnswerKey;
use super::super::downlink::{
    Answer, Awaited, Owed, Plan, ReceiveWindow, Reception, last_try_ms, plan, plan_one, refund,
};
use super::super::effect::{Effect, Lost, WindowKind};
use super::super::frame::DataDown;
use super::super::gwmp::{self, TxError};
use super::super::ids::{DevAddr, DevEui};
use super::super::join::Activation;
use super::super::mac;
use super::super::region::{JOIN_ACCEPT_DELAY1_MS, RECEIVE_DELAY1_MS};
use super::super::registry::Slot;
use super::super::session::Session;
use super::{DOWN_WINDOW, JOIN_WINDOW, Server};
use crate::device::Identity;

/// Bytes of a data downlink without commands: MHDR, FHDR, MIC.
const DATA_DOWN_BYTES: usize = 12;
/// Bytes of a JoinAccept with CFList.
const JOIN_ACCEPT_BYTES: usize = 33;

impl Server {
    pub(super) fn owe(
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

    pub(super) fn send_what_is_due(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
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
        if device.join_window.ask(now_ms, JOIN_WINDOW) {
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
        if session.down.ask(now_ms, DOWN_WINDOW) {
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
    pub(super) fn not_transmitted(
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
}
