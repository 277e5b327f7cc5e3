//! How readings lie on disk: one packed blob for a group of readings, since a row each costs three
//! times the bytes and ten times the time. Pure; knows no database.
//!
//! Layout, CBOR: `[base_ms, [node, [[epoch, counter, time - base, marks, senml, signature?],
//! …]], …]` where `marks` = quality + 4 × level, and consecutive readings of a node share its ID.

use minicbor::decode::{Decoder, Error as DecodeError};
use minicbor::encode::Encoder;

/// Bytes of a node ID.
pub type NodeBytes = [u8; 20];

/// One verified reading as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Light node.
    pub node: NodeBytes,
    /// Session epoch.
    pub epoch: u32,
    /// Counter within the epoch.
    pub counter: u64,
    /// Time of reception, ms since 1970.
    pub time_ms: u64,
    /// Time quality, see `clock::Quality::code`.
    pub quality: u8,
    /// Assurance level, 0 to 3.
    pub level: u8,
    /// SenML pack, CBOR; empty for a MAC-only uplink.
    pub senml: Vec<u8>,
    /// The sensor's own signature (level 3).
    pub signature: Option<[u8; 64]>,
}

/// Packs readings; their order is kept.
pub fn encode(entries: &[Entry]) -> Vec<u8> {
    let base = entries.iter().map(|entry| entry.time_ms).min().unwrap_or(0);
    let mut out = Encoder::new(Vec::with_capacity(64 + entries.len() * 96));
    let groups = entries.chunk_by(|a, b| a.node == b.node);
    let count = groups.clone().count() as u64;
    let done = (|| {
        out.array(count + 1)?.u64(base)?;
        for group in groups {
            out.array(2)?.bytes(&group[0].node)?.array(group.len() as u64)?;
            for entry in group {
                encode_entry(&mut out, base, entry)?;
            }
        }
        Ok::<(), minicbor::encode::Error<std::convert::Infallible>>(())
    })();
    done.expect("writing to a vector does not fail");
    out.into_writer()
}

fn encode_entry(
    out: &mut Encoder<Vec<u8>>,
    base: u64,
    entry: &Entry,
) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
    let marks = u64::from(entry.quality & 3) | u64::from(entry.level & 3) << 2;
    out.array(if entry.signature.is_some() { 6 } else { 5 })?
        .u32(entry.epoch)?
        .u64(entry.counter)?
        .u64(entry.time_ms - base)?
        .u64(marks)?
        .bytes(&entry.senml)?;
    if let Some(signature) = &entry.signature {
        out.bytes(signature)?;
    }
    Ok(())
}

/// Unpacks what [`encode`] made. Our own disk may be damaged, so nothing is taken on trust.
pub fn decode(blob: &[u8]) -> Result<Vec<Entry>, DecodeError> {
    let mut entries = Vec::new();
    walk(blob, |entry| entries.push(entry))?;
    Ok(entries)
}

fn walk(blob: &[u8], mut each: impl FnMut(Entry)) -> Result<(), DecodeError> {
    let mut input = Decoder::new(blob);
    let groups = length(&mut input)?;
    let base = input.u64()?;
    for _ in 1..groups {
        if length(&mut input)? != 2 {
            return Err(DecodeError::message("a group is [node, readings]"));
        }
        let node = fixed::<20>(input.bytes()?)?;
        for _ in 0..length(&mut input)? {
            each(decode_entry(&mut input, base, node)?);
        }
    }
    if input.position() == blob.len() {
        Ok(())
    } else {
        Err(DecodeError::message("trailing bytes"))
    }
}

fn decode_entry(input: &mut Decoder<'_>, base: u64, node: NodeBytes) -> Result<Entry, DecodeError> {
    let fields = length(input)?;
    let (epoch, counter) = (input.u32()?, input.u64()?);
    let time_ms = base.checked_add(input.u64()?).ok_or(DecodeError::message("time"))?;
    let marks = input.u8()?;
    let senml = input.bytes()?.to_vec();
    let signature = match fields {
        5 => None,
        6 => Some(fixed::<64>(input.bytes()?)?),
        _ => return Err(DecodeError::message("a reading has 5 or 6 fields")),
    };
    let (quality, level) = (marks & 3, marks >> 2 & 3);
    Ok(Entry { node, epoch, counter, time_ms, quality, level, senml, signature })
}

fn length(input: &mut Decoder<'_>) -> Result<u64, DecodeError> {
    input.array()?.ok_or(DecodeError::message("indefinite length"))
}

fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], DecodeError> {
    bytes.try_into().map_err(|_| DecodeError::message("wrong length"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(node: u8, counter: u64, time_ms: u64) -> Entry {
        Entry {
            node: [node; 20],
            epoch: 3,
            counter,
            time_ms,
            quality: 1,
            level: 2,
            senml: vec![0x81, 0xa0, node],
            signature: (node == 9).then_some([7; 64]),
        }
    }

    #[test]
    fn what_is_packed_comes_back() {
        let entries =
            vec![entry(1, 5, 1_000), entry(1, 6, 900), entry(9, 1, 5_000), entry(1, 7, 1_001)];
        assert_eq!(decode(&encode(&entries)).unwrap(), entries);
        assert_eq!(decode(&encode(&[])).unwrap(), vec![]);
    }

    #[test]
    fn damage_is_an_error() {
        let blob = encode(&[entry(1, 5, 1_000), entry(9, 6, 900)]);
        for cut in 0..blob.len() {
            assert!(decode(&blob[..cut]).is_err(), "cut at {cut}");
        }
        let mut longer = blob.clone();
        longer.push(0);
        assert!(decode(&longer).is_err());
    }
}
