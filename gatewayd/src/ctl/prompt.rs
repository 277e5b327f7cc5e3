//! Questions to the person at the terminal, and secrets that must not come from arguments.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::exit::Failure;
use crate::operator_key::Passphrase;

/// Longest line that is read, bytes.
const MAX_LINE: u64 = 4096;

/// Whether a person can be asked.
pub(super) fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks on standard error and reads a line; the default for an empty one.
///
/// # Errors
/// Nobody can be asked.
pub(super) fn ask(question: &str, default: &str) -> Result<String, Failure> {
    if !is_interactive() {
        return Err(Failure::usage(format!("nobody can be asked: {question}")));
    }
    match default {
        "" => eprint!("{question}: "),
        default => eprint!("{question} [{default}]: "),
    }
    io::stderr().flush()?;
    let mut line = String::new();
    io::stdin().lock().take(MAX_LINE).read_line(&mut line)?;
    let answer = line.trim();
    Ok(if answer.is_empty() { default.into() } else { answer.into() })
}

/// Asks for a yes. `yes` answers for the person; without a person and without it, that is an error.
///
/// # Errors
/// Nobody can be asked, or the answer is no.
pub(super) fn confirm(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !is_interactive() {
        return Err(Failure::usage(format!("{question} Confirm with --yes.")));
    }
    match ask(&format!("{question} [y/N]"), "")?.to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::new(super::exit::Exit::Failed, "not confirmed; nothing was changed")),
    }
}

/// Where a secret comes from.
pub(super) enum SecretSource<'a> {
    /// A file, or standard input when it is `-`.
    File(&'a Path),
    /// The terminal, without echo.
    Terminal,
}

/// Reads one line of a secret.
///
/// # Errors
/// It cannot be read, is too long or not text, or nobody can be asked.
pub(super) fn secret(
    source: SecretSource<'_>,
    question: &str,
) -> Result<Zeroizing<String>, Failure> {
    let line = match source {
        SecretSource::File(path) if path == Path::new("-") => read_line(io::stdin().lock()),
        SecretSource::File(path) => {
            let file = File::open(path).map_err(|error| Failure::file(path, &error))?;
            read_line(BufReader::new(file))
        }
        SecretSource::Terminal => return from_terminal(question),
    };
    let line = line.map_err(|error| Failure::usage(format!("{question}: {error}")))?;
    if line.trim().is_empty() {
        return Err(Failure::usage(format!("{question}: nothing was given")));
    }
    Ok(line)
}

/// The file of an option, or the terminal.
pub(super) fn source(file: &Option<PathBuf>) -> SecretSource<'_> {
    file.as_deref().map_or(SecretSource::Terminal, SecretSource::File)
}

fn read_line(reader: impl BufRead) -> io::Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(String::new());
    reader.take(MAX_LINE).read_line(&mut line)?;
    let trimmed = line.trim_end_matches(['\n', '\r']).len();
    line.truncate(trimmed);
    Ok(line)
}

/// Terminal without echo until it is dropped.
struct NoEcho<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> NoEcho<'a> {
    fn new(terminal: &'a File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for NoEcho<'_> {
    fn drop(&mut self) {
        // Nothing more can be done for a terminal that is gone.
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}

fn from_terminal(question: &str) -> Result<Zeroizing<String>, Failure> {
    let nobody = || Failure::usage(format!("nobody can be asked: {question}; give it by a file"));
    let mut terminal =
        OpenOptions::new().read(true).write(true).open("/dev/tty").map_err(|_| nobody())?;
    write!(terminal, "{question}: ")?;
    let line = {
        let _silent = NoEcho::new(&terminal)?;
        read_line(BufReader::new(&terminal))?
    };
    writeln!(terminal)?;
    if line.trim().is_empty() {
        return Err(Failure::usage(format!("{question}: nothing was given")));
    }
    Ok(line)
}

/// Passphrase of the operator key: from a file, a systemd credential, or the terminal; twice for a
/// new key.
///
/// # Errors
/// It cannot be had, or the two differ.
pub(super) fn passphrase(file: &Option<PathBuf>, new: bool) -> Result<Passphrase, Failure> {
    if let Some(path) = file {
        if path == Path::new("-") {
            return Ok(Passphrase::new(secret(source(file), "passphrase")?)?);
        }
        return Ok(Passphrase::from_file(path)?);
    }
    if let Some(passphrase) = Passphrase::from_credential()? {
        return Ok(passphrase);
    }
    let first = from_terminal("Passphrase of the operator key")?;
    if new && *first != *from_terminal("The same again")? {
        return Err(Failure::usage("the two passphrases differ"));
    }
    Ok(Passphrase::new(first)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_come_from_files_without_their_line_break() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let file = folder.path().join("code");
        std::fs::write(&file, "GW1:secret\r\nsecond line\n").expect("written");
        let line = secret(SecretSource::File(&file), "code").expect("read");
        assert_eq!(*line, "GW1:secret");
        std::fs::write(&file, " \n").expect("written");
        assert!(secret(SecretSource::File(&file), "code").is_err());
        let missing = secret(SecretSource::File(&folder.path().join("no")), "code");
        assert_eq!(missing.expect_err("missing").exit, super::super::exit::Exit::NotFound);
    }
}
