//! A LoRaWAN device and a packet forwarder made of `lrwn` alone, for unit tests and benchmarks:
//! fast, in memory, and apart from the crate that reads the frames. It is no part of the product.

use lrwn::{
    AES128Key, DevAddr, EUI64, FCtrl, FHDR, FRMPayload, FType, JoinRequestPayload, JoinType,
    MACCommand, MACCommandSet, MACPayload, MACVersion, MHDR, Major, NetID, Payload, PhyPayload,
    keys,
};

/// A device on OTAA.
#[derive(Clone, Debug)]
pub(crate) struct TestDevice {
    pub(crate) dev_eui: [u8; 8],
    pub(crate) join_eui: [u8; 8],
    pub(crate) app_key: [u8; 16],
    /// DevNonce of the next JoinRequest.
    pub(crate) dev_nonce: u16,
    pub(crate) session: Option<TestSession>,
}

/// Its session.
#[derive(Clone, Debug)]
pub(crate) struct TestSession {
    pub(crate) dev_addr: u32,
    pub(crate) join_nonce: u32,
    nwk_s_key: AES128Key,
    app_s_key: AES128Key,
    /// FCntUp of the next uplink.
    pub(crate) fcnt: u32,
}

/// What an uplink consists of.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Up<'a> {
    pub(crate) confirmed: bool,
    pub(crate) port: Option<u8>,
    pub(crate) payload: &'a [u8],
    pub(crate) fopts: &'a [u8],
    pub(crate) adr_ack_req: bool,
}

/// A data downlink that the device accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Down {
    pub(crate) ack: bool,
    pub(crate) fcnt: u32,
    pub(crate) fopts: Vec<u8>,
}

impl TestDevice {
    /// Device number `number`, all of them with AppKeys of their own.
    pub(crate) fn new(number: u64) -> Self {
        let mut app_key = [0xA5; 16];
        app_key[8..].copy_from_slice(&number.to_be_bytes());
        Self {
            dev_eui: (0x70B3_D57E_D000_0000 + number).to_be_bytes(),
            join_eui: 1_u64.to_be_bytes(),
            app_key,
            dev_nonce: 1,
            session: None,
        }
    }

    fn key(&self) -> AES128Key {
        AES128Key::from_bytes(self.app_key)
    }

    /// A JoinRequest with the next DevNonce.
    pub(crate) fn join_request(&mut self) -> Vec<u8> {
        let mut frame = PhyPayload {
            mhdr: MHDR { f_type: FType::JoinRequest, major: Major::LoRaWANR1 },
            payload: Payload::JoinRequest(JoinRequestPayload {
                join_eui: EUI64::from_be_bytes(self.join_eui),
                dev_eui: EUI64::from_be_bytes(self.dev_eui),
                dev_nonce: self.dev_nonce,
            }),
            mic: None,
        };
        self.dev_nonce += 1;
        frame.set_join_request_mic(&self.key()).expect("a JoinRequest has a MIC");
        frame.to_vec().expect("a JoinRequest has bytes")
    }

    /// Takes the JoinAccept to the last JoinRequest; `false` when it is not for this device.
    pub(crate) fn join_accept(&mut self, phy: &[u8]) -> bool {
        let (key, dev_nonce) = (self.key(), self.dev_nonce - 1);
        let join_eui = EUI64::from_be_bytes(self.join_eui);
        let Ok(mut frame) = PhyPayload::from_slice(phy) else { return false };
        if frame.mhdr.f_type != FType::JoinAccept
            || frame.decrypt_join_accept_payload(&key).is_err()
        {
            return false;
        }
        let mic = frame.validate_join_accept_mic(JoinType::Join, &join_eui, dev_nonce, &key);
        let Payload::JoinAccept(accept) = &frame.payload else { return false };
        if !mic.is_ok_and(|good| good) {
            return false;
        }
        let (nonce, net_id) = (accept.join_nonce, accept.home_netid);
        let derive = |f: fn(bool, &_, &NetID, &_, u32, u16) -> _| {
            let key: Result<AES128Key, _> = f(false, &key, &net_id, &join_eui, nonce, dev_nonce);
            key.expect("keys are derived")
        };
        self.session = Some(TestSession {
            dev_addr: u32::from_be_bytes(accept.devaddr.to_be_bytes()),
            join_nonce: nonce,
            nwk_s_key: derive(keys::get_f_nwk_s_int_key),
            app_s_key: derive(keys::get_app_s_key),
            fcnt: 0,
        });
        true
    }

    /// An uplink with the next counter.
    pub(crate) fn up(&mut self, up: Up<'_>) -> Vec<u8> {
        let session = self.session.as_mut().expect("the device has joined");
        session.fcnt += 1;
        let session = session.clone();
        session.up(session.fcnt - 1, up)
    }

    /// What a data downlink says, if it is for this device and its MIC is right for `fcnt`'s high
    /// half.
    pub(crate) fn down(&self, phy: &[u8], fcnt_high: u32) -> Option<Down> {
        let session = self.session.as_ref()?;
        let mut frame = PhyPayload::from_slice(phy).ok()?;
        if frame.mhdr.f_type != FType::UnconfirmedDataDown {
            return None;
        }
        let Payload::MACPayload(payload) = &mut frame.payload else { return None };
        payload.fhdr.f_cnt |= fcnt_high;
        let down = Down {
            ack: payload.fhdr.f_ctrl.ack,
            fcnt: payload.fhdr.f_cnt,
            fopts: payload.fhdr.f_opts.to_vec().ok()?,
        };
        let address = u32::from_be_bytes(payload.fhdr.devaddr.to_be_bytes());
        let version = MACVersion::LoRaWAN1_0;
        let mic = frame.validate_downlink_data_mic(version, 0, &session.nwk_s_key).ok()?;
        (mic && address == session.dev_addr).then_some(down)
    }
}

impl TestSession {
    /// An uplink with this counter.
    pub(crate) fn up(&self, fcnt: u32, up: Up<'_>) -> Vec<u8> {
        let f_type = if up.confirmed { FType::ConfirmedDataUp } else { FType::UnconfirmedDataUp };
        let raw = MACCommandSet::new(vec![MACCommand::Raw(up.fopts.to_vec())]);
        let mut frame = PhyPayload {
            mhdr: MHDR { f_type, major: Major::LoRaWANR1 },
            payload: Payload::MACPayload(MACPayload {
                fhdr: FHDR {
                    devaddr: DevAddr::from_be_bytes(self.dev_addr.to_be_bytes()),
                    f_ctrl: FCtrl { adr_ack_req: up.adr_ack_req, ..FCtrl::default() },
                    f_cnt: fcnt,
                    f_opts: raw,
                },
                f_port: up.port,
                frm_payload: up.port.map(|_| FRMPayload::Raw(up.payload.to_vec())),
            }),
            mic: None,
        };
        let key = if up.port == Some(0) { &self.nwk_s_key } else { &self.app_s_key };
        if up.port.is_some() {
            frame.encrypt_frm_payload(key).expect("a payload can be encrypted");
        }
        let nwk = &self.nwk_s_key;
        frame.set_uplink_data_mic(MACVersion::LoRaWAN1_0, 0, 0, 0, nwk, nwk).expect("a MIC");
        frame.to_vec().expect("an uplink has bytes")
    }
}

/// EUI of forwarder number `number`.
pub(crate) fn forwarder(number: u8) -> [u8; 8] {
    [0xAA, 0x55, 0x5A, 0, 0, 0, 1, number]
}

/// A PULL_DATA.
pub(crate) fn pull_data(forwarder: [u8; 8]) -> Vec<u8> {
    [&[2, 0x12, 0x34, 2][..], &forwarder].concat()
}

/// A PUSH_DATA with this JSON.
pub(crate) fn push_json(forwarder: [u8; 8], json: &str) -> Vec<u8> {
    [&[2, 0xAB, 0xCD, 0][..], &forwarder, json.as_bytes()].concat()
}

/// A PUSH_DATA with one packet on 868.1 MHz at SF7.
pub(crate) fn push(forwarder: [u8; 8], tmst: u32, snr: f32, phy: &[u8]) -> Vec<u8> {
    let json = format!(
        concat!(
            r#"{{"rxpk":[{{"time":"2026-01-01T00:00:00.000000Z","tmst":{},"chan":0,"rfch":0,"#,
            r#""freq":868.100000,"stat":1,"modu":"LORA","datr":"SF7BW125","codr":"4/5","#,
            r#""rssi":-71,"lsnr":{:.1},"size":{},"data":"{}"}}]}}"#
        ),
        tmst,
        snr,
        phy.len(),
        base64(phy)
    );
    push_json(forwarder, &json)
}

/// A TX_ACK with this error code, or without JSON.
pub(crate) fn tx_ack(forwarder: [u8; 8], token: [u8; 2], error: Option<&str>) -> Vec<u8> {
    let json = error.map_or(String::new(), |e| format!(r#"{{"txpk_ack":{{"error":"{e}"}}}}"#));
    [&[2, token[0], token[1], 5][..], &forwarder, json.as_bytes()].concat()
}

/// Base64 of RFC 4648 with padding, by bits.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits: Vec<u8> =
        bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let mut text: String = bits
        .chunks(6)
        .map(|six| {
            let value = (0..6).fold(0, |value, bit| value << 1 | six.get(bit).unwrap_or(&0));
            char::from(ALPHABET[usize::from(value)])
        })
        .collect();
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    text
}

/// Inverse of [`base64`], for the text of a PULL_RESP.
pub(crate) fn unbase64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits: Vec<u8> = text
        .bytes()
        .filter_map(|byte| ALPHABET.iter().position(|one| *one == byte))
        .flat_map(|value| (0..6).rev().map(move |bit| (value >> bit & 1) as u8))
        .collect();
    bits.chunks_exact(8).map(|byte| byte.iter().fold(0, |value, bit| value << 1 | bit)).collect()
}
