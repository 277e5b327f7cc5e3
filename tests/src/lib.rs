//! Harness of the tests.

pub mod bus;
