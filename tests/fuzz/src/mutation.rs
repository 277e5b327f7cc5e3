//! Seeded mutation of byte strings: the same seed gives the same inputs on every machine.

/// Longest input that is made, bytes: longer than any datagram.
pub const MAX_INPUT: usize = 70_000;

/// Values at which arithmetic on lengths goes wrong.
const EDGES: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

/// Words of the text formats.
const WORDS: [&[u8]; 12] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"null",
    b"1e999",
    b"-0",
    b"\\u0000",
    b"=",
    b"rxpk",
    b"\xff\xfe",
];

/// SplitMix64 (Steele, Lea, Flood 2014): small, seeded, good enough to shuffle bytes.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        // The remainder of a usize fits a usize.
        self.bits().checked_rem(bound as u64).map_or(0, |rest| rest as usize)
    }

    fn byte(&mut self) -> u8 {
        self.bits().to_le_bytes()[0]
    }
}

/// Makes the next input from the seeds: one of them, changed in one to eight places. Without seeds
/// it begins from nothing.
pub fn mutate(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds.get(random.below(seeds.len())).cloned().unwrap_or_default();
    for _ in 0..=random.below(8) {
        change(random, &mut bytes, seeds);
    }
    bytes.truncate(MAX_INPUT);
    bytes
}

fn change(random: &mut Random, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
    let at = random.below(bytes.len());
    match random.below(10) {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
        1 if !bytes.is_empty() => bytes[at] = random.byte(),
        2 if !bytes.is_empty() => {
            let edge = EDGES[random.below(EDGES.len())];
            let width = [1, 2, 4, 8][random.below(4)];
            let big = random.bits() & 1 == 0;
            for offset in 0..width {
                let from = if big { width - 1 - offset } else { offset };
                if let Some(byte) = bytes.get_mut(at + offset) {
                    *byte = edge.to_le_bytes()[from];
                }
            }
        }
        3 => bytes.truncate(at),
        4 if !bytes.is_empty() => {
            let length = random.below(bytes.len() - at) + 1;
            bytes.drain(at..at + length);
        }
        5 => {
            let most = if random.below(50) == 0 { 4096 } else { 16 };
            let length = random.below(most) + 1;
            let new: Vec<u8> = (0..length).map(|_| random.byte()).collect();
            bytes.splice(at..at, new);
        }
        6 if !bytes.is_empty() => {
            // Repetition finds loops without an end and nesting without a bound.
            let length = random.below((bytes.len() - at).min(64)) + 1;
            let most = if random.below(20) == 0 { 2000 } else { 8 };
            let times = random.below(most) + 1;
            let room = MAX_INPUT.saturating_sub(bytes.len()) / length;
            let piece = bytes[at..at + length].repeat(times.min(room));
            bytes.splice(at..at, piece);
        }
        7 => {
            let other = seeds.get(random.below(seeds.len())).map_or(&[][..], Vec::as_slice);
            let from = random.below(other.len());
            let length = random.below(other.len() - from + 1);
            bytes.splice(at.., other[from..from + length].iter().copied());
        }
        8 => {
            let word = WORDS[random.below(WORDS.len())];
            bytes.splice(at..at, word.iter().copied());
        }
        _ => bytes.push(random.byte()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_inputs_and_they_are_bounded() {
        let seeds = vec![b"abcdefgh".to_vec(), Vec::new(), vec![0; 300]];
        let run = |seed| -> Vec<Vec<u8>> {
            let mut random = Random::new(seed);
            (0..2000).map(|_| mutate(&mut random, &seeds)).collect()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        assert!(run(7).iter().all(|input| input.len() <= MAX_INPUT));
    }

    #[test]
    fn inputs_are_made_from_nothing_too() {
        let mut random = Random::new(1);
        let longest = (0..200).map(|_| mutate(&mut random, &[]).len()).max();
        assert!(longest.is_some_and(|length| length > 8));
    }
}
