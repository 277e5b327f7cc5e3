//! Published vectors of the primitives, the vectors of `PROTOCOL.md`, and refusals.

extern crate std;
use std::format;
use std::vec::Vec;

use super::*;
use crate::frame::{Frame, MAX_WIRE, to_wire};

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(core::str::from_utf8(pair).expect("ASCII"), 16);
    digits.map(|pair| byte(pair).expect("hex")).collect()
}

fn hex(bytes: &[u8]) -> std::string::String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn ascon(key: &[u8], nonce: &[u8], ad: &[u8], plain: &[u8]) -> Vec<u8> {
    let cipher = AsconAead128::new(key.try_into().expect("16 bytes"));
    let mut out = plain.to_vec();
    let nonce = nonce.try_into().expect("16 bytes");
    let tag = cipher
        .encrypt_inout_detached(nonce, ad, InOutBuf::from(&mut out[..]))
        .expect("short enough");
    out.extend_from_slice(&tag);
    out
}

/// Ascon-AEAD128 of NIST SP 800-232: known answers of the designers' reference code
/// (ascon-c, crypto_aead/asconaead128/LWC_AEAD_KAT_128_128.txt), key 00..0F, nonce 10..1F,
/// plaintext 20.., associated data 30...
#[test]
fn ascon_aead128_of_sp_800_232() {
    let key = unhex("000102030405060708090A0B0C0D0E0F");
    let nonce = unhex("101112131415161718191A1B1C1D1E1F");
    let table = [
        ("", "", "4F9C278211BEC9316BF68F46EE8B2EC6"),
        ("", "30", "CCCB674FE18A09A285D6AB11B35675C0"),
        ("", "3031323334353637", "865C594093A9EDEE2C1D6384CCB4939E"),
        ("", "303132333435363738393A3B3C3D3E3F", "E4230CDB8330EE9DC0CFD7C7B346E6DC"),
        ("", "303132333435363738393A3B3C3D3E3F40", "BD8851CD3AF9847844839A791DD70E8C"),
        ("20", "30", "962B8016836C75A7D86866588CA245D886"),
        (
            "202122232425262728292A2B2C2D2E2F",
            "",
            "E8C3DEEE246CC5EAE3E872313897A2BB9EAA915C9DD3245D77048F24D46D27A7",
        ),
        (
            "202122232425262728292A2B2C2D2E2F30",
            "",
            "E8C3DEEE246CC5EAE3E872313897A2BB60301002539D456275DD0B0CEAB3B23844",
        ),
        (
            "202122232425262728292A2B2C2D2E2F303132333435363738393A3B3C3D3E3F",
            "303132333435363738393A3B3C3D3E3F404142434445464748494A4B4C4D4E4F",
            "CB34D04660A66DBFBE9C856601F5B8AA51A499B55AC8F7FBEFBC331A613EE9CD\
             FD191750A47F211C0A15ED28173D7CAA",
        ),
    ];
    for (plain, ad, expected) in table {
        assert_eq!(ascon(&key, &nonce, &unhex(ad), &unhex(plain)), unhex(expected), "{plain}/{ad}");
    }
}

/// RFC 5869 appendix A.1 and A.3.
#[test]
fn hkdf_of_rfc_5869() {
    let a1 = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865";
    let a3 = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8";
    let table = [("000102030405060708090a0b0c", "f0f1f2f3f4f5f6f7f8f9", a1), ("", "", a3)];
    for (salt, info, expected) in table {
        let mut okm = [0; 42];
        Hkdf::<Sha256>::new(Some(&unhex(salt)), &[0x0b; 22])
            .expand(&unhex(info), &mut okm)
            .expect("42 bytes");
        assert_eq!(hex(&okm), expected);
    }
}

/// RFC 4231 section 4.3 (test case 2).
#[test]
fn hmac_of_rfc_4231() {
    let mut mac = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(b"Jefe").expect("any length");
    mac.update(b"what do ya want for nothing?");
    assert_eq!(
        hex(&mac.finalize().into_bytes()),
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    );
}

fn key() -> SharedKey {
    let mut psk = [0; PSK];
    psk.iter_mut().zip(0x10..).for_each(|(byte, value)| *byte = value);
    SharedKey::new(DeviceId([0xA0, 0xA1, 0xA2, 0xA3, 0xA4, 0xA5, 0xA6, 0xA7]), psk)
}

const LAST: LastStored = LastStored { session: SessionId([1, 2, 3, 4]), counter: 5 };

fn handshake() -> ([u8; HELLO], [u8; CHALLENGE], SessionKeys) {
    let hello = key().hello(&[0x20; NONCE]);
    let challenge = key().challenge(&hello, &[0x30; NONCE], LAST);
    let keys = key().session(&hello, &challenge);
    (hello, challenge, keys)
}

/// The vectors of `PROTOCOL.md` section 8, which the independent peer checks as well.
#[test]
fn vectors_of_protocol_md() {
    let protocol = include_str!("../../../PROTOCOL.md");
    let (hello, challenge, keys) = handshake();
    let mut frame = [0; MAX_FRAME];
    let mut sealed = |kind, counter, payload: &[u8]| {
        let length = keys.seal(kind, counter, payload, &mut frame);
        frame[..length].to_vec()
    };
    let senml = unhex("81a3006b74656d7065726174757265016343656c02f94d60");
    let confirm = sealed(Kind::Confirm, 0, &[]);
    let reading = sealed(Kind::Senml, 1, &senml);
    let raw = sealed(Kind::Bytes, 2, &[0, 1, 2, 0]);
    let acknowledge = sealed(Kind::Acknowledge, 1, &[]);
    let mut wire = [0; MAX_WIRE];
    let length = to_wire(&reading, &mut wire);
    let vectors = [
        ("hello", hello.to_vec()),
        ("challenge", challenge.to_vec()),
        ("transcript", keys.digest().to_vec()),
        ("sensor_key", keys.sensor.to_vec()),
        ("gateway_key", keys.gateway.to_vec()),
        ("session", keys.id().0.to_vec()),
        ("confirm", confirm),
        ("senml", senml),
        ("reading", reading.clone()),
        ("reading_wire", wire[..length].to_vec()),
        ("bytes", raw),
        ("acknowledge", acknowledge),
    ];
    for (name, bytes) in vectors {
        let line = format!("{name} = {}\n", hex(&bytes));
        assert!(protocol.contains(&line), "PROTOCOL.md should say: {line}");
    }
}

#[test]
fn handshake_frames_answer_only_to_their_key_and_to_each_other() {
    let (hello, challenge, _) = handshake();
    let other = SharedKey::new(key().device(), [9; PSK]);
    let renamed = SharedKey::new(DeviceId([1; 8]), key().psk);
    assert_eq!(key().check_hello(&hello), Ok(()));
    assert_eq!(other.check_hello(&hello), Err(WrongKey));
    assert_eq!(renamed.check_hello(&hello), Err(WrongKey));
    assert_eq!(key().check_challenge(&hello, &challenge), Ok(LAST));
    assert_eq!(other.check_challenge(&hello, &challenge), Err(WrongKey));
    let another = key().hello(&[0x21; NONCE]);
    assert_eq!(key().check_challenge(&another, &challenge), Err(WrongKey));
    for bit in 0..CHALLENGE * 8 {
        let mut flipped = challenge;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(key().check_challenge(&hello, &flipped), Err(WrongKey), "bit {bit}");
    }
    for bit in 0..HELLO * 8 {
        let mut flipped = hello;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(key().check_hello(&flipped), Err(WrongKey), "bit {bit}");
    }
}

#[test]
fn sealed_frames_open_once_and_unchanged() {
    let (_, _, keys) = handshake();
    for length in [0, 1, 15, 16, 17, MAX_PAYLOAD] {
        let payload: Vec<u8> = (0..length).map(|index| index as u8).collect();
        let mut frame = [0; MAX_FRAME];
        let sealed = keys.seal(Kind::Senml, u64::MAX, &payload, &mut frame);
        let mut out = [0; MAX_PAYLOAD];
        let parsed = match Frame::parse(&frame[..sealed]) {
            Ok(Frame::Sealed(parsed)) => parsed,
            other => panic!("{other:?}"),
        };
        assert_eq!(keys.open(&parsed, &mut out), Ok(&payload[..]));
        for bit in 0..sealed * 8 {
            let mut flipped = frame;
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(Frame::Sealed(parsed)) = Frame::parse(&flipped[..sealed]) {
                assert_eq!(keys.open(&parsed, &mut out), Err(WrongKey), "bit {bit}");
            }
        }
    }
}

#[test]
fn exported_keys_are_the_same_keys() {
    let (_, _, keys) = handshake();
    let again = SessionKeys::import(key().device(), &keys.export());
    let mut frame = [0; MAX_FRAME];
    let length = again.seal(Kind::Acknowledge, 3, &[], &mut frame);
    let Ok(Frame::Sealed(parsed)) = Frame::parse(&frame[..length]) else { panic!("sealed") };
    assert_eq!(keys.open(&parsed, &mut [0; MAX_PAYLOAD]), Ok(&[][..]));
    assert_eq!((again.id(), again.digest()), (keys.id(), keys.digest()));
    assert_eq!(format!("{:?}", key()), "SharedKey(A0A1A2A3A4A5A6A7)");
}
