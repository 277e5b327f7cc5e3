//! Answers on their way: which forwarder and which receive window, and what became of them.
//!
//! Pure. An answer waits for the copies of its uplink, is planned once, sent once, and on a
//! TX_ACK error tried once more in RX2.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::dedup::AnswerKey;
use super::duty::DutyCycle;
use super::effect::{ForwarderId, Lost, Way};
use super::gwmp::{Txpk, Uplink};
use super::ids::{DevAddr, DevEui};
use super::region::{
    DataRate, RX2_AFTER_RX1_MS, RX2_DATA_RATE, RX2_FREQUENCY_HZ, SUB_BANDS, sub_band,
};

/// Most forwarders of this gateway's own that are known at a time: those of one site.
const MAX_FORWARDERS: usize = 64;

/// Most forwarders of one bridge.
const MAX_OF_BRIDGE: usize = 8;

/// A forwarder that was silent for so long may give its place to a new one, in ms.
const FORWARDER_IDLE_MS: u64 = 60_000;

/// Most copies of one uplink that are compared.
const MAX_RECEPTIONS: usize = 8;

/// Most answers owed at a time; a radio sends a few a second.
const MAX_OWED: usize = 1_024;

/// Most downlinks whose TX_ACK is awaited.
const MAX_AWAITED: usize = 1_024;

/// A TX_ACK later than this is not coming, in ms.
const TX_ACK_WAIT_MS: u64 = 10_000;

/// A downlink is planned only this long before its window: disk, network and the forwarder's
/// queue (it needs about 40 ms: `TX_START_DELAY`, `TX_MARGIN_DELAY`, `TX_JIT_DELAY`), in ms.
const PLAN_MARGIN_MS: u64 = 100;

/// And must have left the gateway this long before its window, in ms.
const SEND_MARGIN_MS: u64 = 50;

/// One copy of an uplink.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reception {
    pub(crate) forwarder: ForwarderId,
    pub(crate) tmst: Option<u32>,
    pub(crate) frequency_hz: u32,
    pub(crate) data_rate: DataRate,
    pub(crate) snr_db: f32,
    pub(crate) rssi_dbm: f32,
    pub(crate) arrived_ms: u64,
}

impl Reception {
    pub(crate) fn new(forwarder: ForwarderId, uplink: &Uplink<'_>, arrived_ms: u64) -> Self {
        let Uplink { tmst, frequency_hz, data_rate, rssi_dbm, snr_db, phy: _ } = *uplink;
        Self { forwarder, tmst, frequency_hz, data_rate, snr_db, rssi_dbm, arrived_ms }
    }
}

/// What an answer consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A JoinAccept to this DevNonce.
    Join { dev_nonce: u16 },
    /// A data downlink in the session at this address.
    Data { dev_addr: DevAddr, ack: bool, link_check: bool, device_time: bool },
}

/// An answer that is owed.
#[derive(Clone, Debug)]
pub(crate) struct Owed {
    pub(crate) device: DevEui,
    pub(crate) answer: Answer,
    pub(crate) receptions: Vec<Reception>,
    /// Set when it was due and something was missing that may still come.
    pub(crate) waiting: bool,
}

/// Answers that are owed, by when they are due.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    owed: BTreeMap<AnswerKey, Owed>,
    count: u64,
}

impl Queue {
    /// Owes an answer from `due_ms` on; `None` when too many are owed.
    pub(crate) fn owe(&mut self, due_ms: u64, owed: Owed) -> Option<AnswerKey> {
        if self.owed.len() >= MAX_OWED {
            return None;
        }
        self.count += 1;
        let key = (due_ms, self.count);
        self.owed.insert(key, owed);
        Some(key)
    }

    /// Notes a further copy of the uplink of an answer that is still owed.
    pub(crate) fn add_copy(&mut self, key: AnswerKey, reception: Reception) {
        if let Some(owed) = self.owed.get_mut(&key)
            && owed.receptions.len() < MAX_RECEPTIONS
        {
            owed.receptions.push(reception);
        }
    }

    /// The next answer that is due.
    pub(crate) fn due(&mut self, now_ms: u64) -> Option<Owed> {
        let entry = self.owed.first_entry()?;
        (entry.key().0 <= now_ms).then(|| entry.remove())
    }

    /// When the next answer is due.
    pub(crate) fn next_due(&self) -> Option<u64> {
        self.owed.first_key_value().map(|((due_ms, _), _)| *due_ms)
    }

    /// Owes this device nothing any more.
    pub(crate) fn forget(&mut self, device: DevEui) {
        self.owed.retain(|_, owed| owed.device != device);
    }

    /// Makes what waits for this device due at once.
    pub(crate) fn hasten(&mut self, device: DevEui) {
        let keys: Vec<AnswerKey> = self
            .owed
            .iter()
            .filter(|(_, owed)| owed.waiting && owed.device == device)
            .map(|(key, _)| *key)
            .collect();
        for key in keys {
            if let Some(owed) = self.owed.remove(&key) {
                self.owed.insert((0, key.1), owed);
            }
        }
    }
}

/// A packet forwarder as far as it is known.
#[derive(Debug)]
pub(crate) struct Forwarder {
    /// Where its PULL_DATA came from last.
    pub(crate) pull: Option<Way>,
    /// When it spoke last.
    pub(crate) heard_ms: u64,
    duty: DutyCycle,
}

/// The forwarders that spoke to us.
#[derive(Debug, Default)]
pub(crate) struct Forwarders {
    known: HashMap<ForwarderId, Forwarder>,
}

impl Forwarders {
    /// The forwarder, new or known; `None` when there is no room for a new one. Each bridge has
    /// room of its own, so that it can crowd out nobody else's.
    pub(crate) fn hear(&mut self, now_ms: u64, id: ForwarderId) -> Option<&mut Forwarder> {
        let room = if id.bridge.is_some() { MAX_OF_BRIDGE } else { MAX_FORWARDERS };
        let beside = self.known.iter().filter(|(other, _)| other.bridge == id.bridge);
        if !self.known.contains_key(&id) && beside.clone().count() >= room {
            let heard = beside.map(|(other, one)| (*other, one.heard_ms));
            let (oldest, heard_ms) = heard.min_by_key(|one| one.1)?;
            if heard_ms + FORWARDER_IDLE_MS > now_ms {
                return None;
            }
            self.known.remove(&oldest);
        }
        let new = || Forwarder { pull: None, duty: DutyCycle::new(), heard_ms: now_ms };
        let forwarder = self.known.entry(id).or_insert_with(new);
        forwarder.heard_ms = now_ms;
        Some(forwarder)
    }

    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ForwarderId, &Forwarder)> {
        self.known.iter().map(|(id, forwarder)| (*id, forwarder))
    }
}

/// A receive window of Class A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReceiveWindow {
    Rx1,
    Rx2,
}

/// Where and when a downlink goes out. Its time on air is booked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) to: Way,
    pub(crate) window: ReceiveWindow,
    pub(crate) deadline_ms: u64,
    pub(crate) reception: Reception,
    tmst: u32,
    frequency_hz: u32,
    data_rate: DataRate,
    band: usize,
    airtime_us: u64,
}

impl Plan {
    pub(crate) fn txpk<'a>(&self, phy: &'a [u8]) -> Txpk<'a> {
        Txpk {
            tmst: self.tmst,
            frequency_hz: self.frequency_hz,
            data_rate: self.data_rate,
            power_dbm: SUB_BANDS[self.band].power_dbm,
            phy,
        }
    }
}

/// Chooses the window and the forwarder for a downlink of `bytes` bytes and books its time on air:
/// RX1 by the best SNR that can, else RX2 by the best that can.
pub(crate) fn plan(
    forwarders: &mut Forwarders,
    now_ms: u64,
    rx1_delay_ms: u64,
    receptions: &mut [Reception],
    bytes: usize,
) -> Result<Plan, Lost> {
    receptions.sort_by(|a, b| b.snr_db.total_cmp(&a.snr_db));
    let mut reason = Lost::NoRoute;
    for window in [ReceiveWindow::Rx1, ReceiveWindow::Rx2] {
        for reception in receptions.iter() {
            match plan_one(forwarders, now_ms, rx1_delay_ms, reception, window, bytes) {
                Ok(plan) => return Ok(plan),
                Err(lost) => reason = worse(reason, lost),
            }
        }
    }
    Err(reason)
}

/// The reason that says most: what nearly worked.
fn worse(one: Lost, other: Lost) -> Lost {
    let rank = |lost: &Lost| match lost {
        Lost::NoRoute => 0,
        Lost::Late => 1,
        _ => 2,
    };
    if rank(&other) >= rank(&one) { other } else { one }
}

/// As [`plan`], for one copy and one window.
pub(crate) fn plan_one(
    forwarders: &mut Forwarders,
    now_ms: u64,
    rx1_delay_ms: u64,
    reception: &Reception,
    window: ReceiveWindow,
    bytes: usize,
) -> Result<Plan, Lost> {
    let (delay_ms, frequency_hz, data_rate) = match window {
        ReceiveWindow::Rx1 => (rx1_delay_ms, reception.frequency_hz, reception.data_rate),
        ReceiveWindow::Rx2 => (rx1_delay_ms + RX2_AFTER_RX1_MS, RX2_FREQUENCY_HZ, RX2_DATA_RATE),
    };
    let forwarder = forwarders.known.get_mut(&reception.forwarder).ok_or(Lost::NoRoute)?;
    let (Some(to), Some(tmst)) = (forwarder.pull, reception.tmst) else {
        return Err(Lost::NoRoute);
    };
    let opens_ms = reception.arrived_ms + delay_ms;
    if now_ms + PLAN_MARGIN_MS > opens_ms {
        return Err(Lost::Late);
    }
    // A frequency on which one may not transmit has a duty cycle of nothing.
    let band = sub_band(frequency_hz).ok_or(Lost::DutyCycle)?;
    let airtime_us = data_rate.airtime_us(bytes);
    if !forwarder.duty.spend(now_ms, band, airtime_us) {
        return Err(Lost::DutyCycle);
    }
    Ok(Plan {
        to,
        window,
        deadline_ms: opens_ms - SEND_MARGIN_MS,
        reception: *reception,
        // The counter of the forwarder wraps around every 71.6 minutes.
        tmst: tmst.wrapping_add((delay_ms * 1_000) as u32),
        frequency_hz,
        data_rate,
        band,
        airtime_us,
    })
}

/// When an answer that waits for something must be tried for the last time: RX2 of its first copy.
pub(crate) fn last_try_ms(rx1_delay_ms: u64, receptions: &[Reception]) -> u64 {
    let first = receptions.iter().map(|reception| reception.arrived_ms).min().unwrap_or(0);
    first + rx1_delay_ms + RX2_AFTER_RX1_MS - PLAN_MARGIN_MS
}

/// A downlink that was sent to its forwarder.
#[derive(Debug)]
pub(crate) struct Awaited {
    pub(crate) device: DevEui,
    pub(crate) plan: Plan,
    pub(crate) rx1_delay_ms: u64,
    pub(crate) phy: Vec<u8>,
}

/// Downlinks whose TX_ACK has not come.
#[derive(Debug, Default)]
pub(crate) struct Awaiting {
    by_token: HashMap<[u8; 2], Awaited>,
    order: VecDeque<(u64, [u8; 2])>,
    token: u16,
}

impl Awaiting {
    /// Notes a downlink and gives its token; `None` when too many are awaited.
    pub(crate) fn add(&mut self, now_ms: u64, awaited: Awaited) -> Option<[u8; 2]> {
        if self.order.len() >= MAX_AWAITED {
            return None;
        }
        self.token = self.token.wrapping_add(1);
        let token = self.token.to_be_bytes();
        self.by_token.insert(token, awaited);
        self.order.push_back((now_ms + TX_ACK_WAIT_MS, token));
        Some(token)
    }

    /// The downlink with this token, if it went to this forwarder.
    pub(crate) fn take(&mut self, token: [u8; 2], forwarder: ForwarderId) -> Option<Awaited> {
        let sent_there = |awaited: &Awaited| awaited.plan.reception.forwarder == forwarder;
        self.by_token.get(&token).filter(|awaited| sent_there(awaited))?;
        self.by_token.remove(&token)
    }

    /// The downlink with this token.
    pub(crate) fn take_unsent(&mut self, token: [u8; 2]) -> Option<Awaited> {
        self.by_token.remove(&token)
    }

    /// Awaits nothing of this device's downlinks any more.
    pub(crate) fn forget(&mut self, device: DevEui) {
        self.by_token.retain(|_, awaited| awaited.device != device);
    }

    /// The next downlink whose TX_ACK is not coming any more.
    pub(crate) fn overdue(&mut self, now_ms: u64) -> Option<Awaited> {
        while let Some((overdue_ms, token)) = self.order.front().copied()
            && overdue_ms <= now_ms
        {
            self.order.pop_front();
            if let Some(awaited) = self.by_token.remove(&token) {
                return Some(awaited);
            }
        }
        None
    }

    /// When the next TX_ACK is overdue.
    pub(crate) fn next_overdue(&self) -> Option<u64> {
        self.order.front().map(|(overdue_ms, _)| *overdue_ms)
    }
}

/// Gives back the time on air of a downlink that was not transmitted.
pub(crate) fn refund(forwarders: &mut Forwarders, plan: &Plan) {
    if let Some(forwarder) = forwarders.known.get_mut(&plan.reception.forwarder) {
        forwarder.duty.refund(plan.band, plan.airtime_us);
    }
}
