use super::*;

fn header(algorithms: &[(u16, u16)]) -> Vec<u8> {
    let mut data = SPEC_ID_EVENT_03.to_vec();
    data.extend_from_slice(&[0, 0, 0, 0, 0, 2, 105, 2]);
    data.extend_from_slice(&(algorithms.len() as u32).to_le_bytes());
    for (id, len) in algorithms {
        data.extend_from_slice(&id.to_le_bytes());
        data.extend_from_slice(&len.to_le_bytes());
    }
    data.push(0);
    legacy(0, kind::NO_ACTION, &data)
}

fn legacy(pcr: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let fields = [pcr.to_le_bytes().as_slice(), &kind.to_le_bytes(), &[0; 20]].concat();
    [fields.as_slice(), &(data.len() as u32).to_le_bytes(), data].concat()
}

fn agile(pcr: u32, kind: u32, digest: [u8; 32], data: &[u8]) -> Vec<u8> {
    let mut out = [pcr.to_le_bytes(), kind.to_le_bytes(), 1u32.to_le_bytes()].concat();
    out.extend_from_slice(&ALG_SHA256.to_le_bytes());
    out.extend_from_slice(&digest);
    out.extend_from_slice(&(data.len() as u32).to_le_bytes());
    out.extend_from_slice(data);
    out
}

fn parsed(bytes: &[u8]) -> EventLog<'_> {
    EventLog::parse(bytes).unwrap()
}

#[test]
fn digests_are_extended_in_order_and_no_action_never() {
    let log = [
        header(&[(0x0b, 32)]),
        agile(7, 0x8000_0001, [1; 32], b"a"),
        agile(7, kind::NO_ACTION, [9; 32], b"never extended"),
        agile(u32::MAX, kind::NO_ACTION, [9; 32], b"no register at all"),
        agile(7, 0xdead_beef, [2; 32], &[0xff; 9]),
    ]
    .concat();
    let registers = parsed(&log).replay().unwrap();
    let once = sha256(&[&[0; 32], &[1; 32]]);
    assert_eq!(registers[7], sha256(&[&once, &[2; 32]]));
    assert_eq!((registers[0], registers[17]), ([0; 32], [0xff; 32]));
    let expected = [(4, 0xdead_beef, 9)];
    let last: Vec<_> = parsed(&log)
        .extending(7)
        .skip(1)
        .map(|event| (event.index, event.kind, event.data.len()))
        .collect();
    assert_eq!(last, expected);
}

#[test]
fn the_startup_locality_is_where_register_0_begins() {
    for (locality, first) in [(3, 3), (4, 4), (0, 0), (2, 0)] {
        let data = [STARTUP_LOCALITY.as_slice(), &[locality]].concat();
        let log = [header(&[(0x0b, 32)]), agile(0, kind::NO_ACTION, [0; 32], &data)].concat();
        assert_eq!(parsed(&log).replay().unwrap()[0][31], first);
        // Also as the first event of a log without a header.
        assert_eq!(parsed(&legacy(0, kind::NO_ACTION, &data)).replay().unwrap()[0][31], first);
    }
}

#[test]
fn padding_ends_a_log_and_a_log_of_sha_1_has_nothing_to_replay() {
    let event = agile(4, kind::SEPARATOR, [1; 32], &[0; 4]);
    for padding in [vec![], vec![0; 7], vec![0xff; 300], vec![0; 5000]] {
        let log = [header(&[(4, 20), (0x0b, 32)]), event.clone(), padding].concat();
        assert_eq!(parsed(&log).events().len(), 2);
    }
    let log = [header(&[(0x0b, 32)]), event.clone(), vec![0, 0xff]].concat();
    assert!(EventLog::parse(&log).is_err(), "neither padding nor an event");
    let log = [legacy(4, kind::SEPARATOR, &[0; 4]), legacy(4, kind::IPL, b"x")].concat();
    assert_eq!(parsed(&log).events().len(), 2);
    assert_eq!(parsed(&log).replay(), None);
    assert_eq!(parsed(&[]).replay().unwrap()[1], [0; 32]);
}

#[test]
fn every_bound_is_kept_and_names_the_event() {
    let start = header(&[(0x0b, 32)]);
    let mut many = start.clone();
    many.extend([4u32, kind::SEPARATOR, 2].map(u32::to_le_bytes).concat());
    let mut unknown = agile(4, kind::SEPARATOR, [1; 32], &[0; 4]);
    unknown[12] = 0x0c;
    let mut huge = agile(4, kind::SEPARATOR, [1; 32], &[0; 4]);
    huge[46..50].copy_from_slice(&u32::MAX.to_le_bytes());
    for (bytes, field) in [
        ([start.clone(), agile(24, kind::IPL, [1; 32], b"")].concat(), "event.pcrIndex"),
        (many, "event.digests.count"),
        ([start.clone(), unknown].concat(), "event.digest.algorithm"),
        ([start.clone(), huge].concat(), "event.data"),
    ] {
        let error = EventLog::parse(&bytes).unwrap_err();
        let EventLogError::Event { index, offset, .. } = &error else { panic!("{error}") };
        assert_eq!((*index, *offset), (1, start.len()));
        assert!(error.to_string().contains(field), "{error}");
    }
    for algorithms in [vec![], vec![(0x0b, 31)], vec![(0x0c, 200)], vec![(0x0b, 32); 2]] {
        assert!(EventLog::parse(&header(&algorithms)).is_err(), "{algorithms:?}");
    }
    let long = vec![1; MAX_EVENT_LOG_LEN + 1];
    assert_eq!(EventLog::parse(&long), Err(EventLogError::TooLong { len: long.len() }));
}

#[test]
fn a_cut_is_an_error_or_fewer_events() {
    let event = agile(4, kind::SEPARATOR, [1; 32], &[7; 4]);
    let log = [header(&[(0x0b, 32)]), event.clone(), event.clone()].concat();
    let whole = parsed(&log).replay();
    for len in 1..log.len() {
        match EventLog::parse(&log[..len]) {
            Ok(shorter) => assert_ne!(shorter.replay(), whole, "cut at {len}"),
            Err(error) => assert!(matches!(error, EventLogError::Event { .. }), "{error}"),
        }
    }
}

#[test]
fn payloads_are_described_and_verified_only_when_they_hash_to_the_digest() {
    let secure_boot = [
        [1; 16].as_slice(),
        &10u64.to_le_bytes(),
        &1u64.to_le_bytes(),
        &"SecureBoot".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>(),
        &[1],
    ]
    .concat();
    let name: Vec<u8> = "\\EFI\\a.efi\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let node = [&[4, 4], (name.len() as u16 + 4).to_le_bytes().as_slice(), &name].concat();
    let end = [0x7f, 0xff, 4, 0];
    let loaded = [[0; 24].as_slice(), &[0; 8], &node, &end].concat();
    let command = b"grub_cmd: linux /vmlinuz quiet\0".as_slice();
    let of = |bytes: &[u8]| sha256(&[bytes]);
    for (kind, data, digest, text, verified) in [
        (0x8000_0001, &secure_boot[..], of(&secure_boot), "variable SecureBoot = 1", true),
        (0x8000_0001, &secure_boot[..], [0; 32], "variable SecureBoot = 1", false),
        (0x8000_0002, &secure_boot[..], of(&[1]), "variable SecureBoot = 1", true),
        (0x8000_0003, &loaded[..], [5; 32], "\\EFI\\a.efi", false),
        (kind::IPL, command, of(b"linux /vmlinuz quiet"), "grub_cmd: linux /vmlinuz quiet", true),
        (kind::IPL, command, of(b"linux /other"), "grub_cmd: linux /vmlinuz quiet", false),
        (kind::SEPARATOR, &[0; 4], of(&[0; 4]), "end of the firmware's part", true),
        (0x8000_0001, &[9; 40], [0; 32], "40 bytes", false),
        (0x8000_0003, &[9; 40], [0; 32], "40 bytes", false),
    ] {
        let event = Event { index: 1, pcr: 4, kind, sha256: Some(digest), data };
        let description = describe::describe(&event);
        assert_eq!((description.text.as_str(), description.verified), (text, verified));
    }
    let long = vec![b'x'; 5000];
    let event = Event { index: 1, pcr: 4, kind: 5, sha256: None, data: &long };
    assert_eq!(describe::describe(&event).text.len(), MAX_TEXT);
}

const MAX_TEXT: usize = crate::reference_values::MAX_TEXT_LEN;
