//! Serial frames opened, verified and turned into effects, on one core.
//!
//! `cargo bench -p drivers --bench serial`; prints one JSON object and judges nothing.

use std::time::Instant;

use drivers::serial::bench::Load;

fn main() {
    let mut load = Load::new();
    let count = 200_000;
    let frames = load.frames(count);
    let start = Instant::now();
    let readings = load.receive(&frames);
    let per_second = readings as f64 / start.elapsed().as_secs_f64();
    assert_eq!(readings, count, "every frame is a reading");
    println!(
        "{{\"figure\":\"serial_frames_verified_per_s\",\"value\":{per_second:.0},\
         \"unit\":\"1/s\",\"how\":\"{count} frames of {} bytes, one core, without disk\"}}",
        frames.len() as u64 / count
    );
}
