use super::*;

fn folder() -> (tempfile::TempDir, Folder, Vault) {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::at(dir.path()).unwrap();
    (dir, folder, Vault::new(&[7; KEY_LEN]))
}

#[test]
fn a_successor_waits_until_the_record_names_it() {
    let (_dir, folder, vault) = folder();
    let old = new_key().unwrap();
    folder.keep_vote_key(&vault, &old).unwrap();
    let next = folder.next_vote_key(&vault, Some(&old.public_key()), 4).unwrap();
    assert_ne!(next.public_key(), old.public_key());
    // A try that was cut off goes on with the same one.
    let again = folder.next_vote_key(&vault, Some(&old.public_key()), 9).unwrap();
    assert_eq!(again.public_key(), next.public_key());
    // One that the record has seen is not used again.
    let fresh = folder.next_vote_key(&vault, Some(&next.public_key()), 9).unwrap();
    assert_ne!(fresh.public_key(), next.public_key());
    folder.take_next_vote_key(&vault).unwrap();
    let sealed = folder.must_read("vote.sealed").unwrap();
    let taken = folder.open_key(&vault, "vote.sealed", &sealed).unwrap();
    assert_eq!(taken.public_key(), fresh.public_key(), "the old one is gone");
    assert!(folder.kept_next_vote_key(&vault).unwrap().is_none());
    folder.take_next_vote_key(&vault).unwrap();
}

#[test]
fn after_a_rollback_only_a_successor_made_since_is_kept() {
    let (_dir, folder, vault) = folder();
    let old = new_key().unwrap();
    folder.keep_vote_key(&vault, &old).unwrap();
    folder.next_vote_key(&vault, Some(&old.public_key()), 4).unwrap();
    folder.destroy_vote_key(5).unwrap();
    assert!(folder.read("vote.sealed").unwrap().is_none());
    assert!(folder.kept_next_vote_key(&vault).unwrap().is_none(), "of the old disk");
    let since = folder.next_vote_key(&vault, Some(&old.public_key()), 5).unwrap();
    // The next start finds the disk rolled back still.
    folder.destroy_vote_key(5).unwrap();
    let kept = folder.kept_next_vote_key(&vault).unwrap().unwrap();
    assert_eq!(kept.public_key(), since.public_key(), "an act may name it already");
}

#[test]
fn a_join_and_a_site_exclude_each_other() {
    let (dir, folder, _) = folder();
    let anchor = ledger::proof::Anchor { height: ledger::ids::Height(1), hash: Hash([1; 32]) };
    let label = ledger::transaction::Label { full: true, coordinator: true };
    let order = JoinOrder { anchor, address: None, discover: true, label };
    folder.must_be_new().unwrap();
    folder.write("join.cbor", &order.to_bytes()).unwrap();
    assert_eq!(folder.joining().unwrap(), Some(order));
    assert!(matches!(folder.must_be_new(), Err(IdentityError::Exists(_))));
    folder.write("ledger.db", b"half a record").unwrap();
    folder.write("founding", &4u64.to_be_bytes()).unwrap();
    folder.abandon_join().unwrap();
    assert_eq!(folder.joining().unwrap(), None);
    assert!(!dir.path().join("ledger.db").exists() && !dir.path().join("founding").exists());
    // Where there is a site, nothing of it is dropped.
    folder.write("genesis.cbor", b"a site").unwrap();
    folder.write("ledger.db", b"its record").unwrap();
    assert!(matches!(folder.drop_record(), Err(IdentityError::Exists(_))));
    assert!(dir.path().join("ledger.db").exists());
    assert_eq!(folder.joining().unwrap(), None, "a site goes before an order");
}
