//! Software TPMs for tests: manufactured once a build folder by `swtpm_setup` with certificates
//! of a local CA, started on free ports with a copy of the state, killed when dropped.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use attestation::public::{Public, PublicKey};
use attestation::template::EkKind;
use attestation::tpm::Tpm;
use tempfile::TempDir;

/// How long starting a program may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which endorsement certificates a test TPM holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Certificates {
    /// None at all.
    None,
    /// Only RSA-2048.
    Rsa2048,
    /// RSA-2048 and P-384, as `swtpm_setup` makes them.
    P384,
    /// Those two and P-256.
    P256,
}

impl Certificates {
    const ALL: [Self; 4] = [Self::None, Self::Rsa2048, Self::P384, Self::P256];

    fn folder(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Rsa2048 => "rsa2048",
            Self::P384 => "p384",
            Self::P256 => "p256",
        }
    }
}

/// A running software TPM and its state.
pub(crate) struct Swtpm {
    folder: TempDir,
    port: u16,
    child: Option<Child>,
}

impl Swtpm {
    /// A TPM with the given certificates, started. Two of these have the same seeds: they are one
    /// chip as far as a verifier can tell.
    pub(crate) fn start(certificates: Certificates) -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy_state(&factory().join(certificates.folder()), &folder.path().join("state"));
        Self::run(folder)
    }

    /// A TPM that nobody manufactured: seeds of its own, no certificates.
    pub(crate) fn start_fresh() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("state")).unwrap();
        Self::run(folder)
    }

    fn run(folder: TempDir) -> Self {
        let mut tpm = Self { folder, port: 0, child: None };
        for _ in 0..20 {
            tpm.port = free_port();
            if tpm.launch() {
                return tpm;
            }
        }
        panic!("no two free ports for swtpm");
    }

    /// Starts the program; `false` when another process was faster to take the ports.
    fn launch(&mut self) -> bool {
        let pid_file = self.folder.path().join("pid");
        // A file of an earlier run must not be taken for the sign that this one is ready.
        drop(fs::remove_file(&pid_file));
        let mut child = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .args(["--server", &format!("type=tcp,port={},bindaddr=127.0.0.1", self.port)])
            .args(["--ctrl", &format!("type=tcp,port={},bindaddr=127.0.0.1", self.port + 1)])
            .args(["--tpmstate", &format!("dir={}", self.folder.path().join("state").display())])
            .args(["--pid", &format!("file={}", pid_file.display())])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("swtpm is installed");
        let pid = child.id().to_string();
        let start = Instant::now();
        loop {
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            let written = fs::read_to_string(&pid_file).unwrap_or_default();
            if written.trim() == pid && TcpStream::connect(("127.0.0.1", self.port + 1)).is_ok() {
                self.child = Some(child);
                return true;
            }
            assert!(start.elapsed() < PATIENCE, "swtpm does not start");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// The TCTI string.
    pub(crate) fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    /// A folder that lives as long as this TPM.
    pub(crate) fn keys(&self) -> PathBuf {
        self.folder.path().join("keys")
    }

    /// A handle to this TPM, with its key folder.
    pub(crate) fn tpm(&self) -> Tpm {
        Tpm::spawn(&self.tcti(), self.keys()).unwrap()
    }

    /// Kills the program, as a crash would: nothing is saved.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts it again with the same state on the same ports.
    pub(crate) fn restart(&mut self) {
        self.kill();
        // Somebody's connection may have taken one of the ports for a moment.
        let start = Instant::now();
        while !self.launch() {
            assert!(start.elapsed() < PATIENCE, "the ports of swtpm were taken meanwhile");
        }
    }

    /// Sends a signal to the program.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status().unwrap();
        assert!(status.success());
    }

    /// Runs a tool of tpm2-tools on this TPM and gives its output.
    pub(crate) fn tool(&self, arguments: &[&str]) -> String {
        self.try_tool(arguments).unwrap_or_else(|errors| panic!("{arguments:?}: {errors}"))
    }

    /// Runs a tool and gives its output, or what it says of its failure. swtpm serves one client,
    /// and may still be busy with the end of the last one: a call that fails is made twice more.
    pub(crate) fn try_tool(&self, arguments: &[&str]) -> Result<String, String> {
        let mut errors = String::new();
        for _ in 0..3 {
            let output = Command::new("timeout")
                .arg("20")
                .args(arguments)
                .args(["-T", &self.tcti()])
                .current_dir(self.folder.path())
                .output()
                .expect("tpm2-tools are installed");
            if output.status.success() {
                return Ok(String::from_utf8(output.stdout).unwrap());
            }
            errors.push_str(&String::from_utf8_lossy(&output.stderr));
        }
        Err(errors)
    }

    /// Writes a file beside the TPM's state.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.folder.path().join(name), bytes).unwrap();
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port whose neighbour is free too: swtpm's control port is the next one.
fn free_port() -> u16 {
    loop {
        let data = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = data.local_addr().unwrap().port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
}

/// The CA's certificates (DER): root, intermediate.
pub(crate) fn authority() -> (Vec<u8>, Vec<u8>) {
    let read =
        |name: &str| pem_to_der(&fs::read_to_string(factory().join("ca").join(name)).unwrap());
    (read("swtpm-localca-rootca-cert.pem"), read("issuercert.pem"))
}

/// The folder with manufactured TPMs: made once, by whichever test process is first.
fn factory() -> &'static Path {
    static FACTORY: OnceLock<PathBuf> = OnceLock::new();
    FACTORY.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let done = target.join("attestation-swtpm-1");
        if !done.exists() {
            let work = tempfile::tempdir_in(target).unwrap();
            manufacture(work.path());
            // Losing this race is fine: another process has made the same.
            if fs::rename(work.path(), &done).is_err() {
                assert!(done.exists(), "the manufactured TPMs cannot be put in place");
            }
        }
        done
    })
}

fn manufacture(folder: &Path) {
    let ca = folder.join("ca");
    fs::create_dir(&ca).unwrap();
    let base = folder.join("base");
    fs::create_dir(&base).unwrap();
    let localca = folder.join("localca.conf");
    let options = folder.join("localca.options");
    let setup = folder.join("setup.conf");
    let ca_text = ca.display();
    fs::write(
        &localca,
        format!(
            "statedir = {ca_text}\nsigningkey = {ca_text}/signkey.pem\n\
             issuercert = {ca_text}/issuercert.pem\ncertserial = {ca_text}/certserial\n"
        ),
    )
    .unwrap();
    fs::write(
        &options,
        "--platform-manufacturer gatewayd\n--platform-version 1\n--platform-model test\n",
    )
    .unwrap();
    fs::write(
        &setup,
        format!(
            "create_certs_tool = swtpm_localca\ncreate_certs_tool_config = {}\n\
             create_certs_tool_options = {}\nactive_pcr_banks = sha256\n",
            localca.display(),
            options.display()
        ),
    )
    .unwrap();
    // Without --allow-signing: with it the EK would not be the TCG's template.
    run(Command::new("swtpm_setup")
        .args(["--tpm2", "--createek", "--create-ek-cert", "--overwrite"])
        .args(["--pcr-banks", "sha256", "--vmid", "gw-0001"])
        .arg("--tpmstate")
        .arg(&base)
        .arg("--config")
        .arg(&setup));
    for certificates in Certificates::ALL {
        let state = folder.join(certificates.folder());
        match certificates {
            Certificates::P384 => copy_state(&base, &state),
            Certificates::Rsa2048 => change_state(&base, &state, |tpm| undefine(tpm, EkKind::P384)),
            Certificates::None => change_state(&base, &state, |tpm| {
                undefine(tpm, EkKind::P384);
                undefine(tpm, EkKind::Rsa2048);
            }),
            Certificates::P256 => {
                let certificate = certify_p256(folder, &localca, &options);
                change_state(&base, &state, |tpm| install(tpm, EkKind::P256, &certificate));
            }
        }
    }
}

/// Runs a TPM on a copy of `base`, changes it, and keeps the state.
fn change_state(base: &Path, state: &Path, change: impl FnOnce(&Swtpm)) {
    let folder = tempfile::tempdir().unwrap();
    copy_state(base, &folder.path().join("state"));
    let mut tpm = Swtpm::run(folder);
    change(&tpm);
    tpm.kill();
    copy_state(&tpm.folder.path().join("state"), state);
}

fn undefine(tpm: &Swtpm, kind: EkKind) {
    let index = format!("{:#010x}", kind.certificate_index());
    tpm.tool(&["tpm2_nvundefine", "-C", "p", &index]);
}

/// Puts a certificate where the manufacturer would.
pub(crate) fn install(tpm: &Swtpm, kind: EkKind, certificate: &[u8]) {
    define_and_write(tpm, kind.certificate_index(), certificate);
}

/// Defines a platform NV index and fills it.
pub(crate) fn define_and_write(tpm: &Swtpm, index: u32, contents: &[u8]) {
    tpm.write("nv.bin", contents);
    let (index, size) = (format!("{index:#010x}"), contents.len().to_string());
    let attributes = "ppwrite|writedefine|ppread|ownerread|authread|no_da|platformcreate";
    tpm.tool(&["tpm2_nvdefine", &index, "-C", "p", "-s", &size, "-a", attributes]);
    tpm.tool(&["tpm2_nvwrite", &index, "-C", "p", "-i", "nv.bin"]);
}

/// A certificate for the P-256 EK, which `swtpm_setup` does not make. The EK comes from a TPM
/// without certificates, which falls back to P-256.
fn certify_p256(folder: &Path, localca: &Path, options: &Path) -> Vec<u8> {
    let scratch = tempfile::tempdir().unwrap();
    copy_state(&folder.join("none"), &scratch.path().join("state"));
    let tpm = Swtpm::run(scratch);
    let identity = tpm.tpm().create_identity().unwrap();
    let ek = Public::parse(&identity.ek_public).unwrap();
    let PublicKey::Ecc { x, y, .. } = ek.key() else { panic!("the fallback EK is P-256") };
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    run(Command::new("swtpm_localca")
        .args(["--type", "ek", "--tpm2", "--vmid", "gw-0001"])
        .args(["--ek", &format!("x={},y={},id=secp256r1", hex(x), hex(y))])
        .args(["--tpm-spec-family", "2.0", "--tpm-spec-level", "0"])
        .args(["--tpm-spec-revision", "164", "--tpm-manufacturer", "id:00001014"])
        .args(["--tpm-model", "swtpm", "--tpm-version", "id:20191023"])
        .arg("--dir")
        .arg(folder)
        .arg("--configfile")
        .arg(localca)
        .arg("--optsfile")
        .arg(options));
    fs::read(folder.join("ek.cert")).unwrap()
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().expect("swtpm-tools are installed");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
}

fn copy_state(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::copy(from.join("tpm2-00.permall"), to.join("tpm2-00.permall")).unwrap();
}

/// Reads the first certificate of a PEM file.
fn pem_to_der(pem: &str) -> Vec<u8> {
    let body: String = pem
        .lines()
        .skip_while(|line| !line.starts_with("-----BEGIN"))
        .skip(1)
        .collect::<Vec<_>>()
        .into_iter()
        .take_while(|line| !line.starts_with("-----END"))
        .collect();
    let mut out = Vec::new();
    let (mut bits, mut held) = (0u32, 0);
    for byte in body.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => continue,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    out
}
