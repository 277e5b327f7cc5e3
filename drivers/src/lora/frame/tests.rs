//! Frames: published vectors, bounds, and a million frames compared with `lrwn`.

use lorawan_encoding::keys::AppKey;
use lorawan_encoding::parser::{DecryptedJoinAcceptPayload, DevNonce};
use lrwn::{AES128Key, FRMPayload, MACVersion, Payload, PhyPayload};

use super::super::join::Activation;
use super::*;

/// SplitMix64 (Steele, Lea, Flood 2014): the same numbers for the same seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.iter_mut().for_each(|byte| *byte = self.next() as u8);
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn data(phy: &[u8]) -> DataUp<'_> {
    match parse(phy) {
        Ok(Frame::Data(frame)) => frame,
        other => panic!("{other:?} is no data frame"),
    }
}

/// README of npm lora-packet 0.9.3 (a capture on The Things Network).
#[test]
fn the_frame_of_lora_packets_readme() {
    let phy = bytes("40F17DBE4900020001954378762B11FF0D");
    let nwk = Key::parse("44024241ed4ce9a68c6a8bc055233fd3").unwrap();
    let app = Key::parse("ec925802ae430ca77fd3dd73cb2cc588").unwrap();
    let frame = data(&phy);
    assert_eq!(frame.dev_addr(), DevAddr(0x49BE_7DF1));
    assert_eq!((frame.fcnt(), frame.port(), frame.confirmed()), (2, Some(1), false));
    assert!(frame.fopts().is_empty() && !frame.adr_ack_requested());
    assert!(frame.verify(&nwk, 2));
    assert!(!frame.verify(&nwk, 2 + (1 << 16)), "the high half counts");
    assert!(!frame.verify(&app, 2));
    assert_eq!(frame.decrypt(&nwk, &app, 2, &mut [0; MAX_PHY_BYTES]), b"test");
}

/// Documentation of lrwn 4.13.0, "LoRaWAN 1.0.x confirmed uplink" and "Join-request".
#[test]
fn the_frames_of_lrwns_documentation() {
    let phy = bytes("8004030201030000067307 0ae264d4f7e117d2c0".replace(' ', "").as_str());
    let nwk = Key::parse("0102030405060708090a0b0c0d0e0f10").unwrap();
    let app = Key::parse("100f0e0d0c0b0a090807060504030201").unwrap();
    let frame = data(&phy);
    assert_eq!(frame.dev_addr(), DevAddr(0x0102_0304));
    assert!(frame.confirmed() && frame.verify(&nwk, 0));
    assert_eq!(frame.fopts(), [6, 115, 7], "DevStatusAns");
    assert_eq!(frame.port(), Some(10));
    assert_eq!(frame.decrypt(&nwk, &app, 0, &mut [0; MAX_PHY_BYTES]), [1, 2, 3, 4]);

    let phy = bytes("000101010101010101020202020202020203 0309b97b32".replace(' ', "").as_str());
    let Ok(Frame::JoinRequest(join)) = parse(&phy) else { panic!("a JoinRequest") };
    assert_eq!((join.join_eui(), join.dev_eui()), (JoinEui([1; 8]), DevEui([2; 8])));
    assert_eq!(join.dev_nonce(), 771);
    assert!(join.verify(&nwk));
    assert!(!join.verify(&app));
}

/// Tests of the crate `lorawan` 0.9.0 (phy_dataup_payload, fcnt 1, FPort 1, "hello").
#[test]
fn the_frame_of_the_other_crate() {
    let phy = bytes("4004030201800100 01a694642615d6c3b582".replace(' ', "").as_str());
    let frame = data(&phy);
    assert!(frame.verify(&Key::new([2; 16]), 1));
    let buffer = &mut [0; MAX_PHY_BYTES];
    assert_eq!(frame.decrypt(&Key::new([2; 16]), &Key::new([1; 16]), 1, buffer), b"hello");
}

#[test]
fn what_is_no_uplink() {
    let data = bytes("40F17DBE4900020001954378762B11FF0D");
    let with = |at: usize, byte: u8| {
        let mut copy = data.clone();
        copy[at] = byte;
        copy
    };
    let table = [
        ("empty", vec![], FrameError::Short),
        ("MHDR only", vec![0x40], FrameError::Short),
        ("eleven bytes", data[..11].to_vec(), FrameError::Short),
        ("FOpts beyond the end", with(5, 0x0F), FrameError::Short),
        ("too long", [vec![0x40], vec![0; 255]].concat(), FrameError::Long),
        ("major version", with(0, 0x41), FrameError::Major),
        ("JoinAccept", with(0, 0x20), FrameError::MessageType(1)),
        ("downlink", with(0, 0x60), FrameError::MessageType(3)),
        ("RejoinRequest", with(0, 0xC0), FrameError::MessageType(6)),
        ("proprietary", with(0, 0xE0), FrameError::MessageType(7)),
        ("short JoinRequest", vec![0; 22], FrameError::Short),
        ("long JoinRequest", vec![0; 24], FrameError::Long),
        (
            "FOpts and FPort 0",
            bytes("400403020101000002000102030405"),
            FrameError::PortZeroWithFopts,
        ),
    ];
    for (what, phy, error) in table {
        assert_eq!(parse(&phy), Err(error), "{what}");
    }
}

#[test]
fn a_port_without_payload_is_a_port() {
    // MHDR, DevAddr, FCtrl, FCnt, FPort 5, MIC: the crate `lorawan` says that there is no port.
    let phy = bytes("40040302010000000500000000");
    let frame = data(&phy);
    assert_eq!((frame.port(), frame.sealed()), (Some(5), &[5][..]));
    let key = Key::new([0; 16]);
    assert_eq!(frame.decrypt(&key, &key, 0, &mut [0; MAX_PHY_BYTES]), b"");
}

#[test]
fn the_longest_frame() {
    let mut phy = vec![0x40; 255];
    phy[5] = 0;
    let frame = data(&phy);
    let key = Key::new([7; 16]);
    assert_eq!(frame.decrypt(&key, &key, 0, &mut [0; MAX_PHY_BYTES]).len(), 242);
}

#[test]
fn downlinks_open_with_lrwn() {
    let (nwk, app) = (Key::new([1; 16]), Key::new([2; 16]));
    let dev_addr = DevAddr(0x0102_0304);
    let status: &[(u8, &[u8])] = &[(2, &[20, 1]), (13, &[1, 2, 3, 4, 5])];
    for (ack, commands) in [(true, &[][..]), (false, status), (true, status)] {
        for fcnt in [0, 65_535, 65_536, u32::MAX] {
            let down = DataDown { dev_addr, ack, fcnt, commands };
            let phy = down.build(&nwk, &app).unwrap();
            let mut theirs = PhyPayload::from_slice(&phy).unwrap();
            let Payload::MACPayload(payload) = &mut theirs.payload else { panic!("data") };
            assert_eq!(payload.fhdr.f_ctrl.ack, ack);
            assert_eq!(payload.fhdr.f_cnt, fcnt & 0xFFFF);
            payload.fhdr.f_cnt = fcnt;
            let expected: Vec<u8> = commands
                .iter()
                .flat_map(|(cid, body)| std::iter::once(*cid).chain(body.iter().copied()))
                .collect();
            assert_eq!(payload.fhdr.f_opts.to_vec().unwrap(), expected);
            let key = AES128Key::from_bytes([1; 16]);
            let mic = theirs.validate_downlink_data_mic(MACVersion::LoRaWAN1_0, 0, &key);
            assert!(mic.unwrap(), "fcnt {fcnt}");
        }
    }
    let long: &[(u8, &[u8])] = &[(2, &[0; 15])];
    let down = DataDown { dev_addr, ack: true, fcnt: 0, commands: long };
    assert_eq!(down.build(&nwk, &app), None, "16 bytes do not fit FOpts");
}

#[test]
fn a_join_accept_opens_with_the_other_crate() {
    let activation = Activation {
        join_eui: JoinEui([8, 7, 6, 5, 4, 3, 2, 1]),
        dev_nonce: 258,
        join_nonce: 1,
        dev_addr: DevAddr(0x0102_0304),
    };
    let bytes = activation.join_accept(&Key::new([7; 16])).unwrap();
    assert_eq!(bytes.len(), 33);
    let theirs = AppKey::from([7; 16]);
    let accept = DecryptedJoinAcceptPayload::new(bytes, &theirs).unwrap();
    assert_eq!(accept.dev_addr().as_ref(), activation.dev_addr.to_wire());
    assert_eq!(accept.app_nonce().as_ref(), [1, 0, 0]);
    let nonce = DevNonce::from([2, 1]);
    let keys = activation.session_keys(&Key::new([7; 16])).unwrap();
    assert_eq!(accept.derive_newskey(&nonce, &theirs).as_ref(), keys.nwk_s_key.bytes());
    assert_eq!(accept.derive_appskey(&nonce, &theirs).as_ref(), keys.app_s_key.bytes());
}

/// What lrwn makes of an uplink: address, 16-bit counter, FOpts, port, payload (decrypted), MIC.
type Seen = (u32, u32, Vec<u8>, Option<u8>, Vec<u8>, bool);

fn ours(phy: &[u8], nwk: [u8; 16], app: [u8; 16], high: u32) -> Option<Seen> {
    let Ok(Frame::Data(frame)) = parse(phy) else { return None };
    let (nwk, app) = (Key::new(nwk), Key::new(app));
    let fcnt = high | u32::from(frame.fcnt());
    let buffer = &mut [0; MAX_PHY_BYTES];
    let payload = frame.decrypt(&nwk, &app, fcnt, buffer).to_vec();
    let mic = frame.verify(&nwk, fcnt);
    Some((frame.dev_addr().0, fcnt, frame.fopts().to_vec(), frame.port(), payload, mic))
}

fn theirs(phy: &[u8], nwk: [u8; 16], app: [u8; 16], high: u32) -> Option<Seen> {
    let mut frame = PhyPayload::from_slice(phy).ok()?;
    let uplink = matches!(phy[0] >> 5, 2 | 4);
    let Payload::MACPayload(payload) = &mut frame.payload else { return None };
    if !uplink || phy[0] & 3 != 0 || phy.len() > MAX_PHY_BYTES {
        return None;
    }
    payload.fhdr.f_cnt |= high;
    let (address, fcnt) = (payload.fhdr.devaddr.to_be_bytes(), payload.fhdr.f_cnt);
    let (port, fopts) = (payload.f_port, payload.fhdr.f_opts.to_vec().unwrap());
    if port == Some(0) && !fopts.is_empty() {
        return None;
    }
    let (nwk, app) = (AES128Key::from_bytes(nwk), AES128Key::from_bytes(app));
    let version = MACVersion::LoRaWAN1_0;
    let mic = frame.validate_uplink_data_mic(version, 0, 0, 0, &nwk, &nwk).unwrap();
    // Encryption is its own inverse; lrwn's decryption would parse MAC commands and drop RFU bits.
    frame.encrypt_frm_payload(if port == Some(0) { &nwk } else { &app }).ok();
    let Payload::MACPayload(payload) = &frame.payload else { return None };
    let payload = match &payload.frm_payload {
        None => Vec::new(),
        Some(FRMPayload::Raw(bytes)) => bytes.clone(),
        Some(other) => panic!("{other:?} is no plain payload"),
    };
    Some((u32::from_be_bytes(address), fcnt, fopts, port, payload, mic))
}

/// Random bytes, and valid frames with a few bytes changed or cut: both crates must see the same.
/// `LORA_DIFFERENTIAL_FRAMES` sets their number (a million in the long test).
#[test]
fn a_million_frames_look_the_same_to_lrwn() {
    let count = std::env::var("LORA_DIFFERENTIAL_FRAMES");
    let count = count.map_or(100_000, |text| text.parse().expect("a number of frames"));
    let seed = std::env::var("LORA_DIFFERENTIAL_SEED");
    let seed = seed.map_or(1, |text| text.parse().expect("a seed"));
    let mut random = Random::new(seed);
    let (mut frames, mut good_mics) = (0, 0);
    for number in 0_u32..count {
        let (mut nwk, mut app) = ([0; 16], [0; 16]);
        random.fill(&mut nwk);
        random.fill(&mut app);
        let high = if random.below(2) == 0 { 0 } else { (random.next() as u32) << 16 };
        let phy = match random.below(4) {
            0 => {
                let mut phy = vec![0; random.below(260) as usize];
                random.fill(&mut phy);
                if let Some(mhdr) = phy.first_mut() {
                    *mhdr = (*mhdr & 0x80) | 0x40;
                }
                phy
            }
            damage => {
                let mut phy = valid_frame(&mut random, nwk, app, high);
                if damage > 1 {
                    let at = random.below(phy.len() as u64) as usize;
                    phy[at] ^= random.next() as u8;
                }
                if damage > 2 {
                    phy.truncate(random.below(phy.len() as u64 + 1) as usize);
                }
                phy
            }
        };
        // lrwn opens the frames of relays (FPort 226), which 1.0.4 devices do not send.
        let relay = ours(&phy, nwk, app, high).is_some_and(|seen| seen.3 == Some(226));
        if relay {
            continue;
        }
        let (ours, mut theirs) = (ours(&phy, nwk, app, high), theirs(&phy, nwk, app, high));
        if let (Some(ours), Some(theirs)) = (&ours, &mut theirs)
            && phy[0] & 0b1_1100 != 0
        {
            // lrwn forgets the RFU bits of MHDR and then finds the MIC good; it covers them
            // (TS001-1.0.4 section 4.4: the MIC is over MHDR as sent).
            theirs.5 = ours.5;
        }
        assert_eq!(ours, theirs, "frame {number} of seed {seed}: {phy:02x?}");
        frames += u32::from(ours.is_some());
        good_mics += u32::from(ours.is_some_and(|seen| seen.5));
    }
    assert!(frames > count / 4, "{frames} of {count} are frames");
    assert!(good_mics > count / 8, "{good_mics} of {count} have a good MIC");
}

/// A frame that lrwn makes, with all sizes of FOpts and payload.
fn valid_frame(random: &mut Random, nwk: [u8; 16], app: [u8; 16], high: u32) -> Vec<u8> {
    let port = [None, Some(0), Some(1), Some(random.next() as u8)][random.below(4) as usize];
    let mut fopts = vec![0; if port == Some(0) { 0 } else { random.below(16) as usize }];
    random.fill(&mut fopts);
    let mut payload = vec![0; if port.is_none() { 0 } else { random.below(200) as usize }];
    random.fill(&mut payload);
    let frm_payload = (!payload.is_empty()).then_some(FRMPayload::Raw(payload));
    let f_type = [lrwn::FType::UnconfirmedDataUp, lrwn::FType::ConfirmedDataUp];
    let mut frame = PhyPayload {
        mhdr: lrwn::MHDR {
            f_type: f_type[random.below(2) as usize],
            major: lrwn::Major::LoRaWANR1,
        },
        payload: Payload::MACPayload(lrwn::MACPayload {
            fhdr: lrwn::FHDR {
                devaddr: lrwn::DevAddr::from_be_bytes((random.next() as u32).to_be_bytes()),
                f_ctrl: lrwn::FCtrl { adr: random.below(2) == 0, ..lrwn::FCtrl::default() },
                f_cnt: high | random.below(65_536) as u32,
                f_opts: lrwn::MACCommandSet::new(vec![lrwn::MACCommand::Raw(fopts)]),
            },
            f_port: port,
            frm_payload,
        }),
        mic: None,
    };
    let key = AES128Key::from_bytes(if port == Some(0) { nwk } else { app });
    frame.encrypt_frm_payload(&key).ok();
    let nwk = AES128Key::from_bytes(nwk);
    frame.set_uplink_data_mic(MACVersion::LoRaWAN1_0, 0, 0, 0, &nwk, &nwk).unwrap();
    frame.to_vec().unwrap()
}
