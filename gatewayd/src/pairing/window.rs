//! The pairing window as a state machine: `step(now, input) -> effects`. It knows no driver, no
//! ledger and no clock; it must leave nothing behind after a failure.
//!
//! ```text
//! waiting ──heard──────────────┐
//!    │  └─lines─> preview ─confirm─> registering ─registered─> joining ─first reading─> done
//!    └── window expired, cancelled, link or rules say no ──> failed (discard)
//! ```

use crate::control::{PairingStatus, ValueInfo};

/// Why a window ended without a sensor. The names are part of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Nothing was heard, or nothing confirmed, in time.
    WindowExpired,
    /// The port does not exist or vanished.
    PortMissing,
    /// Another process, or another sensor, has the port.
    PortBusy,
    /// Frames came, but not under this key.
    WrongKey,
    /// The identity is on the record already.
    AlreadyRegistered,
    /// The rules of the record say no.
    Refused,
    /// The operator closed the window.
    Cancelled,
    /// The line map is wrong.
    BadMap,
    /// It could not be kept on disk.
    Storage,
    /// Nothing can be signed now.
    Unavailable,
}

impl Failure {
    /// Name of the failure.
    pub fn name(self) -> &'static str {
        match self {
            Self::WindowExpired => "window-expired",
            Self::PortMissing => "port-missing",
            Self::PortBusy => "port-busy",
            Self::WrongKey => "wrong-key",
            Self::AlreadyRegistered => "already-registered",
            Self::Refused => "refused",
            Self::Cancelled => "cancelled",
            Self::BadMap => "bad-map",
            Self::Storage => "storage",
            Self::Unavailable => "unavailable",
        }
    }
}

/// What happens to a window.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Time goes on.
    Tick,
    /// The sensor has proved its identity.
    Heard,
    /// A line source sent lines that decode to this.
    Preview(Vec<ValueInfo>),
    /// The operator likes what the preview shows.
    Confirm,
    /// `Register` and `Assign` are committed.
    Registered,
    /// A reading of the new sensor is durable.
    FirstReading,
    /// An uplink came that cannot be recorded yet.
    Uplink,
    /// Frames came that this key does not open.
    WrongKey,
    /// Something failed.
    Failed(Failure, String),
    /// The operator closes the window.
    Cancel,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Submit `Register` and `Assign`.
    Register,
    /// Keep the sensor and serve it.
    Serve,
    /// Let go of port, keys and session.
    Discard,
}

#[derive(Debug, Clone, PartialEq)]
enum Phase {
    Waiting,
    Preview(Vec<ValueInfo>),
    Registering,
    Joining,
    Done,
    Failed(Failure, String),
}

/// One window.
#[derive(Debug, Clone)]
pub struct Window {
    number: u64,
    /// `ln1…` of the sensor that is to come.
    sensor: String,
    /// What the operator is told while nothing is heard.
    awaited: &'static str,
    closes_ms: u64,
    phase: Phase,
    uplinks: u64,
    wrong_key: u64,
}

impl Window {
    /// Opens a window for `length_ms`.
    pub fn open(
        number: u64,
        sensor: String,
        awaited: &'static str,
        now_ms: u64,
        length_ms: u64,
    ) -> Self {
        let (phase, closes_ms) = (Phase::Waiting, now_ms.saturating_add(length_ms));
        Self { number, sensor, awaited, closes_ms, phase, uplinks: 0, wrong_key: 0 }
    }

    /// Number of the window.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether it has ended, with or without a sensor.
    pub fn ended(&self) -> bool {
        matches!(self.phase, Phase::Done | Phase::Failed(..))
    }

    /// One step. Inputs that do not fit the state (late answers) change nothing.
    pub fn step(&mut self, now_ms: u64, input: Input) -> Vec<Effect> {
        match (&self.phase, input) {
            (Phase::Done | Phase::Failed(..), _) => vec![],
            (Phase::Waiting | Phase::Preview(_), Input::Tick) if now_ms >= self.closes_ms => {
                self.expire()
            }
            // Registered already: the sensor is ours, only its first reading is still to come.
            (Phase::Joining, Input::Tick) if now_ms >= self.closes_ms => self.go(Phase::Done, &[]),
            (_, Input::Tick) => vec![],
            (Phase::Waiting, Input::Heard) => self.go(Phase::Registering, &[Effect::Register]),
            (Phase::Waiting | Phase::Preview(_), Input::Preview(values)) => {
                self.go(Phase::Preview(values), &[])
            }
            (Phase::Preview(_), Input::Confirm) => self.go(Phase::Registering, &[Effect::Register]),
            (Phase::Registering, Input::Registered) => self.go(Phase::Joining, &[Effect::Serve]),
            (Phase::Joining, Input::FirstReading) => self.go(Phase::Done, &[]),
            (_, Input::Uplink) => {
                self.uplinks += 1;
                vec![]
            }
            (Phase::Waiting, Input::WrongKey) => {
                self.wrong_key += 1;
                vec![]
            }
            (Phase::Joining, Input::Cancel) => self.go(Phase::Done, &[]),
            (Phase::Registering, Input::Cancel) => vec![],
            (_, Input::Cancel) => self.fail(Failure::Cancelled, "closed by the operator".into()),
            (_, Input::Failed(failure, why)) => self.fail(failure, why),
            _ => vec![],
        }
    }

    fn expire(&mut self) -> Vec<Effect> {
        match &self.phase {
            Phase::Preview(_) => {
                self.fail(Failure::WindowExpired, "the preview was not confirmed in time".into())
            }
            _ if self.wrong_key > 0 => {
                let frames = self.wrong_key;
                self.fail(
                    Failure::WrongKey,
                    format!("{frames} frames came, none under this key: compare the printed code"),
                )
            }
            _ => self.fail(Failure::WindowExpired, "nothing was heard from it in time".into()),
        }
    }

    fn fail(&mut self, failure: Failure, why: String) -> Vec<Effect> {
        self.go(Phase::Failed(failure, why), &[Effect::Discard])
    }

    fn go(&mut self, phase: Phase, effects: &[Effect]) -> Vec<Effect> {
        self.phase = phase;
        effects.to_vec()
    }

    /// What the operator sees.
    pub fn status(&self, now_ms: u64) -> PairingStatus {
        let (state, message, preview) = match &self.phase {
            Phase::Waiting => ("waiting", self.awaited.to_owned(), vec![]),
            Phase::Preview(values) => {
                ("preview", "lines arrive; confirm what they are read as".into(), values.clone())
            }
            Phase::Registering => {
                ("registering", "heard it; writing it into the record".into(), vec![])
            }
            Phase::Joining => {
                ("joining", "registered; its first reading is awaited".into(), vec![])
            }
            Phase::Done => ("done", "paired".into(), vec![]),
            Phase::Failed(_, why) => ("failed", why.clone(), vec![]),
        };
        let failure = match &self.phase {
            Phase::Failed(failure, _) => Some(failure.name()),
            _ => None,
        };
        let left = if self.ended() { 0 } else { self.closes_ms.saturating_sub(now_ms) };
        PairingStatus {
            window: self.number,
            state,
            message,
            seconds_left: u32::try_from(left.div_ceil(1000)).unwrap_or(u32::MAX),
            failure,
            sensor: Some(self.sensor.clone()),
            preview,
            uplinks_counted: self.uplinks,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window() -> Window {
        Window::open(1, "ln1x".into(), "waiting for its hello", 0, 60_000)
    }

    fn run(inputs: Vec<(u64, Input)>) -> (PairingStatus, Vec<Effect>) {
        let mut window = window();
        let mut effects = vec![];
        let mut now = 0;
        for (at, input) in inputs {
            now = at;
            effects.extend(window.step(at, input));
        }
        (window.status(now), effects)
    }

    struct Story {
        what: &'static str,
        inputs: Vec<(u64, Input)>,
        state: &'static str,
        failure: Option<Failure>,
        effects: Vec<Effect>,
    }

    fn told(stories: Vec<Story>) {
        for Story { what, inputs, state, failure, effects } in stories {
            let (status, seen) = run(inputs);
            assert_eq!(status.state, state, "{what}");
            assert_eq!(status.failure, failure.map(Failure::name), "{what}");
            assert_eq!(seen, effects, "{what}");
        }
    }

    #[test]
    fn sensors_are_paired() {
        use Effect::{Register, Serve};
        let story =
            |what, inputs, state, effects| Story { what, inputs, state, failure: None, effects };
        told(vec![
            story(
                "a key-holding sensor",
                vec![
                    (1, Input::Uplink),
                    (2, Input::Heard),
                    (3, Input::Registered),
                    (4, Input::FirstReading),
                ],
                "done",
                vec![Register, Serve],
            ),
            story(
                "a line source is previewed first",
                vec![(1, Input::Preview(vec![])), (2, Input::Confirm), (3, Input::Registered)],
                "joining",
                vec![Register, Serve],
            ),
            story(
                "registered, but silent until the window closes",
                vec![(1, Input::Heard), (2, Input::Registered), (60_000, Input::Tick)],
                "done",
                vec![Register, Serve],
            ),
            story(
                "confirm without preview does nothing",
                vec![(1, Input::Confirm)],
                "waiting",
                vec![],
            ),
        ]);
    }

    #[test]
    fn failures_have_names_and_leave_nothing() {
        use Effect::{Discard, Register};
        let story = |what, inputs, failure, effects| Story {
            what,
            inputs,
            state: "failed",
            failure: Some(failure),
            effects,
        };
        told(vec![
            story(
                "nobody speaks",
                vec![(60_000, Input::Tick)],
                Failure::WindowExpired,
                vec![Discard],
            ),
            story(
                "a preview that nobody confirms",
                vec![(1, Input::Preview(vec![])), (60_000, Input::Tick)],
                Failure::WindowExpired,
                vec![Discard],
            ),
            story(
                "only frames under another key",
                vec![(1, Input::WrongKey), (60_000, Input::Tick)],
                Failure::WrongKey,
                vec![Discard],
            ),
            story(
                "the record says no",
                vec![(1, Input::Heard), (2, Input::Failed(Failure::Refused, "no".into()))],
                Failure::Refused,
                vec![Register, Discard],
            ),
            story(
                "cancelled, and late answers change nothing",
                vec![(1, Input::Cancel), (2, Input::Heard), (3, Input::Registered)],
                Failure::Cancelled,
                vec![Discard],
            ),
        ]);
    }

    #[test]
    fn the_countdown_counts_down() {
        let window = window();
        assert_eq!(window.status(0).seconds_left, 60);
        assert_eq!(window.status(59_001).seconds_left, 1);
        assert_eq!(window.status(70_000).seconds_left, 0);
    }
}
