//! Harness of the tests.

pub mod bus;
pub mod gateway;
pub mod pty;
pub mod swtpm;
