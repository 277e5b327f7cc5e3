//! The keys of this gateway on disk: made once at `site init` or `gateway join`, opened at each
//! start with the TPM.
//!
//! ```text
//! tpm/             key blobs (attestation crate)
//! identity.pub     identity key, public: who this is while its TPM does not answer
//! storage.sealed   storage key, sealed to the TPM
//! boots            boots in which it opens, signed by the operator (`crate::boot_seal`)
//! vote.sealed      vote key, encrypted under the storage key
//! vote-next.sealed start counter and successor, until the record names it
//! genesis.cbor     the site's genesis record; written last: where it is, an identity exists
//! join.cbor        what to join, until genesis.cbor is there
//! bridge.cbor      whose bridge this machine is; bridges.cbor: the bridges of this gateway
//! attest-again     height from which it must be attested before it votes, after a rollback
//! founding         start counter at founding, until the ledger's store has been made
//! tpm.moved        where the TPM is, while the configuration still names the one before
//! upgrade/         moves to another TPM that wait for the operator (`crate::upgrade`)
//! ```
//!
//! Calls of this module block (TPM, disk); run them off the event loop.

mod bridge;
mod files;

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use attestation::tpm::{IdentityInfo, Tpm, TpmError};
use ledger::codec::{Decode, Encode, Text};
use ledger::crypto::{PublicKey, Signature, SigningKey};
use ledger::genesis::{Founder, FounderAttestation, Genesis, GenesisError, TpmName};
use ledger::ids::{Hash, NodeId};
use ledger::policy::Policy;
use ledger::transaction::{vote_key_digest, vote_possession_digest};
use zeroize::Zeroizing;

use crate::admission::join::JoinOrder;
use crate::boot_seal;
use crate::control::InitSite;
use crate::vault::{self, KEY_LEN, OpenError, Vault};

/// Files of a record.
const RECORD: [&str; 5] = ["ledger.db", "ledger.db-wal", "ledger.db-shm", "wal-a", "wal-b"];

/// Why the identity cannot be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The TPM says no, or nothing.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// A software TPM, and the operator did not say *unattested*.
    #[error(
        "this TPM is a software one ({0}): whoever copies the disk copies the gateway; found the \
         site with --unattested if that is meant"
    )]
    SoftwareTpm(String),
    /// An identity exists.
    #[error("{0} exists")]
    Exists(String),
    /// A file cannot be read or written.
    #[error("{path}: {error}")]
    Io {
        /// File.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A sealed file does not open.
    #[error("{path}: {error}")]
    Sealed {
        /// File.
        path: PathBuf,
        /// Why.
        error: OpenError,
    },
    /// The genesis record is damaged.
    #[error("genesis.cbor: {0}")]
    Genesis(#[from] GenesisError),
    /// What was asked for is not possible.
    #[error("{0}")]
    Invalid(&'static str),
    /// It would be wrong to do, and why.
    #[error("{0}")]
    Refused(String),
}

impl IdentityError {
    /// Whether the TPM is away: later it may be there.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Tpm(error) if error.is_absence())
    }
}

/// Where the identity is.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

/// An opened identity.
pub struct Unlocked {
    /// Public side.
    pub info: IdentityInfo,
    /// The storage key at work.
    pub vault: Arc<Vault>,
    /// Vote key; none when it was destroyed after a rollback.
    pub vote: Option<SigningKey>,
    /// Its successor, while the record does not name it.
    pub next_vote: Option<SigningKey>,
    /// It votes only when it was attested above this height.
    pub silent_from: Option<u64>,
}

impl Folder {
    /// In the data folder, which is made when missing.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn at(data_dir: &Path) -> Result<Self, IdentityError> {
        std::fs::create_dir_all(data_dir)
            .and_then(|()| std::fs::set_permissions(data_dir, Permissions::from_mode(0o700)))
            .map_err(|error| IdentityError::Io { path: data_dir.to_owned(), error })?;
        Ok(Self(data_dir.to_owned()))
    }

    /// Folder of the TPM's key blobs.
    pub fn tpm(&self) -> PathBuf {
        self.0.join("tpm")
    }

    /// The site's genesis record, if there is a site.
    ///
    /// # Errors
    /// Damaged or unreadable.
    pub fn genesis(&self) -> Result<Option<Genesis>, IdentityError> {
        match self.read("genesis.cbor")? {
            Some(bytes) => Ok(Some(Genesis::read(&bytes)?)),
            None => Ok(None),
        }
    }

    /// Start counter at founding, while the store has not been made.
    ///
    /// # Errors
    /// Unreadable, or not a number.
    pub fn founding_counter(&self) -> Result<Option<u64>, IdentityError> {
        let Some(bytes) = self.read("founding")? else { return Ok(None) };
        let bytes = bytes.try_into().map_err(|_| IdentityError::Invalid("founding is damaged"))?;
        Ok(Some(u64::from_be_bytes(bytes)))
    }

    /// The store has been made.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn founded(&self) -> Result<(), IdentityError> {
        self.remove("founding")
    }

    /// Makes identity, storage key, vote key and genesis. What an interrupted call left is used
    /// again; where a genesis record is, nothing is touched.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn create(
        &self,
        tpm: &Tpm,
        request: &InitSite,
        time_ms: u64,
        insecure: bool,
    ) -> Result<Genesis, IdentityError> {
        let site_name = Text::new(request.name.trim())
            .ok()
            .filter(|_| !request.name.trim().is_empty())
            .ok_or(IdentityError::Invalid("the site's name has 1 to 64 characters"))?;
        let operator = PublicKey::from_sec1(&request.operator_key)
            .map_err(|_| IdentityError::Invalid("the operator key is not a P-256 public key"))?;
        self.must_be_new()?;
        let about = tpm.info()?;
        if about.is_software && !request.unattested && !insecure {
            return Err(IdentityError::SoftwareTpm(about.manufacturer.to_string()));
        }
        let (info, vote, counter) = self.make_keys(tpm)?;

        // Where software TPMs are let in, a founder on one waits to be attested like every other,
        // so that a second gateway can be admitted. What it is stays loud in status.
        let unattested = request.unattested;
        let policy = Policy { insecure_software_tpm_sites: insecure, ..Policy::default() };
        let salt = Hash(random()?);
        let founder = found(tpm, &info, &vote, &salt, unattested)?;
        let genesis = Genesis { time_ms, site_name, operator, founder, policy, salt };
        let bytes = genesis.to_bytes();
        Genesis::read(&bytes)?;
        self.write("founding", &counter.to_be_bytes())?;
        self.write("genesis.cbor", &bytes)?;
        Ok(genesis)
    }

    /// Makes identity, storage key and vote key for joining a site, and keeps the order. Where an
    /// order is already, its keys are used again and the new order takes its place.
    ///
    /// # Errors
    /// [`IdentityError`]; a gateway that has a site or a record joins no other.
    pub fn join(&self, tpm: &Tpm, order: &JoinOrder) -> Result<(), IdentityError> {
        if self.joining()?.is_none() {
            self.must_be_new()?;
            let (_, _, counter) = self.make_keys(tpm)?;
            self.write("founding", &counter.to_be_bytes())?;
        }
        self.write("join.cbor", &order.to_bytes())
    }

    /// What is being joined: nothing once there is a site.
    ///
    /// # Errors
    /// Damaged or unreadable.
    pub fn joining(&self) -> Result<Option<JoinOrder>, IdentityError> {
        if self.read("genesis.cbor")?.is_some() {
            return Ok(None);
        }
        let Some(bytes) = self.read("join.cbor")? else { return Ok(None) };
        let order = JoinOrder::from_bytes(&bytes);
        order.map(Some).map_err(|_| IdentityError::Invalid("join.cbor is damaged"))
    }

    /// Gives up joining. The keys stay, to be used by the next `site init` or `gateway join`; a
    /// record that was being fetched goes.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn abandon_join(&self) -> Result<(), IdentityError> {
        self.drop_record()?;
        self.remove("founding")?;
        self.remove("join.cbor")
    }

    /// Removes a record that is of no site yet: one whose fetching was interrupted.
    ///
    /// # Errors
    /// [`IdentityError::Io`]; [`IdentityError::Exists`] when there is a site.
    pub fn drop_record(&self) -> Result<(), IdentityError> {
        if self.read("genesis.cbor")?.is_some() {
            return Err(IdentityError::Exists(self.0.join("genesis.cbor").display().to_string()));
        }
        RECORD.iter().try_for_each(|name| self.remove(name))
    }

    /// The join is done: the record was founded from what the members keep.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn joined(&self, genesis: &Genesis) -> Result<(), IdentityError> {
        let bytes = genesis.to_bytes();
        Genesis::read(&bytes)?;
        self.write("genesis.cbor", &bytes)?;
        self.remove("join.cbor")
    }

    /// This gateway's identity key, as it was when its keys were made.
    ///
    /// # Errors
    /// Damaged or unreadable.
    pub fn identity(&self) -> Result<Option<PublicKey>, IdentityError> {
        let Some(bytes) = self.read("identity.pub")? else { return Ok(None) };
        let key = PublicKey::from_sec1(&bytes);
        key.map(Some).map_err(|_| IdentityError::Invalid("identity.pub is damaged"))
    }

    /// Nothing is overwritten: neither a site, nor a record, nor a join that is under way.
    fn must_be_new(&self) -> Result<(), IdentityError> {
        for name in ["genesis.cbor", "join.cbor", "ledger.db", "buffer.db"] {
            if self.0.join(name).exists() {
                return Err(IdentityError::Exists(self.0.join(name).display().to_string()));
            }
        }
        Ok(())
    }

    /// Identity, storage key and vote key, and the value of the start counter. What an interrupted
    /// call left in the TPM's folder is used again; the vote key is new each time.
    fn make_keys(&self, tpm: &Tpm) -> Result<(IdentityInfo, SigningKey, u64), IdentityError> {
        let info = match tpm.create_identity() {
            Err(TpmError::IdentityExists { .. }) => tpm.load_identity()?,
            other => other?,
        };
        let vault = self.make_vault(tpm)?;
        let vote = new_key()?;
        self.keep_vote_key(&vault, &vote)?;
        self.write("identity.pub", &info.identity)?;
        let counter = tpm.counter_define()?;
        Ok((info, vote, counter))
    }

    /// Opens the identity with the TPM.
    ///
    /// # Errors
    /// [`IdentityError`]; [`TpmError::AnotherTpm`] when it is not the TPM of `create`.
    pub fn unlock(&self, tpm: &Tpm) -> Result<Unlocked, IdentityError> {
        let info = tpm.load_identity()?;
        let vault = Arc::new(Vault::new(&*self.storage_key(tpm)?));
        let vote = match self.read("vote.sealed")? {
            Some(sealed) => Some(self.open_key(&vault, "vote.sealed", &sealed)?),
            None => None,
        };
        let next_vote = self.kept_next_vote_key(&vault)?;
        let silent_from = self.attest_from()?;
        Ok(Unlocked { info, vault, vote, next_vote, silent_from })
    }

    /// The storage key, as the TPM gives it back.
    pub(crate) fn storage_key(&self, tpm: &Tpm) -> Result<Zeroizing<[u8; KEY_LEN]>, IdentityError> {
        let key = boot_seal::unseal(self, tpm)?;
        let key = key.as_slice().try_into();
        key.map(Zeroizing::new)
            .map_err(|_| IdentityError::Invalid("the storage key has the wrong length"))
    }

    /// Destroys the vote key: an older copy of the disk was put back, and what the key has signed
    /// since is not known here. So is its successor, unless it was made since then: while the
    /// TPM's start counter stood where it stands now.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn destroy_vote_key(&self, counter: u64) -> Result<(), IdentityError> {
        let next = self.read("vote-next.sealed")?;
        if next.is_some_and(|next| !next.starts_with(&counter.to_be_bytes())) {
            self.remove("vote-next.sealed")?;
        }
        self.remove("vote.sealed")
    }

    /// Makes a vote key that takes effect when the record says so; kept beside the old one. One
    /// that is there already and that the record `knows` as this gateway's is not used: the record
    /// takes no key twice, and what it has signed since is not known here. `counter` is the TPM's
    /// start counter.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn next_vote_key(
        &self,
        vault: &Vault,
        knows: Option<&PublicKey>,
        counter: u64,
    ) -> Result<SigningKey, IdentityError> {
        if let Some(key) = self.kept_next_vote_key(vault)?
            && knows != Some(&key.public_key())
        {
            return Ok(key);
        }
        let key = new_key()?;
        let sealed = self.sealed(vault, "vote-next.sealed", &key)?;
        self.write("vote-next.sealed", &[&counter.to_be_bytes()[..], &sealed].concat())?;
        Ok(key)
    }

    /// The next vote key, when one waits for the record.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn kept_next_vote_key(&self, vault: &Vault) -> Result<Option<SigningKey>, IdentityError> {
        let Some(kept) = self.read("vote-next.sealed")? else { return Ok(None) };
        let sealed = kept.get(8..).unwrap_or_default();
        self.open_key(vault, "vote-next.sealed", sealed).map(Some)
    }

    /// The record names the next vote key: it replaces the old one, which is destroyed so.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn take_next_vote_key(&self, vault: &Vault) -> Result<(), IdentityError> {
        let Some(key) = self.kept_next_vote_key(vault)? else {
            // Taken before.
            return self.must_read("vote.sealed").map(drop);
        };
        self.keep_vote_key(vault, &key)?;
        self.remove("vote-next.sealed")
    }

    /// From this height of the record on this gateway has to be attested before it votes: an older
    /// copy of its disk had been put back.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn attest_again(&self, height: u64) -> Result<(), IdentityError> {
        self.write("attest-again", &height.to_be_bytes())
    }

    /// It was attested.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn attested_again(&self) -> Result<(), IdentityError> {
        self.remove("attest-again")
    }

    fn attest_from(&self) -> Result<Option<u64>, IdentityError> {
        let Some(bytes) = self.read("attest-again")? else { return Ok(None) };
        let bytes = bytes.try_into();
        let bytes = bytes.map_err(|_| IdentityError::Invalid("attest-again is damaged"))?;
        Ok(Some(u64::from_be_bytes(bytes)))
    }

    fn make_vault(&self, tpm: &Tpm) -> Result<Vault, IdentityError> {
        let key = Zeroizing::new(random::<KEY_LEN>()?);
        self.write("storage.sealed", &tpm.seal(&key[..])?)?;
        Ok(Vault::new(&key))
    }

    pub(crate) fn keep_vote_key(
        &self,
        vault: &Vault,
        key: &SigningKey,
    ) -> Result<(), IdentityError> {
        self.keep(vault, "vote.sealed", key)
    }

    fn keep(&self, vault: &Vault, name: &str, key: &SigningKey) -> Result<(), IdentityError> {
        self.write(name, &self.sealed(vault, name, key)?)
    }

    fn sealed(
        &self,
        vault: &Vault,
        name: &str,
        key: &SigningKey,
    ) -> Result<Vec<u8>, IdentityError> {
        let secret = Zeroizing::new(key.to_bytes());
        vault
            .seal(&[b"vote-key"], &secret[..])
            .map_err(|error| IdentityError::Sealed { path: self.0.join(name), error })
    }

    fn open_key(
        &self,
        vault: &Vault,
        name: &str,
        sealed: &[u8],
    ) -> Result<SigningKey, IdentityError> {
        let damaged = |error| IdentityError::Sealed { path: self.0.join(name), error };
        let secret = vault.open(&[b"vote-key"], sealed).map_err(damaged)?;
        let secret: &[u8; 32] = secret.as_slice().try_into().map_err(|_| damaged(OpenError))?;
        SigningKey::from_bytes(secret).map_err(|_| damaged(OpenError))
    }
}

fn found(
    tpm: &Tpm,
    info: &IdentityInfo,
    vote: &SigningKey,
    salt: &Hash,
    unattested: bool,
) -> Result<Founder, IdentityError> {
    let identity = identity_key(info)?;
    let context = Genesis::context(salt);
    let certified = vote_key_digest(&context, &identity, &vote.public_key());
    let signed = tpm.sign_identity(certified.0)?;
    let held = vote_possession_digest(&context, &identity, &vote.public_key());
    let ak_name = info
        .ak_name
        .as_bytes()
        .try_into()
        .map_err(|_| IdentityError::Invalid("the attestation key's name is not SHA-256"))?;
    Ok(Founder {
        identity,
        vote: vote.public_key(),
        vote_certificate: normalized(signed)?,
        vote_possession: vote.sign_digest(&held),
        ek_digest: Hash(info.ek_digest),
        ak_name: TpmName(ak_name),
        attestation: if unattested {
            FounderAttestation::Unattested
        } else {
            FounderAttestation::Unverified
        },
    })
}

/// The identity key as the ledger writes it.
///
/// # Errors
/// The TPM gave no point of the curve.
pub fn identity_key(info: &IdentityInfo) -> Result<PublicKey, IdentityError> {
    PublicKey::from_sec1(&info.identity)
        .map_err(|_| IdentityError::Invalid("the TPM's identity key is not a P-256 public key"))
}

/// Node ID of this gateway.
///
/// # Errors
/// As [`identity_key`].
pub fn node(info: &IdentityInfo) -> Result<NodeId, IdentityError> {
    Ok(NodeId::of_key(&identity_key(info)?))
}

/// A TPM's signature with low s: the ledger knows one form only.
///
/// # Errors
/// The TPM gave no signature.
pub fn normalized(signature: [u8; 64]) -> Result<Signature, IdentityError> {
    Signature::normalized(signature)
        .map_err(|_| IdentityError::Invalid("the TPM gave a malformed signature"))
}

pub(crate) fn new_key() -> Result<SigningKey, IdentityError> {
    // A random string is a valid P-256 scalar but for one case in 2^32.
    loop {
        let secret = Zeroizing::new(random::<32>()?);
        if let Ok(key) = SigningKey::from_bytes(&secret) {
            return Ok(key);
        }
    }
}

fn random<const N: usize>() -> Result<[u8; N], IdentityError> {
    vault::random().map_err(|_| IdentityError::Invalid("the system gives no random bytes"))
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
