//! Measured boot and measured files between gateways: the log of a real machine, the registers of
//! software TPMs extended as it says, the real root helper. What another machine booted or opened
//! is named on the newcomer and on the member.

#[path = "../../attestation/tests/logs.rs"]
#[expect(dead_code, reason = "the logs can hold more than is asked of them here")]
mod logs;

use anyhow::{Context, Result, ensure};
use attestation::event_log::EventLog;
use attestation::manufacturer::Manufacturer;
use attestation::pcr::PcrSelection;
use attestation::{Evidence, Logs, Profile, propose};
use tests::gateway::{Gateway, text};
use tests::measured::Machine;
use tests::peer::Peer;
use tests::site::{Links, Plan, Site};
use tests::tpm_maker::Ek;

use logs::ImaLog;

/// SHA-256, for the logs.
fn digest(bytes: &[u8]) -> [u8; 32] {
    ledger::crypto::sha256(&[bytes]).0
}

/// Registers that the policy asks for: those that the log of the real machine fills.
const PCRS: [u8; 6] = [0, 2, 4, 7, 8, 9];

/// The event log of a Fedora machine (see the README of the folder).
const FEDORA: &[u8] = include_bytes!("../../attestation/testdata/logs/fedora-35.events");

/// What a log says was extended into the SHA-256 bank.
fn extended(log: &[u8]) -> Result<Vec<(u8, [u8; 32])>> {
    let log = EventLog::parse(log)?;
    let extends = log.events().iter().filter(|event| event.extends());
    let value = |event: &attestation::event_log::Event<'_>| Some((event.pcr as u8, event.sha256?));
    extends.map(value).collect::<Option<_>>().context("a SHA-256 digest for each event")
}

/// The same machine with another program in place of the last one of register 4; how the event is
/// numbered.
fn another_boot() -> Result<(Vec<u8>, usize)> {
    let log = EventLog::parse(FEDORA)?;
    let last = log.extending(4).last().context("events of register 4")?;
    let digest = last.sha256.context("a digest")?;
    let at = FEDORA.windows(32).rposition(|bytes| bytes == digest).context("in the log")?;
    let mut bytes = FEDORA.to_vec();
    bytes[at] ^= 1;
    Ok((bytes, last.index))
}

/// The reference values of a boot, as an operator takes them along from a machine.
fn values(log: &[u8], file: &std::path::Path) -> Result<()> {
    let registers = EventLog::parse(log)?.replay().context("registers")?;
    let evidence = Evidence {
        manufacturer: Manufacturer(0),
        ek_public: vec![],
        ak_public: vec![],
        identity_public: vec![],
        activated: [0; 32],
        certification: vec![],
        certification_signature: vec![],
        quote: vec![],
        quote_signature: vec![],
        pcrs: PcrSelection::new(&PCRS)?,
        pcr_values: PCRS.iter().map(|pcr| registers[usize::from(*pcr)]).collect(),
    };
    let logs = Logs { event_log: Some(log.to_vec()), ima: None };
    let documents = propose(&evidence, &logs, Profile::Measured)?;
    let blocks = documents.iter().map(|document| {
        let (label, body) = ("GATEWAYD REFERENCE VALUES", base64(&document.to_bytes()));
        format!("-----BEGIN {label}-----\n{body}-----END {label}-----\n")
    });
    Ok(std::fs::write(file, blocks.collect::<String>())?)
}

fn base64(bytes: &[u8]) -> String {
    const SIGNS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for (index, three) in bytes.chunks(3).enumerate() {
        let group = three.iter().fold(0_u32, |group, byte| group << 8 | u32::from(*byte));
        let group = group << (8 * (3 - three.len()));
        for place in 0..4 {
            let sign = SIGNS[(group >> (18 - 6 * place) & 63) as usize];
            out.push(if place <= three.len() { char::from(sign) } else { '=' });
        }
        // RFC 7468: 64 signs a line.
        if index % 16 == 15 {
            out.push('\n');
        }
    }
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

/// Gateways that have not started, each with a machine under it.
fn prepared(count: usize) -> Result<(Site, Vec<Machine>)> {
    let tpms = vec![Ek::Both; count];
    let site = Site::prepared(Plan { tpms: &tpms, links: Links::Loopback, insecure: true })?;
    let machines = site.gateways.iter().map(Machine::of).collect::<Result<Vec<_>>>()?;
    Ok((site, machines))
}

/// The founder's own boot becomes the rule.
fn rule(site: &Site, profile: &str, pcrs: &[u8]) -> Result<()> {
    let pcrs: Vec<String> = pcrs.iter().map(u8::to_string).collect();
    site.policy(&[&format!("pcrs={}", pcrs.join(","))])?;
    let file = site.dir().join("good.txt");
    let file = text(&file)?;
    let propose = ["site", "policy", "propose-from", "self", "--profile", profile, "--out", file];
    site.gateways[0].ctl_json(&propose)?;
    site.sign(0, &["site", "policy", "reference", "add", file])?;
    site.policy(&[&format!("profile={profile}")]).map(drop)
}

fn hears(site: &Site, gateway: usize, join: &Peer, words: &[&str]) -> Result<()> {
    site.gateways[gateway].wait_for(&format!("{words:?} in {:?}", join.lines()), |_| {
        join.lines().iter().any(|line| words.iter().all(|word| line.contains(word)))
    })
}

/// What a newcomer says of itself.
fn tells(newcomer: &Gateway, words: &[&str]) -> Result<()> {
    newcomer.wait_for(&format!("{words:?} in `gateway progress`"), |newcomer| {
        let said = newcomer.ctl(&["gateway", "progress"]).map(|said| [said.stdout, said.stderr]);
        let said = said.map(|said| String::from_utf8_lossy(&said.concat()).into_owned());
        said.is_ok_and(|said| words.iter().all(|word| said.contains(word)))
    })
}

/// What a member says of the newcomer that it does not let in.
fn pending(member: &Gateway, words: &[&str]) -> Result<()> {
    member.wait_for(&format!("{words:?} in `gateway pending`"), |member| {
        let pending = member.ctl_json(&["gateway", "pending"]).unwrap_or_default();
        let mut all = pending.as_array().into_iter().flatten();
        all.any(|one| {
            let reason = one["reason"].as_str().unwrap_or_default();
            words.iter().all(|word| reason.contains(word))
        })
    })
}

#[test]
fn another_boot_is_refused_by_its_event_until_the_operator_publishes_it() -> Result<()> {
    let (mut site, machines) = prepared(3)?;
    for machine in &machines[..2] {
        machine.logs_events(FEDORA)?;
        machine.extends(&extended(FEDORA)?)?;
    }
    let (other, event) = another_boot()?;
    machines[2].extends(&extended(&other)?)?;
    site.found()?;
    rule(&site, "measured", &PCRS)?;
    site.admit(1).context("the same boot")?;
    site.gateways[2].start()?;
    // It goes on by itself, whatever it is told.
    let _join = site.join(2, 0)?;
    // Logs that do not tell what was booted, and one that does.
    let cut = &other[..other.len() - 5];
    let event = format!("event {event} (PCR 4");
    for (log, words) in [
        (&[][..], &["boot: ", "does not lead to the value of PCR 0"][..]),
        (cut, &["boot: ", "the event log cannot be read"]),
        (FEDORA, &["boot: ", "does not lead to the value of PCR 4"]),
        (&other[..], &["boot: ", &event, "is not among the reference values"]),
    ] {
        machines[2].logs_events(log)?;
        pending(&site.gateways[0], words)?;
        tells(&site.gateways[2], words)?;
    }
    let file = site.dir().join("update.txt");
    values(&other, &file)?;
    site.sign(0, &["site", "policy", "reference", "add", text(&file)?])?;
    site.approve(2, 0).context("its boot was published")?;
    site.wait_all("three members", &[0], |site, founder| site.figure(founder, "members") == 3)?;
    site.gateways[1].ctl_json(&["identity", "attest"]).context("the old one still holds")?;
    Ok(())
}

#[test]
fn a_machine_that_measures_nothing_is_refused_where_boots_are_judged() -> Result<()> {
    let (mut site, machines) = prepared(2)?;
    machines[0].logs_events(FEDORA)?;
    machines[0].extends(&extended(FEDORA)?)?;
    machines[1].logs_events(FEDORA)?;
    site.found()?;
    rule(&site, "measured", &PCRS)?;
    site.gateways[1].start()?;
    let join = site.join(1, 0)?;
    hears(&site, 1, &join, &["boot: ", "all quoted registers are zero"])
}

/// What is on the record of a member's machine, and what comes after the last look.
#[test]
fn files_are_judged_and_only_new_ones_are_sent() -> Result<()> {
    let (mut site, machines) = prepared(2)?;
    let boot = logs::EventLog::small_machine("kernel 1");
    let mut files = ImaLog::new(&boot);
    for number in 0..3_000 {
        files.file(&format!("/usr/lib/lib{number}.so"), "a library");
    }
    for machine in &machines {
        machine.logs_events(&boot.bytes)?;
        machine.logs_files(&files.bytes)?;
        let boot = boot.extended.iter().map(|(pcr, value)| (*pcr as u8, *value));
        machine.extends(&boot.collect::<Vec<_>>())?;
        let opened = files.extended.iter().map(|value| (10, *value));
        machine.extends(&opened.collect::<Vec<_>>())?;
    }
    site.found()?;
    let all: Vec<u8> = (0..=10).collect();
    rule(&site, "measured+ima", &all)?;
    site.admit(1)?;
    let whole = files.bytes.len();
    ensure!(site.gateways[0].log().contains(&format!("ima={whole}")), "the whole list once");
    // A file that the site knows is opened once more, by a machine that has not booted since.
    let known = files.clone();
    files.file("/usr/lib/lib7.so", "a library");
    opens(&mut site, &machines[1], &known, &files)?;
    site.gateways[1].ctl_json(&["identity", "attest"])?;
    let new = files.bytes.len() - whole;
    let told = format!("ima={new} ima_from={whole}");
    ensure!(site.gateways[0].log().contains(&told), "{told}:\n{}", site.gateways[0].log());
    // And then one that it does not know.
    let known = files.clone();
    files.file("/tmp/miner", "not of this site");
    opens(&mut site, &machines[1], &known, &files)?;
    let said = site.gateways[1].ctl(&["identity", "attest"])?;
    let said = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
    ensure!(said.contains("/tmp/miner") && said.contains("is not among"), "{said}");
    Ok(())
}

/// The second gateway's machine opens what its list has grown by; its daemon lets go of the TPM
/// meanwhile, which itself runs on.
fn opens(site: &mut Site, machine: &Machine, before: &ImaLog, now: &ImaLog) -> Result<()> {
    site.gateways[1].stop()?;
    machine.logs_files(&now.bytes)?;
    let new = now.extended[before.extended.len()..].iter().map(|value| (10, *value));
    machine.extends(&new.collect::<Vec<_>>())?;
    site.gateways[1].start()?;
    site.gateways[1].wait_for("the founder to be connected", |gateway| {
        let list = gateway.ctl_json(&["gateway", "list"]).unwrap_or_default();
        list.as_array().into_iter().flatten().any(|one| one["connected"] == true)
    })
}
