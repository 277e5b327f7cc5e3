//! Judging a boot: the event log must lead to the quoted registers, and then its events must be,
//! register by register and in order, those of the reference values.
//!
//! An event is compared by its digest alone, which is all that a TPM proves. For a register the
//! log must be, event for event, one of the documents' lists; at each place a value of any list of
//! that length will do, so that old and new reference values hold side by side during an update.
//! A list is never matched in part: an event left out is as suspicious as one added.

mod reason;

pub use reason::{BootReason, EventSummary};

use crate::event_log::describe::describe;
use crate::event_log::{Event, EventLog, Register, initial_value, kind};
use crate::reference_values::{ReferenceEvent, ReferenceValues};

/// Quoted registers that an event log has to explain, with their values.
pub(crate) type Quoted = [(u8, Register)];

/// Judges a log; gives how many events were compared.
pub(crate) fn judge(
    log: &[u8],
    quoted: &Quoted,
    references: &[ReferenceValues],
) -> Result<usize, BootReason> {
    let log = explain(log, quoted)?;
    let mut compared = 0;
    for &(pcr, _) in quoted {
        let events: Vec<&Event<'_>> = log.extending(pcr).collect();
        let lists: Vec<&[ReferenceEvent]> = references
            .iter()
            .filter_map(|document| document.boot.get(&pcr))
            .map(Vec::as_slice)
            .collect();
        compare(pcr, &events, &lists)?;
        compared += events.len();
    }
    Ok(compared)
}

/// Parses a log and checks that it leads to the quoted values.
pub(crate) fn explain<'a>(log: &'a [u8], quoted: &Quoted) -> Result<EventLog<'a>, BootReason> {
    if quoted.iter().all(|(pcr, value)| *value == initial_value(*pcr)) {
        return Err(BootReason::NothingMeasured);
    }
    let log = EventLog::parse(log).map_err(BootReason::Log)?;
    let replayed = log.replay().ok_or(BootReason::NoSha256)?;
    for &(pcr, value) in quoted {
        if replayed[usize::from(pcr)] != value {
            return Err(BootReason::Mismatch { pcr, events: log.extending(pcr).count() });
        }
    }
    Ok(log)
}

/// Compares the events of one register with the lists that the site has for it.
fn compare(pcr: u8, events: &[&Event<'_>], lists: &[&[ReferenceEvent]]) -> Result<(), BootReason> {
    if lists.is_empty() {
        return Err(BootReason::NoReference { pcr });
    }
    let (as_long, others): (Vec<_>, Vec<_>) =
        lists.iter().copied().partition(|list| list.len() == events.len());
    let unknown = |lists: &[&[ReferenceEvent]]| {
        let has = |at: usize| lists.iter().any(|list| is_at(events, list, at));
        (0..events.len()).find(|&at| !has(at))
    };
    if !as_long.is_empty() {
        let Some(at) = unknown(&as_long) else { return require_payloads(events, &as_long) };
        // Of an update that adds events the lists of another length may know this one.
        let at = unknown(&others).map_or(at, |other| at.max(other));
        return Err(unknown_event(events, lists, at));
    }
    match unknown(&others) {
        Some(at) => Err(unknown_event(events, lists, at)),
        None => {
            let expected = nearest(events, lists, events.len()).map_or_else(String::new, words);
            Err(BootReason::MissingEvent { pcr, expected })
        }
    }
}

/// Where the reference values say that the digest is of the payload, the log must hold that
/// payload: what an operator reads in it is then what was measured.
fn require_payloads(events: &[&Event<'_>], lists: &[&[ReferenceEvent]]) -> Result<(), BootReason> {
    for (at, event) in events.iter().enumerate() {
        let covered = lists.iter().any(|list| is_at(events, list, at) && list[at].covers_payload);
        if covered && !describe(event).verified {
            return Err(BootReason::PayloadChanged { event: summary(event) });
        }
    }
    Ok(())
}

fn is_at(events: &[&Event<'_>], list: &[ReferenceEvent], at: usize) -> bool {
    match (events.get(at), list.get(at)) {
        (Some(event), Some(reference)) => event.sha256 == Some(reference.digest),
        _ => false,
    }
}

fn unknown_event(events: &[&Event<'_>], lists: &[&[ReferenceEvent]], at: usize) -> BootReason {
    let expected = nearest(events, lists, at).map(words);
    BootReason::UnknownEvent { event: summary(events[at]), expected }
}

/// What the list that agrees for longest has at a place.
fn nearest<'a>(
    events: &[&Event<'_>],
    lists: &[&'a [ReferenceEvent]],
    at: usize,
) -> Option<&'a ReferenceEvent> {
    let agreement = |list: &[ReferenceEvent]| {
        (0..events.len()).take_while(|&place| is_at(events, list, place)).count()
    };
    let list = lists.iter().filter(|list| list.len() > at).max_by_key(|list| agreement(list))?;
    list.get(at)
}

fn words(reference: &ReferenceEvent) -> String {
    format!("{}: {}", kind::name(reference.kind), reference.text)
}

/// An event for people.
pub(crate) fn summary(event: &Event<'_>) -> EventSummary {
    let description = describe(event);
    EventSummary {
        index: event.index,
        pcr: event.pcr as u8,
        kind: kind::name(event.kind),
        description: description.text,
        verified: description.verified,
    }
}
