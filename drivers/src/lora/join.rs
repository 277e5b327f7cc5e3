//! Over-the-air activation (TS001-1.0.4 section 6.2): which DevNonce may be used, the JoinAccept,
//! the session keys.
//!
//! The JoinAccept with its CFList and the key derivation come from `lrwn`. JoinNonces are handed
//! in: this module counts nothing by itself.

use lrwn::{
    AES128Key, CFList, CFListChannels, DLSettings, EUI64, FType, JoinAcceptPayload, JoinType, MHDR,
    Major, NetID, Payload, PhyPayload, keys,
};

use super::ids::{DevAddr, DevEui, JoinEui, Key};
use super::region::{CFLIST_CHANNELS_HZ, RX2_DATA_RATE};

/// NetID of private networks (RP002, LoRa Alliance: 000000 and 000001 need no assignment).
const NET_ID: [u8; 3] = [0, 0, 0];
/// NetID 000000 gives 7 bits of prefix, all zero; 25 bits address devices.
const NWK_ADDR_BITS: u32 = 25;

/// Most used DevNonces remembered of a device that draws them at random.
pub const MAX_USED_NONCES: usize = 1_024;

/// Which LoRaWAN version a device speaks, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 1.0.4: DevNonce is a counter that only grows (section 6.2.2).
    V1_0_4,
    /// 1.0.2 and 1.0.3: DevNonce is random; used ones are refused.
    V1_0_3,
}

/// The DevNonces that a device has used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DevNonces {
    /// 1.0.4: the highest, once there was one.
    Counter(Option<u16>),
    /// 1.0.2 and 1.0.3: those used, oldest first, at most [`MAX_USED_NONCES`].
    Used(Vec<u16>),
}

impl DevNonces {
    /// Nothing used yet.
    #[must_use]
    pub const fn new(version: Version) -> Self {
        match version {
            Version::V1_0_4 => Self::Counter(None),
            Version::V1_0_3 => Self::Used(Vec::new()),
        }
    }

    /// Takes `nonce` as used; `false` when it may not be used (again).
    pub fn take(&mut self, nonce: u16) -> bool {
        match self {
            Self::Counter(highest) => {
                let fresh = highest.is_none_or(|highest| nonce > highest);
                if fresh {
                    *highest = Some(nonce);
                }
                fresh
            }
            Self::Used(used) => {
                if used.contains(&nonce) {
                    return false;
                }
                if used.len() == MAX_USED_NONCES {
                    used.remove(0);
                }
                used.push(nonce);
                true
            }
        }
    }
}

/// What a JoinAccept tells the device, and what both ends derive the keys from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activation {
    /// JoinEUI of the JoinRequest.
    pub join_eui: JoinEui,
    /// DevNonce of the JoinRequest.
    pub dev_nonce: u16,
    /// JoinNonce, 24 bits, never used before for this device.
    pub join_nonce: u32,
    /// Address in the new session.
    pub dev_addr: DevAddr,
}

/// Session keys of LoRaWAN 1.0.x.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionKeys {
    /// NwkSKey: MIC, and payload of FPort 0.
    pub nwk_s_key: Key,
    /// AppSKey: payload of the other ports.
    pub app_s_key: Key,
}

impl Activation {
    /// The JoinAccept as it goes on the air: 33 bytes, with the five further channels of EU868,
    /// RX1 after 1 s and the regional RX2 (section 6.2.3). `None` when JoinNonce exceeds 24 bits.
    #[must_use]
    pub fn join_accept(&self, app_key: &Key) -> Option<Vec<u8>> {
        if self.join_nonce >= 1 << 24 {
            return None;
        }
        let key = AES128Key::from_bytes(*app_key.bytes());
        let mut frame = PhyPayload {
            mhdr: MHDR { f_type: FType::JoinAccept, major: Major::LoRaWANR1 },
            payload: Payload::JoinAccept(JoinAcceptPayload {
                join_nonce: self.join_nonce,
                home_netid: NetID::from_be_bytes(NET_ID),
                devaddr: lrwn::DevAddr::from_be_bytes(self.dev_addr.0.to_be_bytes()),
                dl_settings: DLSettings {
                    opt_neg: false,
                    rx2_dr: RX2_DATA_RATE.number(),
                    rx1_dr_offset: 0,
                },
                rx_delay: 1,
                cflist: Some(CFList::Channels(CFListChannels::new(CFLIST_CHANNELS_HZ))),
            }),
            mic: None,
        };
        let join_eui = EUI64::from_be_bytes(self.join_eui.0);
        frame.set_join_accept_mic(JoinType::Join, &join_eui, self.dev_nonce, &key).ok()?;
        frame.encrypt_join_accept_payload(&key).ok()?;
        frame.to_vec().ok()
    }

    /// NwkSKey and AppSKey (section 6.2.3.1.5). `None` cannot happen for a 24-bit JoinNonce.
    #[must_use]
    pub fn session_keys(&self, app_key: &Key) -> Option<SessionKeys> {
        let key = AES128Key::from_bytes(*app_key.bytes());
        let net_id = NetID::from_be_bytes(NET_ID);
        let join_eui = EUI64::from_be_bytes(self.join_eui.0);
        let (join_nonce, dev_nonce) = (self.join_nonce, self.dev_nonce);
        let nwk = keys::get_f_nwk_s_int_key(false, &key, &net_id, &join_eui, join_nonce, dev_nonce);
        let app = keys::get_app_s_key(false, &key, &net_id, &join_eui, join_nonce, dev_nonce);
        Some(SessionKeys {
            nwk_s_key: Key::new(nwk.ok()?.to_bytes()),
            app_s_key: Key::new(app.ok()?.to_bytes()),
        })
    }
}

/// The address to try as number `attempt` for a new session: the same for the same arguments,
/// spread over the 25 bits that NetID 000000 leaves.
#[must_use]
pub fn dev_addr_candidate(dev_eui: DevEui, join_nonce: u32, attempt: u32) -> DevAddr {
    // SplitMix64's finaliser (Steele, Lea, Flood 2014): spreads, hides nothing, need not.
    let mut word = u64::from_be_bytes(dev_eui.0) ^ (u64::from(join_nonce) << 32);
    word =
        word.wrapping_add(u64::from(attempt).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^= word >> 31;
    DevAddr((word >> (64 - NWK_ADDR_BITS)) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dev_nonces_of_a_counting_device() {
        let mut nonces = DevNonces::new(Version::V1_0_4);
        let table =
            [(0, true), (0, false), (1, true), (7, true), (7, false), (3, false), (8, true)];
        for (nonce, fresh) in table {
            assert_eq!(nonces.take(nonce), fresh, "{nonce}");
        }
        assert!(nonces.take(u16::MAX));
        assert!(!nonces.take(0), "a device must be given a new AppKey after 65 536 joins");
    }

    #[test]
    fn dev_nonces_of_a_random_device() {
        let mut nonces = DevNonces::new(Version::V1_0_3);
        assert!(nonces.take(500));
        assert!(nonces.take(3), "lower is allowed");
        assert!(!nonces.take(500), "used");
        for nonce in 1_000..1_000 + MAX_USED_NONCES as u16 {
            assert!(nonces.take(nonce));
        }
        let DevNonces::Used(used) = &nonces else { panic!("1.0.3 keeps a list") };
        assert_eq!(used.len(), MAX_USED_NONCES);
    }

    #[test]
    fn a_join_nonce_has_24_bits() {
        let mut activation = Activation {
            join_eui: JoinEui([0; 8]),
            dev_nonce: 0,
            join_nonce: (1 << 24) - 1,
            dev_addr: DevAddr(0),
        };
        assert!(activation.join_accept(&Key::new([7; 16])).is_some());
        activation.join_nonce += 1;
        assert!(activation.join_accept(&Key::new([7; 16])).is_none());
    }

    #[test]
    fn addresses_stay_within_the_private_prefix() {
        let eui = DevEui([0x70, 0xB3, 0xD5, 0x7E, 0xD0, 0, 0, 1]);
        for attempt in 0..1_000 {
            assert_eq!(dev_addr_candidate(eui, 5, attempt).0 >> NWK_ADDR_BITS, 0);
        }
        assert_ne!(dev_addr_candidate(eui, 5, 0), dev_addr_candidate(eui, 5, 1));
        assert_ne!(dev_addr_candidate(eui, 5, 0), dev_addr_candidate(eui, 6, 0));
    }
}
