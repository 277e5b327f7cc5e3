//! Tests of pairing.
