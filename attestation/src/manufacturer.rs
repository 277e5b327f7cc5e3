//! TPM manufacturer identifiers (TCG TPM Vendor ID Registry, Family 2.0): who made a TPM, and
//! whether it is one made of software.

use std::fmt;

/// `TPM_PT_MANUFACTURER`: four characters, or the number in an EK certificate (`id:49465800`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Manufacturer(pub u32);

/// Identifiers of TPMs that are programs. `IBM ` is what libtpms (swtpm, QEMU) reports and
/// `00001014` (IBM's PCI number) what swtpm's certificates carry; the others are the Microsoft
/// reference simulator and the virtual TPMs of hypervisors.
const SOFTWARE: [u32; 5] = [
    u32::from_be_bytes(*b"IBM\0"),
    u32::from_be_bytes(*b"IBM "),
    0x0000_1014,
    u32::from_be_bytes(*b"MSFT"),
    u32::from_be_bytes(*b"VMW\0"),
];

impl Manufacturer {
    /// Whether this is a known software or virtual TPM. Hardware is not proven by `false`: that
    /// is what the EK certificate is for.
    #[must_use]
    pub fn is_software(self) -> bool {
        SOFTWARE.contains(&self.0)
    }

    /// Reads the `tpmManufacturer` attribute of an EK certificate: `id:` and eight hex digits.
    #[must_use]
    pub fn from_certificate_text(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("id:")?;
        let hex = digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !hex {
            return None;
        }
        u32::from_str_radix(digits, 16).ok().map(Self)
    }
}

/// The four characters when they are printable, else `id:` and eight hex digits.
impl fmt::Display for Manufacturer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.to_be_bytes();
        let text: &[u8] = bytes.trim_ascii_end();
        let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
        let printable = end > 1
            && text[..end].iter().all(u8::is_ascii_graphic)
            && text[end..].iter().all(|&byte| byte == 0);
        match std::str::from_utf8(&text[..end]) {
            Ok(name) if printable => f.write_str(name),
            _ => write!(f, "id:{:08X}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_is_known_by_its_identifier() {
        for (text, name, software) in [
            ("id:49424D00", "IBM", true),
            ("id:00001014", "id:00001014", true),
            ("id:4D534654", "MSFT", true),
            ("id:49465800", "IFX", false),
            ("id:53544D20", "STM", false),
            ("id:4e544300", "NTC", false),
        ] {
            let manufacturer = Manufacturer::from_certificate_text(text).unwrap();
            assert_eq!(manufacturer.to_string(), name);
            assert_eq!(manufacturer.is_software(), software, "{text}");
        }
        for text in ["49424D00", "id:49424D0", "id:+9424D00", "id:49424D000", "id:"] {
            assert_eq!(Manufacturer::from_certificate_text(text), None, "{text}");
        }
    }
}
