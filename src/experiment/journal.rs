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
//!
//! In memory there is only where each line begins and what its digest is, some 100 bytes
//! a simulation. Results are read back line by line when they are put together.

use super::files::{StoreError, short};
use super::load::hex;
use super::simulate::RunOutcome;
use crate::recorder::{Curves, Metrics};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::sync::{Mutex, MutexGuard, PoisonError};

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
    head: Head,
    /// Simulations that were done when it was opened.
    found: usize,
    /// Keeps lines whole: simulations end on many threads.
    lines: Mutex<Lines>,
}

/// The lines of a journal, and where they are.
#[derive(Debug)]
struct Lines {
    file: File,
    /// Up to here all lines are whole; the next one begins here.
    end: u64,
    places: BTreeMap<(usize, u64), Place>,
    /// Of all metrics in them.
    names: BTreeSet<String>,
}

/// A simulation's line.
#[derive(Clone, Copy, Debug)]
struct Place {
    at: u64,
    /// Without its line feed.
    bytes: usize,
    levels: usize,
    digest: [u8; 32],
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
    /// What was read of it cannot be kept.
    #[error(transparent)]
    Store(StoreError),
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
        let head =
            Head { journal: LAYOUT, config_hash: config_hash.to_owned(), build: build.to_owned() };
        let (mut places, mut names) = (BTreeMap::new(), BTreeSet::new());
        let good = scan(&mut BufReader::new(&file), &head, |key, place, outcome, _| {
            places.insert(key, place);
            note_names(&mut names, outcome);
            Ok(())
        });
        let start = |file: &mut File| -> io::Result<u64> {
            let good = good?;
            file.set_len(good)?;
            let mut end = good;
            if good == 0 {
                let first = line(&head);
                file.seek(SeekFrom::Start(0))?;
                file.write_all(&first)?;
                end = first.len() as u64;
            }
            file.sync_data()?;
            Ok(end)
        };
        let end = start(&mut file).map_err(failed)?;
        let found = places.len();
        Ok(Self { path, head, found, lines: Mutex::new(Lines { file, end, places, names }) })
    }

    /// How many simulations were found to be done when it was opened.
    pub fn found(&self) -> usize {
        self.found
    }

    /// Takes over what the journal in another `folder` has of the same configuration,
    /// written by a program of the same `build`; gives the number of its simulations.
    /// That folder is not locked: a line that is being written is left out.
    ///
    /// # Errors
    /// If it cannot be read, belongs to another configuration or build, or contradicts
    /// what was found before; or if this journal cannot be written.
    pub fn take_over(
        &self,
        folder: &Path,
        is_same_build: impl Fn(&str, &str) -> bool,
    ) -> Result<usize, JournalError> {
        let path = folder.join(JOURNAL_FILE);
        let file = File::open(&path).map_err(|error| JournalError::Unreadable {
            file: path.clone(),
            reason: error.to_string(),
        })?;
        self.take(&path, &mut BufReader::new(file), is_same_build)
    }

    /// As [`take_over`](Self::take_over), of the bytes of a journal; `path` names it in
    /// messages.
    ///
    /// # Errors
    /// As [`take_over`](Self::take_over).
    pub fn take(
        &self,
        path: &Path,
        bytes: &mut (impl BufRead + ?Sized),
        is_same_build: impl Fn(&str, &str) -> bool,
    ) -> Result<usize, JournalError> {
        let unreadable = |reason: String| JournalError::Unreadable { file: path.into(), reason };
        let mut first = Vec::new();
        bytes.read_until(b'\n', &mut first).map_err(|error| unreadable(error.to_string()))?;
        let head = first.strip_suffix(b"\n").and_then(|line| serde_json::from_slice(line).ok());
        let head = head
            .filter(|head: &Head| head.journal == LAYOUT)
            .ok_or_else(|| unreadable("it is not a journal of this version".to_owned()))?;
        if head.config_hash != self.head.config_hash {
            let (found, wanted) = (head.config_hash, self.head.config_hash.clone());
            return Err(JournalError::Other { file: path.into(), found, wanted });
        }
        if !is_same_build(&head.build, &self.head.build) {
            return Err(JournalError::Build { file: path.into() });
        }
        let mut wrong = None;
        let mut count = 0;
        let mut again = io::Read::chain(&first[..], bytes);
        let read = scan(&mut again, &head, |(run, seed), place, outcome, line| {
            count += 1;
            let mut lines = self.lock();
            match lines.places.get(&(run, seed)) {
                Some(before) if before.digest == place.digest => Ok(()),
                Some(_) => {
                    wrong = Some(JournalError::Contradiction { file: path.into(), run, seed });
                    Err(io::Error::other("contradiction"))
                }
                None => lines.add((run, seed), outcome, line).inspect_err(|error| {
                    wrong = Some(JournalError::Store(self.failed(error)));
                }),
            }
        });
        match (wrong, read) {
            (Some(wrong), _) => Err(wrong),
            (None, Err(error)) => Err(unreadable(error.to_string())),
            (None, Ok(_)) => Ok(count),
        }
    }

    /// Whether this simulation, of so many levels, is done.
    pub(crate) fn has(&self, run: usize, seed: u64, levels: usize) -> bool {
        self.lock().places.get(&(run, seed)).is_some_and(|place| place.levels == levels)
    }

    /// How many simulations are done.
    pub(crate) fn done(&self) -> usize {
        self.lock().places.len()
    }

    /// The digest of a simulation, if it is done.
    #[cfg(feature = "columns")]
    pub(super) fn digest(&self, run: usize, seed: u64) -> Option<[u8; 32]> {
        self.lock().places.get(&(run, seed)).map(|place| place.digest)
    }

    /// Takes the journal away: the results are saved, or will never be.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove(&self) -> Result<(), StoreError> {
        std::fs::remove_file(&self.path).map_err(|error| self.failed(&error))
    }

    /// The names of all metrics that simulations have so far.
    #[cfg(feature = "columns")]
    pub(super) fn metric_names(&self) -> BTreeSet<String> {
        self.lock().names.clone()
    }

    /// What a simulation found, if it is done.
    ///
    /// # Errors
    /// If it cannot be read back.
    pub(super) fn outcome(&self, run: usize, seed: u64) -> Result<Option<RunOutcome>, StoreError> {
        let unreadable = |reason: String| StoreError::ReadBack { file: self.path.clone(), reason };
        let mut lines = self.lock();
        let Some(&Place { at, bytes, .. }) = lines.places.get(&(run, seed)) else {
            return Ok(None);
        };
        let mut text = vec![0; bytes];
        let read = lines.file.seek(SeekFrom::Start(at));
        let read = read.and_then(|_| lines.file.read_exact(&mut text));
        drop(lines);
        read.map_err(|error| unreadable(error.to_string()))?;
        match entry(&text) {
            Some((key, outcome)) if key == (run, seed) => Ok(Some(outcome)),
            _ => Err(unreadable("it was changed by another program".to_owned())),
        }
    }

    /// Writes down that a simulation is done.
    pub(super) fn append(
        &self,
        run: usize,
        seed: u64,
        outcome: &RunOutcome,
    ) -> Result<(), StoreError> {
        let (levels, curves) = (outcome.levels.clone(), outcome.curves.clone());
        let text = line(&Line { run, seed, digest: hex(&outcome.digest), levels, curves });
        let text = text.strip_suffix(b"\n").expect("lines end");
        let added = self.lock().add((run, seed), outcome, text);
        added.map_err(|error| self.failed(&error))
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings lines to the disk whenever some were written, until no thread writes any more.
    pub(super) fn sync(&self, written: &Receiver<()>) -> Result<(), StoreError> {
        let file = {
            let lines = self.lock();
            lines.file.try_clone().map_err(|error| self.failed(&error))?
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

impl Lines {
    /// Adds a line, given without its line feed.
    fn add(&mut self, key: (usize, u64), outcome: &RunOutcome, text: &[u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(self.end))?;
        let mut whole = Vec::with_capacity(text.len() + 1);
        whole.extend_from_slice(text);
        whole.push(b'\n');
        self.file.write_all(&whole)?;
        let (levels, digest) = (outcome.levels.len(), outcome.digest);
        self.places.insert(key, Place { at: self.end, bytes: text.len(), levels, digest });
        note_names(&mut self.names, outcome);
        self.end += whole.len() as u64;
        Ok(())
    }
}

/// Configuration hash of the unfinished run in `folder`, if there is one with
/// any result.
pub(super) fn unfinished(folder: &Path) -> Option<String> {
    let mut file = BufReader::new(File::open(folder.join(JOURNAL_FILE)).ok()?);
    let mut whole_line = || -> Option<Vec<u8>> {
        let mut line = Vec::new();
        file.read_until(b'\n', &mut line).ok()?;
        line.ends_with(b"\n").then_some(line)
    };
    let head: Head = serde_json::from_slice(&whole_line()?).ok()?;
    whole_line().map(|_| head.config_hash)
}

/// Removes the journal of whatever run was in `folder`.
pub(super) fn discard(folder: &Path) -> io::Result<()> {
    match std::fs::remove_file(folder.join(JOURNAL_FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Tells `each` simulation in a journal with this head, its place and its line, up to the
/// first line that is damaged or torn; gives where the good lines end. `each` hears nothing
/// of a journal with another head.
fn scan(
    journal: &mut (impl BufRead + ?Sized),
    head: &Head,
    mut each: impl FnMut((usize, u64), Place, &RunOutcome, &[u8]) -> io::Result<()>,
) -> io::Result<u64> {
    let mut good = 0;
    let mut whole = Vec::new();
    loop {
        whole.clear();
        let read = journal.read_until(b'\n', &mut whole)?;
        let Some(line) = whole.strip_suffix(b"\n") else { return Ok(good) };
        if good == 0 {
            if serde_json::from_slice(line).ok().as_ref() != Some(head) {
                return Ok(good);
            }
        } else {
            let Some((key, outcome)) = entry(line) else { return Ok(good) };
            let (levels, digest) = (outcome.levels.len(), outcome.digest);
            let place = Place { at: good, bytes: line.len(), levels, digest };
            each(key, place, &outcome, line)?;
        }
        good += read as u64;
    }
}

fn note_names(names: &mut BTreeSet<String>, outcome: &RunOutcome) {
    for name in outcome.levels.iter().flat_map(|metrics| metrics.keys()) {
        if !names.contains(name) {
            names.insert(name.clone());
        }
    }
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

    fn read(bytes: &[u8]) -> (BTreeMap<(usize, u64), RunOutcome>, u64) {
        let mut found = BTreeMap::new();
        let good = scan(&mut &bytes[..], &head(), |key, place, _, text| {
            let at = usize::try_from(place.at).expect("short");
            assert_eq!(&bytes[at..at + place.bytes], text);
            found.insert(key, entry(text).expect("good").1);
            Ok(())
        });
        (found, good.expect("memory can be read"))
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
            let (found, good) = read(&bytes[..cut]);
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
            let (found, good) = read(&bytes);
            prop_assert!(found.len() <= values.len() && good <= bytes.len() as u64);
        }
    }

    #[test]
    fn what_another_journal_has_is_kept_too() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let open = |folder: &Path| Journal::open(folder, &"c".repeat(64), "b").expect("a journal");
        let (own, other) = (open(here.path()), open(there.path()));
        own.append(0, 1, &outcome(0, Some(0.5))).unwrap();
        other.append(0, 1, &outcome(0, Some(0.5))).unwrap();
        other.append(1, 1, &outcome(1, Some(1.5))).unwrap();
        let same = |a: &str, b: &str| a == b;
        assert_eq!(own.take_over(there.path(), same).unwrap(), 2);
        assert_eq!(own.take_over(there.path(), same).unwrap(), 2, "taken twice, kept once");
        other.append(0, 2, &outcome(0, None)).unwrap();
        own.append(0, 2, &outcome(3, None)).unwrap();
        let wrong = own.take_over(there.path(), same).unwrap_err();
        assert!(matches!(wrong, JournalError::Contradiction { run: 0, seed: 2, .. }), "{wrong}");
        drop(own);
        let again = open(here.path());
        assert_eq!(again.found(), 3);
        let back = again.outcome(1, 1).unwrap().expect("taken over");
        assert_eq!(back.levels[0]["ttft_ms_p95"], Some(1.5));
    }

    #[test]
    fn another_builds_journal_is_begun_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = |build: &str| Journal::open(folder.path(), &"c".repeat(64), build);
        let journal = open("one").expect("a journal");
        journal.append(0, 1, &outcome(0, Some(1.0))).expect("written");
        let back = journal.outcome(0, 1).expect("read back").expect("done");
        assert_eq!(back.levels[1]["ttft_ms_p95"], Some(1.0));
        journal.append(1, 1, &outcome(1, None)).expect("written after it was read");
        drop(journal);
        let journal = open("one").expect("a journal");
        assert_eq!(journal.found(), 2);
        #[cfg(feature = "columns")]
        assert_eq!(journal.digest(1, 1), Some([1; 32]));
        assert!(journal.has(0, 1, 2) && !journal.has(0, 2, 2) && !journal.has(0, 1, 3));
        drop(journal);
        assert_eq!(open("two").expect("a journal").found(), 0);
    }
}
