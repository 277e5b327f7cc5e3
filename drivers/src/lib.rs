//! Sensors on serial, BLE and LoRa: bytes to verified readings.
