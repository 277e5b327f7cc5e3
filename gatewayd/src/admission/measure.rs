//! What this machine has to offer, in words: the label that it asks for is judged by people.

use std::path::Path;

/// Cores, memory and disk as a sentence; what cannot be measured is left out.
pub(super) fn in_words() -> String {
    let cores = std::thread::available_parallelism().ok().map(|cores| format!("{cores} cores"));
    let memory = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| memory_kib(&text));
    let memory = memory.map(|kib| format!("{} memory", size(kib.saturating_mul(1024))));
    let disk = rustix::fs::statvfs(Path::new("/var/lib")).ok();
    let disk = disk.map(|disk| size(disk.f_bavail.saturating_mul(disk.f_frsize)));
    let disk = disk.map(|free| format!("{free} of disk free"));
    let model = std::fs::read_to_string("/proc/device-tree/model").ok();
    let model = model.map(|model| model.trim_end_matches('\0').trim().to_owned());
    [model, cores, memory, disk].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// `MemTotal` of `/proc/meminfo`.
fn memory_kib(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Bytes with one digit behind the point.
fn size(bytes: u64) -> String {
    const GIB: u64 = 1 << 30;
    let tenths = bytes.saturating_mul(10) / GIB;
    format!("{}.{} GiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_the_kernel_writes_it() {
        let text = "MemTotal:        8029712 kB\nMemFree:  7\n";
        assert_eq!(memory_kib(text), Some(8_029_712));
        assert_eq!(memory_kib("MemFree: 7 kB\n"), None);
        assert_eq!(size(8_029_712 * 1024), "7.6 GiB");
        assert!(in_words().contains("cores"));
    }
}
