//! The devices of this gateway, found by DevEUI and by the DevAddr of any of their sessions.

use std::collections::HashMap;

use thiserror::Error;

use super::ids::{DevAddr, DevEui, JoinEui, Key};
use super::join::{DevNonces, Version, dev_addr_candidate};
use super::record::{self, RecordError};
use super::session::{Session, Window};
use crate::codec::Codec;
use crate::device::Identity;

/// Most devices of one gateway: what its memory is planned for.
pub const MAX_DEVICES: usize = 100_000;

/// Most sessions of a device that wait for their first uplink: the device holds the last
/// JoinAccept that it received, which need not be the last that was sent.
pub(crate) const MAX_PENDING_SESSIONS: usize = 2;

/// What is configured for a device.
#[derive(Clone, Debug)]
pub struct DeviceConfig {
    /// Its identity.
    pub dev_eui: DevEui,
    /// The JoinEUI it asks.
    pub join_eui: JoinEui,
    /// Its root key.
    pub app_key: Key,
    /// Which DevNonces it uses.
    pub version: Version,
    /// How its payloads are read.
    pub codec: Codec,
    /// Whether the ledger knows it: before that it may prove itself and gets no JoinAccept.
    pub admitted: bool,
}

/// Highest counter of a device that is durable: committed, or in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Highest {
    /// Last opened session epoch.
    pub epoch: u32,
    /// Highest counter in it, if there is a reading of that epoch.
    pub counter: Option<u64>,
}

/// Why a device was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AddDeviceError {
    /// It is here already.
    #[error("the device is added already")]
    Twice,
    /// [`MAX_DEVICES`] are here.
    #[error("too many LoRaWAN devices")]
    TooMany,
    /// Its saved record cannot be read: it would join with used nonces, so it is left out.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// What a record holds.
#[derive(Debug)]
pub(crate) struct Saved {
    pub(crate) last_epoch: u32,
    pub(crate) nonces: DevNonces,
    pub(crate) join_window: Window,
    pub(crate) current: Option<Session>,
    pub(crate) pending: Vec<Session>,
}

/// One device with its sessions.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) config: DeviceConfig,
    pub(crate) nonces: DevNonces,
    pub(crate) join_window: Window,
    /// The session in use.
    pub(crate) current: Option<Session>,
    /// Sessions whose first uplink has not come.
    pub(crate) pending: Vec<Session>,
    /// Epoch of the last session that was opened.
    pub(crate) last_epoch: u32,
}

impl Device {
    fn new(
        config: DeviceConfig,
        saved: Option<&[u8]>,
        highest: Option<Highest>,
    ) -> Result<Self, RecordError> {
        let saved = match saved {
            Some(bytes) => record::decode(bytes, config.version)?,
            None => Saved {
                last_epoch: 0,
                nonces: DevNonces::new(config.version),
                join_window: Window::default(),
                current: None,
                pending: Vec::new(),
            },
        };
        let Saved { last_epoch, nonces, join_window, current, pending } = saved;
        let mut device = Self { config, nonces, join_window, current, pending, last_epoch };
        if let Some(Highest { epoch, counter }) = highest {
            device.last_epoch = device.last_epoch.max(epoch);
            // An older session than the last durable epoch is over: its counters are closed.
            device.current = device.current.filter(|session| session.epoch >= epoch);
            if let Some(session) = device.current.as_mut().filter(|s| s.epoch == epoch) {
                let counter = counter.and_then(|counter| u32::try_from(counter).ok());
                session.fcnt_up = session.fcnt_up.max(counter);
            }
        }
        Ok(device)
    }

    pub(crate) fn identity(&self) -> Identity {
        Identity::DevEui(self.config.dev_eui.0)
    }

    fn addresses(&self) -> impl Iterator<Item = DevAddr> {
        self.current.iter().chain(&self.pending).map(|session| session.dev_addr)
    }
}

/// Index of a device in the registry, stable while it is there.
pub(crate) type Slot = usize;

/// All devices.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    devices: Vec<Option<Device>>,
    free: Vec<Slot>,
    by_eui: HashMap<DevEui, Slot>,
    by_addr: HashMap<DevAddr, Vec<Slot>>,
}

impl Registry {
    pub(crate) fn add(
        &mut self,
        config: DeviceConfig,
        saved: Option<&[u8]>,
        highest: Option<Highest>,
    ) -> Result<(), AddDeviceError> {
        let dev_eui = config.dev_eui;
        if self.by_eui.contains_key(&dev_eui) {
            return Err(AddDeviceError::Twice);
        }
        if self.by_eui.len() >= MAX_DEVICES {
            return Err(AddDeviceError::TooMany);
        }
        let device = Device::new(config, saved, highest)?;
        let slot = self.free.pop().unwrap_or(self.devices.len());
        for address in device.addresses() {
            self.by_addr.entry(address).or_default().push(slot);
        }
        if slot == self.devices.len() {
            self.devices.push(Some(device));
        } else {
            self.devices[slot] = Some(device);
        }
        self.by_eui.insert(dev_eui, slot);
        Ok(())
    }

    pub(crate) fn remove(&mut self, dev_eui: DevEui) -> bool {
        let Some(slot) = self.by_eui.remove(&dev_eui) else { return false };
        if let Some(device) = self.devices[slot].take() {
            device.addresses().for_each(|address| self.forget_address(address, slot));
        }
        self.free.push(slot);
        true
    }

    pub(crate) fn len(&self) -> usize {
        self.by_eui.len()
    }

    pub(crate) fn slot(&self, dev_eui: DevEui) -> Option<Slot> {
        self.by_eui.get(&dev_eui).copied()
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut Device> {
        self.devices.get_mut(slot)?.as_mut()
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<&Device> {
        self.devices.get(slot)?.as_ref()
    }

    /// Devices that have a session with this address (collisions are legal).
    pub(crate) fn slots_at(&self, address: DevAddr) -> &[Slot] {
        self.by_addr.get(&address).map_or(&[], Vec::as_slice)
    }

    /// An address that no session of this gateway has.
    pub(crate) fn free_address(&self, dev_eui: DevEui, join_nonce: u32) -> DevAddr {
        // 300,000 sessions at most among 2^25 addresses: a few attempts always do.
        (0..=u32::MAX)
            .map(|attempt| dev_addr_candidate(dev_eui, join_nonce, attempt))
            .find(|address| !self.by_addr.contains_key(address))
            .unwrap_or(DevAddr(0))
    }

    /// Adds a session that waits for its first uplink; the oldest beyond the limit goes.
    pub(crate) fn add_pending(&mut self, slot: Slot, session: Session) {
        let address = session.dev_addr;
        let Some(device) = self.get_mut(slot) else { return };
        let oldest = (device.pending.len() == MAX_PENDING_SESSIONS)
            .then(|| device.pending.remove(0).dev_addr);
        device.pending.push(session);
        if let Some(oldest) = oldest {
            self.forget_address(oldest, slot);
        }
        self.by_addr.entry(address).or_default().push(slot);
    }

    /// Opens the pending session `index` with the next epoch; the one in use before, and those
    /// older than it, are over. Gives the new epoch.
    pub(crate) fn open(&mut self, slot: Slot, index: usize) -> Option<u32> {
        let device = self.get_mut(slot)?;
        if index >= device.pending.len() {
            return None;
        }
        let epoch = device.last_epoch.checked_add(1)?;
        let mut session = device.pending.remove(index);
        session.epoch = epoch;
        let over: Vec<DevAddr> = device
            .current
            .replace(session)
            .into_iter()
            .chain(device.pending.drain(..index))
            .map(|session| session.dev_addr)
            .collect();
        device.last_epoch = epoch;
        over.into_iter().for_each(|address| self.forget_address(address, slot));
        Some(epoch)
    }

    fn forget_address(&mut self, address: DevAddr, slot: Slot) {
        if let Some(slots) = self.by_addr.get_mut(&address) {
            if let Some(position) = slots.iter().position(|other| *other == slot) {
                slots.swap_remove(position);
            }
            if slots.is_empty() {
                self.by_addr.remove(&address);
            }
        }
    }
}
