//! Tests of serial_link.
