//! Known-good values that evidence is compared with (RFC 9334, 8.3).

/// Reference values of a site. The profile `tpm-only` compares nothing with them, so there are
/// none yet; measured profiles add theirs here without changing the verifier's signature.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReferenceValues {}

impl ReferenceValues {
    /// No reference values: all that `tpm-only` needs.
    #[must_use]
    pub fn none() -> Self {
        Self {}
    }
}
