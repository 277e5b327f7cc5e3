//! A compact sparse Merkle map: the authenticated form of the state.
//!
//! Keys are 256-bit paths. A subtree with one entry is that entry's leaf, an empty one is 32 zero
//! bytes, so a proof is about log2(entries) hashes long. Leaf = SHA-256(0x04 ‖ path ‖
//! SHA-256(value)), branch = SHA-256(0x03 ‖ left ‖ right): neither is ever the other, nor a node
//! of the trees in `merkle`. The map lives in memory and holds hashes alone; clones share their
//! nodes, so a block can be tried on a clone and thrown away.

use alloc::{sync::Arc, vec::Vec};

use crate::{
    codec::{Decode, DecodeError, Decoder, Encode, Encoder},
    crypto::sha256,
    ids::Hash,
};

/// Where an entry is: its bits, highest first, choose the branches.
pub type Path = [u8; 32];

type Link = Option<Arc<Node>>;

#[derive(Clone, Debug)]
enum Node {
    Leaf { path: Path, value: Hash, hash: Hash },
    Branch { left: Link, right: Link, hash: Hash },
}

impl Node {
    fn hash(&self) -> Hash {
        match self {
            Self::Leaf { hash, .. } | Self::Branch { hash, .. } => *hash,
        }
    }
}

/// The map; an empty one has the root of 32 zero bytes.
#[derive(Clone, Debug, Default)]
pub struct SparseMap {
    root: Link,
}

impl SparseMap {
    /// An empty map.
    pub fn new() -> Self {
        Self::default()
    }

    /// The root hash.
    pub fn root(&self) -> Hash {
        link_hash(&self.root)
    }

    /// Sets (`Some` value hash) or removes (`None`) entries, all at once.
    ///
    /// Of a path that occurs twice the last update counts.
    pub fn update(&mut self, mut updates: Vec<(Path, Option<Hash>)>) {
        updates.sort_by_key(|(path, _)| *path);
        // Stable sort, then keep the last of each run.
        updates.reverse();
        updates.dedup_by_key(|(path, _)| *path);
        updates.reverse();
        apply(&mut self.root, 0, &updates);
    }

    /// Whether this map holds everything that the map with this root has up to and including
    /// `last`, and nothing else. `proof` shows that entry, this map's last one, under the root.
    ///
    /// What stands left of the entry's path is hashed here as it is there; what stands right of it
    /// is not here yet.
    pub fn is_beginning_of(&self, root: &Hash, last: &Path, proof: &MapProof) -> bool {
        let own = self.prove(last);
        if own.terminal.is_none_or(|(path, _)| path != *last) || own.terminal != proof.terminal {
            return false;
        }
        // An entry that is alone for now stands higher here than there, next to nothing.
        let sibling = |depth| own.siblings.get(depth).copied().unwrap_or(Hash::ZERO);
        let depths = proof.siblings.len().max(own.siblings.len());
        let same = (0..depths).all(|depth| match proof.siblings.get(depth) {
            _ if depth >= MAX_DEPTH => false,
            Some(there) if bit(last, depth) => *there == sibling(depth),
            Some(_) => sibling(depth) == Hash::ZERO,
            None => false,
        });
        same && proof.root(last) == Some(*root)
    }

    /// Proves what is at a path: an entry, or that there is none.
    pub fn prove(&self, path: &Path) -> MapProof {
        let mut siblings = Vec::new();
        let mut link = &self.root;
        loop {
            match link.as_deref() {
                None => return MapProof { siblings, terminal: None },
                Some(Node::Leaf { path: found, value, .. }) => {
                    return MapProof { siblings, terminal: Some((*found, *value)) };
                }
                Some(Node::Branch { left, right, .. }) => {
                    let (near, far) =
                        if bit(path, siblings.len()) { (right, left) } else { (left, right) };
                    siblings.push(link_hash(far));
                    link = near;
                }
            }
        }
    }
}

/// SHA-256 of a value, as it stands in a leaf.
pub fn value_hash(value: &[u8]) -> Hash {
    sha256(&[value])
}

fn link_hash(link: &Link) -> Hash {
    link.as_deref().map_or(Hash::ZERO, Node::hash)
}

fn leaf_hash(path: &Path, value: &Hash) -> Hash {
    sha256(&[&[4], path, &value.0])
}

fn branch_hash(left: &Hash, right: &Hash) -> Hash {
    sha256(&[&[3], &left.0, &right.0])
}

fn bit(path: &Path, depth: usize) -> bool {
    path[depth / 8] & (0x80 >> (depth % 8)) != 0
}

fn leaf(path: Path, value: Hash) -> Link {
    Some(Arc::new(Node::Leaf { path, value, hash: leaf_hash(&path, &value) }))
}

/// Applies updates, sorted and with distinct paths, to a subtree at `depth`.
fn apply(link: &mut Link, depth: usize, updates: &[(Path, Option<Hash>)]) {
    if updates.is_empty() {
        return;
    }
    let Some(node) = link.as_mut() else {
        let entries: Vec<_> = present(updates).collect();
        *link = build(depth, &entries);
        return;
    };
    if let Node::Leaf { path, value, .. } = &**node {
        let mut entries: Vec<_> = present(updates).collect();
        if updates.binary_search_by(|(updated, _)| updated.cmp(path)).is_err() {
            let at = entries.partition_point(|(entry, _)| entry < path);
            entries.insert(at, (*path, *value));
        }
        *link = build(depth, &entries);
        return;
    }
    let split = updates.partition_point(|(path, _)| !bit(path, depth));
    // Not shared: changed in place. Shared with a clone: this one node is copied.
    if let Node::Branch { left, right, hash } = Arc::make_mut(node) {
        apply(left, depth + 1, &updates[..split]);
        apply(right, depth + 1, &updates[split..]);
        *hash = branch_hash(&link_hash(left), &link_hash(right));
        if let Some(only) = collapsed(left, right) {
            *link = only;
        }
    }
}

/// What a branch turns into when fewer than two entries are left under it.
fn collapsed(left: &Link, right: &Link) -> Option<Link> {
    match (left.as_deref(), right.as_deref()) {
        (None, None) => Some(None),
        (Some(Node::Leaf { .. }), None) => Some(left.clone()),
        (None, Some(Node::Leaf { .. })) => Some(right.clone()),
        _ => None,
    }
}

fn present(updates: &[(Path, Option<Hash>)]) -> impl Iterator<Item = (Path, Hash)> + '_ {
    updates.iter().filter_map(|(path, value)| value.map(|value| (*path, value)))
}

fn build(depth: usize, entries: &[(Path, Hash)]) -> Link {
    match entries {
        [] => None,
        [(path, value)] => leaf(*path, *value),
        _ => {
            let split = entries.partition_point(|(path, _)| !bit(path, depth));
            let left = build(depth + 1, &entries[..split]);
            let right = build(depth + 1, &entries[split..]);
            let hash = branch_hash(&link_hash(&left), &link_hash(&right));
            Some(Arc::new(Node::Branch { left, right, hash }))
        }
    }
}

/// Shows under a root what is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapProof {
    /// From the root downwards; zero for an empty sibling.
    siblings: Vec<Hash>,
    /// The entry where the path ends (perhaps another one's), or nothing.
    terminal: Option<(Path, Hash)>,
}

impl MapProof {
    /// Whether the proof shows `value` at `path` under `root`.
    pub fn shows_value(&self, root: &Hash, path: &Path, value: &[u8]) -> bool {
        self.shows_value_hash(root, path, &value_hash(value))
    }

    /// Whether the proof shows a value with this SHA-256 at `path` under `root`.
    pub fn shows_value_hash(&self, root: &Hash, path: &Path, value: &Hash) -> bool {
        self.terminal == Some((*path, *value)) && self.root(path) == Some(*root)
    }

    /// Whether the proof shows that nothing is at `path` under `root`.
    pub fn shows_absence(&self, root: &Hash, path: &Path) -> bool {
        let other = match &self.terminal {
            None => true,
            // Another entry stands for the whole subtree in which the path would be.
            Some((found, _)) => {
                found != path
                    && (0..self.siblings.len()).all(|depth| bit(found, depth) == bit(path, depth))
            }
        };
        other && self.root(path) == Some(*root)
    }

    fn root(&self, path: &Path) -> Option<Hash> {
        if self.siblings.len() > MAX_DEPTH {
            return None;
        }
        let mut hash =
            self.terminal.as_ref().map_or(Hash::ZERO, |(path, value)| leaf_hash(path, value));
        for (depth, sibling) in self.siblings.iter().enumerate().rev() {
            hash = if bit(path, depth) {
                branch_hash(sibling, &hash)
            } else {
                branch_hash(&hash, sibling)
            };
        }
        Some(hash)
    }

    /// Writes the proof without the terminal entry, which the reader knows: the value shown.
    pub(crate) fn encode_siblings(&self, encoder: &mut Encoder) {
        let mut bitmap = alloc::vec![0u8; self.siblings.len().div_ceil(8)];
        let mut hashes = Vec::new();
        for (depth, sibling) in self.siblings.iter().enumerate() {
            if *sibling != Hash::ZERO {
                bitmap[depth / 8] |= 0x80 >> (depth % 8);
                hashes.extend_from_slice(&sibling.0);
            }
        }
        encoder.uint(self.siblings.len() as u64).bytes(&bitmap).bytes(&hashes);
    }

    pub(crate) fn decode_siblings(decoder: &mut Decoder<'_>) -> Result<Vec<Hash>, DecodeError> {
        let depth = usize::try_from(decoder.uint("proof depth")?)
            .ok()
            .filter(|depth| *depth <= MAX_DEPTH)
            .ok_or(DecodeError::Invalid("proof depth"))?;
        let bitmap = decoder.bytes("sibling bitmap", MAX_DEPTH / 8)?;
        let joined = decoder.bytes("siblings", MAX_DEPTH * 32)?;
        let (hashes, rest) = joined.as_chunks::<32>();
        let ones: u32 = bitmap.iter().map(|byte| byte.count_ones()).sum();
        if !rest.is_empty() || bitmap.len() != depth.div_ceil(8) || hashes.len() != ones as usize {
            return Err(DecodeError::Invalid("siblings"));
        }
        let mut hashes = hashes.iter();
        let mut siblings = Vec::with_capacity(depth);
        for index in 0..depth {
            let set = bitmap[index / 8] & (0x80 >> (index % 8)) != 0;
            siblings.push(match (set, hashes.next_if(set)) {
                (true, Some(hash)) if *hash != [0; 32] => Hash(*hash),
                (false, _) => Hash::ZERO,
                _ => return Err(DecodeError::Invalid("siblings")),
            });
        }
        // A bit beyond the depth would be a second encoding of the same proof.
        if hashes.next().is_some() {
            return Err(DecodeError::Invalid("sibling bitmap"));
        }
        Ok(siblings)
    }

    /// A proof whose path ends at a known entry.
    pub(crate) fn of_entry(siblings: Vec<Hash>, entry: (Path, Hash)) -> Self {
        Self { siblings, terminal: Some(entry) }
    }
}

/// Most levels of the map: the bits of a path.
const MAX_DEPTH: usize = 256;

trait NextIf<'a> {
    /// Takes the next item only when `wanted`.
    fn next_if(&mut self, wanted: bool) -> Option<&'a [u8; 32]>;
}

impl<'a> NextIf<'a> for core::slice::Iter<'a, [u8; 32]> {
    fn next_if(&mut self, wanted: bool) -> Option<&'a [u8; 32]> {
        if wanted { self.next() } else { None }
    }
}

impl Encode for MapProof {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.array(4);
        self.encode_siblings(encoder);
        match &self.terminal {
            None => encoder.null(),
            Some((path, value)) => encoder.array(2).bytes(path).value(value),
        };
    }
}

impl Decode for MapProof {
    const MAX_BYTES: usize = MAX_DEPTH * 32 + 256;

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        decoder.fields("map proof", 4)?;
        let siblings = Self::decode_siblings(decoder)?;
        let terminal = if decoder.null() {
            None
        } else {
            decoder.fields("map entry", 2)?;
            Some((decoder.fixed("path")?, Hash::decode(decoder)?))
        };
        Ok(Self { siblings, terminal })
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Paths that share long prefixes, so that chains of branches occur.
    fn path(seed: u16) -> Path {
        let mut path = sha256(&[&[seed as u8 & 15]]).0;
        path[31] = (seed >> 8) as u8;
        path[0] &= 0x0f;
        path
    }

    fn rebuilt(model: &BTreeMap<Path, Hash>) -> Hash {
        let mut map = SparseMap::new();
        map.update(model.iter().map(|(path, value)| (*path, Some(*value))).collect());
        map.root()
    }

    #[test]
    fn an_empty_map_proves_absence_and_its_root_is_zero() {
        let map = SparseMap::new();
        assert_eq!(map.root(), Hash::ZERO);
        let proof = map.prove(&[1; 32]);
        assert!(proof.shows_absence(&Hash::ZERO, &[1; 32]));
        assert!(!proof.shows_value(&Hash::ZERO, &[1; 32], b"x"));
    }

    #[test]
    fn a_proof_of_one_entry_is_no_absence_proof_of_another_subtree() {
        let mut map = SparseMap::new();
        let (a, b, c) = ([0x00; 32], [0x40; 32], [0x80; 32]);
        let value = value_hash(b"v");
        map.update(alloc::vec![(a, Some(value)), (b, Some(value)), (c, Some(value))]);
        let root = map.root();
        // `a` and `b` part at the second bit; the leaf of `c` stands for the half where c is.
        let of_c = map.prove(&c);
        assert!(of_c.shows_value(&root, &c, b"v"));
        assert!(of_c.shows_absence(&root, &[0x90; 32]));
        assert!(!of_c.shows_absence(&root, &a));
        assert!(!of_c.shows_absence(&root, &[0x20; 32]));
        assert!(!of_c.shows_absence(&root, &c));
    }

    #[test]
    fn clones_are_independent() {
        let mut map = SparseMap::new();
        map.update((0..500).map(|i| (path(i), Some(value_hash(&[i as u8])))).collect());
        let before = map.root();
        let mut trial = map.clone();
        trial.update(alloc::vec![(path(3), Some(value_hash(b"new"))), (path(4), None)]);
        assert_ne!(trial.root(), before);
        assert_eq!(map.root(), before);
    }

    proptest! {
        #[test]
        fn equals_a_map_rebuilt_from_the_model(
            batches in prop::collection::vec(
                prop::collection::vec((any::<u16>(), prop::option::of(any::<u8>())), 1..20), 1..12),
            asked in any::<u16>(),
        ) {
            let mut map = SparseMap::new();
            let mut model = BTreeMap::new();
            for batch in batches {
                let mut updates = Vec::new();
                for (seed, value) in batch {
                    let value = value.map(|byte| value_hash(&[byte]));
                    updates.push((path(seed), value));
                    match value {
                        Some(value) => model.insert(path(seed), value),
                        None => model.remove(&path(seed)),
                    };
                }
                map.update(updates);
                prop_assert_eq!(map.root(), rebuilt(&model));
            }
            let root = map.root();
            for asked in model.keys().copied().chain([path(asked)]).collect::<Vec<_>>() {
                let proof = map.prove(&asked);
                let read = MapProof::from_bytes(&proof.to_bytes());
                prop_assert_eq!(read.as_ref(), Ok(&proof));
                match model.get(&asked) {
                    Some(value) => {
                        prop_assert!(proof.shows_value_hash(&root, &asked, value));
                        prop_assert!(!proof.shows_absence(&root, &asked));
                    }
                    None => prop_assert!(proof.shows_absence(&root, &asked)),
                }
            }
        }

        #[test]
        fn a_beginning_is_told_from_everything_else(
            seeds in prop::collection::btree_set(any::<u16>(), 2..40),
            cut in any::<prop::sample::Index>(),
            other in any::<prop::sample::Index>(),
        ) {
            let mut entries: Vec<_> = seeds.into_iter()
                .map(|seed| (path(seed), Some(value_hash(&seed.to_be_bytes()))))
                .collect();
            entries.sort();
            entries.dedup_by_key(|(path, _)| *path);
            let mut whole = SparseMap::new();
            whole.update(entries.clone());
            let root = whole.root();
            let begun = &entries[..=cut.index(entries.len())];
            let last = begun[begun.len() - 1].0;
            let proof = whole.prove(&last);
            let of = |entries: &[(Path, Option<Hash>)]| {
                let mut map = SparseMap::new();
                map.update(entries.to_vec());
                map
            };
            prop_assert!(of(begun).is_beginning_of(&root, &last, &proof));
            let at = other.index(begun.len());
            let mut without = begun.to_vec();
            without.remove(at);
            prop_assert!(!of(&without).is_beginning_of(&root, &last, &proof));
            let mut changed = begun.to_vec();
            changed[at].1 = Some(value_hash(b"a lie"));
            prop_assert!(!of(&changed).is_beginning_of(&root, &last, &proof));
            let mut more = begun.to_vec();
            let mut invented = begun[at].0;
            invented[30] ^= 0x55;
            more.push((invented, Some(value_hash(b"a lie"))));
            if invented < last {
                prop_assert!(!of(&more).is_beginning_of(&root, &last, &proof));
            } else {
                let proof = of(&more).prove(&invented);
                prop_assert!(!of(&more).is_beginning_of(&root, &invented, &proof));
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(proof) = MapProof::from_bytes(&bytes) {
                prop_assert_eq!(proof.to_bytes(), bytes);
            }
        }
    }
}
