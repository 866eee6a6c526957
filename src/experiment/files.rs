//! Files that appear whole or not at all, and what can be wrong with them.

use crate::catalogue;
use std::fs::{Metadata, OpenOptions};
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
    let failed = |error| unwritten(file, error);
    let Place::Regular { target, .. } = Place::of(file).map_err(failed)? else { return Ok(()) };
    let folder = folder_of(&target);
    let probe = make_folder(folder).and_then(|()| temporary(folder));
    probe.map(drop).map_err(failed)
}

/// Makes a folder with those that it lies in.
fn make_folder(folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder).map_err(|error| {
        match folder.ancestors().find(|above| above.exists()) {
            Some(file) if !file.is_dir() => {
                io::Error::other(format!("{} is a file, not a folder", file.display()))
            }
            _ => error,
        }
    })
}

/// Where what is written to a path goes.
enum Place {
    /// A file that appears whole or not at all: the end of all symbolic links, and what
    /// is there now.
    Regular { target: PathBuf, former: Option<Metadata> },
    /// A device, a pipe or an open file: it is written into, and never replaced.
    Stream(PathBuf),
}

/// So many symbolic links lead from one to the next at most, as on Linux.
const MOST_LINKS: usize = 40;

impl Place {
    fn of(file: &Path) -> io::Result<Self> {
        if is_open_file(file) {
            return Ok(Self::Stream(file.to_owned()));
        }
        match std::fs::metadata(file) {
            Ok(found) if found.is_dir() => Err(io::Error::other("it is a folder")),
            Ok(found) if !found.is_file() => Ok(Self::Stream(file.to_owned())),
            Ok(found) if found.permissions().readonly() => Err(io::Error::other("it is read-only")),
            Ok(found) => {
                // Who may replace a file by the rights of its folder may still not write to it.
                OpenOptions::new().append(true).open(file)?;
                Ok(Self::Regular { target: file.canonicalize()?, former: Some(found) })
            }
            Err(error)
                if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory]
                    .contains(&error.kind()) =>
            {
                Ok(Self::Regular { target: end_of_links(file)?, former: None })
            }
            Err(error) => Err(error),
        }
    }
}

/// True for the names of what the process has open: to replace the file behind such a
/// name would take it away from other processes that have it open.
fn is_open_file(file: &Path) -> bool {
    let names = ["/dev/stdout", "/dev/stderr"].map(Path::new);
    cfg!(unix)
        && (names.contains(&file)
            || ["/dev/fd", "/proc/self/fd"].iter().any(|folder| file.starts_with(folder)))
}

/// What a link leads to that leads to nothing yet; other paths are what they are.
fn end_of_links(file: &Path) -> io::Result<PathBuf> {
    let mut end = file.to_owned();
    for _ in 0..MOST_LINKS {
        if !end.is_symlink() {
            return Ok(end);
        }
        end = folder_of(&end).join(std::fs::read_link(&end)?);
    }
    Err(io::Error::other("too many symbolic links"))
}

/// True if a path is that of a device, a pipe or an open file, into which one writes
/// without replacing anything.
pub fn is_stream(file: &Path) -> bool {
    matches!(Place::of(file), Ok(Place::Stream(_)))
}

/// What writes into a stream.
fn stream(file: &Path) -> io::Result<Box<dyn Write>> {
    // Through the handle that the process has, what it writes to it elsewhere stays in order.
    Ok(match file.to_str() {
        Some("/dev/stdout") if cfg!(unix) => Box::new(io::stdout()),
        Some("/dev/stderr") if cfg!(unix) => Box::new(io::stderr()),
        _ => Box::new(OpenOptions::new().append(true).open(file)?),
    })
}

/// The folder that a file lies in.
pub(super) fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."))
}

/// Writes a file, whole or not at all, with the folders that it lies in. At the end of a
/// symbolic link the target is replaced; a device or a pipe is written into.
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
    let write = |(file, bytes): &(PathBuf, T)| written(file, |out| out.write_all(bytes.as_ref()));
    let written: Vec<_> = files.iter().map(write).collect::<Result<_, _>>()?;
    files.iter().zip(written).try_for_each(|((file, _), written)| named(file, written))
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

/// What a file is to hold, beside it, and its name; nothing of a stream, which has it.
type Written = Option<(tempfile::NamedTempFile, PathBuf)>;

/// Writes what `file` is to hold.
fn written(
    file: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<Written, StoreError> {
    let into = |place| {
        let (target, former) = match place {
            Place::Regular { target, former } => (target, former),
            Place::Stream(file) => {
                let mut out = stream(&file)?;
                return write(&mut out).and_then(|()| out.flush()).map(|()| None);
            }
        };
        let folder = folder_of(&target);
        make_folder(folder)?;
        let mut temporary = temporary(folder)?;
        write(&mut temporary)?;
        if let Some(former) = former {
            temporary.as_file().set_permissions(former.permissions())?;
        }
        Ok(Some((temporary, target)))
    };
    Place::of(file).and_then(into).map_err(|error| unwritten(file, error))
}

/// Gives what was written its name.
fn named(file: &Path, written: Written) -> Result<(), StoreError> {
    let Some((temporary, target)) = written else { return Ok(()) };
    temporary.persist(target).map(drop).map_err(|error| unwritten(file, error.error))
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

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};

    fn folder() -> tempfile::TempDir {
        tempfile::TempDir::new().expect("a folder")
    }

    #[test]
    fn a_device_is_written_into_and_stays_one() {
        let full = Path::new("/dev/full");
        if full.exists() {
            let wrong = write_file(full, b"text").expect_err("there is no room");
            assert!(wrong.to_string().contains("No space left"), "{wrong}");
            assert!(fs::metadata(full).expect("there").file_type().is_char_device());
        }
        write_file(Path::new("/dev/null"), b"text").expect("it takes everything");
        assert!(fs::metadata("/dev/null").expect("there").file_type().is_char_device());
        assert!(is_stream(Path::new("/dev/stdout")) && !is_stream(Path::new("Cargo.toml")));
    }

    #[test]
    fn a_pipe_gets_what_is_written() {
        let folder = folder();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.expect("mkfifo runs").success());
        check_writable(&pipe).expect("a pipe takes text");
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read_to_string(pipe).expect("text")
        });
        write_file(&pipe, b"text").expect("written");
        assert_eq!(reader.join().expect("read"), "text");
        assert!(fs::metadata(&pipe).expect("there").file_type().is_fifo());
    }

    #[test]
    fn a_link_stays_and_its_target_is_replaced() {
        let folder = folder();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("data")).expect("a folder");
        fs::write(at("data/target"), "old").expect("written");
        fs::set_permissions(at("data/target"), fs::Permissions::from_mode(0o660)).expect("set");
        symlink("data/target", at("link")).expect("a link");
        symlink("data/later", at("dangling")).expect("a link");
        for link in ["link", "dangling"] {
            write_file(&at(link), b"new").expect("written");
            assert!(at(link).is_symlink(), "{link}");
            assert_eq!(fs::read_to_string(at(link)).expect("text"), "new");
        }
        let mode = fs::metadata(at("data/target")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        symlink("circle", at("circle")).expect("a link");
        assert!(write_file(&at("circle"), b"new").is_err());
    }

    #[test]
    fn a_folder_that_is_a_file_is_named() {
        let folder = folder();
        let file = folder.path().join("file");
        fs::write(&file, "text").expect("written");
        let wrong = write_file(&file.join("within/report.txt"), b"new").expect_err("no folder");
        let wanted = format!("{} is a file, not a folder", file.display());
        assert!(wrong.to_string().ends_with(&wanted), "{wrong}");
    }

    #[test]
    fn a_read_only_file_is_refused() {
        let folder = folder();
        let file = folder.path().join("file");
        fs::write(&file, "old").expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).expect("set");
        for wrong in [check_writable(&file), write_file(&file, b"new")] {
            let wrong = wrong.expect_err("it is not to be written");
            assert!(wrong.to_string().ends_with("cannot be written: it is read-only"), "{wrong}");
        }
        assert_eq!(fs::read_to_string(&file).expect("text"), "old");
    }
}
