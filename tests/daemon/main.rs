//! The daemon tier: the real binaries on a private bus, a software TPM, pseudo-terminals and UDP.

mod command_line;
mod config;
mod dbus;
mod lora;
mod pairing;
mod recovery;
mod serial;
mod serial_link;
mod store;
mod tpm;
