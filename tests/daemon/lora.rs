//! Tests of lora.
