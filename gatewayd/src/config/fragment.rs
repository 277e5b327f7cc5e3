//! One configuration file as it is written: every key optional, every value with its place.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::ConfigError;

/// Longest file that is read, bytes: the defaults with all comments are below 4 KiB.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// A file and what it sets.
pub(super) struct Layer {
    pub(super) file: PathBuf,
    pub(super) text: String,
    pub(super) fragment: Fragment,
}

impl Layer {
    /// Reads one file, bounded, and parses it.
    pub(super) fn read(file: &Path) -> Result<Self, ConfigError> {
        let mut bytes = Vec::new();
        File::open(file)
            .and_then(|opened| opened.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes))
            .map_err(|source| ConfigError::Unreadable { file: file.into(), source })?;
        Self::parse(file, bytes)
    }

    /// Parses the bytes of one file.
    pub(super) fn parse(file: &Path, bytes: Vec<u8>) -> Result<Self, ConfigError> {
        let unacceptable = |problem| ConfigError::Unacceptable { file: file.into(), problem };
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(unacceptable(format!("longer than {MAX_FILE_BYTES} bytes")));
        }
        let text = String::from_utf8(bytes)
            .map_err(|error| unacceptable(format!("not UTF-8: {}", error.utf8_error())))?;
        match toml::from_str(&text) {
            Ok(fragment) => Ok(Self { file: file.into(), text, fragment }),
            Err(error) => Err(invalid(file, &text, error.span(), error.message())),
        }
    }

    /// An error at a value of this file.
    pub(super) fn invalid(&self, span: Range<usize>, problem: &str) -> ConfigError {
        invalid(&self.file, &self.text, Some(span), problem)
    }

    /// Line of a byte offset, from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        position(&self.text, offset).0
    }
}

/// Parses and checks the text of one file: the entry for fuzzing. Never panics, for any bytes.
///
/// # Errors
/// As [`super::load`], with the file called `input`.
pub fn check_text(bytes: &[u8]) -> Result<super::Settings, ConfigError> {
    let layer = Layer::parse(Path::new("input"), bytes.to_vec())?;
    super::Settings::from_layers(&[layer])
}

fn invalid(file: &Path, text: &str, span: Option<Range<usize>>, problem: &str) -> ConfigError {
    let (line, column) = position(text, span.map_or(text.len(), |span| span.start));
    // The parser's messages may span lines; one error is one line.
    let problem = problem.split_whitespace().collect::<Vec<_>>().join(" ");
    ConfigError::Invalid { file: file.into(), line, column, problem }
}

fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.matches('\n').count() + 1;
    (line, before[line_start..].chars().count() + 1)
}

/// Keys at the top of the file.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fragment {
    pub(super) data_dir: Option<Spanned<String>>,
    pub(super) log_level: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) bus: BusFragment,
    #[serde(default)]
    pub(super) tpm: TpmFragment,
    #[serde(default)]
    pub(super) storage: StorageFragment,
    #[serde(default)]
    pub(super) readings: ReadingsFragment,
    #[serde(default)]
    pub(super) peers: PeersFragment,
    #[serde(default)]
    pub(super) lora: LoraFragment,
    #[serde(default)]
    pub(super) serial: SerialFragment,
}

/// `[bus]`
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BusFragment {
    pub(super) address: Option<Spanned<String>>,
}

/// `[tpm]`
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TpmFragment {
    pub(super) tcti: Option<Spanned<String>>,
    pub(super) insecure_software_tpm_sites: Option<Spanned<bool>>,
    pub(super) logs_socket: Option<Spanned<String>>,
}

/// `[storage]`
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StorageFragment {
    pub(super) disk_budget_mib: Option<Spanned<i64>>,
}

/// `[readings]`
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReadingsFragment {
    pub(super) batch_interval_ms: Option<Spanned<i64>>,
}

/// `[peers]`
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PeersFragment {
    pub(super) listen: Option<Spanned<String>>,
    pub(super) addresses: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) discovery: Option<Spanned<bool>>,
    pub(super) interface: Option<Spanned<String>>,
}

/// `[lora]`
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LoraFragment {
    pub(super) enabled: Option<Spanned<bool>>,
    pub(super) listen: Option<Spanned<String>>,
    pub(super) forwarders: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) region: Option<Spanned<String>>,
}

/// `[serial]`
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SerialFragment {
    pub(super) baud: Option<Spanned<i64>>,
}
