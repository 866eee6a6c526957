//! Where the files of public traces are, and whether they are the right ones.

use super::{PublicTrace, TraceError};
use crate::catalogue;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

impl PublicTrace {
    /// The file in the first of `folders` that has it, or that comes with the program.
    ///
    /// # Errors
    /// If none has; the error says what to download and where to put it.
    pub fn find(&'static self, folders: &[PathBuf]) -> Result<PathBuf, TraceError> {
        let shipped = Path::new(catalogue::ROOT).join("traces");
        let candidates = folders.iter().chain([&shipped]).map(|folder| folder.join(&self.file));
        candidates.into_iter().find(|path| catalogue::is_file(path)).ok_or_else(|| {
            TraceError::NotHere {
                trace: self,
                looked_in: folders.iter().map(|folder| folder.display().to_string()).collect(),
            }
        })
    }

    /// Compares the file at `path` with the manifest's SHA-256; where that has none, with its
    /// number of rows.
    ///
    /// # Errors
    /// If it cannot be read, or is another file.
    pub fn verify(&'static self, path: &Path) -> Result<(), TraceError> {
        let text = catalogue::read(path).map_err(|error| TraceError::read(path, &error))?;
        let (seen, is_right) = match &self.sha256 {
            Some(sha256) => {
                let digest = Sha256::digest(&text);
                let seen: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                let is_right = seen == *sha256;
                (format!("its SHA-256 is {seen}"), is_right)
            }
            None => {
                let rows = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
                let rows = rows.count();
                (format!("it has {rows} rows, not {}", self.rows), rows == self.rows as usize)
            }
        };
        if is_right {
            return Ok(());
        }
        Err(TraceError::Other { path: path.to_owned(), trace: self, seen })
    }
}
