//! The profile `measured`: the boot against reference values, each way to be distrusted.

use std::fs;
use std::sync::OnceLock;

use attestation::boot::BootReason;
use attestation::event_log::EventLog as Parsed;
use attestation::evidence::Evidence;
use attestation::pcr::PcrSelection;
use attestation::reference_values::ReferenceValues;
use attestation::{
    AttestationResult, ClaimKind, Judged, Logs, Policy, Profile, Reason, Status, appraise, propose,
};

use crate::forge::{Forge, new_key};
use crate::logs::{self, EventLog, IMAGE, IPL, SEPARATOR, VARIABLE, variable};
use crate::stored;

/// One appraisal of forged evidence that is right in all but what a test changes.
#[derive(Clone)]
pub(crate) struct Trial {
    pub(crate) evidence: Evidence,
    pub(crate) logs: Logs,
    pub(crate) references: Vec<ReferenceValues>,
    pub(crate) policy: Policy,
    pub(crate) judged: Option<Judged>,
}

/// Registers that the tests quote.
const PCRS: [u8; 6] = [0, 1, 4, 7, 8, 9];

impl Trial {
    /// Evidence that quotes this log, and reference values taken from another.
    pub(crate) fn new(log: &EventLog, reference: &[&EventLog]) -> Self {
        let pcrs = PcrSelection::new(&PCRS).unwrap();
        let values = log.values(PCRS);
        let mut trial = Self::with_registers(Profile::Measured, pcrs, values);
        trial.logs.event_log = Some(log.bytes.clone());
        trial.references = reference.iter().flat_map(|log| Self::learn(log)).collect();
        trial
    }

    pub(crate) fn with_registers(
        profile: Profile,
        pcrs: PcrSelection,
        values: Vec<[u8; 32]>,
    ) -> Self {
        let policy = Policy { profile, pcrs, ..Policy::deny_all() };
        let evidence = quoted(pcrs, values, 0);
        let references = Vec::new();
        Self { evidence, logs: Logs::none(), references, policy, judged: None }
    }

    /// The same machine, started again.
    pub(crate) fn restarted(&self) -> Self {
        let evidence = quoted(self.evidence.pcrs, self.evidence.pcr_values.clone(), 1);
        Self { evidence, ..self.clone() }
    }

    /// What a machine with this log proposes, by way of its bytes.
    fn learn(log: &EventLog) -> Vec<ReferenceValues> {
        let pcrs = PcrSelection::new(&PCRS).unwrap();
        let evidence = quoted(pcrs, log.values(PCRS), 0);
        let logs = Logs { event_log: Some(log.bytes.clone()), ima: None };
        let documents = propose(&evidence, &logs, Profile::Measured).unwrap();
        let bytes: Vec<Vec<u8>> = documents.iter().map(ReferenceValues::to_bytes).collect();
        bytes.iter().map(|bytes| ReferenceValues::from_bytes(bytes).unwrap()).collect()
    }

    pub(crate) fn appraise(&self) -> AttestationResult {
        let vectors = stored("p256");
        let mut policy = self.policy.clone();
        policy.pinned_eks.push(*vectors.appraise().ek_digest());
        let mut challenge = vectors.challenge;
        challenge.judged.clone_from(&self.judged);
        let endorsements = attestation::Endorsements::default();
        let (logs, references) = (&self.logs, &self.references);
        appraise(&self.evidence, &endorsements, logs, references, &policy, &challenge).unwrap()
    }

    pub(crate) fn assert_accepted(&self) -> AttestationResult {
        let result = self.appraise();
        assert!(result.is_accepted(), "{:?}", result.claims());
        result
    }

    /// The reason why a claim does not hold.
    pub(crate) fn refused(&self, kind: ClaimKind) -> Reason {
        let result = self.appraise();
        assert!(!result.is_accepted());
        assert_eq!(result.judged(), None, "nothing is kept of what was refused");
        let claim = result.claim(kind).unwrap();
        assert_eq!(claim.status, Status::Contraindicated, "{}", claim.reason);
        claim.reason.clone()
    }

    fn assert_refused(&self, what: &str, words: &[&str]) {
        let reason = self.refused(ClaimKind::Boot).to_string();
        for word in words {
            assert!(reason.contains(word), "{what}: {reason:?} lacks {word:?}");
        }
    }
}

/// Evidence of one machine with these registers, in its n-th boot.
fn quoted(pcrs: PcrSelection, values: Vec<[u8; 32]>, reset_count: u32) -> Evidence {
    static AK: OnceLock<Vec<u8>> = OnceLock::new();
    let ak = Some(AK.get_or_init(new_key).clone());
    Forge { pcrs, values: Some(values), reset_count, ak, ..Forge::default() }.evidence()
}

fn machine() -> EventLog {
    EventLog::small_machine("kernel 1")
}

#[test]
fn a_machine_passes_the_reference_values_that_it_proposed() {
    let log = machine();
    let result = Trial::new(&log, &[&log]).assert_accepted();
    let claim = result.claim(ClaimKind::Boot).unwrap();
    assert_eq!(claim.status, Status::Affirming);
    assert_eq!(claim.reason, Reason::Boot(BootReason::Matches { events: 11 }));
    let ima = result.claim(ClaimKind::Ima).unwrap();
    assert_eq!((ima.status, &ima.reason), (Status::Warning, &Reason::ImaNotMeasured));
    let again = Trial::learn(&log);
    assert_eq!(again, Trial::learn(&log), "the same log gives the same reference values");
}

/// The log of a real machine, whose registers another program has computed.
#[test]
fn the_log_of_a_real_machine_leads_to_the_registers_that_tpm2_tools_find() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/logs/");
    let bytes = fs::read(format!("{folder}fedora-35.events")).unwrap();
    let log = Parsed::parse(&bytes).unwrap();
    assert_eq!(log.events().len(), 101);
    let registers = log.replay().unwrap();
    let text = fs::read_to_string(format!("{folder}fedora-35.sha256")).unwrap();
    assert_eq!(text.lines().count(), 10);
    for line in text.lines() {
        let (pcr, value) = line.split_once(' ').unwrap();
        let found = registers[pcr.parse::<usize>().unwrap()];
        let hex: String = found.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, value, "PCR {pcr}");
    }

    let pcrs = PcrSelection::new(&[0, 2, 4, 7, 8, 9]).unwrap();
    let values: Vec<_> = pcrs.iter().map(|pcr| registers[usize::from(pcr)]).collect();
    let mut trial = Trial::with_registers(Profile::Measured, pcrs, values);
    trial.logs.event_log = Some(bytes.clone());
    trial.references = propose(&trial.evidence, &trial.logs, Profile::Measured).unwrap();
    trial.assert_accepted();
    let document = &trial.references[0];
    let pinned = format!("{folder}fedora-35.reference");
    if std::env::var_os("REGENERATE_TESTDATA").is_some() {
        fs::write(&pinned, document.to_bytes()).unwrap();
    }
    assert_eq!(document.to_bytes(), fs::read(&pinned).unwrap(), "reference values are pinned");
    let has = |pcr: u8, text: &str, covers| {
        let events = &document.boot[&pcr];
        let found = events.iter().find(|event| event.text.contains(text));
        assert_eq!(found.unwrap_or_else(|| panic!("{events:?}")).covers_payload, covers, "{text}");
    };
    has(7, "variable SecureBoot = ", true);
    has(4, "said to be \\EFI\\fedora\\shimx64.efi", false);
    has(8, "grub_cmd: ", true);
    has(9, "said to be (hd0,gpt2)/initramfs", false);

    // One command of the boot loader is another one: the log leads elsewhere.
    let at = bytes.windows(9).rposition(|window| window == b"grub_cmd:").unwrap();
    let mut changed = bytes;
    changed[at + 10] ^= 1;
    trial.logs.event_log = Some(changed);
    trial.assert_refused("a command changed", &["PCR 8", "IPL", "not what was measured"]);
}

#[test]
fn the_very_event_is_named() {
    let reference = machine();
    let mut variables = EventLog::new();
    variables.measure(0, 8, &[b'1', 0, b'.', 0, 0, 0]);
    variables.measure(7, VARIABLE, &variable("SecureBoot", &[0]));
    variables.measure(7, VARIABLE, &variable("PK", &[7; 300]));
    for pcr in 0..8 {
        variables.measure(pcr, SEPARATOR, &[0; 4]);
    }
    let mut swapped = variables.clone();
    swapped.value(4, IMAGE, "kernel 1", &logs::loaded("/vmlinuz"));
    Trial::new(&variables, &[&reference])
        .assert_refused("fewer", &["PCR 4", "lacks", "EFI_BOOT_SERVICES_APPLICATION", "grubx64"]);
    Trial::new(&EventLog::small_machine("kernel 2"), &[&reference]).assert_refused(
        "another kernel",
        &["event 15 (PCR 4, EFI_BOOT_SERVICES_APPLICATION: the log says: /vmlinuz)", "have"],
    );
    let mut more = machine();
    more.measure_as(8, IPL, b"linux /other", b"grub_cmd: linux /other\0");
    Trial::new(&more, &[&reference]).assert_refused(
        "one more",
        &["event 16 (PCR 8, IPL: grub_cmd: linux /other) is not among the reference values"],
    );
    let mut unknown = machine();
    unknown.measure(1, 0x8000_7777, b"vendor");
    Trial::new(&unknown, &[&reference])
        .assert_refused("unknown", &["event 16 (PCR 1, unknown type 0x80007777: vendor)"]);
    let mut off = Trial::new(&variables, &[&reference]);
    off.policy.pcrs = PcrSelection::new(&[7]).unwrap();
    let pcrs = off.policy.pcrs;
    off.evidence = quoted(pcrs, variables.values([7]), 0);
    off.assert_refused("secure boot off", &["PCR 7", "variable SecureBoot = 0", "SecureBoot = 1"]);
}

#[test]
fn order_and_number_count() {
    let (mut one, mut other) = (EventLog::new(), EventLog::new());
    for (log, order) in [(&mut one, ["a", "b"]), (&mut other, ["b", "a"])] {
        for content in order {
            log.value(4, IMAGE, content, b"image");
        }
        log.measure(0, SEPARATOR, &[0; 4]);
    }
    Trial::new(&one, &[&one]).assert_accepted();
    Trial::new(&other, &[&one]).assert_refused("swapped", &["event 1 (PCR 4"]);
    let mut twice = one.clone();
    twice.value(4, IMAGE, "b", b"image");
    Trial::new(&twice, &[&one]).assert_refused("twice", &["event 4 (PCR 4"]);
}

#[test]
fn old_and_new_hold_side_by_side() {
    let (old, new) = (machine(), EventLog::small_machine("kernel 2"));
    let third = EventLog::small_machine("kernel 3");
    for log in [&old, &new] {
        Trial::new(log, &[&old, &new]).assert_accepted();
    }
    Trial::new(&third, &[&old, &new]).assert_refused("neither", &["event 15 (PCR 4"]);
    // After the window only the new ones hold.
    Trial::new(&old, &[&new]).assert_refused("too old", &["event 15 (PCR 4"]);
    // An update that adds an event: what is told is the first that no list knows.
    let mut longer = machine();
    longer.measure_as(8, IPL, b"initrd /initrd", b"grub_cmd: initrd /initrd\0");
    Trial::new(&longer, &[&old, &longer]).assert_accepted();
    let mut wrong = machine();
    wrong.measure_as(8, IPL, b"initrd /other", b"grub_cmd: initrd /other\0");
    Trial::new(&wrong, &[&old, &longer]).assert_refused(
        "another second command",
        &["initrd /other", "which have", "/initrd there"],
    );
}

#[test]
fn a_log_that_does_not_match_its_registers_is_refused() {
    let log = machine();
    let good = Trial::new(&log, &[&log]);
    let with = |bytes: Vec<u8>| {
        let logs = Logs { event_log: Some(bytes), ima: None };
        Trial { logs, ..good.clone() }
    };
    let last = logs::loaded("/vmlinuz").len() + 50;
    let whole = log.bytes.len();
    with(log.bytes[..whole - last].to_vec()).assert_refused(
        "cut between events",
        &["does not lead to the value of PCR 4", "(2 events)"],
    );
    with(log.bytes[..whole - 5].to_vec())
        .assert_refused("cut inside one", &["cannot be read: event 15", "cut short"]);
    with(EventLog::small_machine("kernel 2").bytes)
        .assert_refused("of another machine", &["does not lead to the value of PCR 4"]);
    with(vec![0; 100 << 20]).assert_refused("100 MB", &["104857600 bytes are too many"]);
    with(Vec::new()).assert_refused("empty", &["does not lead to the value of PCR 0"]);
    // A log of SHA-1 alone: the same header without its signature.
    let mut legacy = Vec::new();
    legacy.extend([4u32, SEPARATOR].map(u32::to_le_bytes).concat());
    legacy.extend([[0; 20].as_slice(), &[4, 0, 0, 0], &[0; 4]].concat());
    with(legacy).assert_refused("SHA-1", &["no SHA-256 digests"]);
    // An event that is said to extend nothing.
    let mut hidden = log.bytes.clone();
    let at = hidden.windows(4).position(|window| *window == IPL.to_le_bytes()).unwrap();
    hidden[at] = 3;
    with(hidden).assert_refused("hidden", &["does not lead to the value of PCR 8 (0 events)"]);
    let mut none = good.clone();
    none.logs = Logs::none();
    none.assert_refused("none", &["the event log is needed"]);
    assert!(none.appraise().wants_whole_logs() && !good.appraise().wants_whole_logs());
}

/// The digests are right; what the log says about them is not what was measured.
#[test]
fn type_and_payload_are_not_believed() {
    let log = machine();
    let find = |needle: &[u8]| log.bytes.windows(needle.len()).position(|at| at == needle).unwrap();
    let mut trial = Trial::new(&log, &[&log]);
    let mut payload = log.bytes.clone();
    payload[find(b"S\0e\0c\0")] = b's';
    trial.logs.event_log = Some(payload);
    trial.assert_refused("payload", &["event 2 (PCR 7", "not what was measured"]);
    let mut kind = log.bytes.clone();
    kind[find(&IPL.to_le_bytes())] = 5;
    trial.logs.event_log = Some(kind);
    trial.assert_refused("type", &["event 13 (PCR 8, ACTION", "not what was measured"]);
}

#[test]
fn what_is_not_measured_is_not_trusted() {
    let log = machine();
    let empty = EventLog::new();
    Trial::new(&empty, &[&log]).assert_refused("all zero", &["all quoted registers are zero"]);
    let none = Trial { references: Vec::new(), ..Trial::new(&log, &[&log]) };
    none.assert_refused("no reference values", &["no reference values for the boot"]);
    let mut some = Trial::new(&log, &[&log]);
    some.references[0].boot.remove(&4);
    some.assert_refused("register without reference values", &["no reference values for PCR 4"]);
    let pcrs = PcrSelection::new(&[0, 10]).unwrap();
    let mut ten = Trial::with_registers(Profile::Measured, pcrs, log.values([0, 10]));
    ten.references = Trial::learn(&log);
    ten.logs.event_log = Some(log.bytes.clone());
    ten.assert_refused("register of the kernel", &["PCR 10, which no event log explains"]);
    let only = PcrSelection::new(&[10]).unwrap();
    let mut ten = Trial::with_registers(Profile::MeasuredIma, only, log.values([10]));
    ten.references = Trial::learn(&log);
    ten.assert_refused("no register of the firmware", &["no register that the firmware extends"]);
    let mut unproven = Trial::new(&log, &[&log]);
    *unproven.evidence.quote_signature.last_mut().unwrap() ^= 1;
    unproven.assert_refused("bad quote", &["not proven"]);
    let mut forged = Trial::new(&log, &[&log]);
    forged.evidence.activated = [0; 32];
    forged.assert_refused("no chip opened the credential", &["not proven"]);
}

#[test]
fn the_log_is_not_needed_again_for_the_same_boot() {
    let log = machine();
    let first = Trial::new(&log, &[&log]);
    let judged = first.assert_accepted().judged().cloned();
    assert!(judged.is_some());
    let second = Trial { judged: judged.clone(), logs: Logs::none(), ..first.clone() };
    let result = second.assert_accepted();
    let claim = result.claim(ClaimKind::Boot).unwrap();
    assert_eq!(claim.reason, Reason::Boot(BootReason::Unchanged));
    assert_eq!(result.judged().cloned(), judged);

    let other = EventLog::small_machine("kernel 2");
    let references = Trial::new(&log, &[&log, &other]).references;
    for (what, trial) in [
        ("other reference values", Trial { references, ..second.clone() }),
        ("another attestation key", {
            let (pcrs, values) = (first.evidence.pcrs, Some(first.evidence.pcr_values.clone()));
            let evidence = Forge { pcrs, values, ..Forge::default() }.evidence();
            Trial { evidence, ..second.clone() }
        }),
        ("another boot", second.restarted()),
    ] {
        assert_eq!(
            trial.refused(ClaimKind::Boot),
            Reason::Boot(BootReason::WholeLogNeeded),
            "{what}"
        );
        assert!(trial.appraise().wants_whole_logs(), "{what}");
    }
}
