//! What can be wrong with the configuration.

use std::path::PathBuf;

/// Why the configuration cannot be used. All of these are the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file or folder cannot be read.
    #[error("{}: {source}", file.display())]
    Unreadable {
        /// The file or folder.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file is longer than the limit, or is not UTF-8, or a folder has too many files.
    #[error("{}: {problem}", file.display())]
    Unacceptable {
        /// The file or folder.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Not TOML, an unknown key, a wrong type, or a value out of range.
    #[error("{}:{line}:{column}: {problem}", file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What is wrong there.
        problem: String,
    },
}
