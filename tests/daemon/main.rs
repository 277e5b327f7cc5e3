//! The daemon tier: the real binaries on a private bus, a software TPM, pseudo-terminals and UDP.

mod boots;
mod bridge;
mod command_line;
mod config;
mod dbus;
mod lora;
mod management;
mod pairing;
mod recovery;
mod serial;
mod serial_link;
mod site_cut;
mod site_discovery;
mod site_growth;
mod site_liveness;
mod site_loss;
mod site_measured;
mod site_recovery;
mod site_refusals;
mod site_replacement;
mod store;
mod tpm;
mod transport;
mod upgrade;
mod vote_keys;
