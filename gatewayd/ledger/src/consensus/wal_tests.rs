//! Torn, flipped and lost tails: a synced record is either read back or reported as damage.

use std::cell::RefCell;
use std::rc::Rc;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Default)]
struct Memory(Rc<RefCell<Vec<u8>>>);

impl Medium for Memory {
    fn read_all(&mut self) -> io::Result<Vec<u8>> {
        Ok(self.0.borrow().clone())
    }
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut stored = self.0.borrow_mut();
        let offset = offset as usize;
        let end = offset + bytes.len();
        if stored.len() < end {
            stored.resize(end, 0);
        }
        stored[offset..end].copy_from_slice(bytes);
        Ok(())
    }
    fn clear(&mut self) -> io::Result<()> {
        self.0.borrow_mut().clear();
        Ok(())
    }
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn written(payloads: &[Vec<u8>]) -> [Memory; 2] {
    let media = [Memory::default(), Memory::default()];
    let (mut wal, records, recovery) = Wal::open(media.clone()).unwrap();
    assert!(records.is_empty());
    assert_eq!(recovery, Recovery::Empty);
    for payload in payloads {
        wal.append(payload).unwrap();
    }
    wal.sync().unwrap();
    media
}

/// The offset just behind record number `count`.
fn end_of(payloads: &[Vec<u8>], count: usize) -> usize {
    payloads[..count].iter().map(|payload| HEADER + payload.len() + TRAILER).sum()
}

fn payloads() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200), 1..12)
}

#[test]
fn crc32_check_value() {
    // The check value of CRC-32/ISO-HDLC.
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
}

#[test]
fn files_are_read_back_and_appended_to() {
    let directory = tempfile::tempdir().unwrap();
    let (mut wal, _, recovery) = Wal::open_in(directory.path()).unwrap();
    assert_eq!(recovery, Recovery::Empty);
    wal.append(b"one").unwrap();
    wal.sync().unwrap();
    drop(wal);
    let (mut wal, records, recovery) = Wal::open_in(directory.path()).unwrap();
    assert_eq!((records, recovery), (vec![b"one".to_vec()], Recovery::Complete));
    wal.append(b"two").unwrap();
    drop(wal);
    std::fs::remove_file(directory.path().join("wal-a")).unwrap();
    let (_, records, recovery) = Wal::open_in(directory.path()).unwrap();
    assert_eq!(records, vec![b"one".to_vec(), b"two".to_vec()]);
    assert_eq!(recovery, Recovery::Complete);
}

#[test]
fn discard_empties_grown_files_and_keeps_the_newest_record() {
    let media = written(&[vec![1]]);
    let (mut wal, _, _) = Wal::open(media.clone()).unwrap();
    wal.discard().unwrap();
    assert_eq!(scan_bytes(&media[0].0.borrow()), 1);
    wal.append(&vec![7; 1024 * 1024]).unwrap();
    wal.append(&[8]).unwrap();
    wal.discard().unwrap();
    assert!(media.iter().all(|medium| medium.0.borrow().len() == CHUNK as usize));
    wal.append(&[9]).unwrap();
    let (_, records, recovery) = Wal::open(media).unwrap();
    assert_eq!((records, recovery), (vec![vec![8], vec![9]], Recovery::Complete));
}

#[test]
fn both_copies_flipped_in_one_record_is_damage_and_leaves_an_empty_log() {
    let media = written(&[vec![1; 40], vec![2; 40], vec![3; 40]]);
    for medium in &media {
        medium.0.borrow_mut()[HEADER + 40 + TRAILER + HEADER + 3] ^= 0x10;
    }
    let (mut wal, _, recovery) = Wal::open(media.clone()).unwrap();
    assert_eq!(recovery, Recovery::Damaged);
    wal.append(&[4]).unwrap();
    wal.sync().unwrap();
    let (_, records, recovery) = Wal::open(media).unwrap();
    assert_eq!((records, recovery), (vec![vec![4]], Recovery::Complete));
}

proptest! {
    #[test]
    fn a_torn_tail_in_both_copies_is_cut(
        payloads in payloads(), cut in any::<prop::sample::Index>(), zeroed in any::<bool>(),
    ) {
        let media = written(&payloads);
        let keep = end_of(&payloads, payloads.len() - 1);
        // Anything short of the last byte of the last record was never synced.
        let torn = keep + cut.index(end_of(&payloads, payloads.len()) - keep);
        for medium in &media {
            let mut bytes = medium.0.borrow_mut();
            if zeroed {
                bytes[torn..].fill(0);
            } else {
                bytes.truncate(torn);
            }
        }
        let (mut wal, records, recovery) = Wal::open(media.clone()).unwrap();
        prop_assert_ne!(recovery, Recovery::Damaged);
        prop_assert_eq!(&records[..], &payloads[..payloads.len() - 1]);
        wal.append(b"after").unwrap();
        let (_, records, _) = Wal::open(media).unwrap();
        prop_assert_eq!(records.len(), payloads.len());
    }

    #[test]
    fn any_damage_to_one_copy_is_read_from_the_other(
        payloads in payloads(), copy in 0..2usize, at in any::<prop::sample::Index>(),
        noise in prop::collection::vec(1u8.., 1..30), lost in any::<bool>(),
    ) {
        let media = written(&payloads);
        {
            let mut bytes = media[copy].0.borrow_mut();
            let at = at.index(end_of(&payloads, payloads.len()));
            if lost {
                bytes.truncate(at);
            } else {
                for (byte, flip) in bytes[at..].iter_mut().zip(&noise) {
                    *byte ^= flip;
                }
            }
        }
        let (_, records, recovery) = Wal::open(media.clone()).unwrap();
        prop_assert_eq!(recovery, Recovery::Complete);
        prop_assert_eq!(&records, &payloads);
        // It was healed: the other copy may go now.
        let (_, healed, _) = Wal::open([media[copy].clone(), Memory::default()]).unwrap();
        prop_assert_eq!(&healed, &payloads);
    }

    #[test]
    fn an_unsynced_record_that_is_damaged_in_one_copy_and_missing_in_the_other_is_cut(
        payloads in payloads(), at in any::<prop::sample::Index>(), flip in 1u8..,
    ) {
        prop_assume!(payloads.len() > 1);
        let media = written(&payloads);
        let keep = end_of(&payloads, payloads.len() - 1);
        let end = end_of(&payloads, payloads.len());
        media[0].0.borrow_mut()[keep + at.index(end - keep)] ^= flip;
        media[1].0.borrow_mut()[keep..].fill(0);
        let (_, records, recovery) = Wal::open(media).unwrap();
        prop_assert_eq!(recovery, Recovery::Complete);
        prop_assert_eq!(&records[..], &payloads[..payloads.len() - 1]);
    }

    #[test]
    fn a_damaged_copy_beside_a_lost_one_is_damage(
        payloads in payloads(), at in any::<prop::sample::Index>(), kept in 0..4usize,
    ) {
        prop_assume!(payloads.len() > kept + 1);
        let media = written(&payloads);
        // Damage behind the first `kept` records, the other copy cut before their end.
        let from = end_of(&payloads, kept);
        let hurt = from + at.index(end_of(&payloads, payloads.len() - 1) - from);
        media[0].0.borrow_mut()[hurt] ^= 0x08;
        media[1].0.borrow_mut().truncate(from.saturating_sub(1));
        let (_, _, recovery) = Wal::open(media).unwrap();
        prop_assert_eq!(recovery, Recovery::Damaged);
    }

    #[test]
    fn a_flip_in_both_copies_is_never_taken_for_a_clean_shorter_log(
        payloads in payloads(), at in any::<prop::sample::Index>(), flip in 1u8..,
    ) {
        let media = written(&payloads);
        let at = at.index(end_of(&payloads, payloads.len()));
        for medium in &media {
            medium.0.borrow_mut()[at] ^= flip;
        }
        let (_, records, recovery) = Wal::open(media).unwrap();
        let end_mark = at + 1 == end_of(&payloads, payloads.len()) && flip == END_MARK;
        if recovery != Recovery::Damaged {
            prop_assert!(end_mark, "{records:?}");
        }
    }

    #[test]
    fn scanning_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(scan_bytes(&bytes) <= bytes.len());
    }
}
