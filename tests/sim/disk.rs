//! A disk for the log that forgets unsynced bytes, tears the last write, and can be hurt.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use ledger::consensus::wal::Medium;

use crate::random::Random;

/// The operations that a power cut may interrupt, counted down over both copies of a log.
#[derive(Clone, Default)]
pub(crate) struct Fuse(Rc<RefCell<Option<u64>>>);

impl Fuse {
    /// The power goes at the `operations`-th write or sync from now.
    pub(crate) fn light(&self, operations: u64) {
        *self.0.borrow_mut() = Some(operations);
    }

    pub(crate) fn put_out(&self) {
        *self.0.borrow_mut() = None;
    }

    fn burn(&self) -> io::Result<()> {
        match &mut *self.0.borrow_mut() {
            Some(0) => Err(io::Error::other("power cut")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

#[derive(Default)]
struct Platter {
    /// What a power cut leaves.
    durable: Vec<u8>,
    /// What the process sees.
    cached: Vec<u8>,
    /// Where `cached` was written since the last sync.
    unsynced: Vec<(usize, usize)>,
    /// The file was emptied since the last sync.
    cleared: bool,
}

/// One copy of a log.
#[derive(Clone)]
pub(crate) struct Disk {
    platter: Rc<RefCell<Platter>>,
    fuse: Fuse,
}

impl Disk {
    pub(crate) fn new(fuse: &Fuse) -> Self {
        Self { platter: Rc::default(), fuse: fuse.clone() }
    }

    /// The power is cut: of the unsynced writes a prefix survives, the last of it torn.
    pub(crate) fn cut_power(&self, random: &mut Random) {
        let mut platter = self.platter.borrow_mut();
        let Platter { durable, cached, unsynced, cleared } = &mut *platter;
        if *cleared && random.percent(50) {
            durable.clear();
        }
        // A file that was emptied and is not yet so on disk keeps its old bytes as a whole.
        if !*cleared || durable.is_empty() {
            let survive = random.below(unsynced.len() as u64 + 1) as usize;
            for (index, (start, end)) in unsynced.iter().take(survive).enumerate() {
                let torn = index + 1 == survive && random.percent(50);
                let end =
                    if torn { start + random.below((end - start) as u64) as usize } else { *end };
                if durable.len() < end {
                    durable.resize(end, 0);
                }
                durable[*start..end].copy_from_slice(&cached[*start..end]);
            }
        }
        unsynced.clear();
        *cleared = false;
        *cached = durable.clone();
    }

    /// What a copy of the disk would hold now.
    pub(crate) fn image(&self) -> Vec<u8> {
        self.platter.borrow().durable.clone()
    }

    /// The disk is replaced by one that holds this.
    pub(crate) fn replace(&self, image: &[u8]) {
        let (durable, cached) = (image.to_vec(), image.to_vec());
        *self.platter.borrow_mut() =
            Platter { durable, cached, unsynced: Vec::new(), cleared: false };
    }

    /// A synced byte changes, `back` bytes before the end of the records; seen after the cut.
    pub(crate) fn flip(&self, back: usize) {
        let mut platter = self.platter.borrow_mut();
        let used = platter.durable.iter().rposition(|byte| *byte != 0).unwrap_or(0);
        if let Some(at) = used.checked_sub(back) {
            platter.durable[at] ^= 0x10;
        }
    }
}

impl Medium for Disk {
    fn read_all(&mut self) -> io::Result<Vec<u8>> {
        Ok(self.platter.borrow().cached.clone())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.fuse.burn()?;
        let mut platter = self.platter.borrow_mut();
        let start = offset as usize;
        let end = start + bytes.len();
        if platter.cached.len() < end {
            platter.cached.resize(end, 0);
        }
        platter.cached[start..end].copy_from_slice(bytes);
        platter.unsynced.push((start, end));
        Ok(())
    }

    fn clear(&mut self) -> io::Result<()> {
        self.fuse.burn()?;
        let mut platter = self.platter.borrow_mut();
        platter.cached.clear();
        platter.unsynced.clear();
        platter.cleared = true;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.fuse.burn()?;
        let mut platter = self.platter.borrow_mut();
        platter.durable = platter.cached.clone();
        platter.unsynced.clear();
        platter.cleared = false;
        Ok(())
    }
}
