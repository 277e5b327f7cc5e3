//! Harness of the tests.

pub mod bus;
pub mod gateway;
pub mod lora;
pub mod peer;
pub mod pty;
pub mod sensor;
pub mod swtpm;
