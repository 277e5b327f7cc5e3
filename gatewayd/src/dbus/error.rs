//! Errors on the bus: `org.gatewayd.Gateway1.Error.*`, one for each [`ControlError`], and one for a
//! caller who may not.

use crate::control::ControlError;

/// What a call can fail with, on both sides of the bus.
#[derive(Debug, Clone, zbus::DBusError)]
#[zbus(prefix = "org.gatewayd.Gateway1.Error", impl_display = false)]
pub enum Error {
    /// Not one of ours: no daemon, no bus, no answer, an answer of another shape.
    #[zbus(error)]
    Bus(zbus::Error),
    /// There is no site yet.
    NotInitialised(String),
    /// An identity exists; it is never overwritten.
    AlreadyInitialised(String),
    /// The TPM is missing, not permitted, hung, or another one.
    Tpm(String),
    /// Nothing of this name.
    NotFound(String),
    /// Malformed, out of range or contradictory.
    InvalidArgument(String),
    /// Another request of this kind is under way, or too many are.
    Busy(String),
    /// The record's rules or the site's policy say no.
    Refused(String),
    /// Not done in time.
    Timeout(String),
    /// The disk or its budget is full.
    Storage(String),
    /// The part that would do it is not running.
    Unavailable(String),
    /// Something of ours broke.
    Internal(String),
    /// The caller is not allowed to do this.
    NotAuthorised(String),
}

impl From<ControlError> for Error {
    fn from(error: ControlError) -> Self {
        let words = error.to_string();
        match error {
            ControlError::NotInitialised => Self::NotInitialised(words),
            ControlError::AlreadyInitialised(_) => Self::AlreadyInitialised(words),
            ControlError::Tpm(_) => Self::Tpm(words),
            ControlError::NotFound { .. } => Self::NotFound(words),
            ControlError::InvalidArgument(_) => Self::InvalidArgument(words),
            ControlError::Busy(_) => Self::Busy(words),
            ControlError::Refused(_) => Self::Refused(words),
            ControlError::Timeout(_) => Self::Timeout(words),
            ControlError::Storage(_) => Self::Storage(words),
            ControlError::Unavailable(_) => Self::Unavailable(words),
            ControlError::Internal(_) => Self::Internal(words),
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bus(error) => write!(f, "{error}"),
            Self::NotInitialised(words)
            | Self::AlreadyInitialised(words)
            | Self::Tpm(words)
            | Self::NotFound(words)
            | Self::InvalidArgument(words)
            | Self::Busy(words)
            | Self::Refused(words)
            | Self::Timeout(words)
            | Self::Storage(words)
            | Self::Unavailable(words)
            | Self::Internal(words)
            | Self::NotAuthorised(words) => write!(f, "{words}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zbus::DBusError;

    #[test]
    fn every_control_error_has_its_own_name() {
        let words = || "why".to_string();
        let table = [
            (ControlError::NotInitialised, "NotInitialised"),
            (ControlError::AlreadyInitialised(words()), "AlreadyInitialised"),
            (ControlError::Tpm(words()), "Tpm"),
            (ControlError::NotFound { what: "sensor", name: words() }, "NotFound"),
            (ControlError::InvalidArgument(words()), "InvalidArgument"),
            (ControlError::Busy(words()), "Busy"),
            (ControlError::Refused(words()), "Refused"),
            (ControlError::Timeout(words()), "Timeout"),
            (ControlError::Storage(words()), "Storage"),
            (ControlError::Unavailable(words()), "Unavailable"),
            (ControlError::Internal(words()), "Internal"),
        ];
        for (error, name) in table {
            let words = error.to_string();
            let on_bus = Error::from(error);
            assert_eq!(on_bus.name().as_str(), format!("org.gatewayd.Gateway1.Error.{name}"));
            assert_eq!(on_bus.description(), Some(words.as_str()));
            assert_eq!(on_bus.to_string(), words);
        }
    }
}
