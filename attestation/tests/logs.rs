//! Measurement logs for tests, written after the specifications and not with the crate's parsers:
//! an event log (PC Client Platform Firmware Profile 1.05, 10.2) and an IMA log (Linux), with the
//! registers that they lead to.

// Whoever includes this brings its own: these logs are written without the crate's code.
use super::digest;

pub(crate) const SEPARATOR: u32 = 4;
pub(crate) const IPL: u32 = 13;
pub(crate) const VARIABLE: u32 = 0x8000_0001;
pub(crate) const IMAGE: u32 = 0x8000_0003;

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest(bytes)
}

fn extend(register: &mut [u8; 32], value: &[u8; 32]) {
    *register = sha256(&[register.as_slice(), value].concat());
}

/// An event log with a SHA-256 bank, and its registers.
#[derive(Clone)]
pub(crate) struct EventLog {
    pub(crate) bytes: Vec<u8>,
    pub(crate) registers: [[u8; 32]; 24],
    /// What was extended, in order.
    pub(crate) extended: Vec<(u32, [u8; 32])>,
}

impl EventLog {
    pub(crate) fn new() -> Self {
        let spec = [
            b"Spec ID Event03\0".as_slice(),
            &[0, 0, 0, 0, 0, 2, 0, 2],
            &[1, 0, 0, 0],
            &[0x0b, 0, 32, 0],
            &[0],
        ]
        .concat();
        let header = [&[0, 0, 0, 0, 3, 0, 0, 0], [0; 20].as_slice()].concat();
        let bytes = [header, (spec.len() as u32).to_le_bytes().to_vec(), spec].concat();
        let mut registers = [[0; 32]; 24];
        registers[17..=22].fill([0xff; 32]);
        Self { bytes, registers, extended: Vec::new() }
    }

    /// The log of a small machine: firmware, variables, a boot loader, its commands and a kernel.
    pub(crate) fn small_machine(kernel: &str) -> Self {
        let mut log = Self::new();
        log.measure(0, 8, &[b'1', 0, b'.', 0, 0, 0]);
        log.measure(7, VARIABLE, &variable("SecureBoot", &[1]));
        log.measure(7, VARIABLE, &variable("PK", &[7; 300]));
        for pcr in 0..8 {
            log.measure(pcr, SEPARATOR, &[0; 4]);
        }
        log.value(4, IMAGE, "boot loader", &loaded("\\EFI\\debian\\grubx64.efi"));
        log.measure_as(8, IPL, b"linux /vmlinuz", b"grub_cmd: linux /vmlinuz\0");
        log.value(9, IPL, kernel, b"/vmlinuz\0");
        log.value(4, IMAGE, kernel, &loaded("/vmlinuz"));
        log
    }

    /// An event whose digest is that of its payload.
    pub(crate) fn measure(&mut self, pcr: u32, kind: u32, data: &[u8]) {
        self.event(pcr, kind, sha256(data), data);
    }

    /// An event whose digest is that of `measured`, which its payload describes.
    pub(crate) fn measure_as(&mut self, pcr: u32, kind: u32, measured: &[u8], data: &[u8]) {
        self.event(pcr, kind, sha256(measured), data);
    }

    /// An event whose digest is a value of its own.
    pub(crate) fn value(&mut self, pcr: u32, kind: u32, content: &str, data: &[u8]) {
        self.event(pcr, kind, sha256(content.as_bytes()), data);
    }

    pub(crate) fn event(&mut self, pcr: u32, kind: u32, digest: [u8; 32], data: &[u8]) {
        for field in [pcr, kind, 1] {
            self.bytes.extend_from_slice(&field.to_le_bytes());
        }
        self.bytes.extend_from_slice(&[0x0b, 0]);
        self.bytes.extend_from_slice(&digest);
        self.bytes.extend_from_slice(&(data.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(data);
        if kind != 3 {
            extend(&mut self.registers[pcr as usize], &digest);
            self.extended.push((pcr, digest));
        }
    }

    pub(crate) fn values(&self, pcrs: impl IntoIterator<Item = u8>) -> Vec<[u8; 32]> {
        pcrs.into_iter().map(|pcr| self.registers[usize::from(pcr)]).collect()
    }
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// `UEFI_VARIABLE_DATA`.
pub(crate) fn variable(name: &str, value: &[u8]) -> Vec<u8> {
    let lengths = [name.len() as u64, value.len() as u64].map(u64::to_le_bytes);
    [&[0x61; 16], lengths.as_flattened(), &utf16(name), value].concat()
}

/// `UEFI_IMAGE_LOAD_EVENT` with one file path node.
pub(crate) fn loaded(path: &str) -> Vec<u8> {
    let name = [utf16(path), vec![0, 0]].concat();
    let node = [&[4, 4], (name.len() as u16 + 4).to_le_bytes().as_slice(), &name].concat();
    let path = [node, vec![0x7f, 0xff, 4, 0]].concat();
    let numbers = [0x1000_u64, 4096, 0, path.len() as u64].map(u64::to_le_bytes);
    [numbers.as_flattened(), &path].concat()
}

/// An IMA log and the value of register 10.
#[derive(Clone)]
pub(crate) struct ImaLog {
    pub(crate) bytes: Vec<u8>,
    pub(crate) register: [u8; 32],
    /// What was extended, in order.
    pub(crate) extended: Vec<[u8; 32]>,
}

impl ImaLog {
    /// A log with the kernel's own first entry over registers 0 to 9.
    pub(crate) fn new(boot: &EventLog) -> Self {
        let mut log = Self { bytes: Vec::new(), register: [0; 32], extended: Vec::new() };
        let aggregate = sha256(boot.registers[..10].as_flattened());
        log.template("ima-ng", "sha256", &aggregate, "boot_aggregate", &[]);
        log
    }

    pub(crate) fn file(&mut self, path: &str, content: &str) {
        self.template("ima-ng", "sha256", &sha256(content.as_bytes()), path, &[]);
    }

    pub(crate) fn template(
        &mut self,
        name: &str,
        algorithm: &str,
        digest: &[u8],
        path: &str,
        further: &[u8],
    ) {
        let data = template_data(algorithm, digest, path, further);
        self.entry(name, &[1; 20], Some(sha256(&data)), &[&sized(&data)]);
    }

    /// A file that was read while it was being written.
    #[allow(dead_code, reason = "the tests with a TPM measure no files")]
    pub(crate) fn violation(&mut self, path: &str) {
        let data = template_data("sha256", &[0; 32], path, &[]);
        self.entry("ima-ng", &[0; 20], None, &[&sized(&data)]);
    }

    /// Any entry: what is extended in place of all ones, and the bytes behind the template's name.
    pub(crate) fn entry(
        &mut self,
        name: &str,
        sha1: &[u8],
        extended: Option<[u8; 32]>,
        data: &[&[u8]],
    ) {
        self.bytes.extend_from_slice(&10u32.to_le_bytes());
        self.bytes.extend_from_slice(sha1);
        self.bytes.extend_from_slice(&sized(name.as_bytes()));
        self.bytes.extend_from_slice(&data.concat());
        let extended = extended.unwrap_or([0xff; 32]);
        extend(&mut self.register, &extended);
        self.extended.push(extended);
    }
}

fn template_data(algorithm: &str, digest: &[u8], path: &str, further: &[u8]) -> Vec<u8> {
    let digest = [algorithm.as_bytes(), b":\0", digest].concat();
    [sized(&digest), sized(&[path.as_bytes(), &[0]].concat()), further.to_vec()].concat()
}

pub(crate) fn sized(bytes: &[u8]) -> Vec<u8> {
    [(bytes.len() as u32).to_le_bytes().as_slice(), bytes].concat()
}
