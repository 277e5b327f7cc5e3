//! Merkle trees of RFC 9162 §2.1 with SHA-256 and a leaf tag of their own for each use.
//!
//! Leaf = SHA-256(tag ‖ data), node = SHA-256(0x01 ‖ left ‖ right). Every tag begins with 0x00,
//! so a leaf is never a node, and no tag is the beginning of another, so a leaf of one tree is
//! never one of another. The size of a tree comes from a signed place (a header or a `Batch`),
//! never from the proof.

use alloc::vec::Vec;

use crate::{
    codec::{Decode, DecodeError, Decoder, Encode, Encoder},
    crypto::sha256,
    ids::Hash,
};

/// Which tree a leaf belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag(&'static [u8]);

impl Tag {
    /// Readings of a batch.
    pub const BATCH: Self = Self(b"\0batch");
    /// Transactions of a block.
    pub const TX: Self = Self(b"\0tx");
    /// Header hashes, by height.
    pub const HISTORY: Self = Self(b"\0history");
    /// The tag of RFC 9162 itself; for conformance tests alone.
    #[cfg(test)]
    pub(crate) const PLAIN: Self = Self(b"\0");

    /// SHA-256(tag ‖ joined parts).
    pub fn leaf(self, parts: &[&[u8]]) -> Hash {
        let mut all = Vec::with_capacity(parts.len() + 1);
        all.push(self.0);
        all.extend_from_slice(parts);
        sha256(&all)
    }

    /// Root of a tree without leaves: SHA-256 of the tag with a final 0xff, which no leaf hashes
    /// to within this scheme (RFC 9162 uses SHA-256 of nothing).
    fn empty(self) -> Hash {
        #[cfg(test)]
        if self == Self::PLAIN {
            return sha256(&[]);
        }
        sha256(&[b"\x02empty", self.0])
    }
}

fn node(left: &Hash, right: &Hash) -> Hash {
    sha256(&[&[1], &left.0, &right.0])
}

/// Root over leaf *hashes* in order (RFC 9162 §2.1.1).
pub fn root(tag: Tag, leaves: &[Hash]) -> Hash {
    let mut frontier = Frontier::new();
    for leaf in leaves {
        frontier.push(*leaf);
    }
    frontier.root(tag)
}

/// Inclusion path of leaf `index`, from the leaf upwards (RFC 9162 §2.1.3.1).
///
/// `None` when there is no such leaf.
pub fn path(leaves: &[Hash], index: usize) -> Option<Vec<Hash>> {
    if index >= leaves.len() {
        return None;
    }
    let mut path = Vec::new();
    collect_path(leaves, index, &mut path);
    Some(path)
}

fn collect_path(leaves: &[Hash], index: usize, path: &mut Vec<Hash>) {
    if leaves.len() <= 1 {
        return;
    }
    // The largest power of two smaller than the number of leaves.
    let split = leaves.len().next_power_of_two() / 2;
    if index < split {
        collect_path(&leaves[..split], index, path);
        path.push(subtree_root(&leaves[split..]));
    } else {
        collect_path(&leaves[split..], index - split, path);
        path.push(subtree_root(&leaves[..split]));
    }
}

fn subtree_root(leaves: &[Hash]) -> Hash {
    let mut level = leaves.to_vec();
    while level.len() > 1 {
        let mut next = Vec::with_capacity(level.len().div_ceil(2));
        for pair in level.chunks(2) {
            next.push(match pair {
                [left, right] => node(left, right),
                // The last one of an odd level rises unchanged: the same tree as by splitting.
                _ => pair[0],
            });
        }
        level = next;
    }
    level.first().copied().unwrap_or(Hash::ZERO)
}

/// Root that a leaf hash and its path lead to in a tree of `size` leaves (RFC 9162 §2.1.3.2).
///
/// `None` when the index is outside of the tree or the path has the wrong length: both are
/// forgeries or damage.
pub fn root_from_path(leaf: &Hash, index: u64, size: u64, path: &[Hash]) -> Option<Hash> {
    if index >= size {
        return None;
    }
    let (mut position, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for sibling in path {
        if last == 0 {
            return None;
        }
        if position & 1 == 1 || position == last {
            hash = node(sibling, &hash);
            while position & 1 == 0 && position != 0 {
                position >>= 1;
                last >>= 1;
            }
        } else {
            hash = node(&hash, sibling);
        }
        position >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(hash)
}

/// Most hashes of a path: a tree of 2^64 leaves.
pub const MAX_PATH: usize = 64;

/// The peaks of a tree that only grows: enough to append and to know the root.
///
/// One hash for each set bit of the size, the highest subtree first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    peaks: Vec<Hash>,
}

impl Frontier {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf *hash*.
    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        // Each trailing one bit of the size is a subtree that the new leaf completes.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                hash = node(&left, &hash);
            }
        }
        self.peaks.push(hash);
        self.size = self.size.checked_add(1).expect("2^64 leaves are never reached");
    }

    /// Root of the tree.
    pub fn root(&self, tag: Tag) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else {
            return tag.empty();
        };
        peaks.fold(*last, |right, left| node(left, &right))
    }
}

impl Encode for Frontier {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.array(2).uint(self.size).list(&self.peaks);
    }
}

impl Decode for Frontier {
    const MAX_BYTES: usize = 16 + MAX_PATH * Hash::MAX_BYTES;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("frontier", 2)?;
        let frontier =
            Self { size: decoder.uint("size")?, peaks: decoder.list("peaks", MAX_PATH)? };
        if frontier.size.count_ones() as usize != frontier.peaks.len() {
            return Err(DecodeError::Invalid("frontier"));
        }
        Ok(frontier)
    }
}

/// Subtree hashes of a growing tree by (level, index), for paths without all leaves at hand.
///
/// Level 0 holds leaf hashes; the subtree (level, index) covers leaves
/// index · 2^level … (index + 1) · 2^level − 1 and exists once complete. The caller stores what
/// [`completed`] returns and gives it back through the look-up of [`path_from_subtrees`].
pub fn completed(
    index: u64,
    leaf: Hash,
    lookup: impl Fn(u32, u64) -> Option<Hash>,
) -> Vec<(u32, u64, Hash)> {
    let mut nodes = Vec::new();
    let (mut level, mut position, mut hash) = (0, index, leaf);
    nodes.push((level, position, hash));
    while position & 1 == 1 && level < 63 {
        let Some(left) = lookup(level, position - 1) else {
            break;
        };
        hash = node(&left, &hash);
        level += 1;
        position >>= 1;
        nodes.push((level, position, hash));
    }
    nodes
}

/// Inclusion path of leaf `index` in the first `size` leaves, from stored complete subtrees.
///
/// `None` when a subtree is missing or the index is outside.
pub fn path_from_subtrees(
    index: u64,
    size: u64,
    lookup: impl Fn(u32, u64) -> Option<Hash>,
) -> Option<Vec<Hash>> {
    if index >= size {
        return None;
    }
    let mut path = Vec::new();
    let (mut start, mut end) = (0, size);
    // From the root downwards, then reversed: at each split keep the sibling's root.
    while end - start > 1 {
        let split = start + largest_power_below(end - start);
        let (sibling, next) = if index < split {
            ((split, end), (start, split))
        } else {
            ((start, split), (split, end))
        };
        path.push(range_root(sibling.0, sibling.1, &lookup)?);
        (start, end) = next;
    }
    path.reverse();
    Some(path)
}

/// The largest power of two smaller than `count`, which is at least 2.
fn largest_power_below(count: u64) -> u64 {
    1 << (63 - (count - 1).leading_zeros())
}

/// Root of leaves `start..end`, where `start` is aligned to the size's largest subtree.
fn range_root(start: u64, end: u64, lookup: &impl Fn(u32, u64) -> Option<Hash>) -> Option<Hash> {
    let mut peaks = Vec::new();
    let mut position = start;
    while position < end {
        let left = end - position;
        let level = 63 - left.leading_zeros();
        peaks.push(lookup(level, position >> level)?);
        position += 1 << level;
    }
    let mut peaks = peaks.into_iter().rev();
    let last = peaks.next()?;
    Some(peaks.fold(last, |right, left| node(&left, &right)))
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;

    use ct_merkle::mem_backed_tree::MemoryBackedTree;
    use proptest::prelude::*;

    use super::*;

    fn leaves(count: usize) -> Vec<Hash> {
        (0..count).map(|i| Tag::HISTORY.leaf(&[&(i as u64).to_be_bytes()])).collect()
    }

    /// The tree of the certificate-transparency reference tests (eight leaves).
    const RFC_LEAVES: [&str; 8] = [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ];
    /// Its roots after each leaf, from the reference implementation's `merkletree` tests.
    const RFC_ROOTS: [&str; 8] = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    #[test]
    fn known_roots_of_the_plain_tree() {
        let mut frontier = Frontier::new();
        let nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(alloc::format!("{}", frontier.root(Tag::PLAIN)), nothing);
        for (leaf, expected) in RFC_LEAVES.iter().zip(RFC_ROOTS) {
            let data: Vec<u8> = (0..leaf.len() / 2)
                .map(|i| u8::from_str_radix(&leaf[2 * i..2 * i + 2], 16).unwrap())
                .collect();
            frontier.push(Tag::PLAIN.leaf(&[&data]));
            assert_eq!(alloc::format!("{}", frontier.root(Tag::PLAIN)), expected);
        }
    }

    #[test]
    fn roots_and_paths_equal_ct_merkle() {
        let mut theirs = MemoryBackedTree::<sha2::Sha256, Vec<u8>>::new();
        let mut ours = Vec::new();
        for i in 0..70u64 {
            let data = i.to_be_bytes().to_vec();
            ours.push(Tag::PLAIN.leaf(&[&data]));
            theirs.push(data);
            assert_eq!(&root(Tag::PLAIN, &ours).0[..], theirs.root().as_bytes().as_slice());
            for index in 0..ours.len() {
                let path = path(&ours, index).unwrap();
                let joined: Vec<u8> = path.iter().flat_map(|hash| hash.0).collect();
                assert_eq!(joined, theirs.prove_inclusion(index).as_bytes());
            }
        }
    }

    #[test]
    fn trees_of_different_tags_never_share_a_root() {
        let plain = [Hash([1; 32])];
        assert_ne!(root(Tag::TX, &[]), root(Tag::BATCH, &[]));
        assert_eq!(root(Tag::TX, &plain), plain[0]);
        assert_ne!(Tag::TX.leaf(&[b"x"]), Tag::BATCH.leaf(&[b"x"]));
    }

    #[test]
    fn stored_subtrees_give_the_same_paths() {
        let leaves = leaves(75);
        let mut stored = BTreeMap::new();
        for (index, leaf) in leaves.iter().enumerate() {
            let new = completed(index as u64, *leaf, |level, at| stored.get(&(level, at)).copied());
            stored.extend(new.into_iter().map(|(level, at, hash)| ((level, at), hash)));
            let size = index + 1;
            for wanted in 0..size {
                let from_store = path_from_subtrees(wanted as u64, size as u64, |level, at| {
                    stored.get(&(level, at)).copied()
                });
                assert_eq!(from_store, path(&leaves[..size], wanted), "{wanted} of {size}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_path_leads_to_the_root_and_nothing_else_does(
            size in 1usize..200, pick in any::<prop::sample::Index>(), flip in any::<u8>(),
        ) {
            let leaves = leaves(size);
            let index = pick.index(size);
            let root = root(Tag::HISTORY, &leaves);
            let path = path(&leaves, index).unwrap();
            let (at, of) = (index as u64, size as u64);
            prop_assert_eq!(root_from_path(&leaves[index], at, of, &path), Some(root));
            let mut longer = path.clone();
            longer.push(Hash([7; 32]));
            prop_assert_eq!(root_from_path(&leaves[index], at, of, &longer), None);
            if let Some((_, shorter)) = path.split_last() {
                prop_assert_eq!(root_from_path(&leaves[index], at, of, shorter), None);
                let mut wrong = path.clone();
                wrong[usize::from(flip) % path.len()].0[3] ^= 1;
                prop_assert_ne!(root_from_path(&leaves[index], at, of, &wrong), Some(root));
            }
            prop_assert_eq!(root_from_path(&leaves[index], of, of, &path), None);
        }

        #[test]
        fn a_frontier_round_trips(size in 0usize..300) {
            let mut frontier = Frontier::new();
            for leaf in leaves(size) {
                frontier.push(leaf);
            }
            prop_assert_eq!(Frontier::from_bytes(&frontier.to_bytes()), Ok(frontier));
        }
    }
}
