//! Pairing of light nodes: the window as a state machine. The sensors' task runs it.

pub mod window;
