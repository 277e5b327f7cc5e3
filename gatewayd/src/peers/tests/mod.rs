//! Transports over loopback with software keys, and strangers who do not keep to the protocol.

mod abuse;
mod bridges;
mod links;
mod stage;
