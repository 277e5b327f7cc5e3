//! A maker of TPMs: a certificate authority of its own (`swtpm_localca`) that certifies the
//! endorsement keys of all software TPMs of one site, as a vendor does with chips.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Which endorsement key of a TPM has a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ek {
    /// RSA-2048, as older chips have.
    Rsa,
    /// NIST P-256, as most chips have.
    P256,
    /// RSA-2048 and NIST P-384, as `swtpm_setup` makes them; the gateway prefers P-384.
    Both,
    /// None of them: a TPM that nobody vouches for.
    None,
}

/// NV indices of the certificates (TCG EK Credential Profile, 2.2.1.4 and 2.2.1.5).
const RSA_INDEX: &str = "0x01c00002";
const P256_INDEX: &str = "0x01c0000a";
const P384_INDEX: &str = "0x01c00016";

/// As `swtpm_setup` defines them; without `platformcreate` the TPM refuses the rest.
const INDEX_ATTRIBUTES: &str = "ppwrite|writedefine|ppread|ownerread|authread|no_da|platformcreate";

/// The maker; its keys are in a folder.
#[derive(Debug, Clone)]
pub struct Maker {
    dir: PathBuf,
}

impl Maker {
    /// A maker with keys in `dir`; they are made with the first TPM.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn new(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let place = dir.display();
        std::fs::write(
            dir.join("localca.conf"),
            format!(
                "statedir = {place}\nsigningkey = {place}/ca-key.pem\nissuercert = \
                 {place}/ca-cert.pem\ncertserial = {place}/serial\n"
            ),
        )?;
        std::fs::write(dir.join("options.conf"), "")?;
        std::fs::write(
            dir.join("setup.conf"),
            format!(
                "create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = \
                 {place}/localca.conf\ncreate_certs_tool_options = {place}/options.conf\n"
            ),
        )?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// The certificates that a site has to trust for this maker's TPMs: of the issuer, and of the
    /// root above it.
    pub fn anchors(&self) -> [PathBuf; 2] {
        [self.dir.join("ca-cert.pem"), self.dir.join("swtpm-localca-rootca-cert.pem")]
    }

    /// Makes the state of a TPM in `dir`, with certificates of its RSA-2048 and P-384 keys.
    ///
    /// # Errors
    /// `swtpm_setup` is missing or fails.
    pub fn make(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir)?;
        let mut setup = Command::new("swtpm_setup");
        setup
            .args(["--tpm2", "--createek", "--create-ek-cert", "--lock-nvram", "--overwrite"])
            .args(["--pcr-banks", "sha256", "--tpmstate"])
            .arg(dir)
            .arg("--config")
            .arg(self.dir.join("setup.conf"));
        output(&mut setup, "swtpm_setup (package swtpm-tools)").map(drop)
    }

    /// Leaves the certificate of one kind of key in a running TPM, or none. Each kind is another
    /// model of this maker's: a site accepts one kind per model.
    ///
    /// # Errors
    /// `tpm2-tools`, `openssl` or `swtpm_localca` are missing or fail.
    pub fn certify_only(&self, kind: Ek, tcti: &str) -> Result<()> {
        if kind == Ek::Both {
            return Ok(());
        }
        for index in [RSA_INDEX, P384_INDEX] {
            tpm2(tcti, "tpm2_nvundefine", &["-C", "p", index])?;
        }
        let (index, algorithm, file) = match kind {
            Ek::Rsa => (RSA_INDEX, "rsa", "ek-rsa2048.crt"),
            Ek::P256 => (P256_INDEX, "ecc", "ek-secp256r1.crt"),
            Ek::None | Ek::Both => return Ok(()),
        };
        let work = tempfile::tempdir()?;
        let public = work.path().join("ek.pem");
        let (context, public) = (path(&work.path().join("ek.ctx"))?, path(&public)?);
        tpm2(
            tcti,
            "tpm2_createek",
            &["-G", algorithm, "-c", &context, "-u", &public, "-f", "pem"],
        )?;
        tpm2(tcti, "tpm2_flushcontext", &["-t"])?;
        let key = if kind == Ek::Rsa { modulus(&public)? } else { point(&public)? };
        self.issue(&key, &format!("swtpm {kind:?}"), work.path())?;
        let certificate = ["ek.cert", file].map(|name| work.path().join(name));
        let certificate = certificate.into_iter().find(|file| file.is_file());
        let certificate = certificate.context("swtpm_localca made no certificate")?;
        let size = std::fs::metadata(&certificate)?.len().to_string();
        let define = ["-C", "p", "-s", &size, "-a", INDEX_ATTRIBUTES, index];
        tpm2(tcti, "tpm2_nvdefine", &define)?;
        tpm2(tcti, "tpm2_nvwrite", &["-C", "p", "-i", &path(&certificate)?, index])
    }

    /// Certifies a public key as one of this model; the file's name depends on the tool's version.
    fn issue(&self, key: &str, model: &str, work: &Path) -> Result<()> {
        let mut issue = Command::new("swtpm_localca");
        issue
            .args(["--type", "ek", "--tpm2", "--vmid", "gateway", "--ek", key, "--dir"])
            .arg(work)
            .args(["--tpm-spec-family", "2.0", "--tpm-spec-level", "0"])
            .args(["--tpm-spec-revision", "164", "--tpm-manufacturer", "id:00001014"])
            .args(["--tpm-model", model, "--tpm-version", "id:20191023", "--configfile"])
            .arg(self.dir.join("localca.conf"))
            .arg("--optsfile")
            .arg(self.dir.join("options.conf"));
        output(&mut issue, "swtpm_localca (package swtpm-tools)").map(drop)
    }
}

/// The modulus of an RSA key, as hexadecimal digits.
fn modulus(public: &str) -> Result<String> {
    let mut command = Command::new("openssl");
    let printed = output(
        command.args(["rsa", "-pubin", "-modulus", "-noout", "-in", public]),
        "openssl (package openssl)",
    )?;
    let digits = printed.trim().strip_prefix("Modulus=").context("a modulus")?;
    Ok(digits.to_ascii_lowercase())
}

/// The coordinates of a P-256 point, as `swtpm_localca` wants them.
fn point(public: &str) -> Result<String> {
    let mut command = Command::new("openssl");
    let printed = output(
        command.args(["ec", "-pubin", "-text", "-noout", "-in", public]),
        "openssl (package openssl)",
    )?;
    let lines = printed.lines().skip_while(|line| *line != "pub:").skip(1);
    let digits: String = lines
        .take_while(|line| line.starts_with(' '))
        .flat_map(str::chars)
        .filter(char::is_ascii_hexdigit)
        .collect();
    let digits = digits.strip_prefix("04").context("an uncompressed point")?;
    ensure!(!digits.is_empty() && digits.len() % 4 == 0, "coordinates: {digits}");
    let (x, y) = digits.split_at(digits.len() / 2);
    Ok(format!("x={x},y={y},id=secp256r1"))
}

fn tpm2(tcti: &str, tool: &str, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(tool);
    command.args(arguments).env("TPM2TOOLS_TCTI", tcti).env("TSS2_LOG", "all+NONE");
    output(&mut command, "tpm2-tools (package tpm2-tools)").map(drop)
}

/// Runs a command, which must succeed; what it printed.
fn output(command: &mut Command, what: &'static str) -> Result<String> {
    let done = command.stdin(Stdio::null()).output().context(what)?;
    let printed = String::from_utf8_lossy(&done.stdout).into_owned();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    ensure!(done.status.success(), "{what}: {printed}{said}");
    Ok(printed)
}

fn path(path: &Path) -> Result<String> {
    Ok(path.to_str().context("path is not UTF-8")?.to_owned())
}

#[cfg(test)]
mod tests {
    use attestation::template::EkKind;
    use attestation::tpm::Tpm;

    use super::*;
    use crate::network::Place;
    use crate::swtpm::Swtpm;

    #[test]
    fn each_kind_of_key_is_certified_alone() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let maker = Maker::new(&folder.path().join("maker"))?;
        let cases: [(Ek, &[EkKind]); 4] = [
            (Ek::Both, &[EkKind::P384, EkKind::Rsa2048]),
            (Ek::Rsa, &[EkKind::Rsa2048]),
            (Ek::P256, &[EkKind::P256]),
            (Ek::None, &[]),
        ];
        for (kind, expected) in cases {
            let dir = folder.path().join(format!("{kind:?}"));
            let chip = Swtpm::made_by(&maker, kind, &dir, Place::Here)?;
            let tpm = Tpm::spawn(&chip.tcti(), dir.join("keys"))?;
            assert_eq!(tpm.info()?.certified, expected, "{kind:?}");
            // The key that a gateway would answer with is the one that is certified.
            let chosen = tpm.create_identity()?.ek_kind;
            assert!(expected.is_empty() || expected[0] == chosen, "{kind:?}: {chosen:?}");
            tpm.shutdown()?;
        }
        for anchor in maker.anchors() {
            assert!(std::fs::read_to_string(anchor)?.contains("BEGIN CERTIFICATE"));
        }
        Ok(())
    }
}
