//! What a `TPM2_Quote` proves: the values of PCRs, signed by the attestation key, over a
//! verifier's qualifying data. Checks only; nothing is decided here.

use crate::attest::{Attest, Attested};
use crate::crypto::{constant_time_eq, es256_verifies};
use crate::pcr::{self, PcrSelection};
use crate::public::Public;
use crate::result::Reason;

/// Checks a parsed quote: type, signature by `ak`, selection equal to what was asked, digest over
/// the claimed values. (Qualifying data and signer are checked for quote and certification alike,
/// by the verifier.)
///
/// # Errors
/// The first thing that does not hold.
pub fn check(
    quote: &Attest,
    signature: &[u8; 64],
    ak: &Public,
    asked: PcrSelection,
    values: &[[u8; 32]],
) -> Result<(), Reason> {
    let Attested::Quote { selection, digest } = quote.attested() else {
        return Err(Reason::NotAQuote);
    };
    if !signed_by(ak, quote, signature) {
        return Err(Reason::QuoteSignature);
    }
    if *selection != Some(asked) || values.len() != asked.count() {
        return Err(Reason::PcrSelection);
    }
    if !constant_time_eq(digest, &pcr::composite(values)) {
        return Err(Reason::PcrDigest);
    }
    Ok(())
}

/// Whether `ak` signed the attestation structure.
pub(crate) fn signed_by(ak: &Public, attest: &Attest, signature: &[u8; 64]) -> bool {
    let point = ak.key().sec1();
    point.is_some_and(|point| es256_verifies(&point, attest.raw(), signature))
}
