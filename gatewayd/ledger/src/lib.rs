//! The signed record that the gateways keep together.
