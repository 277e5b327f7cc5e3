//! Where the TPM is: the TCTI string of the configuration. Strict, since the library below reads
//! some strings as something else without a word (`swtpm:path=…` becomes localhost:2321, a bare
//! `device` becomes /dev/tpm0 without a resource manager).

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tss_esapi::tcti_ldr::TctiNameConf;

/// A TPM's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tcti {
    /// `device:PATH`: a kernel device, normally `/dev/tpmrm0`.
    Device(PathBuf),
    /// `swtpm:host=HOST,port=PORT`: a software TPM's socket (its control port is `port + 1`).
    Swtpm {
        /// Host name or IPv4 address.
        host: String,
        /// Data port.
        port: u16,
    },
}

/// A TCTI string that is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "TPM address \"{text}\": {why}; write device:/dev/tpmrm0 or swtpm:host=127.0.0.1,port=2321"
)]
pub struct TctiError {
    /// The string.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl FromStr for Tcti {
    type Err = TctiError;

    fn from_str(text: &str) -> Result<Self, TctiError> {
        let parsed = match text.split_once(':') {
            Some(("device", path)) => parse_device(path),
            Some(("swtpm", options)) => parse_swtpm(options),
            None if text == "device" || text == "swtpm" => Err("its address is missing"),
            _ => Err("only device: and swtpm: are supported"),
        };
        parsed.map_err(|why| TctiError { text: text.chars().take(200).collect(), why })
    }
}

fn parse_device(path: &str) -> Result<Tcti, &'static str> {
    let plain = path.bytes().all(|byte| byte.is_ascii_graphic());
    if !Path::new(path).is_absolute() || !plain {
        return Err("the device is not an absolute path");
    }
    Ok(Tcti::Device(path.into()))
}

fn parse_swtpm(options: &str) -> Result<Tcti, &'static str> {
    let (mut host, mut port) = (None, None);
    for option in options.split(',') {
        match option.split_once('=') {
            Some(("host", value)) if host.is_none() => host = Some(value),
            Some(("port", value)) if port.is_none() => port = Some(value),
            Some(("path", _)) => return Err("a Unix socket cannot be named; use host and port"),
            _ => return Err("it takes exactly host= and port="),
        }
    }
    let (Some(host), Some(port)) = (host, port) else { return Err("host= and port= are needed") };
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-';
    if host.is_empty() || host.len() > 253 || !host.bytes().all(letter) {
        return Err("the host is not a name or an IPv4 address");
    }
    // The control port is the next one, so the last port cannot be used.
    match port.parse::<u16>() {
        Ok(port @ 1..=65_534) => Ok(Tcti::Swtpm { host: host.to_owned(), port }),
        _ => Err("the port is not a number from 1 to 65534"),
    }
}

impl fmt::Display for Tcti {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(path) => write!(f, "device:{}", path.display()),
            Self::Swtpm { host, port } => write!(f, "swtpm:host={host},port={port}"),
        }
    }
}

impl Tcti {
    /// The library's form. What has been parsed above, the library parses the same way.
    pub(super) fn name_conf(&self) -> Result<TctiNameConf, tss_esapi::Error> {
        TctiNameConf::from_str(&self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_addresses_round_trip() {
        for text in ["device:/dev/tpmrm0", "device:/dev/tpm0", "swtpm:host=127.0.0.1,port=2321"] {
            let tcti: Tcti = text.parse().unwrap();
            assert_eq!(tcti.to_string(), text);
            assert!(tcti.name_conf().is_ok());
        }
        let swapped: Tcti = "swtpm:port=7,host=tpm.local".parse().unwrap();
        assert_eq!(swapped, Tcti::Swtpm { host: "tpm.local".into(), port: 7 });
    }

    #[test]
    fn strings_that_would_be_misread_are_refused() {
        for text in [
            "",
            "device",
            "device:",
            "device:tpmrm0",
            "device:/dev/tpm rm0",
            "swtpm",
            "swtpm:",
            "swtpm:path=/run/swtpm.sock",
            "swtpm:host=localhost",
            "swtpm:port=2321",
            "swtpm:host=localhost,port=0",
            "swtpm:host=localhost,port=65535",
            "swtpm:host=localhost,port=2321,port=2322",
            "swtpm:host=localhost,port=2321,",
            "swtpm:host=a b,port=2321",
            "mssim:host=localhost,port=2321",
            "tabrmd",
            "libtpms:",
            "/dev/tpmrm0",
        ] {
            let error = text.parse::<Tcti>().unwrap_err();
            assert!(error.to_string().contains("device:/dev/tpmrm0"), "{text}: {error}");
        }
    }
}
