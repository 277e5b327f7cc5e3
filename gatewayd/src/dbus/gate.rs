//! Who may do what, and how much at once. Every handler passes here first.
//!
//! ```text
//! uid 0                       may
//! polkit answers              what it says, after asking the user where the caller allows it
//! polkit is not on the bus    only the daemon's own user may
//! anything else               refused
//! ```

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};
use zbus::message::{Flags, Header};
use zbus::{Connection, fdo};
use zbus_polkit::policykit1::{AuthorityProxy, CheckAuthorizationFlags, Subject};

use super::error::Error;

/// Most requests under way at once; more are refused as busy. Reads take milliseconds, and a
/// gateway has a handful of clients.
const MAX_REQUESTS: usize = 64;

/// Most questions to polkit at once: each may wait for a person.
const MAX_QUESTIONS: usize = 16;

/// Longest wait for polkit: a person types a password within two minutes or tries again.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(120);

/// What polkit is asked about: one action for each kind of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Founding a site.
    ManageSite,
    /// Joining a site, and giving that up.
    JoinSite,
    /// Renewing the attestation of this gateway, and its keys.
    ManageIdentity,
    /// Letting bridges in, and forgetting them.
    ManageBridges,
    /// Pairing a sensor.
    Pair,
    /// Renaming and forgetting sensors.
    ManageSensors,
    /// Preparing and submitting operator acts.
    OperatorAct,
}

impl Action {
    /// Name of the polkit action.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ManageSite => "org.gatewayd.gateway1.manage-site",
            Self::JoinSite => "org.gatewayd.gateway1.join-site",
            Self::ManageIdentity => "org.gatewayd.gateway1.manage-identity",
            Self::ManageBridges => "org.gatewayd.gateway1.manage-bridges",
            Self::Pair => "org.gatewayd.gateway1.pair",
            Self::ManageSensors => "org.gatewayd.gateway1.manage-sensors",
            Self::OperatorAct => "org.gatewayd.gateway1.operator-act",
        }
    }
}

/// A caller who may; holds a place among the requests under way.
pub(crate) struct Authorised<'a> {
    /// The caller's user.
    pub(crate) uid: u32,
    _place: SemaphorePermit<'a>,
}

/// The gate of all interfaces of one connection.
pub(crate) struct Gate {
    own_uid: u32,
    requests: Semaphore,
    questions: Semaphore,
    /// When a refusal was last logged.
    refused: Mutex<Option<Instant>>,
}

impl Gate {
    /// A gate with all places free.
    pub(crate) fn new() -> Self {
        Self {
            own_uid: rustix::process::geteuid().as_raw(),
            requests: Semaphore::new(MAX_REQUESTS),
            questions: Semaphore::new(MAX_QUESTIONS),
            refused: Mutex::new(None),
        }
    }

    /// Admits a read: anyone may, as long as there is a place.
    pub(crate) fn read(&self) -> Result<SemaphorePermit<'_>, Error> {
        self.requests
            .try_acquire()
            .map_err(|_| Error::Busy(format!("{MAX_REQUESTS} requests are under way")))
    }

    /// Admits a change if its caller may.
    pub(crate) async fn change(
        &self,
        connection: &Connection,
        header: &Header<'_>,
        action: Action,
    ) -> Result<Authorised<'_>, Error> {
        let uid = sender_uid(connection, header).await?;
        if uid != 0 && !self.may(connection, header, action, uid).await? {
            self.log_refusal(uid, action);
            return Err(Error::NotAuthorised(format!(
                "user {uid} may not do this; polkit action {}",
                action.name()
            )));
        }
        Ok(Authorised { uid, _place: self.read()? })
    }

    /// Says who was refused, at most once a second: a stranger must not fill the journal.
    fn log_refusal(&self, uid: u32, action: Action) {
        let mut last = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if last.is_none_or(|last| now.duration_since(last) >= Duration::from_secs(1)) {
            *last = Some(now);
            tracing::warn!(uid, action = action.name(), "refused a caller");
        }
    }

    /// Asks polkit, or decides without it where there is none.
    async fn may(
        &self,
        connection: &Connection,
        header: &Header<'_>,
        action: Action,
        uid: u32,
    ) -> Result<bool, Error> {
        let Ok(_question) = self.questions.try_acquire() else {
            return Err(Error::Busy(format!("{MAX_QUESTIONS} callers are waiting for polkit")));
        };
        match tokio::time::timeout(QUESTION_TIMEOUT, ask(connection, header, action)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) if is_absent(&error) => Ok(uid == self.own_uid),
            Ok(Err(error)) => Err(Error::NotAuthorised(format!("polkit: {error}"))),
            Err(_) => Err(Error::NotAuthorised(format!(
                "no answer from polkit in {} s",
                QUESTION_TIMEOUT.as_secs()
            ))),
        }
    }
}

async fn ask(
    connection: &Connection,
    header: &Header<'_>,
    action: Action,
) -> Result<bool, zbus::Error> {
    let subject = Subject::new_for_message_header(header)
        .map_err(|error| zbus::Error::Failure(error.to_string()))?;
    let mut flags = CheckAuthorizationFlags::empty();
    if header.primary().flags().contains(Flags::ALLOW_INTERACTIVE_AUTH) {
        flags |= CheckAuthorizationFlags::ALLOW_USER_INTERACTION;
    }
    let authority = AuthorityProxy::builder(connection)
        .cache_properties(zbus::proxy::CacheProperties::No)
        .build()
        .await?;
    let answer =
        authority.check_authorization(&subject, action.name(), &HashMap::new(), flags, "").await?;
    Ok(answer.is_authorized)
}

/// Whether the bus says that there is no polkit, rather than polkit that something is wrong.
fn is_absent(error: &zbus::Error) -> bool {
    let zbus::Error::FDO(error) = error else { return false };
    matches!(**error, fdo::Error::ServiceUnknown(_) | fdo::Error::NameHasNoOwner(_))
}

async fn sender_uid(connection: &Connection, header: &Header<'_>) -> Result<u32, Error> {
    let sender =
        header.sender().ok_or_else(|| Error::NotAuthorised("a caller without a name".into()))?;
    let bus = fdo::DBusProxy::new(connection).await?;
    bus.get_connection_unix_user(sender.to_owned().into())
        .await
        .map_err(|error| Error::NotAuthorised(format!("the bus does not know the caller: {error}")))
}

/// A user as people know them, for acts that say who asked: `alice (uid 1000)`, or `uid 1000`.
pub(crate) fn caller_name(uid: u32) -> String {
    // Bounded by the file itself, which only root writes.
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?);
        (id.parse() == Ok(uid)).then(|| name.to_owned())
    });
    match name {
        Some(name) => format!("{name} (uid {uid})"),
        None => format!("uid {uid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_have_names() {
        assert_eq!(caller_name(0), "root (uid 0)");
        assert_eq!(caller_name(u32::MAX - 7), "uid 4294967288");
    }

    #[test]
    fn a_full_house_refuses_and_recovers() {
        let gate = Gate::new();
        let places: Vec<_> = (0..MAX_REQUESTS).map(|_| gate.read().expect("a place")).collect();
        assert!(matches!(gate.read(), Err(Error::Busy(_))));
        drop(places);
        assert!(gate.read().is_ok());
    }
}
