//! Tests of tpm.
