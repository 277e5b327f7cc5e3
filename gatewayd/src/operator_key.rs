//! The operator key as a file: P-256, encrypted PKCS#8 in PEM (RFC 5958, RFC 8018 PBES2 with scrypt
//! and AES-256), readable by `openssl pkey` too. It lives on the operator's side: made and used by
//! `gatewayctl`, never by the daemon, and best kept off the gateways.
//!
//! Passphrases come from a prompt, a file or a systemd credential; never from arguments, which
//! every user of the machine can read.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ledger::crypto::SigningKey;
use p256::elliptic_curve::Generate;
use p256::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use pkcs8::LineEnding;
use zeroize::Zeroizing;

/// Shortest passphrase, bytes. Whoever has the file can try as many as they like.
const MIN_PASSPHRASE: usize = 8;

/// Longest passphrase file that is read, bytes.
const MAX_PASSPHRASE: usize = 1024;

/// Longest key file that is read, bytes: one is below 600.
const MAX_KEY_FILE: u64 = 16 * 1024;

/// Name of the systemd credential with the passphrase.
pub const CREDENTIAL: &str = "operator-passphrase";

/// What can be wrong with the operator key or its passphrase. All are the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum OperatorKeyError {
    /// The file cannot be read or written.
    #[error("{}: {source}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A key is there already; it is never overwritten.
    #[error("{}: there is a file already, and a key is never overwritten", .0.display())]
    Exists(PathBuf),
    /// Not an encrypted PKCS#8 P-256 key.
    #[error("{}: not an encrypted operator key (PKCS#8 PEM, P-256)", .0.display())]
    NotAKey(PathBuf),
    /// The passphrase does not open it.
    #[error("{}: the passphrase does not open it", .0.display())]
    WrongPassphrase(PathBuf),
    /// Too short, too long or not text.
    #[error("the passphrase needs {MIN_PASSPHRASE} to {MAX_PASSPHRASE} bytes of text")]
    BadPassphrase,
    /// The system gives no randomness, or the key cannot be encoded.
    #[error("cannot make a key: {0}")]
    Make(String),
}

/// A passphrase; wiped when dropped.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// Checks the length; one line break at the end is not part of it.
    ///
    /// # Errors
    /// Too short or too long.
    pub fn new(text: Zeroizing<String>) -> Result<Self, OperatorKeyError> {
        let line = text.strip_suffix('\n').unwrap_or(&text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        if !(MIN_PASSPHRASE..=MAX_PASSPHRASE).contains(&line.len()) {
            return Err(OperatorKeyError::BadPassphrase);
        }
        Ok(Self(Zeroizing::new(line.to_owned())))
    }

    /// Reads it from a file; its last line break is not part of it.
    ///
    /// # Errors
    /// The file cannot be read, or what it holds is no passphrase.
    pub fn from_file(file: &Path) -> Result<Self, OperatorKeyError> {
        let bytes = read(file, MAX_PASSPHRASE as u64 + 2)?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => Self::new(Zeroizing::new(text.to_owned())),
            Err(_) => Err(OperatorKeyError::BadPassphrase),
        }
    }

    /// Reads the systemd credential `operator-passphrase`, if there is one.
    ///
    /// # Errors
    /// It is there and cannot be read, or is no passphrase.
    pub fn from_credential() -> Result<Option<Self>, OperatorKeyError> {
        let Some(folder) = std::env::var_os("CREDENTIALS_DIRECTORY") else { return Ok(None) };
        let file = Path::new(&folder).join(CREDENTIAL);
        if file.exists() { Self::from_file(&file).map(Some) } else { Ok(None) }
    }
}

/// Makes a new operator key and writes it, encrypted, to a file that must not exist.
///
/// # Errors
/// The file exists or cannot be written, or the system gives no randomness.
pub fn create(file: &Path, passphrase: &Passphrase) -> Result<SigningKey, OperatorKeyError> {
    let make = |error: &dyn std::fmt::Display| OperatorKeyError::Make(error.to_string());
    let secret = p256::SecretKey::try_generate().map_err(|error| make(&error))?;
    let plain = secret.to_pkcs8_der().map_err(|error| make(&error))?;
    let info =
        pkcs8::PrivateKeyInfoRef::try_from(plain.as_bytes()).map_err(|error| make(&error))?;
    let encrypted = info.encrypt(passphrase.0.as_bytes()).map_err(|error| make(&error))?;
    let pem =
        encrypted.to_pem("ENCRYPTED PRIVATE KEY", LineEnding::LF).map_err(|error| make(&error))?;
    write_new(file, pem.as_bytes())?;
    to_signing_key(&secret).ok_or_else(|| OperatorKeyError::NotAKey(file.into()))
}

/// Opens an operator key.
///
/// # Errors
/// The file cannot be read, is no encrypted P-256 key, or the passphrase does not open it.
pub fn open(file: &Path, passphrase: &Passphrase) -> Result<SigningKey, OperatorKeyError> {
    let not_a_key = || OperatorKeyError::NotAKey(file.into());
    let bytes = read(file, MAX_KEY_FILE)?;
    let pem = std::str::from_utf8(&bytes).map_err(|_| not_a_key())?;
    let (label, encrypted) = pkcs8::SecretDocument::from_pem(pem).map_err(|_| not_a_key())?;
    if label != "ENCRYPTED PRIVATE KEY" {
        return Err(not_a_key());
    }
    let info = pkcs8::EncryptedPrivateKeyInfoRef::try_from(encrypted.as_bytes())
        .map_err(|_| not_a_key())?;
    let plain = info
        .decrypt(passphrase.0.as_bytes())
        .map_err(|_| OperatorKeyError::WrongPassphrase(file.into()))?;
    // A wrong passphrase may by chance leave valid padding: then there is no key inside.
    let secret = p256::SecretKey::from_pkcs8_der(plain.as_bytes())
        .map_err(|_| OperatorKeyError::WrongPassphrase(file.into()))?;
    to_signing_key(&secret).ok_or_else(not_a_key)
}

fn to_signing_key(secret: &p256::SecretKey) -> Option<SigningKey> {
    let scalar = Zeroizing::new(<[u8; 32]>::from(secret.to_bytes()));
    SigningKey::from_bytes(&scalar).ok()
}

fn read(file: &Path, most: u64) -> Result<Zeroizing<Vec<u8>>, OperatorKeyError> {
    let mut bytes = Zeroizing::new(Vec::new());
    File::open(file)
        .and_then(|opened| opened.take(most).read_to_end(&mut bytes))
        .map_err(|source| OperatorKeyError::File { file: file.into(), source })?;
    Ok(bytes)
}

/// Writes a secret file, readable by its owner only, and syncs it and its folder: the key that
/// genesis names must not be lost to a power cut a second later.
fn write_new(file: &Path, bytes: &[u8]) -> Result<(), OperatorKeyError> {
    let write = || -> io::Result<()> {
        let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
        new.write_all(bytes)?;
        new.sync_all()?;
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => OperatorKeyError::Exists(file.into()),
        _ => OperatorKeyError::File { file: file.into(), source },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(Zeroizing::new(text.into())).expect("long enough")
    }

    #[test]
    fn a_key_comes_back_with_its_passphrase_only() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("operator.pem");
        let made = create(&file, &passphrase("correct horse")).expect("made");
        let mode = std::fs::metadata(&file).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let opened = open(&file, &passphrase("correct horse\n")).expect("opens");
        assert_eq!(opened.public_key(), made.public_key());
        let wrong = open(&file, &passphrase("battery staple")).expect_err("wrong passphrase");
        assert!(matches!(wrong, OperatorKeyError::WrongPassphrase(_)), "{wrong}");
        let again = create(&file, &passphrase("correct horse")).expect_err("exists");
        assert!(matches!(again, OperatorKeyError::Exists(_)), "{again}");
        let unchanged = open(&file, &passphrase("correct horse")).expect("opens still");
        assert_eq!(unchanged.public_key(), made.public_key());
    }

    #[test]
    fn what_is_no_encrypted_key_is_named_so() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let plain = p256::SecretKey::try_generate()
            .expect("randomness")
            .to_pkcs8_pem(LineEnding::LF)
            .expect("PEM");
        let table: [(&str, &[u8]); 4] = [
            ("empty", b""),
            ("garbage", b"\xff\x00garbage"),
            ("not encrypted", plain.as_bytes()),
            ("cut", b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIH\n"),
        ];
        for (what, bytes) in table {
            let file = folder.path().join(what);
            std::fs::write(&file, bytes).expect("written");
            let error = open(&file, &passphrase("correct horse")).expect_err(what);
            assert!(matches!(error, OperatorKeyError::NotAKey(_)), "{what}: {error}");
        }
        let missing = open(&folder.path().join("missing"), &passphrase("correct horse"));
        assert!(matches!(missing, Err(OperatorKeyError::File { .. })));
    }

    #[test]
    fn passphrases_have_bounds() {
        for text in ["", "short", "1234567\n", &"x".repeat(MAX_PASSPHRASE + 1)] {
            assert!(Passphrase::new(Zeroizing::new(text.into())).is_err(), "{}", text.len());
        }
        assert!(Passphrase::new(Zeroizing::new("12345678\r\n".into())).is_ok());
    }
}
