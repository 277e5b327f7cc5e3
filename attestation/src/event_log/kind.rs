//! Types of events (PC Client Platform Firmware Profile 1.05, 10.4.1), and what their digest is
//! said to cover.

/// Extends nothing.
pub const NO_ACTION: u32 = 0x0000_0003;
/// Marks the end of what the firmware measures before it hands over.
pub const SEPARATOR: u32 = 0x0000_0004;
pub(crate) const S_CRTM_VERSION: u32 = 0x0000_0008;
pub(crate) const IPL: u32 = 0x0000_000d;
pub(crate) const VARIABLE_DRIVER_CONFIG: u32 = 0x8000_0001;
pub(crate) const VARIABLE_BOOT: u32 = 0x8000_0002;
pub(crate) const BOOT_SERVICES_APPLICATION: u32 = 0x8000_0003;
pub(crate) const BOOT_SERVICES_DRIVER: u32 = 0x8000_0004;
pub(crate) const RUNTIME_SERVICES_DRIVER: u32 = 0x8000_0005;
pub(crate) const VARIABLE_BOOT2: u32 = 0x8000_000c;
pub(crate) const VARIABLE_AUTHORITY: u32 = 0x8000_00e0;

/// Known types and their names, without `EV_`.
const NAMES: [(u32, &str); 41] = [
    (0x0000_0000, "PREBOOT_CERT"),
    (0x0000_0001, "POST_CODE"),
    (NO_ACTION, "NO_ACTION"),
    (SEPARATOR, "SEPARATOR"),
    (0x0000_0005, "ACTION"),
    (0x0000_0006, "EVENT_TAG"),
    (0x0000_0007, "S_CRTM_CONTENTS"),
    (S_CRTM_VERSION, "S_CRTM_VERSION"),
    (0x0000_0009, "CPU_MICROCODE"),
    (0x0000_000a, "PLATFORM_CONFIG_FLAGS"),
    (0x0000_000b, "TABLE_OF_DEVICES"),
    (0x0000_000c, "COMPACT_HASH"),
    (IPL, "IPL"),
    (0x0000_000e, "IPL_PARTITION_DATA"),
    (0x0000_000f, "NONHOST_CODE"),
    (0x0000_0010, "NONHOST_CONFIG"),
    (0x0000_0011, "NONHOST_INFO"),
    (0x0000_0012, "OMIT_BOOT_DEVICE_EVENTS"),
    (0x0000_0013, "POST_CODE2"),
    (VARIABLE_DRIVER_CONFIG, "EFI_VARIABLE_DRIVER_CONFIG"),
    (VARIABLE_BOOT, "EFI_VARIABLE_BOOT"),
    (BOOT_SERVICES_APPLICATION, "EFI_BOOT_SERVICES_APPLICATION"),
    (BOOT_SERVICES_DRIVER, "EFI_BOOT_SERVICES_DRIVER"),
    (RUNTIME_SERVICES_DRIVER, "EFI_RUNTIME_SERVICES_DRIVER"),
    (0x8000_0006, "EFI_GPT_EVENT"),
    (0x8000_0007, "EFI_ACTION"),
    (0x8000_0008, "EFI_PLATFORM_FIRMWARE_BLOB"),
    (0x8000_0009, "EFI_HANDOFF_TABLES"),
    (0x8000_000a, "EFI_PLATFORM_FIRMWARE_BLOB2"),
    (0x8000_000b, "EFI_HANDOFF_TABLES2"),
    (VARIABLE_BOOT2, "EFI_VARIABLE_BOOT2"),
    (0x8000_000d, "EFI_GPT_EVENT2"),
    (0x8000_0010, "EFI_HCRTM_EVENT"),
    (VARIABLE_AUTHORITY, "EFI_VARIABLE_AUTHORITY"),
    (0x8000_00e1, "EFI_SPDM_FIRMWARE_BLOB"),
    (0x8000_00e2, "EFI_SPDM_FIRMWARE_CONFIG"),
    (0x8000_00e3, "EFI_SPDM_DEVICE_POLICY"),
    (0x8000_00e4, "EFI_SPDM_DEVICE_AUTHORITY"),
    // Types of Intel's dynamic root of trust that boot firmware writes too.
    (0x0000_0401, "TXT_PCR_MAPPING"),
    (0x0000_0402, "TXT_HASH_START"),
    (0x0000_0403, "TXT_COMBINED_HASH"),
];

/// The name of a type, or its number.
#[must_use]
pub fn name(kind: u32) -> String {
    match NAMES.iter().find(|(known, _)| *known == kind) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("unknown type {kind:#010x}"),
    }
}

/// Whether the type is in the specification.
#[must_use]
pub fn is_known(kind: u32) -> bool {
    NAMES.iter().any(|(known, _)| *known == kind)
}
