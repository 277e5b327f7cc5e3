//! Key files and sealed blobs: what the TPM gave us to keep. Written atomically, synced, 0600.
//!
//! The private parts are encrypted by the TPM; a checksum tells a damaged file apart from another
//! TPM, and the Names of the parents tell another TPM apart from a cleared one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::bytes::{ParseError, Reader, put_sized};
use crate::crypto::sha256;
use crate::pcr_policy::OperatorKey;
use crate::public::{MAX_PUBLIC_LEN, Name};
use crate::tpm::TpmError;

const KEYS_MAGIC: &[u8; 8] = b"gwkeys\0\x01";
const SEALED_MAGIC: &[u8; 8] = b"gwseal\0\x01";
const AUTHORIZED_MAGIC: &[u8; 8] = b"gwauth\0\x01";

/// Longest `TPM2B_PRIVATE`: an ECC key's or a sealed object's is below 300 bytes.
const MAX_PRIVATE_LEN: usize = 1024;
const MAX_FILE_LEN: u64 = 8192;

/// Name of the file with the keys of an identity.
pub const KEY_FILE: &str = "identity.keys";

/// A key as the TPM exports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WrappedKey {
    pub(super) public: Vec<u8>,
    pub(super) private: Vec<u8>,
}

/// All keys of one identity: made together, lost together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyFile {
    /// `TPMT_PUBLIC` of the EK, the parent of the AK.
    pub(super) ek_public: Vec<u8>,
    /// Name of the storage root key, the parent of the identity key.
    pub(super) srk_name: Vec<u8>,
    pub(super) ak: WrappedKey,
    pub(super) identity: WrappedKey,
}

impl KeyFile {
    fn to_bytes(&self) -> Vec<u8> {
        let fields = [
            &self.ek_public,
            &self.srk_name,
            &self.ak.public,
            &self.ak.private,
            &self.identity.public,
            &self.identity.private,
        ];
        with_checksum(KEYS_MAGIC, &fields.map(Vec::as_slice))
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, &'static str> {
        let mut reader = checked(KEYS_MAGIC, bytes)?;
        let mut parse = || {
            let mut sized = |max| reader.sized(max, "key file").map(<[u8]>::to_vec);
            let file = Self {
                ek_public: sized(MAX_PUBLIC_LEN)?,
                srk_name: sized(Name::MAX_LEN)?,
                ak: WrappedKey { public: sized(MAX_PUBLIC_LEN)?, private: sized(MAX_PRIVATE_LEN)? },
                identity: WrappedKey {
                    public: sized(MAX_PUBLIC_LEN)?,
                    private: sized(MAX_PRIVATE_LEN)?,
                },
            };
            reader.finish("key file")?;
            Ok::<_, ParseError>(file)
        };
        parse().map_err(|_| "its fields do not fit")
    }
}

/// A secret sealed to the TPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SealedBlob {
    /// Name of the storage root key under which it was sealed.
    pub(super) srk_name: Vec<u8>,
    pub(super) object: WrappedKey,
}

impl SealedBlob {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        with_checksum(SEALED_MAGIC, &[&self.srk_name, &self.object.public, &self.object.private])
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, &'static str> {
        let mut reader = checked(SEALED_MAGIC, bytes)?;
        let mut parse = || {
            let mut sized = |max| reader.sized(max, "sealed blob").map(<[u8]>::to_vec);
            let blob = Self {
                srk_name: sized(Name::MAX_LEN)?,
                object: WrappedKey {
                    public: sized(MAX_PUBLIC_LEN)?,
                    private: sized(MAX_PRIVATE_LEN)?,
                },
            };
            reader.finish("sealed blob")?;
            Ok::<_, ParseError>(blob)
        };
        parse().map_err(|_| "its fields do not fit")
    }
}

/// A secret sealed to the TPM that opens with an operator's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AuthorizedBlob {
    pub(super) sealed: SealedBlob,
    /// Whose word.
    pub(super) operator: OperatorKey,
    /// Of which epoch.
    pub(super) epoch: u64,
}

impl AuthorizedBlob {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let Self { sealed: SealedBlob { srk_name, object }, operator, epoch } = self;
        let epoch = epoch.to_be_bytes();
        let fields = [srk_name.as_slice(), &object.public, &object.private, operator, &epoch];
        with_checksum(AUTHORIZED_MAGIC, &fields)
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, &'static str> {
        let mut reader = checked(AUTHORIZED_MAGIC, bytes)?;
        let mut sized = |max| reader.sized(max, "sealed blob").ok();
        let mut parse = || {
            let srk_name = sized(Name::MAX_LEN)?.to_vec();
            let public = sized(MAX_PUBLIC_LEN)?.to_vec();
            let private = sized(MAX_PRIVATE_LEN)?.to_vec();
            let operator = sized(size_of::<OperatorKey>())?.try_into().ok()?;
            let epoch = u64::from_be_bytes(sized(8)?.try_into().ok()?);
            let sealed = SealedBlob { srk_name, object: WrappedKey { public, private } };
            Some(Self { sealed, operator, epoch })
        };
        let blob = parse().ok_or("its fields do not fit")?;
        reader.finish("sealed blob").map_err(|_| "its fields do not fit")?;
        Ok(blob)
    }
}

fn with_checksum(magic: &[u8; 8], fields: &[&[u8]]) -> Vec<u8> {
    let mut out = magic.to_vec();
    for field in fields {
        put_sized(&mut out, field);
    }
    let checksum = sha256(&[&out]);
    out.extend_from_slice(&checksum);
    out
}

fn checked<'a>(magic: &[u8; 8], bytes: &'a [u8]) -> Result<Reader<'a>, &'static str> {
    let (content, checksum) = bytes.split_last_chunk::<32>().ok_or("it is cut short")?;
    if sha256(&[content]) != *checksum {
        return Err("its checksum is wrong");
    }
    match content.split_first_chunk::<8>() {
        Some((found, rest)) if found == magic => Ok(Reader::new(rest)),
        _ => Err("it is another kind of file, or of another version"),
    }
}

/// The folder of one gateway's key file.
#[derive(Debug, Clone)]
pub(super) struct KeyStore {
    folder: PathBuf,
}

impl KeyStore {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.join(KEY_FILE)
    }

    /// Whether there is an identity. An unreadable folder is an error, never "no".
    pub(super) fn exists(&self) -> Result<bool, TpmError> {
        let path = self.path();
        path.try_exists().map_err(|error| TpmError::Storage { path, error })
    }

    pub(super) fn load(&self) -> Result<KeyFile, TpmError> {
        let path = self.path();
        let mut bytes = Vec::new();
        let read =
            File::open(&path).and_then(|file| file.take(MAX_FILE_LEN).read_to_end(&mut bytes));
        match read {
            Ok(_) => KeyFile::from_bytes(&bytes)
                .map_err(|why| TpmError::Damaged { what: path.display().to_string(), why }),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(TpmError::NoIdentity { path }),
            Err(error) => Err(TpmError::Storage { path, error }),
        }
    }

    /// Writes a new key file: whole or not at all, and never over another one.
    pub(super) fn create(&self, keys: &KeyFile) -> Result<(), TpmError> {
        let path = self.path();
        let storage = |error| TpmError::Storage { path: path.clone(), error };
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder).map_err(storage)?;
        let temporary = self.folder.join(".identity.keys.new");
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(storage(error)),
            _ => {}
        }
        write_synced(&temporary, &keys.to_bytes()).map_err(storage)?;
        // A hard link fails where a rename would overwrite.
        let linked = fs::hard_link(&temporary, &path);
        fs::remove_file(&temporary).map_err(storage)?;
        match linked {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return Err(TpmError::IdentityExists { path });
            }
            Err(error) => return Err(storage(error)),
        }
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(storage)
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn sample() -> KeyFile {
        KeyFile {
            ek_public: vec![1; 122],
            srk_name: vec![2; 34],
            ak: WrappedKey { public: vec![3; 88], private: vec![4; 126] },
            identity: WrappedKey { public: vec![5; 88], private: vec![6; 126] },
        }
    }

    #[test]
    fn a_key_file_is_private_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let store = KeyStore::new(folder.path().join("tpm"));
        assert!(!store.exists().unwrap());
        assert!(matches!(store.load(), Err(TpmError::NoIdentity { .. })));
        store.create(&sample()).unwrap();
        assert!(store.exists().unwrap());
        assert_eq!(store.load().unwrap(), sample());
        let mode = fs::metadata(store.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(store.create(&sample()), Err(TpmError::IdentityExists { .. })));
        assert_eq!(fs::read_dir(folder.path().join("tpm")).unwrap().count(), 1);
    }

    #[test]
    fn every_damage_of_a_blob_is_seen() {
        let keys = sample().to_bytes();
        let sealed = SealedBlob {
            srk_name: vec![2; 34],
            object: WrappedKey { public: vec![1; 50], private: vec![9; 190] },
        };
        let bytes = sealed.to_bytes();
        assert_eq!(SealedBlob::from_bytes(&bytes), Ok(sealed));
        for index in 0..keys.len() {
            let mut damaged = keys.clone();
            damaged[index] ^= 1;
            assert!(KeyFile::from_bytes(&damaged).is_err(), "byte {index}");
            assert!(KeyFile::from_bytes(&keys[..index]).is_err(), "cut at {index}");
        }
        for index in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[index] ^= 1;
            assert!(SealedBlob::from_bytes(&damaged).is_err(), "byte {index}");
        }
        assert!(SealedBlob::from_bytes(&keys).is_err(), "a key file is no sealed blob");
    }
}
