//! Which files make the configuration, and in which order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::ConfigError;

/// Folders of the installed system, lowest first.
const SYSTEM_ROOTS: [&str; 3] = ["/usr/lib/gatewayd", "/etc/gatewayd", "/run/gatewayd"];

/// Name of the main file in a folder.
const MAIN_FILE: &str = "gatewayd.toml";

/// Most drop-ins in all; more is a mistake, not a configuration.
const MAX_DROP_INS: usize = 256;

/// Where configuration is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sources {
    /// Folders, lowest priority first, each with `gatewayd.toml` and `gatewayd.toml.d/`.
    Roots(Vec<PathBuf>),
    /// One file, which must exist, and the drop-ins of `FILE.d/` beside it.
    File(PathBuf),
}

impl Sources {
    /// The folders of the installed system.
    pub fn system() -> Self {
        Self::Roots(SYSTEM_ROOTS.iter().map(PathBuf::from).collect())
    }

    /// What `--config PATH` means: a folder is the only root, anything else is the only main file.
    pub fn from_argument(path: Option<&Path>) -> Self {
        match path {
            None => Self::system(),
            Some(path) if path.is_dir() => Self::Roots(vec![path.into()]),
            Some(path) => Self::File(path.into()),
        }
    }

    /// The files in the order in which they are applied: later ones win.
    ///
    /// # Errors
    /// A folder exists and cannot be read, or holds too many files.
    pub fn files(&self) -> Result<Vec<PathBuf>, ConfigError> {
        let mut drop_ins = BTreeMap::new();
        let mut main = None;
        match self {
            Self::File(file) => {
                main = Some(file.clone());
                let mut folder = file.clone().into_os_string();
                folder.push(".d");
                collect(Path::new(&folder), &mut drop_ins)?;
            }
            Self::Roots(roots) => {
                for root in roots {
                    let file = root.join(MAIN_FILE);
                    // A file that exists but cannot be looked at is still the one that counts:
                    // reading it will say what is wrong.
                    if !matches!(file.try_exists(), Ok(false)) {
                        main = Some(file);
                    }
                    collect(&root.join(format!("{MAIN_FILE}.d")), &mut drop_ins)?;
                }
            }
        }
        Ok(main.into_iter().chain(drop_ins.into_values()).collect())
    }
}

/// Adds the drop-ins of a folder; one of the same name replaces that of a lower folder. So a link
/// to /dev/null masks it: it is read as an empty file.
fn collect(
    folder: &Path,
    drop_ins: &mut BTreeMap<std::ffi::OsString, PathBuf>,
) -> Result<(), ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { file: folder.into(), source };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unreadable(error)),
    };
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "toml")
            && let Some(name) = path.file_name()
        {
            drop_ins.insert(name.to_owned(), path.clone());
        }
        if drop_ins.len() > MAX_DROP_INS {
            let problem = format!("more than {MAX_DROP_INS} drop-ins");
            return Err(ConfigError::Unacceptable { file: folder.into(), problem });
        }
    }
    Ok(())
}
