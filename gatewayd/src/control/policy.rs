//! The policy as settings in words: read from the record, and changed by an act of the operator.
//! What `policy_words` shows is what `changed` takes.

use std::collections::BTreeMap;

use attestation::ReferenceValues;
use attestation::endorsement::Certificate;
use ledger::ids::{Hash, Height};
use ledger::policy::{NextVersion, Policy, Profile, VoterRule, Window};
use ledger::state::State;
use ledger::transaction::{Document, DocumentKind, PolicyAct};
use pkcs8::der::pem;

use super::acts::{Options, invalid};
use super::{Control, PolicyDocument, Result};

use crate::vendors;

/// Label of an anchor in a bundle.
pub const CERTIFICATE: &str = "CERTIFICATE";

/// Label of reference values in a file.
pub const REFERENCE_VALUES: &str = "GATEWAYD REFERENCE VALUES";

/// Most blocks of one bundle: as many anchors as a policy has.
const MAX_BLOCKS: usize = 64;

/// Shortest beginning of a hash that names a document, characters.
const MIN_PREFIX: usize = 8;

impl Control {
    /// The documents that the policy names: EK anchors and reference values.
    ///
    /// # Errors
    /// No site runs.
    pub async fn policy_documents(&self) -> Result<Vec<PolicyDocument>> {
        self.parts()?.ledger.view(documents).await
    }
}

/// Changes a policy; the act brings the documents that the record has not yet.
pub(super) fn changed(state: &State, options: &Options) -> Result<PolicyAct> {
    let mut policy = state.policy().clone();
    let mut documents = Vec::new();
    for (key, value) in options {
        match key.as_str() {
            "add_anchors" => documents.extend(add_anchors(&mut policy, value)?),
            "remove_anchors" => remove_anchors(&mut policy, value)?,
            "add_reference_values" => {
                documents.extend(add_reference_values(&mut policy, value, options)?);
            }
            // Belongs to `add_reference_values`.
            "old_until_ms" if options.contains_key("add_reference_values") => {}
            "remove_reference_values" => remove_reference_values(&mut policy, value)?,
            _ => set(&mut policy, key, value)?,
        }
    }
    policy.check().map_err(|error| invalid(&error))?;
    documents.retain(|document| state.document(&document.hash()).is_none());
    Ok(PolicyAct::new(policy, documents))
}

fn set(policy: &mut Policy, key: &str, value: &str) -> Result<()> {
    let wrong = |what: &str| invalid(&format!("{key}: `{value}` is not {what}"));
    let number = || value.parse::<u32>().map_err(|_| wrong("a number in range"));
    let switch = || value.parse::<bool>().map_err(|_| wrong("true or false"));
    match key {
        "block_interval_ms" => policy.block_interval_ms = number()?,
        "batch_interval_ms" => policy.batch_interval_ms = number()?,
        "offline_after_ms" => policy.offline_after_ms = number()?,
        "receipts" => {
            policy.receipts = u8::try_from(number()?).map_err(|_| wrong("a number in range"))?;
        }
        "nodes_per_sponsor" => policy.nodes_per_sponsor = number()?,
        "registrations_per_hour" => policy.registrations_per_hour = number()?,
        "transactions_per_author" => policy.transactions_per_author = number()?,
        "refusals_per_hour" => policy.refusals_per_hour = number()?,
        "activation_after_ms" => policy.activation_after_ms = number()?,
        "attestation_valid_s" => policy.attestation_valid_s = number()?,
        "operator_approval" => policy.operator_approval = switch()?,
        "insecure_software_tpm_sites" => policy.insecure_software_tpm_sites = switch()?,
        "coordinator_attestation" => {
            policy.coordinator_attestation = match value {
                "required" => true,
                "key-only" => false,
                _ => return Err(wrong("required or key-only")),
            };
        }
        "profile" => {
            let found = PROFILES.iter().find(|(_, word)| *word == value);
            policy.profile = found.ok_or_else(|| wrong("tpm-only, measured or measured+ima"))?.0;
        }
        "voters" => {
            let found = VOTERS.iter().find(|(_, word)| *word == value);
            policy.voters = found.ok_or_else(|| wrong("1-then-4 or all"))?.0;
        }
        "pcrs" => policy.pcrs = pcrs(value).ok_or_else(|| wrong("a list such as 0,2,4,7"))?,
        "next_version" => {
            policy.next_version = next_version(value).ok_or_else(|| wrong("VERSION@HEIGHT"))?;
        }
        _ => return Err(invalid(&format!("unknown policy setting `{key}`"))),
    }
    Ok(())
}

const PROFILES: [(Profile, &str); 3] = [
    (Profile::TpmOnly, "tpm-only"),
    (Profile::Measured, "measured"),
    (Profile::MeasuredIma, "measured+ima"),
];

const VOTERS: [(VoterRule, &str); 2] =
    [(VoterRule::OneThenFour, "1-then-4"), (VoterRule::All, "all")];

/// `0,2,4` as bits.
fn pcrs(list: &str) -> Option<u32> {
    list.split(',').try_fold(0_u32, |bits, number| {
        let bit = 1_u32.checked_shl(number.trim().parse().ok()?)?;
        Some(bits | bit)
    })
}

/// `2@5000`, or `none`.
fn next_version(text: &str) -> Option<Option<NextVersion>> {
    if text == "none" {
        return Some(None);
    }
    let (version, height) = text.split_once('@')?;
    let height = Height(height.parse().ok()?);
    Some(Some(NextVersion { state_version: version.parse().ok()?, height }))
}

/// A policy as key and value.
pub(super) fn policy_words(policy: &Policy) -> BTreeMap<String, String> {
    let Policy {
        state_version,
        block_interval_ms,
        batch_interval_ms,
        offline_after_ms,
        receipts,
        nodes_per_sponsor,
        registrations_per_hour,
        transactions_per_author,
        refusals_per_hour,
        profile,
        operator_approval,
        coordinator_attestation,
        insecure_software_tpm_sites,
        ek_anchors,
        voters,
        activation_after_ms,
        attestation_valid_s,
        pcrs,
        reference_values,
        next_version,
    } = policy;
    let attested = if *coordinator_attestation { "required" } else { "key-only" };
    let next = next_version.map_or_else(
        || "none".to_owned(),
        |next| format!("{}@{}", next.state_version, next.height.0),
    );
    [
        ("state_version", state_version.to_string()),
        ("block_interval_ms", block_interval_ms.to_string()),
        ("batch_interval_ms", batch_interval_ms.to_string()),
        ("offline_after_ms", offline_after_ms.to_string()),
        ("receipts", receipts.to_string()),
        ("nodes_per_sponsor", nodes_per_sponsor.to_string()),
        ("registrations_per_hour", registrations_per_hour.to_string()),
        ("transactions_per_author", transactions_per_author.to_string()),
        ("refusals_per_hour", refusals_per_hour.to_string()),
        ("profile", word(&PROFILES, profile).to_owned()),
        ("operator_approval", operator_approval.to_string()),
        ("coordinator_attestation", attested.to_owned()),
        ("insecure_software_tpm_sites", insecure_software_tpm_sites.to_string()),
        ("ek_anchors", ek_anchors.len().to_string()),
        ("voters", word(&VOTERS, voters).to_owned()),
        ("activation_after_ms", activation_after_ms.to_string()),
        ("attestation_valid_s", attestation_valid_s.to_string()),
        ("pcrs", pcr_list(*pcrs)),
        ("reference_values", reference_values.len().to_string()),
        ("next_version", next),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

fn word<T: PartialEq>(table: &[(T, &'static str)], value: &T) -> &'static str {
    table.iter().find(|(known, _)| known == value).map_or("?", |(_, word)| word)
}

fn pcr_list(bits: u32) -> String {
    let set: Vec<String> =
        (0..u32::BITS).filter(|pcr| bits & (1 << pcr) != 0).map(|pcr| pcr.to_string()).collect();
    set.join(",")
}

/// The blocks of a bundle (RFC 7468) with one label; text around them does not count.
///
/// # Errors
/// A block is malformed; there is none, or there are too many.
pub fn blocks(bundle: &str, label: &str) -> Result<Vec<Vec<u8>>> {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let mut found = Vec::new();
    let mut rest = bundle;
    while let Some(start) = rest.find(&begin) {
        let block = &rest[start..];
        let length = block.find(&end).ok_or_else(|| invalid("a PEM block has no end"))? + end.len();
        let (_, bytes) = pem::decode_vec(&block.as_bytes()[..length])
            .map_err(|error| invalid(&format!("not a PEM block: {error}")))?;
        found.push(bytes);
        if found.len() > MAX_BLOCKS {
            return Err(invalid(&format!("more than {MAX_BLOCKS} PEM blocks")));
        }
        rest = &block[length..];
    }
    if found.is_empty() { Err(invalid(&format!("no {label} in it"))) } else { Ok(found) }
}

fn add_anchors(policy: &mut Policy, bundle: &str) -> Result<Vec<Document>> {
    let mut documents = Vec::new();
    for der in blocks(bundle, CERTIFICATE)? {
        let certificate = Certificate::parse(&der).map_err(|error| invalid(&error))?;
        if !certificate.is_authority() {
            let what = format!("{} is no certificate of an authority", certificate.subject());
            return Err(invalid(&what));
        }
        policy.ek_anchors.push(Hash(*certificate.sha256()));
        documents.push(Document { kind: DocumentKind::Anchor, bytes: der });
    }
    policy.ek_anchors.sort_unstable();
    policy.ek_anchors.dedup();
    Ok(documents)
}

fn remove_anchors(policy: &mut Policy, list: &str) -> Result<()> {
    for name in list.split(',') {
        let hash = named(policy.ek_anchors.iter(), name)?;
        policy.ek_anchors.retain(|anchor| *anchor != hash);
    }
    Ok(())
}

/// The new values hold from now on without end; the old ones until `old_until_ms`.
fn add_reference_values(
    policy: &mut Policy,
    text: &str,
    options: &Options,
) -> Result<Vec<Document>> {
    let until: u64 = match options.get("old_until_ms") {
        None => 0,
        Some(until) => {
            until.parse().map_err(|_| invalid("old_until_ms is ms since 1970, or 0 for no end"))?
        }
    };
    for window in &mut policy.reference_values {
        if until != 0 && (window.until_ms == 0 || window.until_ms > until) {
            window.until_ms = until;
        }
    }
    let mut documents = Vec::new();
    for bytes in blocks(text, REFERENCE_VALUES)? {
        ReferenceValues::from_bytes(&bytes)
            .map_err(|error| invalid(&format!("these are no reference values: {error}")))?;
        let document = Document { kind: DocumentKind::ReferenceValues, bytes };
        let hash = document.hash();
        policy.reference_values.retain(|window| window.document != hash);
        policy.reference_values.push(Window { document: hash, until_ms: 0 });
        documents.push(document);
    }
    policy.reference_values.sort_unstable();
    Ok(documents)
}

fn remove_reference_values(policy: &mut Policy, list: &str) -> Result<()> {
    for name in list.split(',') {
        let hash = named(policy.reference_values.iter().map(|window| &window.document), name)?;
        policy.reference_values.retain(|window| window.document != hash);
    }
    Ok(())
}

/// The document with this hash, or with the only one that begins so.
fn named<'a>(hashes: impl Iterator<Item = &'a Hash>, name: &str) -> Result<Hash> {
    let name = name.trim().to_lowercase();
    let mut found = hashes.filter(|hash| hash.to_string().starts_with(&name));
    match (found.next(), found.next()) {
        (Some(hash), None) if name.len() >= MIN_PREFIX => Ok(*hash),
        _ => Err(super::ControlError::NotFound { what: "document of the policy", name }),
    }
}

fn documents(state: &State) -> Vec<PolicyDocument> {
    let policy = state.policy();
    let anchors = policy.ek_anchors.iter().map(|hash| anchor(state, hash));
    let values = policy.reference_values.iter().map(|window| PolicyDocument {
        kind: "reference-values",
        sha256: window.document.to_string(),
        subject: None,
        vendor: None,
        until_ms: (window.until_ms != 0).then_some(window.until_ms),
        bytes: state.document(&window.document).map_or(0, |document| document.bytes.len() as u64),
    });
    anchors.chain(values).collect()
}

fn anchor(state: &State, hash: &Hash) -> PolicyDocument {
    let document = state.document(hash);
    let certificate = document.and_then(|document| Certificate::parse(&document.bytes).ok());
    let sha256 = hash.to_string();
    PolicyDocument {
        kind: "anchor",
        subject: certificate.map(|certificate| certificate.subject()),
        vendor: vendors::recognise(&sha256).map(|root| format!("{}: {}", root.vendor, root.name)),
        sha256,
        until_ms: None,
        bytes: document.map_or(0, |document| document.bytes.len() as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use attestation::reference_values::ReferenceValues;
    use pkcs8::LineEnding;

    fn armoured(label: &'static str, bytes: &[u8]) -> String {
        pem::encode_string(label, LineEnding::LF, bytes).expect("PEM")
    }

    fn certificate(name: &str) -> String {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../attestation/testdata/vendors/");
        armoured(CERTIFICATE, &std::fs::read(format!("{folder}{name}")).expect(name))
    }

    #[test]
    fn what_is_shown_can_be_set() {
        let mut policy = Policy {
            voters: VoterRule::All,
            profile: Profile::MeasuredIma,
            coordinator_attestation: false,
            pcrs: 0b1001_0101,
            next_version: Some(NextVersion { state_version: 2, height: Height(5000) }),
            ..Policy::default()
        };
        let shown = policy_words(&policy);
        // These have verbs of their own; the version of now is not set but activated.
        let counted = ["ek_anchors", "reference_values", "state_version"];
        let settable = shown.iter().filter(|(key, _)| !counted.contains(&key.as_str()));
        policy = Policy { nodes_per_sponsor: policy.nodes_per_sponsor, ..Policy::default() };
        for (key, value) in settable {
            set(&mut policy, key, value).unwrap_or_else(|error| panic!("{key}={value}: {error}"));
        }
        assert_eq!(policy_words(&policy), shown);
    }

    #[test]
    fn settings_that_are_none_are_named() {
        let table = [
            ("colour", "red"),
            ("receipts", "256"),
            ("receipts", "-1"),
            ("profile", "strict"),
            ("voters", "2"),
            ("operator_approval", "maybe"),
            ("coordinator_attestation", "true"),
            ("pcrs", "0,32"),
            ("pcrs", ""),
            ("next_version", "2"),
            ("ek_anchors", "3"),
        ];
        for (key, value) in table {
            let error = set(&mut Policy::default(), key, value).expect_err(key);
            assert!(error.to_string().contains(key), "{key}={value}: {error}");
        }
    }

    #[test]
    fn anchors_come_and_go_by_their_hashes() {
        let mut policy = Policy::default();
        let both =
            certificate("st-rsa-root.der") + "words\n" + &certificate("nuvoton-root-2110.der");
        let documents = add_anchors(&mut policy, &both).expect("two authorities");
        assert_eq!((documents.len(), policy.ek_anchors.len()), (2, 2));
        assert!(policy.check().is_ok(), "ascending");
        add_anchors(&mut policy, &both).expect("again");
        assert_eq!(policy.ek_anchors.len(), 2, "none twice");
        // What is no authority vouches for nobody.
        let leaf = add_anchors(&mut policy, &certificate("st-ecc-ek.der")).expect_err("a leaf");
        assert!(leaf.to_string().contains("no certificate of an authority"), "{leaf}");
        for name in ["f8e3", "00000000", ""] {
            assert!(remove_anchors(&mut policy, name).is_err(), "{name}");
        }
        remove_anchors(&mut policy, "F8E37A86").expect("the first characters");
        assert_eq!(policy.ek_anchors, [Hash(documents[1].hash().0)]);
    }

    #[test]
    fn old_reference_values_hold_until_the_window_ends() {
        let mut policy = Policy::default();
        let values = |pcr| {
            let boot = [(pcr, vec![])].into();
            let values = ReferenceValues { boot, files: vec![] };
            armoured(REFERENCE_VALUES, &values.to_bytes())
        };
        add_reference_values(&mut policy, &values(0), &Options::new()).expect("the first");
        let window = Options::from([("old_until_ms".to_owned(), "7000".to_owned())]);
        let new = add_reference_values(&mut policy, &values(1), &window).expect("the second");
        let new = new[0].hash();
        let until = |policy: &Policy, hash: &Hash| {
            policy.reference_values.iter().find(|w| w.document == *hash).map(|w| w.until_ms)
        };
        let old = policy.reference_values.iter().find(|w| w.document != new).expect("old").document;
        assert_eq!((until(&policy, &old), until(&policy, &new)), (Some(7000), Some(0)));
        // A later window does not prolong what ends earlier.
        let later = Options::from([("old_until_ms".to_owned(), "9000".to_owned())]);
        add_reference_values(&mut policy, &values(2), &later).expect("the third");
        assert_eq!((until(&policy, &old), until(&policy, &new)), (Some(7000), Some(9000)));
        remove_reference_values(&mut policy, &old.to_string()).expect("the whole hash");
        assert_eq!(policy.reference_values.len(), 2);
        assert!(policy.check().is_ok(), "ascending");
        let garbage = armoured(REFERENCE_VALUES, b"garbage");
        let error = add_reference_values(&mut policy, &garbage, &window).expect_err("garbage");
        assert!(error.to_string().contains("no reference values"), "{error}");
    }

    #[test]
    fn bundles_are_bounded() {
        assert!(blocks("", CERTIFICATE).is_err());
        assert!(blocks("-----BEGIN CERTIFICATE-----\nMIH\n", CERTIFICATE).is_err());
        let many = armoured(CERTIFICATE, b"x").repeat(MAX_BLOCKS + 1);
        assert!(blocks(&many, CERTIFICATE).expect_err("many").to_string().contains("more than"));
    }
}
