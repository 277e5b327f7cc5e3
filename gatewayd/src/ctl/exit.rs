//! How `gatewayctl` ends: exit codes, and sentences that say what to do.

use crate::config::ConfigError;
use crate::dbus::Error;
use crate::dbus::client::{BusError, Unreached, unreached};
use crate::operator_key::OperatorKeyError;

/// Shown by `--help` and in the man pages.
pub(super) const HELP: &str = "Exit codes:
  0  done
  1  failed
  2  wrong usage
  3  the daemon is not running
  4  refused, or not authorised
  5  not found
  6  not done in time
  7  verification failed";

/// Exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Exit {
    /// Done.
    Ok = 0,
    /// Failed.
    Failed = 1,
    /// Wrong usage.
    Usage = 2,
    /// The daemon is not running.
    NotRunning = 3,
    /// Refused by the record or the policy, or the user may not.
    Refused = 4,
    /// Nothing of this name.
    NotFound = 5,
    /// Not done in time.
    Timeout = 6,
    /// A proof does not hold.
    VerificationFailed = 7,
}

/// Why a command did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// Exit code.
    pub(super) exit: Exit,
    /// What happened.
    pub(super) message: String,
    /// What to do about it.
    pub(super) advice: Option<String>,
}

impl Failure {
    /// A failure without advice.
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), advice: None }
    }

    /// Adds what to do about it.
    #[must_use]
    pub(super) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// Wrong usage that clap cannot see.
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// A file that cannot be read or written.
    pub(super) fn file(path: &std::path::Path, error: &std::io::Error) -> Self {
        let exit = match error.kind() {
            std::io::ErrorKind::NotFound => Exit::NotFound,
            _ => Exit::Failed,
        };
        Self::new(exit, format!("{}: {error}", path.display()))
    }

    /// Output that nobody reads any more, as in `gatewayctl … | head -1`: not a failure.
    pub(super) fn is_closed_output(&self) -> bool {
        self.exit == Exit::Ok
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::new(Exit::Ok, "nobody reads the output"),
            _ => Self::new(Exit::Failed, error.to_string()),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let words = error.to_string();
        match error {
            Error::Bus(error) => from_bus(&error),
            Error::InvalidArgument(_) => Self::new(Exit::Usage, words),
            Error::NotFound(_) => Self::new(Exit::NotFound, words),
            Error::Refused(_) | Error::AlreadyInitialised(_) => Self::new(Exit::Refused, words),
            Error::NotAuthorised(_) => Self::new(Exit::Refused, words)
                .advise("run it as root, or let polkit ask for your password (`pkttyagent`)"),
            Error::Timeout(_) => Self::new(Exit::Timeout, words),
            Error::NotInitialised(_)
            | Error::Tpm(_)
            | Error::Busy(_)
            | Error::Storage(_)
            | Error::Unavailable(_)
            | Error::Internal(_) => Self::new(Exit::Failed, words),
        }
    }
}

fn from_bus(error: &BusError) -> Failure {
    match unreached(error) {
        Unreached::NotRunning => not_running().advise(format!(
            "start it with `systemctl start gatewayd` and look at `systemctl status gatewayd`; \
             for another bus see --bus ({error})"
        )),
        Unreached::NotAllowed => {
            Failure::new(Exit::Refused, format!("the bus does not allow it: {error}"))
        }
        Unreached::TimedOut => Failure::new(Exit::Timeout, "gatewayd did not answer in time")
            .advise(
                "it may still do it; look at `gatewayctl status`, or allow more with --timeout",
            ),
        Unreached::Other => Failure::new(Exit::Failed, error.to_string()),
    }
}

/// The daemon is not there.
pub(super) fn not_running() -> Failure {
    Failure::new(Exit::NotRunning, "gatewayd is not running")
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Failed, error.to_string())
    }
}

impl From<OperatorKeyError> for Failure {
    fn from(error: OperatorKeyError) -> Self {
        let words = error.to_string();
        match error {
            OperatorKeyError::Exists(_) => Self::new(Exit::Refused, words),
            OperatorKeyError::BadPassphrase => Self::new(Exit::Usage, words),
            OperatorKeyError::File { source, .. }
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                Self::new(Exit::NotFound, words)
            }
            OperatorKeyError::File { .. }
            | OperatorKeyError::NotAKey(_)
            | OperatorKeyError::WrongPassphrase(_)
            | OperatorKeyError::Make(_) => Self::new(Exit::Failed, words),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_exit_code() {
        let words = || "why".to_string();
        let table = [
            (Error::NotInitialised(words()), Exit::Failed),
            (Error::AlreadyInitialised(words()), Exit::Refused),
            (Error::Tpm(words()), Exit::Failed),
            (Error::NotFound(words()), Exit::NotFound),
            (Error::InvalidArgument(words()), Exit::Usage),
            (Error::Busy(words()), Exit::Failed),
            (Error::Refused(words()), Exit::Refused),
            (Error::Timeout(words()), Exit::Timeout),
            (Error::Storage(words()), Exit::Failed),
            (Error::Unavailable(words()), Exit::Failed),
            (Error::Internal(words()), Exit::Failed),
            (Error::NotAuthorised(words()), Exit::Refused),
        ];
        for (error, exit) in table {
            assert_eq!(Failure::from(error.clone()).exit, exit, "{error:?}");
        }
    }

    #[test]
    fn the_help_names_every_exit_code() {
        for code in 0..=7 {
            assert!(HELP.contains(&format!("\n  {code}  ")), "{code}");
        }
        assert_eq!(Exit::VerificationFailed as u8, 7);
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let closed = Failure::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        assert!(closed.is_closed_output());
    }
}
