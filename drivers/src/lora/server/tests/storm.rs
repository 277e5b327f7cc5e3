//! Everything at once, at random and repeatably: lost frames, copies, replays, rejoins, restarts,
//! disks that refuse, forwarders that refuse. What must hold is checked after each step.

use std::collections::BTreeMap;

use super::super::super::frame::tests::Random;
use super::*;

/// What is on disk, and what the ledger would have committed.
#[derive(Default)]
struct Disk {
    record: Option<Vec<u8>>,
    /// Payload number by (epoch, counter).
    readings: BTreeMap<(u32, u64), Vec<u8>>,
    down_next: BTreeMap<u32, u32>,
    join_next: u32,
}

struct Storm {
    site: Site,
    disk: Disk,
    random: Random,
    /// Frames heard so far, for replays.
    heard: Vec<Vec<u8>>,
    /// Payloads that the device sent, by address and counter.
    sent: BTreeMap<(u32, u32), Vec<u8>>,
    /// Highest FCntDown that left the gateway, by address.
    down: BTreeMap<u32, u32>,
    highest_join_nonce: u32,
    /// Address and counter of the device's last uplink.
    last_up: Option<(u32, u32)>,
    acknowledged: u32,
}

impl Storm {
    fn new(seed: u64) -> Self {
        let mut site = Site::new();
        site.server.remove_device(DevEui(site.device.dev_eui));
        site.server.add_device(config(&site.device), None, None).unwrap();
        Self {
            site,
            disk: Disk::default(),
            random: Random::new(seed),
            heard: Vec::new(),
            sent: BTreeMap::new(),
            down: BTreeMap::new(),
            highest_join_nonce: 0,
            last_up: None,
            acknowledged: 0,
        }
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.random.below(chances) == 0
    }

    fn highest(&self) -> Option<Highest> {
        let (&(epoch, counter), _) = self.disk.readings.last_key_value()?;
        Some(Highest { epoch, counter: Some(counter) })
    }

    /// The device as it is on disk, at this server or at a new one.
    fn put_back(&mut self, restart: bool) {
        if restart {
            self.site.server = Server::new(Settings::default());
            self.site.server.set_transmit_allowed(true);
            self.site.open(1);
            self.site.open(2);
        }
        let config = config(&self.site.device);
        self.site.server.remove_device(config.dev_eui);
        let highest = self.highest();
        self.site.server.add_device(config, self.disk.record.as_deref(), highest).unwrap();
    }

    /// Executes effects as a careful shell does; sometimes the disk refuses.
    fn execute(&mut self, effects: Vec<Effect>) {
        let dirty =
            effects.iter().any(|one| matches!(one, Effect::Deliver(_) | Effect::Persist { .. }));
        if dirty && self.one_in(20) {
            let restart = self.one_in(2);
            return self.put_back(restart);
        }
        let mut lost_downlink = None;
        for effect in &effects {
            match effect {
                Effect::Deliver(reading) => self.deliver(reading),
                Effect::Persist { record, .. } => self.disk.record = Some(record.clone()),
                Effect::NeedWindow { window, .. } => self.reserve(*window),
                Effect::Send { token, deadline_ms: Some(_), .. } => lost_downlink = Some(*token),
                _ => {}
            }
        }
        for downlink in sent(&effects) {
            self.leave(&downlink.phy);
            if !self.one_in(3) {
                self.arrive(&downlink.phy);
            }
        }
        let Some(token) = lost_downlink else { return };
        let effects = match self.random.below(4) {
            0 => self.site.datagram(1, &tx_ack(forwarder(1), token, Some("TOO_LATE"))),
            1 => self.site.server.step(self.site.now_ms, Input::SendMissed { token }),
            2 => self.site.datagram(1, &tx_ack(forwarder(1), token, None)),
            _ => Vec::new(),
        };
        self.execute(effects);
    }

    fn deliver(&mut self, reading: &VerifiedReading) {
        let key = (reading.epoch(), reading.counter());
        let pack = Pack::from_cbor(reading.senml()).unwrap();
        let Some(crate::senml::Value::Data(payload)) = pack.0[0].value.clone() else {
            panic!("raw payloads only");
        };
        let known = self.sent.values().filter(|sent| **sent == payload).count();
        assert_eq!(known, 1, "what is delivered was sent, with that counter");
        assert_eq!(self.disk.readings.insert(key, payload), None, "{key:?} delivered once");
        assert_eq!(self.disk.readings.last_key_value().unwrap().0, &key, "counters only grow");
    }

    fn reserve(&mut self, window: WindowKind) {
        let dev_eui = DevEui(self.site.device.dev_eui);
        match window {
            WindowKind::Join => {
                self.site.server.grant_join(dev_eui, self.disk.join_next, JOIN_WINDOW);
                self.disk.join_next += JOIN_WINDOW;
            }
            WindowKind::Down { epoch } => {
                let next = self.disk.down_next.entry(epoch).or_insert(DOWN_WINDOW);
                self.site.server.grant_down(dev_eui, epoch, *next, DOWN_WINDOW);
                *next += DOWN_WINDOW;
            }
        }
    }

    /// A downlink leaves the gateway, whether the device hears it or not. The same frame may leave
    /// twice (RX1, then RX2).
    fn leave(&mut self, phy: &[u8]) {
        let device = &self.site.device;
        let Some(down) = device.down(phy, 0) else { return };
        let address = device.session.as_ref().unwrap().dev_addr;
        let highest = self.down.entry(address).or_insert(0);
        assert!(down.fcnt >= *highest, "FCntDown {} after {highest}", down.fcnt);
        *highest = down.fcnt;
        if down.ack {
            let (address, fcnt) = self.last_up.unwrap();
            let payload = &self.sent[&(address, fcnt)];
            let durable = self.disk.readings.values().any(|reading| reading == payload);
            assert!(durable, "acknowledged means durable");
            self.acknowledged += 1;
        }
    }

    fn arrive(&mut self, phy: &[u8]) {
        if self.site.device.join_accept(phy) {
            let nonce = self.site.device.session.as_ref().unwrap().join_nonce;
            assert!(nonce >= self.highest_join_nonce, "JoinNonce {nonce} once");
            self.highest_join_nonce = nonce;
        }
    }

    fn uplink(&mut self) {
        let Some(session) = self.site.device.session.clone() else { return self.join() };
        let number = self.random.next().to_be_bytes();
        let confirmed = self.one_in(2);
        let phy = self.site.device.up(Up { payload: &number, confirmed, ..PLAIN });
        self.last_up = Some((session.dev_addr, session.fcnt));
        self.sent.insert((session.dev_addr, session.fcnt), number.to_vec());
        self.hear_some(&phy);
        if confirmed {
            let wait = 200 + self.random.below(4) * 300;
            let effects = self.site.after(wait);
            self.execute(effects);
            if self.one_in(3) {
                self.hear_some(&phy);
                let effects = self.site.after(200);
                self.execute(effects);
            }
        }
        self.heard.push(phy);
    }

    fn join(&mut self) {
        let request = self.site.device.join_request();
        self.hear_some(&request);
        self.heard.push(request);
        let effects = self.site.after(200);
        self.execute(effects);
        // A window of JoinNonces that was granted meanwhile.
        let effects = self.site.after(10);
        self.execute(effects);
    }

    /// None, one or two forwarders hear it, the second a little later.
    fn hear_some(&mut self, phy: &[u8]) {
        for number in 1..=self.random.below(3) as u8 {
            let snr = self.random.below(20) as f32 - 10.0;
            let effects = self.site.hear(number, snr, phy);
            self.execute(effects);
            self.site.now_ms += 40;
        }
    }

    fn replay(&mut self) {
        if self.heard.is_empty() {
            return;
        }
        let index = self.random.below(self.heard.len() as u64) as usize;
        let mut phy = self.heard[index].clone();
        if self.one_in(2) {
            let at = self.random.below(phy.len() as u64) as usize;
            phy[at] ^= 1 << self.random.below(8);
        }
        let before = self.disk.readings.len();
        let repeats_last = index + 1 == self.heard.len();
        let effects = self.site.hear(1, 0.0, &phy);
        // What an attacker plays back may be a frame that nobody heard when it was sent.
        let unheard = readings(&effects).len();
        assert!(unheard == 0 || index + 40 > self.heard.len() || repeats_last, "an old frame");
        self.execute(effects);
        assert!(self.disk.readings.len() <= before + unheard);
    }
}

#[test]
fn a_storm_of_everything() {
    let seeds = std::env::var("LORA_STORM_SEEDS");
    let seeds: u64 = seeds.map_or(20, |text| text.parse().expect("a number of seeds"));
    for seed in 1..=seeds {
        let mut storm = Storm::new(seed);
        storm.site.open(2);
        for _ in 0..400 {
            match storm.random.below(20) {
                0 => storm.join(),
                1 | 2 => storm.replay(),
                3 => storm.put_back(true),
                4 => {
                    let pause = storm.random.below(600_000);
                    let effects = storm.site.after(pause);
                    storm.execute(effects);
                }
                _ => storm.uplink(),
            }
            storm.site.now_ms += 5_000;
        }
        let readings = storm.disk.readings.len();
        assert!(readings > 50 && storm.acknowledged > 20, "seed {seed}: {readings} readings");
    }
}
