//! Bringing a database to the version of this build; the old file stays until the new one opens.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::StoreError;
use super::schema::{APPLICATION_ID, PAGE_BYTES, VERSION_1};

/// One step a version: step i leads from version i to i + 1.
pub(super) const STEPS: &[&str] = &[VERSION_1];

/// Creates or migrates the database behind `connection`, which lies at `path`.
///
/// # Errors
/// [`StoreError::UnknownSchema`] for a newer version, [`StoreError::NotOurs`] for another
/// program's file, and those of the disk.
pub(super) fn migrate(
    connection: &mut Connection,
    path: &Path,
    steps: &[&str],
) -> Result<(), StoreError> {
    let known = steps.len();
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let application: i32 =
        connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let fresh = tables == 0 && found == 0;
    if !fresh && application != APPLICATION_ID {
        return Err(StoreError::NotOurs);
    }
    let from = usize::try_from(found).ok().filter(|from| *from <= known);
    let Some(from) = from else {
        return Err(StoreError::UnknownSchema { found, known: known as i64 });
    };
    let backup = (!fresh && from < known).then(|| backup_path(path, from));
    if let Some(backup) = &backup {
        keep_old(connection, backup)?;
    }
    if fresh {
        connection.pragma_update(None, "page_size", PAGE_BYTES)?;
        connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    }
    if from < known {
        run(connection, &steps[from..], known)?;
    }
    if let Some(backup) = backup {
        fs::remove_file(backup)?;
    }
    Ok(())
}

fn run(connection: &mut Connection, steps: &[&str], version: usize) -> Result<(), StoreError> {
    let transaction = connection.transaction()?;
    for step in steps {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", version as i64)?;
    transaction.commit()?;
    Ok(())
}

/// A whole copy, in place before the first change. One left by an interrupted migration is the
/// better one: it was made from the untouched file.
fn keep_old(connection: &Connection, backup: &Path) -> Result<(), StoreError> {
    if backup.exists() {
        return Ok(());
    }
    let unfinished = backup.with_extension("unfinished");
    if unfinished.exists() {
        fs::remove_file(&unfinished)?;
    }
    let target = unfinished.to_str().ok_or(StoreError::Path)?;
    connection.execute("VACUUM INTO ?1", [target])?;
    fs::File::open(&unfinished)?.sync_all()?;
    fs::rename(&unfinished, backup)?;
    Ok(())
}

fn backup_path(path: &Path, version: usize) -> PathBuf {
    path.with_extension(format!("v{version}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDED: &str = "CREATE TABLE extra (x INTEGER)";
    const BROKEN: &str = "CREATE TABLE extra (x INTEGER); SELECT nonsense";

    fn version(connection: &Connection) -> i64 {
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
    }

    #[test]
    fn an_old_file_is_migrated_and_the_copy_goes_when_it_opened() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger.db");
        let mut connection = Connection::open(&path).unwrap();
        migrate(&mut connection, &path, STEPS).unwrap();
        connection.execute("INSERT INTO meta VALUES ('a', x'01')", []).unwrap();
        migrate(&mut connection, &path, &[VERSION_1, ADDED]).unwrap();
        assert_eq!(version(&connection), 2);
        let kept: i64 =
            connection.query_row("SELECT count(*) FROM meta", [], |row| row.get(0)).unwrap();
        assert_eq!(kept, 1);
        assert!(!backup_path(&path, 1).exists());
    }

    #[test]
    fn a_failing_step_changes_nothing_and_leaves_the_copy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger.db");
        let mut connection = Connection::open(&path).unwrap();
        migrate(&mut connection, &path, STEPS).unwrap();
        let failed = migrate(&mut connection, &path, &[VERSION_1, BROKEN]);
        assert!(matches!(failed, Err(StoreError::Sqlite(_))), "{failed:?}");
        assert_eq!(version(&connection), 1);
        assert!(backup_path(&path, 1).exists());
        migrate(&mut connection, &path, &[VERSION_1, ADDED]).unwrap();
        assert!(!backup_path(&path, 1).exists());
    }

    #[test]
    fn newer_and_foreign_files_are_refused_untouched() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger.db");
        let mut connection = Connection::open(&path).unwrap();
        migrate(&mut connection, &path, &[VERSION_1, ADDED]).unwrap();
        let newer = migrate(&mut connection, &path, STEPS);
        assert!(matches!(newer, Err(StoreError::UnknownSchema { found: 2, known: 1 })));
        let path = directory.path().join("other.db");
        let mut other = Connection::open(&path).unwrap();
        other.execute_batch("CREATE TABLE theirs (x)").unwrap();
        assert!(matches!(migrate(&mut other, &path, STEPS), Err(StoreError::NotOurs)));
        assert_eq!(version(&other), 0);
    }
}
