//! The folder that holds the results of one experiment.
//!
//! One process at a time writes into it: it is locked before its contents are
//! looked at, until the last file is there. Files of results appear together:
//! all are written before the first gets its name. `summary.json` comes last and
//! says whose results the folder holds: results of another configuration are not
//! overwritten unless asked. The same configuration may run again; its files
//! are replaced, by the same bytes if the version is the same. A killed run
//! leaves a [journal](super::Journal) behind, from which it goes on.

use super::files::{StoreError, TEMPORARY, folder_of, temporary};
use super::journal;
use super::results::Provenance;
use serde::Deserialize;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::io::ErrorKind::{NotADirectory, NotFound};
use std::path::{Path, PathBuf};

/// The file that makes a folder a result set.
pub const SUMMARY_FILE: &str = "summary.json";

/// The file that says how to run its simulations again.
pub const RUNS_FILE: &str = "runs.json";

/// The file that says which part of the simulations a folder has, before they are
/// [merged](crate::results::Shards).
pub const SHARD_FILE: &str = "shard.json";

/// What else runs write into the folder, as far as it always has the same name;
/// the names belong to the reports.
const OTHER_FILES: [&str; 9] = [
    RUNS_FILE,
    SHARD_FILE,
    "details.json",
    "summary.csv",
    "summary.arrow",
    "seeds.arrow",
    "requests.csv",
    "report.html",
    "timeline.json.gz",
];

/// What they write into it with folders of their own.
const OTHER_FOLDER: &str = "aiperf";

/// The file whose lock says that results are being written.
const LOCK_FILE: &str = ".sim.lock";

/// What may be in a folder that results are to go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// No results and no unfinished run.
    Nothing,
    /// Results of the same configuration, and an unfinished run of it, which goes on.
    Same,
    /// Whatever results and unfinished run: they are removed first.
    Anything,
}

/// A writable output folder that holds no other results. While it lives, no other
/// process writes results there.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    config_hash: String,
    previous: Option<Provenance>,
    claim: Claim,
}

/// The lock on a folder, and the folder itself if it was made for these results:
/// without a file in it, it goes again.
#[derive(Debug)]
struct Claim {
    footprint: Footprint,
    /// Held open: closing it gives the lock up.
    _file: File,
}

/// What an open [`Store`] leaves in the file system beside its files.
#[derive(Clone, Debug)]
pub struct Footprint {
    lock: PathBuf,
    /// Folders that were not there before, the innermost first.
    made: Vec<PathBuf>,
}

/// The part of a summary that says whose it is; other layouts may have it too.
#[derive(Deserialize)]
struct Owner {
    provenance: Provenance,
}

impl Store {
    /// Opens `folder` for the experiment with this configuration hash, making it
    /// if need be. Call it before simulating: a folder that cannot be written to
    /// is found out here. [`Existing::Anything`] removes results and a journal that
    /// are there, of whatever configuration: figures of one configuration must not
    /// stand beside the summary of another. What is no result stays.
    ///
    /// # Errors
    /// If the folder cannot be written to, holds other results, or another
    /// process is writing there.
    pub fn open(folder: &Path, config_hash: &str, existing: Existing) -> Result<Self, StoreError> {
        let unwritable = |reason: String| StoreError::Unwritable { folder: folder.into(), reason };
        if folder.exists() && !folder.is_dir() {
            return Err(unwritable("it is a file".to_owned()));
        }
        // Locked first: what is found in it stays true.
        let claim = Claim::of(folder)?;
        let previous = match existing {
            Existing::Anything => None,
            Existing::Nothing | Existing::Same => previous(folder)?,
        };
        let unfinished = match existing {
            Existing::Anything => None,
            Existing::Nothing | Existing::Same => journal::unfinished(folder),
        };
        if existing == Existing::Nothing && (previous.is_some() || unfinished.is_some()) {
            return Err(StoreError::Taken { folder: folder.into() });
        }
        if let Some(previous) = previous.as_ref().filter(|p| p.config_hash != config_hash) {
            return Err(StoreError::OtherResults {
                folder: folder.into(),
                found: previous.config_hash.clone(),
                wanted: config_hash.to_owned(),
            });
        }
        if let Some(found) = unfinished.filter(|found| found != config_hash) {
            return Err(StoreError::OtherJournal {
                folder: folder.into(),
                found,
                wanted: config_hash.to_owned(),
            });
        }
        // Dropped at once: only to see whether it can be made.
        temporary(folder).map_err(|error| unwritable(error.to_string()))?;
        let ready = sweep(folder).and_then(|()| match existing {
            Existing::Anything => discard(folder),
            Existing::Nothing | Existing::Same => Ok(()),
        });
        ready.map_err(|error| unwritable(error.to_string()))?;
        let config_hash = config_hash.to_owned();
        Ok(Self { folder: folder.into(), config_hash, previous, claim })
    }

    /// What the folder held of the same configuration when it was opened.
    pub fn previous(&self) -> Option<&Provenance> {
        self.previous.as_ref()
    }

    /// The configuration whose results it is open for.
    pub fn config_hash(&self) -> &str {
        &self.config_hash
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What is to be removed if the process ends at once.
    pub fn footprint(&self) -> Footprint {
        self.claim.footprint.clone()
    }

    /// Removes the journal of a run that is not needed any more, if there is one, and
    /// what says that it was a part of one.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn discard_journal(&self) -> Result<(), StoreError> {
        let part = absent_is_fine(std::fs::remove_file(self.folder.join(SHARD_FILE)));
        part.and_then(|()| journal::discard(&self.folder)).map_err(|error| StoreError::Unwritable {
            folder: self.folder.clone(),
            reason: error.to_string(),
        })
    }

    /// Begins to write files that are to appear together.
    ///
    /// # Errors
    /// If the folder cannot be written to.
    pub fn stage(&self) -> Result<Staged<'_>, StoreError> {
        let (prefix, suffix) = TEMPORARY;
        let folder =
            tempfile::Builder::new().prefix(prefix).suffix(suffix).tempdir_in(&self.folder);
        let folder = folder.map_err(|error| StoreError::Unwritable {
            folder: self.folder.clone(),
            reason: error.to_string(),
        })?;
        Ok(Staged { store: self, folder, names: Vec::new() })
    }
}

/// Files of a [`Store`] that are written and do not have their names yet. Dropped,
/// they are gone.
#[derive(Debug)]
pub struct Staged<'a> {
    store: &'a Store,
    folder: tempfile::TempDir,
    names: Vec<String>,
}

impl Staged<'_> {
    /// Writes a file; `name` may have folders in it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let failed = |error: io::Error| StoreError::Write {
            file: self.store.folder.join(name),
            reason: error.to_string(),
        };
        let file = self.folder.path().join(name);
        std::fs::create_dir_all(folder_of(&file))
            .and_then(|()| std::fs::write(&file, bytes))
            .map_err(failed)?;
        self.names.push(name.to_owned());
        Ok(())
    }

    /// A new file that is written piece by piece, before the files are
    /// [published](Self::publish).
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn create(&mut self, name: &str) -> Result<File, StoreError> {
        let made = File::create(self.folder.path().join(name));
        let made = made.map_err(|error| StoreError::Write {
            file: self.store.folder.join(name),
            reason: error.to_string(),
        })?;
        self.names.push(name.to_owned());
        Ok(made)
    }

    /// Gives every file its name, in the order in which they were written, in
    /// place of one that has it.
    ///
    /// # Errors
    /// The first file whose name cannot be given, for a folder that has it; the
    /// files before it have theirs.
    pub fn publish(self) -> Result<(), StoreError> {
        for name in &self.names {
            let file = self.store.folder.join(name);
            let renamed = std::fs::create_dir_all(folder_of(&file))
                .and_then(|()| std::fs::rename(self.folder.path().join(name), &file));
            renamed.map_err(|error| StoreError::Write { file, reason: error.to_string() })?;
        }
        Ok(())
    }
}

impl Claim {
    /// Makes and locks `folder`.
    fn of(folder: &Path) -> Result<Self, StoreError> {
        let unwritable = |error: io::Error| StoreError::Unwritable {
            folder: folder.into(),
            reason: error.to_string(),
        };
        let lock = folder.join(LOCK_FILE);
        let mut made: Vec<PathBuf> = Vec::new();
        loop {
            let missing = folder.ancestors().take_while(|path| !path.exists());
            let missing: Vec<PathBuf> =
                missing.filter(|path| *path != Path::new("")).map(Path::to_owned).collect();
            std::fs::create_dir_all(folder).map_err(unwritable)?;
            made = if missing.is_empty() { made } else { missing };
            let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&lock);
            let file = match opened {
                Ok(file) => file,
                // The process that made the folder has left it again.
                Err(error) if error.kind() == NotFound => continue,
                Err(error) => return Err(unwritable(error)),
            };
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    return Err(StoreError::Busy { folder: folder.into() });
                }
                // Some network file systems have no locks: go on without.
                Ok(()) | Err(TryLockError::Error(_)) => {}
            }
            // One that ended between opening and locking has taken the file away.
            if is_at(&file, &lock) {
                return Ok(Self { footprint: Footprint { lock, made }, _file: file });
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Still locked: a process that opens the file before it is gone finds that out.
        self.footprint.remove();
    }
}

impl Footprint {
    /// Removes the lock, and the folder if it was made for results and has none.
    /// For a process that ends at once; otherwise dropping the store does it.
    pub fn remove(&self) {
        let _ = std::fs::remove_file(&self.lock);
        for folder in &self.made {
            // Only what is empty can be removed.
            if std::fs::remove_dir(folder).is_err() {
                break;
            }
        }
    }
}

/// True if `file` is the one called `path`.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(named)) => id(open) == id(named),
        _ => false,
    }
}

/// True if there is a file called `path`: elsewhere one that is open keeps its name.
#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

/// Removes what killed processes left of files without names.
fn sweep(folder: &Path) -> io::Result<()> {
    let (prefix, suffix) = TEMPORARY;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(prefix) && name.ends_with(suffix)) {
            let path = entry.path();
            let removed = if path.is_dir() {
                std::fs::remove_dir_all(path)
            } else {
                std::fs::remove_file(path)
            };
            absent_is_fine(removed)?;
        }
    }
    Ok(())
}

/// Removes the results in a folder, if it has any; what says so goes last.
fn discard(folder: &Path) -> io::Result<()> {
    let summary = folder.join(SUMMARY_FILE);
    if summary.exists() || journal::unfinished(folder).is_some() {
        for name in OTHER_FILES {
            absent_is_fine(std::fs::remove_file(folder.join(name)))?;
        }
        absent_is_fine(std::fs::remove_dir_all(folder.join(OTHER_FOLDER)))?;
        // Every figure is there twice; a picture that a person put there is not.
        for entry in std::fs::read_dir(folder)? {
            let vector = entry?.path();
            let bitmap = vector.with_extension("png");
            if vector.extension().is_some_and(|extension| extension == "svg") && bitmap.is_file() {
                std::fs::remove_file(bitmap)?;
                std::fs::remove_file(vector)?;
            }
        }
    }
    journal::discard(folder)?;
    absent_is_fine(std::fs::remove_file(summary))
}

fn absent_is_fine(removed: io::Result<()>) -> io::Result<()> {
    removed.or_else(|error| if error.kind() == NotFound { Ok(()) } else { Err(error) })
}

/// Whose results the folder holds, if any.
fn previous(folder: &Path) -> Result<Option<Provenance>, StoreError> {
    let file = folder.join(SUMMARY_FILE);
    let foreign = |reason: String| StoreError::Foreign { file: file.clone(), reason };
    let bytes = match std::fs::read(&file) {
        Ok(bytes) => bytes,
        // What is in the way of the folder is found when the folder is made.
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => return Ok(None),
        Err(error) => return Err(foreign(error.to_string())),
    };
    let owner: Owner =
        serde_json::from_slice(&bytes).map_err(|error| foreign(error.to_string()))?;
    Ok(Some(owner.provenance))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::results::{SCHEMA_VERSION, Summary};
    use std::collections::BTreeMap;

    fn summary(config_hash: &str) -> Vec<u8> {
        let provenance = Provenance {
            experiment: "demo".to_owned(),
            version: "0.1.0".to_owned(),
            config_hash: config_hash.to_owned(),
            seeds: vec![1],
            digest: "00".to_owned(),
            follows: BTreeMap::new(),
            step_times: Vec::new(),
        };
        let summary = Summary { schema_version: SCHEMA_VERSION, provenance, points: Vec::new() };
        serde_json::to_vec(&summary).expect("JSON")
    }

    /// The message, with the folder's name taken out.
    fn refused(folder: &Path, inside: &str, hash: &str) -> String {
        let error = Store::open(&folder.join(inside), hash, Existing::Same).expect_err("refused");
        let text = error.to_string();
        assert!(!text.contains('\n'), "one line: {text}");
        text.replace(&folder.display().to_string(), "OUT")
    }

    /// Writes one file, as a run does its files.
    fn write(store: &Store, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let mut files = store.stage()?;
        files.write(name, bytes)?;
        files.publish()
    }

    #[test]
    fn the_same_configuration_may_come_back_and_another_may_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("a/b");
        let (mine, other) = ("1".repeat(64), "2".repeat(64));
        let store = Store::open(&out, &mine, Existing::Nothing).expect("a new folder");
        assert!(store.previous().is_none());
        write(&store, SUMMARY_FILE, &summary(&mine)).expect("written");
        drop(store);

        let again = Store::open(&out, &mine, Existing::Same).expect("the same configuration");
        assert_eq!(again.previous().map(|p| p.config_hash.as_str()), Some(mine.as_str()));
        drop(again);
        insta::assert_snapshot!(refused(folder.path(), "a/b", &other), @"OUT/a/b: holds results of another configuration (hash 111111111111, this one is 222222222222)");
        assert_eq!(std::fs::read(out.join(SUMMARY_FILE)).expect("kept"), summary(&mine));
        let taken = Store::open(&out, &mine, Existing::Nothing).expect_err("it has results");
        assert!(matches!(taken, StoreError::Taken { .. }), "{taken}");
        let store = Store::open(&out, &other, Existing::Anything).expect("forced");
        assert!(!out.join(SUMMARY_FILE).exists());

        write(&store, SUMMARY_FILE, b"{}").expect("written");
        drop(store);
        insta::assert_snapshot!(refused(folder.path(), "a/b", &mine), @"OUT/a/b/summary.json: is not a summary that this version can read (missing field `provenance` at line 1 column 2)");
    }

    #[test]
    fn one_process_at_a_time_writes_and_an_unused_folder_goes_again() {
        let place = tempfile::tempdir().expect("a folder");
        let out = place.path().join("a/b");
        let open = |existing| Store::open(&out, "1", existing);
        let store = open(Existing::Nothing).expect("a new folder");
        for existing in [Existing::Nothing, Existing::Same, Existing::Anything] {
            let busy = open(existing).expect_err("it is being written to");
            assert!(matches!(busy, StoreError::Busy { .. }), "{busy}");
        }
        drop(store);
        assert!(!place.path().join("a").exists(), "nothing was saved");
        let store = open(Existing::Nothing).expect("free again");
        write(&store, "a.txt", b"kept").expect("written");
        drop(store);
        let names: Vec<_> = std::fs::read_dir(&out).expect("there").collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }

    /// What is not there yet when a file fails never will be.
    #[test]
    fn files_appear_together_or_not_at_all() {
        let place = tempfile::tempdir().expect("a folder");
        let store = Store::open(place.path(), "1", Existing::Same).expect("a folder");
        let mut files = store.stage().expect("writable");
        files.write("a.txt", b"a").expect("written");
        files.write("b/c.txt", b"c").expect("written");
        files.write("a.txt/d.txt", b"d").expect_err("a.txt is no folder");
        drop(files);
        let names = || -> Vec<String> {
            let entries = std::fs::read_dir(place.path()).expect("readable");
            let name = |entry: io::Result<std::fs::DirEntry>| {
                entry.expect("an entry").file_name().into_string().expect("UTF-8")
            };
            entries.map(name).filter(|name| name != LOCK_FILE).collect()
        };
        assert_eq!(names(), [""; 0]);
        // What a killed process left goes when the next one comes.
        std::fs::create_dir(place.path().join(".sim-1234.tmp")).expect("made");
        std::fs::write(place.path().join(".sim-5678.tmp"), "half").expect("written");
        drop(store);
        Store::open(place.path(), "1", Existing::Same).expect("a folder");
        assert_eq!(names(), [""; 0]);
    }

    #[test]
    fn what_is_no_folder_cannot_hold_results() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("file"), "text").expect("written");
        insta::assert_snapshot!(refused(folder.path(), "file", "1"), @"OUT/file: cannot hold results: it is a file");
        insta::assert_snapshot!(refused(folder.path(), "file/inside", "1"), @"OUT/file/inside: cannot hold results: Not a directory (os error 20)");
    }

    #[test]
    fn files_are_replaced_whole_and_leave_nothing_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path(), "1", Existing::Same).expect("a folder");
        write(&store, "a.txt", b"long former text").expect("written");
        write(&store, "a.txt", b"new").expect("written");
        assert_eq!(std::fs::read(folder.path().join("a.txt")).expect("there"), b"new");
        std::fs::create_dir(folder.path().join("taken")).expect("made");
        write(&store, "taken", b"x").expect_err("a folder has that name");
        drop(store);
        let names: Vec<_> = std::fs::read_dir(folder.path())
            .expect("readable")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        assert_eq!(names.len(), 2, "{names:?}");
    }

    #[test]
    fn an_unfinished_run_of_another_configuration_is_not_thrown_away() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(journal::JOURNAL_FILE);
        let line = |text: &str| format!("{text}\n");
        let head =
            line(&format!(r#"{{"journal":2,"config_hash":"{}","build":"one"}}"#, "c".repeat(64)));
        let open = |hash: &str, existing| Store::open(folder.path(), &hash.repeat(64), existing);
        std::fs::write(&path, &head).expect("written");
        drop(open("d", Existing::Nothing).expect("nothing is in the journal yet"));
        std::fs::write(&path, head + &line("{}")).expect("written");
        drop(open("c", Existing::Same).expect("the same configuration"));
        let refused = open("d", Existing::Same).expect_err("refused").to_string();
        assert!(refused.contains("unfinished run of another configuration"), "{refused}");
        let taken = open("c", Existing::Nothing).expect_err("refused");
        assert!(matches!(taken, StoreError::Taken { .. }), "{taken}");
        drop(open("d", Existing::Anything).expect("forced"));
        assert!(!path.exists());
    }
}
