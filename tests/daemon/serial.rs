//! Tests of serial.
