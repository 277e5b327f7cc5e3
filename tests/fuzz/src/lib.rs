//! One fuzz target for each parser of bytes that come from outside. A target must not panic, hang
//! or take memory without bound, whatever the bytes.
//!
//! Two ways to run them, over the same targets and the same corpus (`tests/fuzz/corpus/TARGET`):
//! * `tests/run fuzz`: some seconds each of seeded mutation on the stable compiler, as CI does.
//!   A failure prints the command that replays it.
//! * coverage-guided, for as long as one likes, with `cargo install cargo-fuzz` and a nightly
//!   compiler: `FUZZ_TARGET=lora_frame cargo +nightly fuzz run --fuzz-dir tests/fuzz
//!   --features libfuzzer any tests/fuzz/corpus/lora_frame`

pub mod mutation;
pub mod targets;

pub use targets::TARGETS;

/// A parser under test.
pub struct Target {
    /// Name on the command line, and of the folder in the corpus.
    pub name: &'static str,
    /// Gives the parser some bytes.
    pub run: fn(&[u8]),
    /// What serves as seeds beside the corpus, from the top of the tree: files, folders, or
    /// `FILE#NAME` for the lines `NAME… HEX` of a file.
    pub seeds: &'static [&'static str],
}

/// The target of that name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
