//! Files that appear whole or not at all, and what can be wrong with them.

use crate::catalogue;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// How the names of files begin and end that do not have their real name yet.
pub(super) const TEMPORARY: (&str, &str) = (".sim-", ".tmp");

/// A folder that results cannot go to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It cannot be made or written to.
    #[error("{}: cannot hold results: {reason}", folder.display())]
    Unwritable {
        /// The folder.
        folder: PathBuf,
        /// Why.
        reason: String,
    },
    /// It holds other results.
    #[error(
        "{}: holds results of another configuration (hash {}, this one is {})",
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
        "{}: holds an unfinished run of another configuration (hash {}, this one is {})",
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
    /// It holds results, and was to hold none.
    #[error("{}: holds results, or an unfinished run, already", folder.display())]
    Taken {
        /// The folder.
        folder: PathBuf,
    },
    /// Another process is writing results into it.
    #[error("{}: another sim is writing its results there", folder.display())]
    Busy {
        /// The folder.
        folder: PathBuf,
    },
    /// It holds a summary that is not one of ours.
    #[error(
        "{}: is not a summary that this version can read ({reason})",
        file.display()
    )]
    Foreign {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// What was written cannot be read back.
    #[error("{}: cannot be read back: {reason}", file.display())]
    ReadBack {
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
pub(super) fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."))
}

/// Writes a file, whole or not at all, with the folders that it lies in.
///
/// # Errors
/// If it cannot be written; a former file is then still there.
pub fn write_file(file: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    write_file_with(file, |out| out.write_all(bytes))
}

/// Writes files that belong together, with the folders that they lie in: none gets its name
/// before all are written.
///
/// # Errors
/// If one cannot be written.
pub fn write_files<T: AsRef<[u8]>>(files: &[(PathBuf, T)]) -> Result<(), StoreError> {
    let write = |(file, bytes): &(PathBuf, T)| {
        if file.is_dir() {
            return Err(unwritten(file, io::ErrorKind::IsADirectory.into()));
        }
        written(file, |out| out.write_all(bytes.as_ref()))
    };
    let written: Vec<_> = files.iter().map(write).collect::<Result<_, _>>()?;
    files.iter().zip(written).try_for_each(|((file, _), temporary)| named(file, temporary))
}

/// Reads a text of at most so many bytes, shipped or on disk, and no more of a longer one.
///
/// # Errors
/// What the operating system says; `FileTooLarge`, and `InvalidData` of what is not UTF-8.
pub fn read_at_most(file: &Path, most_bytes: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    catalogue::open(file)?.take(most_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most_bytes {
        let problem = format!("it is larger than {most_bytes} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, problem));
    }
    let not_text = |_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text");
    String::from_utf8(bytes).map_err(not_text)
}

/// As [`write_file`], for what is too long to be held in memory.
///
/// # Errors
/// If it cannot be written; a former file is then still there.
pub fn write_file_with(
    file: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), StoreError> {
    named(file, written(file, write)?)
}

/// What `file` is to hold, beside it.
fn written(
    file: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<tempfile::NamedTempFile, StoreError> {
    let folder = folder_of(file);
    std::fs::create_dir_all(folder)
        .and_then(|()| temporary(folder))
        .and_then(|mut temporary| write(&mut temporary).map(|()| temporary))
        .map_err(|error| unwritten(file, error))
}

/// Gives what was written its name.
fn named(file: &Path, temporary: tempfile::NamedTempFile) -> Result<(), StoreError> {
    temporary.persist(file).map(drop).map_err(|error| unwritten(file, error.error))
}

fn unwritten(file: &Path, error: io::Error) -> StoreError {
    StoreError::Write { file: file.into(), reason: error.to_string() }
}

pub(super) fn temporary(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY.0).suffix(TEMPORARY.1);
    // Temporary files are private by default; results are as readable as the umask says.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(folder)
}

/// Enough of a hash to tell two apart.
pub(super) fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}
