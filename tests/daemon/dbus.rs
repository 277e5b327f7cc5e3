//! Tests of dbus.
