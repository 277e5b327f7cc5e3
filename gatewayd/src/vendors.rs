//! Fingerprints of the root certificates of TPM vendors, by which a file that the operator hands
//! over is recognised. Being recognised is not being trusted: the operator adds an anchor, nobody
//! else does; and one that is not in this table can be added all the same.
//!
//! Only fingerprints are here that two sources tell alike which do not copy each other: the
//! vendors' own lists and download pages as collected with evidence by the project
//! `tpm-ca-certificates`, the certificates that Keylime ships (hashed), and two other published
//! trust stores of TPM roots.

/// A root certificate of a TPM vendor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VendorRoot {
    /// Vendor of the TPM.
    pub vendor: &'static str,
    /// Name of the certificate, as its subject has it.
    pub name: &'static str,
    /// SHA-256 of the certificate (DER), hex.
    pub sha256: &'static str,
}

/// The root with this fingerprint (SHA-256, lower-case hex), if it is a known one.
pub fn recognise(sha256: &str) -> Option<&'static VendorRoot> {
    ROOTS.iter().find(|root| root.sha256 == sha256)
}

const fn root(vendor: &'static str, name: &'static str, sha256: &'static str) -> VendorRoot {
    VendorRoot { vendor, name, sha256 }
}

const AMD: &str = "AMD";
const INFINEON: &str = "Infineon";
const INTEL: &str = "Intel";
const MICROSOFT: &str = "Microsoft";
const NUVOTON: &str = "Nuvoton";
const ST: &str = "STMicroelectronics";

/// All known roots, by vendor.
pub const ROOTS: [VendorRoot; 20] = [
    root(AMD, "AMD Root CA R4", "853d5c5abe1fe97bddb62db0aecb4888a52c83353645cf70b12289d62257e78d"),
    root(
        INFINEON,
        "Infineon OPTIGA(TM) ECC Root CA",
        "cfeb02fecd55ad7a73c6e1d11985d4c47dee248ab63dcb66091a2489660443c3",
    ),
    root(
        INFINEON,
        "Infineon OPTIGA(TM) ECC Root CA 2",
        "ee0c827555c4e9012037df4257bb8aaa26084a17b13ede41cd7895c8d6c11190",
    ),
    root(
        INFINEON,
        "Infineon OPTIGA(TM) ECC Root CA 3",
        "5a84cc3476221cce5be81af8d755d175fea03d208b3412a231710c56774542fd",
    ),
    root(
        INFINEON,
        "Infineon OPTIGA(TM) RSA Root CA",
        "899e35474c9807eb4c7f2f7a12da0028fb250cd02154d0009fca7d9c66574f3b",
    ),
    root(
        INFINEON,
        "Infineon OPTIGA(TM) RSA Root CA 2",
        "b413c71580af3ec5efe83fad31db2d4af4612355e3b01e50903b10763d738894",
    ),
    root(
        INFINEON,
        "Infineon OPTIGA(TM) RSA Root CA 3",
        "976b0579c016741b0003bf8055e920ab08f72abc819547b3480b0c141e956b70",
    ),
    root(
        INTEL,
        "TPM EK root cert signing (www.intel.com)",
        "2e1b3ba79af56d758be51697621bc4b9e8cee0983db3e749c55eb9b37c6d2ae0",
    ),
    root(
        INTEL,
        "OnDie CA RootCA",
        "beb40bb7507b33967226aa80e084749fbb6593893c642e818d682e9a8d07fc24",
    ),
    root(
        MICROSOFT,
        "Microsoft Pluton Root CA 2021",
        "32ab5fe7cb4396659fcb621ca14c6fb8fc2420f64050637d77e45a86c5d3916e",
    ),
    root(
        NUVOTON,
        "Nuvoton TPM Root CA 1110",
        "2782e51a95e86d9557fe4204316cf805bd6f5898f81f9732e944d742bcdc5f54",
    ),
    root(
        NUVOTON,
        "Nuvoton TPM Root CA 1111",
        "e38c280f7c0e0b49f31efc7531032bb6a86c3fba4eb89beb1d510eaa4510ae4a",
    ),
    root(
        NUVOTON,
        "Nuvoton TPM Root CA 2110",
        "4aebe77a51ed29959a7f9f5e07a24a558dee8167f3985d724995a541c258dfda",
    ),
    root(
        NUVOTON,
        "Nuvoton TPM Root CA 2111",
        "cd8185ff8995ed09811970090a8c36fafab34ef87f47fa51fdb9ecf95c9c2e04",
    ),
    root(
        ST,
        "GlobalSign Trusted Platform Module Root CA",
        "f27bf02c6e00c73d915eeb6a6a2f5fbf0c31ae0393149e6b5c31e41b113841c3",
    ),
    root(
        ST,
        "GlobalSign Trusted Platform Module ECC Root CA",
        "5a8c7b5eb888cfce9322068e80e82b28b554ffeb7fdc9638dcb3763077401d26",
    ),
    root(
        ST,
        "STM TPM EK Root CA",
        "f8e37a86b689a20a6cc0c40cc3f81fb130fa9f44ce7ffa60d62590aaf87273a9",
    ),
    root(
        ST,
        "STM TPM ECC Root CA 01",
        "c541d7e5b9e3f935621acbd403896225ec641036c9ae3b5f7ac793a606ff9b79",
    ),
    root(
        ST,
        "STSAFE ECC Root CA 02",
        "fd1e7b68accd825636b27b3177c67402d463a7f04c97b6c47ab705fcdc1a04f6",
    ),
    root(
        ST,
        "STSAFE RSA Root CA 02",
        "c8f179943356e13d9d84b100201cefabbf408880241e5329e60d950ce1dea623",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_hashes_and_differ() {
        for (index, root) in ROOTS.iter().enumerate() {
            let hexadecimal = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
            assert!(root.sha256.len() == 64 && root.sha256.chars().all(hexadecimal), "{root:?}");
            assert_eq!(recognise(root.sha256), Some(root), "{index}");
        }
        assert_eq!(recognise(&"0".repeat(64)), None);
    }

    #[test]
    fn certificates_of_vendors_are_recognised() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../attestation/testdata/vendors/");
        let table = [
            ("nuvoton-root-2110.der", Some("Nuvoton TPM Root CA 2110")),
            ("st-rsa-root.der", Some("STM TPM EK Root CA")),
            ("st-ecc-root-01.der", Some("STM TPM ECC Root CA 01")),
            // No intermediate is: its vendor may replace it any day.
            ("intel-intermediate.der", None),
        ];
        for (file, name) in table {
            let der = std::fs::read(format!("{folder}{file}")).expect(file);
            let certificate = attestation::endorsement::Certificate::parse(&der).expect(file);
            let found = recognise(&crate::sensors::settings::hex(certificate.sha256()));
            assert_eq!(found.map(|root| root.name), name, "{file}");
        }
    }
}
