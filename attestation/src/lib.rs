//! TPM 2.0 keys and evidence, and the verifier that appraises them.
