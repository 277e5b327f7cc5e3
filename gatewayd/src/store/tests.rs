use super::*;

fn entry(node: u8, counter: u64) -> Entry {
    Entry {
        node: [node; 20],
        epoch: 1,
        counter,
        time_ms: 1_000 + counter,
        quality: 0,
        level: 1,
        senml: vec![0x80],
        signature: None,
    }
}

fn batch(sequence: u64, readings: Vec<Entry>) -> StoredBatch {
    let (root, secret) = ([sequence as u8; 32], [9; 32]);
    StoredBatch { sequence, root, secret, readings, state: BatchState::Open, committed: None }
}

fn open() -> (tempfile::TempDir, std::path::PathBuf, Buffer) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("buffer.db");
    let buffer = Buffer::open(&path).unwrap();
    (dir, path, buffer)
}

#[test]
fn readings_wait_until_they_are_cut() {
    let (_dir, path, mut buffer) = open();
    buffer.append(&[entry(1, 1), entry(2, 1)], &[([1; 20], vec![5])]).unwrap();
    let group = buffer.append(&[entry(1, 2)], &[]).unwrap();
    drop(buffer);

    let mut buffer = Buffer::open(&path).unwrap();
    assert_eq!(buffer.session(&[1; 20]).unwrap(), Some(vec![5]));
    let (waiting, newest) = buffer.pending().unwrap();
    assert_eq!((waiting.len(), newest), (3, group));
    let cut = batch(1, vec![entry(1, 1), entry(2, 1)]);
    buffer.cut(&cut, newest, &[entry(1, 2)]).unwrap();
    let (waiting, _) = buffer.pending().unwrap();
    assert_eq!(waiting, vec![entry(1, 2)]);
    assert_eq!(buffer.open_batches().unwrap(), vec![cut]);
    buffer.mark_committed(1, (7, 1)).unwrap();
    assert_eq!(buffer.open_batches().unwrap(), vec![]);

    let reader = BufferReader::open(&path).unwrap();
    let newest = reader.newest(Some(&[1; 20]), 10).unwrap();
    assert_eq!(newest.len(), 2);
    assert_eq!(newest[0].batch, None);
    assert_eq!(newest[1].batch, Some((1, BatchState::Committed, Some(7))));
    assert_eq!(reader.newest(None, 1).unwrap().len(), 1);
    let (found, place) = reader.find(&[2; 20], 1, 1).unwrap().unwrap();
    assert_eq!((found.sequence, place), (1, 1));
    assert!(reader.find(&[2; 20], 1, 2).unwrap().is_none());
    assert_eq!(reader.counts().unwrap(), [0, 2, 0]);
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let (_dir, path, buffer) = open();
    buffer.connection.pragma_update(None, "user_version", 99).unwrap();
    drop(buffer);
    assert!(matches!(Buffer::open(&path), Err(StoreError::UnknownSchema { found: 99, .. })));
}

#[test]
fn rubbish_is_said_to_be_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("buffer.db");
    std::fs::write(&path, vec![0x55; 9000]).unwrap();
    assert!(matches!(Buffer::open(&path), Err(StoreError::Damaged { .. })));
}

#[test]
fn a_file_that_was_cut_off_is_said_to_be_damaged_and_left_alone() {
    let (_dir, path, mut buffer) = open();
    for counter in 1..200 {
        buffer.append(&[entry(1, counter)], &[]).unwrap();
    }
    drop(buffer);
    for length in [4096, 0] {
        std::fs::File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
        assert!(matches!(Buffer::open(&path), Err(StoreError::Damaged { .. })), "{length}");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), length);
    }
}

#[test]
fn sensors_come_back_and_are_forgotten_with_their_session() {
    let (_dir, _path, mut buffer) = open();
    let row = SensorRow {
        node: [1; 20],
        name: "cellar".into(),
        settings: "{}".into(),
        secret: vec![1, 2],
        added_ms: 5,
    };
    buffer.put_sensor(&row).unwrap();
    buffer.append(&[], &[([1; 20], vec![5])]).unwrap();
    assert!(buffer.rename_sensor(&[1; 20], "attic").unwrap());
    assert!(!buffer.rename_sensor(&[2; 20], "attic").unwrap());
    assert_eq!(buffer.sensors().unwrap()[0].name, "attic");
    buffer.remove_sensor(&[1; 20]).unwrap();
    assert!(buffer.sensors().unwrap().is_empty());
    assert_eq!(buffer.session(&[1; 20]).unwrap(), None);
}

#[test]
fn old_committed_batches_go_first() {
    let (_dir, path, mut buffer) = open();
    for sequence in 1..=3 {
        buffer.cut(&batch(sequence, vec![entry(1, sequence)]), 0, &[]).unwrap();
    }
    buffer.mark_committed(1, (1, 1)).unwrap();
    buffer.mark_committed(2, (1, 2)).unwrap();
    assert!(buffer.drop_oldest(1).unwrap() > 0);
    let reader = BufferReader::open(&path).unwrap();
    assert!(reader.batch(1).unwrap().is_none());
    assert!(reader.batch(2).unwrap().is_some());
    buffer.drop_oldest(u64::MAX).unwrap();
    assert!(reader.batch(3).unwrap().is_some(), "what is not committed is never dropped");
}

#[test]
fn a_batch_can_be_split_and_nothing_is_lost() {
    let (_dir, path, mut buffer) = open();
    buffer.cut(&batch(1, vec![entry(1, 1), entry(2, 1)]), 0, &[]).unwrap();
    let left = StoredBatch { state: BatchState::Unrecorded, ..batch(2, vec![entry(2, 1)]) };
    buffer.split(&batch(1, vec![entry(1, 1)]), &left).unwrap();
    assert_eq!(buffer.open_batches().unwrap(), vec![batch(1, vec![entry(1, 1)])]);
    let reader = BufferReader::open(&path).unwrap();
    assert_eq!(reader.counts().unwrap(), [1, 0, 1]);
    let nothing = batch(1, vec![]);
    let left = StoredBatch { state: BatchState::Unrecorded, ..batch(3, vec![entry(1, 1)]) };
    buffer.split(&nothing, &left).unwrap();
    assert_eq!(reader.counts().unwrap(), [0, 0, 2]);
}
