//! The engine of the TPM thread: one context to the TPM, and the few keys that are loaded in it.
//!
//! A TPM without a resource manager has room for three loaded objects, so the keys are a small
//! cache: the least recently used one is saved (`TPM2_ContextSave`, 0.3 ms to load again, where
//! an RSA endorsement key takes seconds to make) and flushed when room is needed. A dead context
//! is dropped with all its handles; the operation is tried once more on a new one.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tss_esapi::Context;
use tss_esapi::constants::{CapabilityType, StartupType};
use tss_esapi::handles::{KeyHandle, ObjectHandle, TpmHandle};
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::CapabilityData;
use tss_esapi::utils::TpmsContext;

use crate::tpm::TpmError;
use crate::tpm::blob::{KeyFile, KeyStore};
use crate::tpm::error::During;
use crate::tpm::keys::TpmFacts;
use crate::tpm::response::Response;
use crate::tpm::tcti::Tcti;

/// Loaded objects that a TPM must at least have room for (PC Client Platform TPM Profile).
const SLOTS: usize = 3;

/// How long a software TPM may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// First transient object, first loaded session: where stale handles are listed from.
const TRANSIENT_FIRST: u32 = 0x8000_0000;
const LOADED_SESSION_FIRST: u32 = 0x0200_0000;

/// A password session with the empty password: what the keys are used with. It costs no round
/// trip, where an HMAC session costs three.
pub(super) const EMPTY_PASSWORD: Option<AuthSession> = Some(AuthSession::Password);

/// The keys that stay loaded, or saved, between operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    Endorsement,
    StorageRoot,
    Attestation,
    Identity,
}

/// Everything the TPM thread owns.
pub(super) struct Engine {
    pub(super) tcti: Tcti,
    pub(super) store: KeyStore,
    /// The key file, once it was read or written.
    pub(super) keys: Option<KeyFile>,
    /// What never changes about a TPM, once it was read.
    pub(super) facts: Option<TpmFacts>,
    link: Option<Link>,
}

impl Engine {
    pub(super) fn new(tcti: Tcti, store: KeyStore) -> Self {
        Self { tcti, store, keys: None, facts: None, link: None }
    }

    /// Runs an operation on a live connection. After a transport failure, or when the TPM has lost
    /// its objects, the connection is built anew and the operation runs once more: it must be one
    /// that may run twice.
    pub(super) fn with_link<T>(
        &mut self,
        mut operation: impl FnMut(&mut Link) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        match self.once(&mut operation) {
            Err(error) if error.wants_reconnection() => {
                tracing::warn!(%error, "the TPM connection is built anew");
                self.once(&mut operation)
            }
            outcome => outcome,
        }
    }

    /// Runs an operation that must not run twice: the connection is proven to be alive first, and
    /// a failure after that is the caller's.
    pub(super) fn with_live_link<T>(
        &mut self,
        operation: impl FnOnce(&mut Link) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        self.with_link(|link| link.handles(TRANSIENT_FIRST).map(drop))?;
        self.once(operation)
    }

    fn once<T>(
        &mut self,
        operation: impl FnOnce(&mut Link) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        let outcome = match &mut self.link {
            Some(link) => link.require_own_objects().and_then(|()| operation(link)),
            empty => Link::open(&self.tcti).and_then(|link| operation(empty.insert(link))),
        };
        outcome.map_err(|error| {
            if error.wants_reconnection() {
                self.link = None;
                self.facts = None;
            }
            match error {
                TpmError::Lost { command, code, .. } => {
                    TpmError::Lost { address: self.tcti.to_string(), command, code }
                }
                other => other,
            }
        })
    }
}

struct Cached {
    slot: Slot,
    handle: Option<KeyHandle>,
    saved: Option<TpmsContext>,
    used: u64,
}

/// A live context and the keys in it. Dropping it flushes what is loaded.
pub(super) struct Link {
    pub(super) context: Context,
    cache: Vec<Cached>,
    uses: u64,
    /// A socket, behind which a TPM may be restarted without a sign on the connection.
    may_restart: bool,
}

impl Link {
    fn open(tcti: &Tcti) -> Result<Self, TpmError> {
        preflight(tcti)?;
        let conf = tcti.name_conf().during("opening the TPM")?;
        let context = Context::new(conf).during("opening the TPM")?;
        let may_restart = matches!(tcti, Tcti::Swtpm { .. });
        let mut link = Self { context, cache: Vec::new(), uses: 0, may_restart };
        link.start_if_needed()?;
        link.flush_stale()?;
        Ok(link)
    }

    /// Firmware starts a TPM; nobody may have started a software one.
    fn start_if_needed(&mut self) -> Result<(), TpmError> {
        match self.context.get_random(1) {
            Ok(_) => Ok(()),
            Err(error) if Response::of(&error).is_some_and(Response::is_uninitialised) => {
                self.context.startup(StartupType::Clear).during("TPM2_Startup")
            }
            Err(error) => Err(error).during("TPM2_GetRandom"),
        }
    }

    /// A process that was killed leaves its objects and sessions in a TPM without a resource
    /// manager. Such a TPM has one user at a time, so whatever is loaded now is nobody's.
    fn flush_stale(&mut self) -> Result<(), TpmError> {
        for first in [TRANSIENT_FIRST, LOADED_SESSION_FIRST] {
            for handle in self.handles(first)? {
                let object = self.context.tr_from_tpm_public(handle).during("TPM2_ReadPublic")?;
                self.context.flush_context(object).during("TPM2_FlushContext")?;
                tracing::debug!(?handle, "flushed a stale handle of the TPM");
            }
        }
        Ok(())
    }

    /// Whether the objects that are loaded are ours. A software TPM that was restarted between two
    /// operations answers as if nothing had happened, and hands out the same handles again for
    /// other objects.
    fn require_own_objects(&mut self) -> Result<(), TpmError> {
        let loaded = self.loaded();
        if self.may_restart && loaded > 0 && self.handles(TRANSIENT_FIRST)?.len() != loaded {
            let (address, command) = (String::new(), "checking the loaded keys");
            return Err(TpmError::Lost { address, command, code: NOT_LOADED });
        }
        Ok(())
    }

    fn loaded(&self) -> usize {
        self.cache.iter().filter(|cached| cached.handle.is_some()).count()
    }

    /// The TPM's handles of one kind from `first` on. Asking this way is quiet where reading an
    /// absent handle makes the library write to stderr.
    pub(super) fn handles(&mut self, first: u32) -> Result<Vec<TpmHandle>, TpmError> {
        let kind = first >> 24;
        let mut found: Vec<TpmHandle> = Vec::new();
        let mut next = first;
        for _ in 0..MAX_HANDLE_ROUNDS {
            let (data, more) = self
                .context
                .execute_without_session(|context| {
                    context.get_capability(CapabilityType::Handles, next, HANDLES_A_ROUND)
                })
                .during("TPM2_GetCapability")?;
            let CapabilityData::Handles(list) = data else { break };
            let round: Vec<TpmHandle> = list
                .into_inner()
                .into_iter()
                .filter(|&handle| u32::from(handle) >> 24 == kind)
                .collect();
            let Some(&last) = round.last() else { break };
            found.extend(round);
            if !more {
                break;
            }
            next = u32::from(last) + 1;
        }
        Ok(found)
    }

    /// The handle of a key: as it is loaded, or from its saved context, or from `load`. `keep`
    /// stays loaded meanwhile; `load` itself needs one slot for its result.
    pub(super) fn key(
        &mut self,
        slot: Slot,
        keep: &[Slot],
        load: impl FnOnce(&mut Self) -> Result<KeyHandle, TpmError>,
    ) -> Result<KeyHandle, TpmError> {
        if let Some(handle) = self.touch(slot) {
            return Ok(handle);
        }
        self.make_room(1, keep)?;
        let saved = self.cache.iter().find(|cached| cached.slot == slot);
        if let Some(saved) = saved.and_then(|cached| cached.saved.clone()) {
            // A TPM reset voids saved contexts; then the key is loaded from its blob.
            if let Ok(handle) = self.context.context_load(saved) {
                let handle = KeyHandle::from(handle);
                self.remember(slot, handle);
                return Ok(handle);
            }
        }
        let handle = load(self)?;
        self.remember(slot, handle);
        Ok(handle)
    }

    fn touch(&mut self, slot: Slot) -> Option<KeyHandle> {
        self.uses += 1;
        let cached = self.cache.iter_mut().find(|cached| cached.slot == slot)?;
        cached.used = self.uses;
        cached.handle
    }

    fn remember(&mut self, slot: Slot, handle: KeyHandle) {
        self.uses += 1;
        let used = self.uses;
        match self.cache.iter_mut().find(|cached| cached.slot == slot) {
            Some(cached) => {
                cached.handle = Some(handle);
                cached.used = used;
            }
            None => self.cache.push(Cached { slot, handle: Some(handle), saved: None, used }),
        }
    }

    /// Forgets a key altogether (its handle is flushed).
    pub(super) fn forget(&mut self, slot: Slot) -> Result<(), TpmError> {
        if let Some(index) = self.cache.iter().position(|cached| cached.slot == slot) {
            let cached = self.cache.remove(index);
            if let Some(handle) = cached.handle {
                self.flush(handle.into())?;
            }
        }
        Ok(())
    }

    /// Flushes least recently used keys until `need` more objects fit. Those in `keep` stay.
    pub(super) fn make_room(&mut self, need: usize, keep: &[Slot]) -> Result<(), TpmError> {
        loop {
            if self.loaded() + need <= SLOTS {
                return Ok(());
            }
            let victim = self
                .cache
                .iter_mut()
                .filter(|cached| cached.handle.is_some() && !keep.contains(&cached.slot))
                .min_by_key(|cached| cached.used);
            // All that is loaded is needed: let the TPM say whether it has more room than that.
            let Some(victim) = victim else { return Ok(()) };
            let Some(handle) = victim.handle.take() else { return Ok(()) };
            if victim.saved.is_none() {
                // Not every TPM saves every object; the key is then loaded from its blob again.
                victim.saved = self.context.context_save(handle.into()).ok();
            }
            self.flush(handle.into())?;
        }
    }

    pub(super) fn flush(&mut self, handle: ObjectHandle) -> Result<(), TpmError> {
        self.context.flush_context(handle).during("TPM2_FlushContext").map_err(|error| {
            // Flushing something that is not there: the TPM was reset.
            match error {
                TpmError::Refused { command, code, .. } if error.is_refusal(HANDLE) => {
                    TpmError::Lost { address: String::new(), command, code }
                }
                other => other,
            }
        })
    }

    /// Runs `use_it` with a temporary object or session and flushes it whatever happens. The first
    /// error counts.
    pub(super) fn with_temporary<T>(
        &mut self,
        handle: ObjectHandle,
        use_it: impl FnOnce(&mut Self) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        let outcome = use_it(self);
        if matches!(outcome, Err(TpmError::Lost { .. })) {
            return outcome;
        }
        let flushed = self.flush(handle);
        outcome.and_then(|value| flushed.map(|()| value))
    }
}

/// TPM_RC_REFERENCE_H0 (the object is not loaded), TPM_RC_HANDLE.
const NOT_LOADED: u32 = 0x910;
const HANDLE: u32 = 0x08b;

/// Handles asked for at a time, and how often: no TPM has 512 of one kind.
const HANDLES_A_ROUND: u32 = 64;
const MAX_HANDLE_ROUNDS: usize = 8;

/// Finds out in the system's words why there is no TPM, before the library says it in numbers.
fn preflight(tcti: &Tcti) -> Result<(), TpmError> {
    match tcti {
        Tcti::Device(path) => preflight_device(path),
        // The control port is the one that may be dialled and left again without consequences.
        Tcti::Swtpm { host, port } => preflight_socket(host, port + 1),
    }
}

fn preflight_device(path: &Path) -> Result<(), TpmError> {
    let path = path.to_owned();
    match fs::metadata(&path) {
        Ok(metadata) if metadata.file_type().is_char_device() => {}
        Ok(_) => return Err(TpmError::DeviceMissing { path }),
        Err(error) => return Err(device_error(path, error)),
    }
    match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(_) => Ok(()),
        Err(error) => Err(device_error(path, error)),
    }
}

fn device_error(path: PathBuf, error: std::io::Error) -> TpmError {
    match error.kind() {
        ErrorKind::PermissionDenied => TpmError::Permission { path },
        ErrorKind::ResourceBusy => TpmError::DeviceBusy { path },
        ErrorKind::NotFound => TpmError::DeviceMissing { path },
        _ => TpmError::Device { path, error },
    }
}

fn preflight_socket(host: &str, port: u16) -> Result<(), TpmError> {
    let unreachable = |error| TpmError::Unreachable { address: format!("{host}:{port}"), error };
    let mut last = std::io::Error::from(ErrorKind::NotFound);
    for address in (host, port).to_socket_addrs().map_err(unreachable)? {
        match TcpStream::connect_timeout(&address, CONNECT_LIMIT) {
            Ok(_) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(unreachable(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Not by opening a device: a test that runs as root may open all of them.
    #[test]
    fn what_the_system_says_of_a_device_is_said_with_the_remedy() {
        for (kind, words) in [
            (ErrorKind::PermissionDenied, ["group tss", "usermod -aG tss"]),
            (ErrorKind::ResourceBusy, ["another program", "device:/dev/tpmrm0"]),
            (ErrorKind::NotFound, ["firmware setup", "dtoverlay=tpm-slb9670"]),
            (ErrorKind::Other, ["cannot be opened", "/dev/tpm0"]),
        ] {
            let error = device_error("/dev/tpm0".into(), kind.into());
            for word in words {
                assert!(error.to_string().contains(word), "{error}");
            }
            assert!(error.is_absence());
        }
    }
}
