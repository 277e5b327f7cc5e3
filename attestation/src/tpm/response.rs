//! TSS response codes (TCG TSS 2.0 Overview, 3.1): which of them mean that the context is dead,
//! that loaded objects are gone, or that the TPM refused. The library's own classification forgets
//! the layer and calls the codes of the transport "not recognized", so the raw number is matched.

use tss_esapi::constants::response_code::Tss2ResponseCode;

/// A raw response code: layer in bits 16 to 23, error below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Response(pub(super) u32);

const LAYER_TPM: u32 = 0;
/// Resource managers answer in their own name (11) or pass on the TPM's answer (12).
const LAYER_RESOURCE_MANAGERS: [u32; 2] = [11, 12];

/// TPM_RC_HANDLE, TPM_RC_INTEGRITY and so on: format one, without handle or parameter number.
pub(super) const AUTH_FAIL: u32 = 0x08e;
pub(super) const INTEGRITY: u32 = 0x09f;
pub(super) const BAD_AUTH: u32 = 0x0a2;
pub(super) const VALUE: u32 = 0x084;
/// TPM_RC_POLICY_FAIL, TPM_RC_PCR_CHANGED.
pub(super) const POLICY_FAIL: u32 = 0x09d;
pub(super) const PCR_CHANGED: u32 = 0x128;
pub(super) const SIZE: u32 = 0x095;
pub(super) const SENSITIVE: u32 = 0x155;
const INITIALIZE: u32 = 0x100;
const LOCKOUT: u32 = 0x921;

/// What to do about a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// The transport or the context is dead: build a new one.
    Dead,
    /// The TPM was reset, or its slots are full of somebody's objects: start over.
    Stale,
    /// The TPM answered, and said no.
    Refused,
}

impl Response {
    /// The code of a library error; `None` for an error of the Rust wrapper.
    pub(super) fn of(error: &tss_esapi::Error) -> Option<Self> {
        let tss_esapi::Error::Tss2Error(code) = error else { return None };
        // The number is private; its Display form is the one way to it.
        let text = match code {
            Tss2ResponseCode::Success => return Some(Self(0)),
            Tss2ResponseCode::FormatZero(code) => code.to_string(),
            Tss2ResponseCode::FormatOne(code) => code.to_string(),
        };
        let digits = text.rsplit("0x").next()?;
        u32::from_str_radix(digits, 16).ok().map(Self)
    }

    fn layer(self) -> u32 {
        self.0 >> 16 & 0xff
    }

    fn is_from_tpm(self) -> bool {
        self.layer() == LAYER_TPM || LAYER_RESOURCE_MANAGERS.contains(&self.layer())
    }

    /// The TPM's code without handle, session or parameter number.
    pub(super) fn tpm_code(self) -> Option<u32> {
        let code = self.0 & 0xffff;
        let format_one = code & 0x80 != 0;
        self.is_from_tpm().then_some(if format_one { code & 0xbf } else { code })
    }

    pub(super) fn is(self, code: u32) -> bool {
        self.tpm_code() == Some(code)
    }

    pub(super) fn is_lockout(self) -> bool {
        self.is(LOCKOUT)
    }

    pub(super) fn is_uninitialised(self) -> bool {
        self.is(INITIALIZE)
    }

    pub(super) fn class(self) -> Class {
        match self.tpm_code() {
            // TCTI, SYS, ESYS, MU: an I/O error, a bad sequence after one, half an answer.
            None => Class::Dead,
            // TPM_RC_INITIALIZE, object and session memory, references to objects not loaded.
            Some(INITIALIZE | 0x902..=0x906 | 0x910..=0x916 | 0x918..=0x91e) => Class::Stale,
            Some(_) => Class::Refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_seen_in_the_field_are_classed() {
        for (code, class) in [
            (0x000a_000a, Class::Dead),    // TCTI: I/O error, the TPM was killed
            (0x0007_0007, Class::Dead),    // ESYS: bad sequence, every call after that
            (0x0000_0902, Class::Stale),   // three objects are loaded already
            (0x000b_0903, Class::Stale),   // the same of sessions, through a resource manager
            (0x0000_0910, Class::Stale),   // the object is not loaded (TPM was reset)
            (0x0000_0100, Class::Stale),   // not started
            (0x0000_01df, Class::Refused), // a credential for another key
            (0x0000_018b, Class::Refused), // no such NV index
        ] {
            assert_eq!(Response(code).class(), class, "{code:#x}");
        }
        assert!(Response(0x1df).is(INTEGRITY));
        assert!(Response(0x9a2).is(BAD_AUTH));
        assert!(Response(0x921).is_lockout());
    }

    /// The wrapper gives no number, so it is read out of its text; this fails if the text changes.
    #[test]
    fn the_number_can_be_read_from_the_library() {
        let tcti: super::super::Tcti = "device:/nonexistent/tpm".parse().unwrap();
        let error = tss_esapi::Context::new(tcti.name_conf().unwrap()).unwrap_err();
        let response = Response::of(&error).unwrap();
        assert_eq!(response.class(), Class::Dead, "{:#x}", response.0);
    }
}
