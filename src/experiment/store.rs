//! The folder that holds the results of one experiment.
//!
//! A file appears whole or not at all. `summary.json` is written last and says
//! whose results the folder holds: results of another configuration are not
//! overwritten unless asked. The same configuration may run again; its files
//! are replaced, by the same bytes if the version is the same. A killed run
//! leaves a [journal](super::Journal) behind, from which it goes on.

use super::journal;
use super::results::Provenance;
use serde::Deserialize;
use std::io::ErrorKind::{NotADirectory, NotFound};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The file that makes a folder a result set.
pub const SUMMARY_FILE: &str = "summary.json";

/// The file that says how to run its simulations again.
pub const RUNS_FILE: &str = "runs.json";

/// What else runs write into the folder, as far as it always has the same name;
/// the names belong to the reports.
const OTHER_FILES: [&str; 6] =
    [RUNS_FILE, "details.json", "summary.csv", "requests.csv", "report.html", "timeline.json.gz"];

/// What they write into it with folders of their own.
const OTHER_FOLDER: &str = "aiperf";

/// A writable output folder that holds no other results.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
    config_hash: String,
    previous: Option<Provenance>,
}

/// A folder that results cannot go to.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be made or written to.
    #[error("{}: cannot hold results: {reason}; choose another folder with --out", folder.display())]
    Unwritable {
        /// The folder.
        folder: PathBuf,
        /// Why.
        reason: String,
    },
    /// It holds other results.
    #[error(
        "{}: holds results of another configuration (hash {}, this one is {}); choose another \
         folder with --out, or overwrite them with --force",
        folder.display(), short(found), short(wanted)
    )]
    OtherResults {
        /// The folder.
        folder: PathBuf,
        /// Configuration hash of what is there.
        found: String,
        /// Configuration hash of the experiment.
        wanted: String,
    },
    /// It holds the journal of another run.
    #[error(
        "{}: holds an unfinished run of another configuration (hash {}, this one is {}); finish \
         that one, choose another folder with --out, or discard it with --force",
        folder.display(), short(found), short(wanted)
    )]
    OtherJournal {
        /// The folder.
        folder: PathBuf,
        /// Configuration hash of what is there.
        found: String,
        /// Configuration hash of the experiment.
        wanted: String,
    },
    /// Another process is writing results into it.
    #[error(
        "{}: another sim is writing its results there; wait for it, or choose another folder \
         with --out",
        folder.display()
    )]
    Busy {
        /// The folder.
        folder: PathBuf,
    },
    /// It holds a summary that is not one of ours.
    #[error(
        "{}: is not a summary that this version can read ({reason}); choose another folder with \
         --out, or overwrite it with --force",
        file.display()
    )]
    Foreign {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file could not be written.
    #[error("{}: cannot be written: {reason}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// What the operating system says.
        reason: String,
    },
}

/// The part of a summary that says whose it is; other layouts may have it too.
#[derive(Deserialize)]
struct Owner {
    provenance: Provenance,
}

impl Store {
    /// Opens `folder` for the experiment with this configuration hash, making it
    /// if need be. Call it before simulating: a folder that cannot be written to
    /// is found out here. With `force`, results or a journal that are there are
    /// removed, whosever they are: figures of one configuration must not stand
    /// beside the summary of another. What is no result stays.
    ///
    /// # Errors
    /// If the folder cannot be written to or holds other results.
    pub fn open(folder: &Path, config_hash: &str, force: bool) -> Result<Self, StoreError> {
        let unwritable = |reason: String| StoreError::Unwritable { folder: folder.into(), reason };
        if folder.exists() && !folder.is_dir() {
            return Err(unwritable("it is a file".to_owned()));
        }
        let previous = if force { None } else { previous(folder)? };
        if let Some(previous) = previous.as_ref().filter(|p| p.config_hash != config_hash) {
            return Err(StoreError::OtherResults {
                folder: folder.into(),
                found: previous.config_hash.clone(),
                wanted: config_hash.to_owned(),
            });
        }
        let unfinished = if force { None } else { journal::unfinished(folder) };
        if let Some(found) = unfinished.filter(|found| found != config_hash) {
            return Err(StoreError::OtherJournal {
                folder: folder.into(),
                found,
                wanted: config_hash.to_owned(),
            });
        }
        std::fs::create_dir_all(folder).map_err(|error| unwritable(error.to_string()))?;
        // Dropped at once: only to see whether it can be made.
        temporary(folder).map_err(|error| unwritable(error.to_string()))?;
        if force {
            discard(folder).map_err(|error| unwritable(error.to_string()))?;
        }
        Ok(Self { folder: folder.into(), config_hash: config_hash.to_owned(), previous })
    }

    /// Where the results of `experiment` go unless the operator says otherwise.
    pub fn default_folder(experiment: &str) -> PathBuf {
        Path::new("plots").join(experiment)
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

    /// Writes a file, whole or not at all, in place of one with that name.
    ///
    /// # Errors
    /// If it cannot be written; a former file is then still there.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        write_file(&self.folder.join(name), bytes)
    }
}

/// Removes the results in a folder, if it has any; what says so goes last.
fn discard(folder: &Path) -> io::Result<()> {
    let summary = folder.join(SUMMARY_FILE);
    if summary.exists() || journal::unfinished(folder).is_some() {
        for name in OTHER_FILES {
            absent_is_fine(std::fs::remove_file(folder.join(name)))?;
        }
        absent_is_fine(std::fs::remove_dir_all(folder.join(OTHER_FOLDER)))?;
        // Every figure is there twice; a picture that somebody put there is not.
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

/// Finds out whether a file can be written before what it is to hold is known.
///
/// # Errors
/// If it cannot.
pub fn check_writable(file: &Path) -> Result<(), StoreError> {
    let failed = |reason: String| StoreError::Write { file: file.into(), reason };
    if file.is_dir() {
        return Err(failed("it is a folder".to_owned()));
    }
    let folder = folder_of(file);
    let probe = std::fs::create_dir_all(folder).and_then(|()| temporary(folder));
    probe.map(drop).map_err(|error| failed(error.to_string()))
}

/// The folder that a file lies in.
fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."))
}

/// Writes a file, whole or not at all, with the folders that it lies in.
///
/// # Errors
/// If it cannot be written; a former file is then still there.
pub fn write_file(file: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    write_file_with(file, |out| out.write_all(bytes))
}

/// As [`write_file`], for what is too long to be held in memory.
///
/// # Errors
/// If it cannot be written; a former file is then still there.
pub fn write_file_with(
    file: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), StoreError> {
    let folder = folder_of(file);
    let written = || -> io::Result<()> {
        std::fs::create_dir_all(folder)?;
        let mut temporary = temporary(folder)?;
        write(&mut temporary)?;
        temporary.persist(file)?;
        Ok(())
    };
    written().map_err(|error| StoreError::Write { file: file.into(), reason: error.to_string() })
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

fn temporary(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".sim-").suffix(".tmp");
    // Temporary files are private by default; results are as readable as the umask says.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder)
}

/// Enough of a hash to tell two apart.
fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::results::{SCHEMA_VERSION, Summary};

    fn summary(config_hash: &str) -> Vec<u8> {
        let provenance = Provenance {
            experiment: "demo".to_owned(),
            version: "0.1.0".to_owned(),
            config_hash: config_hash.to_owned(),
            seeds: vec![1],
            digest: "00".to_owned(),
        };
        let summary = Summary { schema_version: SCHEMA_VERSION, provenance, points: Vec::new() };
        serde_json::to_vec(&summary).expect("JSON")
    }

    /// The message, with the folder's name taken out.
    fn refused(folder: &Path, inside: &str, hash: &str) -> String {
        let error = Store::open(&folder.join(inside), hash, false).expect_err("refused");
        let text = error.to_string();
        assert!(!text.contains('\n'), "one line: {text}");
        text.replace(&folder.display().to_string(), "OUT")
    }

    #[test]
    fn the_same_configuration_may_come_back_and_another_may_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("a/b");
        let (mine, other) = ("1".repeat(64), "2".repeat(64));
        let store = Store::open(&out, &mine, false).expect("a new folder");
        assert!(store.previous().is_none());
        store.write(SUMMARY_FILE, &summary(&mine)).expect("written");

        let again = Store::open(&out, &mine, false).expect("the same configuration");
        assert_eq!(again.previous().map(|p| p.config_hash.as_str()), Some(mine.as_str()));
        insta::assert_snapshot!(refused(folder.path(), "a/b", &other), @r#"OUT/a/b: holds results of another configuration (hash 111111111111, this one is 222222222222); choose another folder with --out, or overwrite them with --force"#);
        assert_eq!(std::fs::read(out.join(SUMMARY_FILE)).expect("kept"), summary(&mine));
        Store::open(&out, &other, true).expect("forced");

        store.write(SUMMARY_FILE, b"{}").expect("written");
        insta::assert_snapshot!(refused(folder.path(), "a/b", &mine), @r#"OUT/a/b/summary.json: is not a summary that this version can read (missing field `provenance` at line 1 column 2); choose another folder with --out, or overwrite it with --force"#);
    }

    #[test]
    fn what_is_no_folder_cannot_hold_results() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("file"), "text").expect("written");
        insta::assert_snapshot!(refused(folder.path(), "file", "1"), @r#"OUT/file: cannot hold results: it is a file; choose another folder with --out"#);
        insta::assert_snapshot!(refused(folder.path(), "file/inside", "1"), @r#"OUT/file/inside: cannot hold results: Not a directory (os error 20); choose another folder with --out"#);
    }

    #[test]
    fn files_are_replaced_whole_and_leave_nothing_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path(), "1", false).expect("a folder");
        store.write("a.txt", b"long former text").expect("written");
        store.write("a.txt", b"new").expect("written");
        assert_eq!(std::fs::read(folder.path().join("a.txt")).expect("there"), b"new");
        std::fs::create_dir(folder.path().join("taken")).expect("made");
        store.write("taken", b"x").expect_err("a folder has that name");
        let names: Vec<_> = std::fs::read_dir(folder.path())
            .expect("readable")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        assert_eq!(names.len(), 2, "{names:?}");
    }
}
