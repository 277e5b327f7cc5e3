//! This gateway as the attester among members: the founder whom nobody has attested yet shows
//! itself to the newcomer that will, and a member to a voter that wants to see it now.
//!
//! A stranger is shown nothing once this gateway is attested: an endorsement key is a name that
//! lasts as long as the chip.

use ledger::state::Attestation;

use super::verifier::Denial;
use crate::peers::Session;

/// Sessions in which keys were shown and a challenge may follow.
const MAX_SHOWN: usize = 32;

/// How long a challenge may follow, ms.
const SHOWN_MS: u64 = 60_000;

/// Strangers make the TPM work at most so often, ms.
const GUEST_EVERY_MS: u64 = 2_000;

/// Sessions in which this gateway has shown its keys: exporter, when.
#[derive(Debug, Default)]
pub struct Shown {
    sessions: Vec<([u8; 32], u64)>,
    /// When a stranger was last answered with evidence.
    guest_ms: Option<u64>,
}

impl Shown {
    /// Whether keys are shown in this session; if so, one challenge may follow.
    ///
    /// # Errors
    /// [`Denial::NotAMember`]: a stranger, and this gateway is attested already.
    pub fn show(
        &mut self,
        now_ms: u64,
        session: &Session,
        own: &Attestation,
    ) -> Result<(), Denial> {
        let attested = matches!(own, Attestation::Attested { .. });
        if attested && !session.member {
            return Err(Denial::NotAMember);
        }
        let (known, late) = (session.exporter, now_ms.saturating_sub(SHOWN_MS));
        self.sessions.retain(|(exporter, at)| *exporter != known && *at >= late);
        if self.sessions.len() >= MAX_SHOWN {
            return Err(Denial::Busy);
        }
        self.sessions.push((session.exporter, now_ms));
        Ok(())
    }

    /// Whether a challenge of this session is answered: once, and only after keys were shown.
    ///
    /// # Errors
    /// [`Denial::NoChallenge`], [`Denial::Busy`].
    pub fn prove(&mut self, now_ms: u64, session: &Session) -> Result<(), Denial> {
        let known = self.sessions.iter().position(|(exporter, _)| *exporter == session.exporter);
        let index = known.ok_or(Denial::NoChallenge)?;
        let busy = self.guest_ms.is_some_and(|at| now_ms.saturating_sub(at) < GUEST_EVERY_MS);
        if !session.member && busy {
            return Err(Denial::Busy);
        }
        let (_, at) = self.sessions.swap_remove(index);
        if now_ms.saturating_sub(at) > SHOWN_MS {
            return Err(Denial::NoChallenge);
        }
        if !session.member {
            self.guest_ms = Some(now_ms);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ledger::crypto::SigningKey;
    use ledger::ids::{Hash, Height, NodeId};

    use super::*;

    fn session(exporter: u8, member: bool) -> Session {
        let identity = SigningKey::from_bytes(&[5; 32]).unwrap().public_key();
        Session {
            node: NodeId::of_key(&identity),
            identity,
            exporter: [exporter; 32],
            member,
            remote: "192.0.2.1:7447".parse().unwrap(),
        }
    }

    const ATTESTED: Attestation = Attestation::Attested {
        height: Height(1),
        time_ms: 0,
        policy_hash: Hash([1; 32]),
        warnings: 0,
    };

    #[test]
    fn strangers_are_shown_the_keys_of_an_unverified_founder_alone() {
        let mut shown = Shown::default();
        let guest = session(1, false);
        assert_eq!(shown.show(0, &guest, &ATTESTED), Err(Denial::NotAMember));
        assert_eq!(shown.prove(0, &guest), Err(Denial::NoChallenge), "nothing was shown");
        assert_eq!(shown.show(0, &guest, &Attestation::Unverified), Ok(()));
        assert_eq!(shown.show(0, &session(2, true), &ATTESTED), Ok(()), "members may ask");
    }

    #[test]
    fn one_introduction_one_challenge_in_the_same_session() {
        let mut shown = Shown::default();
        let (guest, other) = (session(1, false), session(2, false));
        shown.show(0, &guest, &Attestation::Unverified).unwrap();
        assert_eq!(shown.prove(1, &other), Err(Denial::NoChallenge), "another session");
        assert_eq!(shown.prove(1, &guest), Ok(()));
        assert_eq!(shown.prove(1, &guest), Err(Denial::NoChallenge), "once");
        shown.show(2, &other, &Attestation::Unverified).unwrap();
        assert_eq!(shown.prove(2, &other), Err(Denial::Busy), "the TPM is not a stranger's");
        assert_eq!(shown.prove(1 + GUEST_EVERY_MS, &other), Ok(()));
        shown.show(10_000, &guest, &Attestation::Unverified).unwrap();
        assert_eq!(shown.prove(10_001 + SHOWN_MS, &guest), Err(Denial::NoChallenge), "too late");
    }

    #[test]
    fn sessions_are_bounded() {
        let mut shown = Shown::default();
        for exporter in 0..MAX_SHOWN {
            let guest = session(exporter as u8, false);
            assert_eq!(shown.show(0, &guest, &Attestation::Unverified), Ok(()));
        }
        let more = session(200, false);
        assert_eq!(shown.show(0, &more, &Attestation::Unverified), Err(Denial::Busy));
        assert_eq!(shown.show(SHOWN_MS + 1, &more, &Attestation::Unverified), Ok(()));
    }
}
