//! The journal of a run: which simulations are done, with their results, so
//! that a run that was killed goes on where it was.
//!
//! One line of JSON for each finished simulation, in the order in which they
//! finish, after a head line that says whose they are. Metrics read back to the
//! last bit, so a resumed run ends with the bytes of an uninterrupted one. A line
//! is handed to the operating system before its simulation counts as done: a
//! killed process loses what was in flight and no more. Lines reach the disk
//! soon after, from a thread of their own: a power cut loses the last ones too.
//! Whatever follows the first damaged line is dropped and simulated again.

use super::files::{StoreError, short};
use super::load::hex;
use super::simulate::RunOutcome;
use crate::recorder::{Curves, Metrics};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::Receiver;

/// The journal's name in the output folder.
pub(super) const JOURNAL_FILE: &str = "journal.jsonl";

/// Version of the journal's layout.
const LAYOUT: u32 = 2;

/// The first line: whose simulations follow.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    journal: u32,
    config_hash: String,
    build: String,
}

/// A finished simulation.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    run: usize,
    seed: u64,
    digest: String,
    levels: Vec<Metrics>,
    curves: Vec<Curves>,
}

/// The open journal of a run, in a folder that is locked for it.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    /// Keeps lines whole: simulations end on many threads.
    file: Mutex<File>,
    /// The simulations that were done before, by run and seed.
    found: BTreeMap<(usize, u64), RunOutcome>,
}

/// A journal whose simulations cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It is not there, or is none.
    #[error("{}: cannot be read: {reason}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// It belongs to another configuration.
    #[error(
        "{}: is of another configuration (hash {}, this one is {})",
        file.display(), short(found), short(wanted)
    )]
    Other {
        /// The file.
        file: PathBuf,
        /// Its configuration's hash.
        found: String,
        /// The hash that it should have.
        wanted: String,
    },
    /// Another program wrote it.
    #[error(
        "{}: was written by another build of sim, whose results may differ; run every part and \
         merge them with the same program",
        file.display()
    )]
    Build {
        /// The file.
        file: PathBuf,
    },
    /// It has another result of a simulation than the journals before it.
    #[error(
        "{}: has another result of run {run} with seed {seed} than the parts before it: they ran \
         on different platforms, or one of them is damaged",
        file.display()
    )]
    Contradiction {
        /// The file.
        file: PathBuf,
        /// Place of the run in the experiment.
        run: usize,
        /// The simulation's seed.
        seed: u64,
    },
}

impl Journal {
    /// Opens the journal of the configuration with this hash in `folder`, or begins
    /// one. What another `build` of the program wrote is dropped: its results may
    /// differ. The folder is [locked](super::Store).
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub fn open(folder: &Path, config_hash: &str, build: &str) -> Result<Self, StoreError> {
        let path = folder.join(JOURNAL_FILE);
        let failed =
            |error: io::Error| StoreError::Write { file: path.clone(), reason: error.to_string() };
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        let head =
            Head { journal: LAYOUT, config_hash: config_hash.to_owned(), build: build.to_owned() };
        let (found, good) = read(&bytes, &head);
        let start = |file: &mut File| -> io::Result<()> {
            file.set_len(good)?;
            file.seek(SeekFrom::Start(good))?;
            if good == 0 {
                file.write_all(&line(&head))?;
            }
            file.sync_data()
        };
        start(&mut file).map_err(failed)?;
        Ok(Self { path, file: Mutex::new(file), found })
    }

    /// How many simulations were found to be done.
    pub fn found(&self) -> usize {
        self.found.len()
    }

    /// Takes over what the journal in another `folder` has of the same configuration,
    /// written by a program of the same `build`; gives the number of its simulations.
    /// That folder is not locked: a line that is being written is left out.
    ///
    /// # Errors
    /// If it cannot be read, belongs to another configuration or build, or contradicts
    /// what was found before.
    pub fn take_over(
        &mut self,
        folder: &Path,
        config_hash: &str,
        is_same_build: impl Fn(&str) -> bool,
    ) -> Result<usize, JournalError> {
        let path = folder.join(JOURNAL_FILE);
        let bytes = std::fs::read(&path).map_err(|error| JournalError::Unreadable {
            file: path.clone(),
            reason: error.to_string(),
        })?;
        let head = whole_lines(&bytes).next().and_then(|line| serde_json::from_slice(line).ok());
        let head: Head = head.filter(|head: &Head| head.journal == LAYOUT).ok_or_else(|| {
            let reason = "it is not a journal of this version".to_owned();
            JournalError::Unreadable { file: path.clone(), reason }
        })?;
        if head.config_hash != config_hash {
            let (found, wanted) = (head.config_hash, config_hash.to_owned());
            return Err(JournalError::Other { file: path, found, wanted });
        }
        if !is_same_build(&head.build) {
            return Err(JournalError::Build { file: path });
        }
        let (found, _) = read(&bytes, &head);
        let count = found.len();
        for ((run, seed), outcome) in found {
            let before = self.found.insert((run, seed), outcome);
            if before.is_some_and(|before| before.digest != self.found[&(run, seed)].digest) {
                return Err(JournalError::Contradiction { file: path, run, seed });
            }
        }
        Ok(count)
    }

    /// Whether this simulation was done before.
    pub(crate) fn has(&self, run: usize, seed: u64) -> bool {
        self.found.contains_key(&(run, seed))
    }

    /// Takes the journal away: the results are saved, or will never be.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove(&self) -> Result<(), StoreError> {
        std::fs::remove_file(&self.path).map_err(|error| self.failed(&error))
    }

    /// What a simulation found, if it was done before.
    pub(super) fn outcome(&self, run: usize, seed: u64) -> Option<RunOutcome> {
        self.found.get(&(run, seed)).cloned()
    }

    /// Writes down that a simulation is done.
    pub(super) fn append(
        &self,
        run: usize,
        seed: u64,
        outcome: &RunOutcome,
    ) -> Result<(), StoreError> {
        let (levels, curves) = (outcome.levels.clone(), outcome.curves.clone());
        let line = line(&Line { run, seed, digest: hex(&outcome.digest), levels, curves });
        let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        file.write_all(&line).map_err(|error| self.failed(&error))
    }

    /// Brings lines to the disk whenever some were written, until no thread writes any more.
    pub(super) fn sync(&self, written: &Receiver<()>) -> Result<(), StoreError> {
        let file = {
            let file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            file.try_clone().map_err(|error| self.failed(&error))?
        };
        while written.recv().is_ok() {
            // One sync serves all lines written so far.
            while written.try_recv().is_ok() {}
            file.sync_data().map_err(|error| self.failed(&error))?;
        }
        Ok(())
    }

    fn failed(&self, error: &io::Error) -> StoreError {
        StoreError::Write { file: self.path.clone(), reason: error.to_string() }
    }
}

/// Configuration hash of the unfinished run in `folder`, if there is one with
/// any result.
pub(super) fn unfinished(folder: &Path) -> Option<String> {
    let bytes = std::fs::read(folder.join(JOURNAL_FILE)).ok()?;
    let mut lines = whole_lines(&bytes);
    let head: Head = serde_json::from_slice(lines.next()?).ok()?;
    lines.next().map(|_| head.config_hash)
}

/// Removes the journal of whatever run was in `folder`.
pub(super) fn discard(folder: &Path) -> io::Result<()> {
    match std::fs::remove_file(folder.join(JOURNAL_FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The simulations in a journal with this head, and the bytes up to the end of
/// the last good line; nothing of a journal with another head.
fn read(bytes: &[u8], head: &Head) -> (BTreeMap<(usize, u64), RunOutcome>, u64) {
    let mut found = BTreeMap::new();
    let mut good = 0;
    for (number, line) in whole_lines(bytes).enumerate() {
        let is_good = if number == 0 {
            serde_json::from_slice(line).ok().as_ref() == Some(head)
        } else {
            entry(line).map(|(key, outcome)| found.insert(key, outcome)).is_some()
        };
        if !is_good {
            break;
        }
        good += line.len() as u64 + 1;
    }
    (found, good)
}

fn entry(line: &[u8]) -> Option<((usize, u64), RunOutcome)> {
    let Line { run, seed, digest, levels, curves } = serde_json::from_slice(line).ok()?;
    let digest = unhex(&digest)?;
    Some(((run, seed), RunOutcome::found(levels, curves, digest)))
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if text.len() != 2 * digest.len() {
        return None;
    }
    for (i, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(digest)
}

/// Lines that have their line feed; a torn last one is left out.
fn whole_lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split_inclusive(|&byte| byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"))
}

fn line(value: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).expect("plain data with text keys has no way to fail");
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head() -> Head {
        Head { journal: LAYOUT, config_hash: "c".repeat(64), build: "b".to_owned() }
    }

    fn outcome(run: usize, value: Option<f64>) -> RunOutcome {
        let metrics = Metrics::from([("ttft_ms_p95".to_owned(), value)]);
        let digest = [u8::try_from(run).expect("few runs"); 32];
        let curve = Curves::from([("ttft_ms".to_owned(), value.into_iter().collect())]);
        RunOutcome::found(vec![metrics; 2], vec![curve; 2], digest)
    }

    fn journal(values: &[Option<f64>]) -> Vec<u8> {
        let mut bytes = line(&head());
        for (run, &value) in values.iter().enumerate() {
            let RunOutcome { levels, curves, digest, .. } = outcome(run, value);
            bytes.extend(line(&Line { run, seed: 7, digest: hex(&digest), levels, curves }));
        }
        bytes
    }

    proptest! {
        /// Cut anywhere, a journal gives what its whole lines say, to the last bit.
        #[test]
        fn a_torn_journal_keeps_its_whole_lines(
            values in prop::collection::vec(
                prop::option::of(any::<f64>().prop_filter("finite", |v| v.is_finite())), 1..6),
            cut in 0.0..=1.0f64,
        ) {
            let bytes = journal(&values);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let cut = (bytes.len() as f64 * cut) as usize;
            let (found, good) = read(&bytes[..cut], &head());
            let lines = bytes[..cut].iter().filter(|&&b| b == b'\n').count();
            prop_assert_eq!(found.len(), lines.saturating_sub(1));
            let whole = bytes[..cut].iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
            prop_assert_eq!(good, whole as u64);
            for (run, &value) in values.iter().enumerate().take(found.len()) {
                let back = &found[&(run, 7)];
                let bits = |v: Option<f64>| v.map(f64::to_bits);
                prop_assert_eq!(bits(back.levels[1]["ttft_ms_p95"]), bits(value));
                prop_assert_eq!(bits(back.curves[1]["ttft_ms"].first().copied()), bits(value));
                prop_assert_eq!(back.digest, outcome(run, value).digest);
            }
        }

        /// Nothing that a disk may hold makes it panic.
        #[test]
        fn damage_is_dropped(
            at in 0.0..1.0f64, byte in any::<u8>(), values in prop::collection::vec(Just(Some(1.5)), 1..5)
        ) {
            let mut bytes = journal(&values);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let at = (bytes.len() as f64 * at) as usize;
            bytes[at] = byte;
            let (found, good) = read(&bytes, &head());
            prop_assert!(found.len() <= values.len() && good <= bytes.len() as u64);
        }
    }

    #[test]
    fn another_builds_journal_is_begun_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = |build: &str| Journal::open(folder.path(), &"c".repeat(64), build);
        let journal = open("one").expect("a journal");
        journal.append(0, 1, &outcome(0, Some(1.0))).expect("written");
        drop(journal);
        assert_eq!(open("one").expect("a journal").found(), 1);
        assert_eq!(open("two").expect("a journal").found(), 0);
    }
}
