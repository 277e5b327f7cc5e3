//! Harness of the tests.

pub mod bus;
pub mod gateway;
pub mod lora;
pub mod measured;
pub mod network;
pub mod peer;
pub mod pty;
pub mod record;
pub mod sensor;
pub mod site;
pub mod swtpm;
pub mod tpm_maker;
