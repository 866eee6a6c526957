//! One experiment on several machines: each runs a [part](Shard) of the simulations
//! into a folder of its own, and the folders are merged into the one that a single
//! machine would have made, byte for byte.
//!
//! A part's folder has the journal of an unfinished run, and beside it `shard.json`:
//! which part it is, and of what. So a part that was killed goes on like any run.

use super::read::{ReadError, read};
use super::{
    AgainError, Done, ResultFolder, Results, RunInto, Saved, run_into, simulate, this_program,
};
use crate::experiment::results::SCHEMA_VERSION;
use crate::experiment::{
    self, Experiment, Journal, JournalError, LoadOptions, RunError, RunOptions, SHARD_FILE, Shard,
    StoreError,
};
use crate::report::render::save;
use crate::settings::Invalid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// `shard.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    schema_version: u32,
    shard: u32,
    shards: u32,
    /// The experiment's file, as it was named.
    experiment: String,
    /// What was changed in it, as `KEY=VALUE`, in order.
    overrides: Vec<String>,
    /// The metric that settings are compared by.
    tuned_for: Option<String>,
    config_hash: String,
}

/// Folders with all parts of one experiment.
#[derive(Debug)]
pub struct Shards {
    /// The folder of each part, in order of their numbers.
    folders: Vec<PathBuf>,
    note: Note,
}

/// Why parts cannot be merged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// A folder is no part.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A folder is a part that there cannot be.
    #[error("{}: {source}", file.display())]
    Shard {
        /// The `shard.json`.
        file: PathBuf,
        /// What is wrong with it.
        source: Invalid,
    },
    /// Two folders are parts of different things.
    #[error(
        "{} and {} are not parts of one run: they differ in {key}", one.display(), other.display()
    )]
    Apart {
        /// The first folder.
        one: PathBuf,
        /// The folder that does not go with it.
        other: PathBuf,
        /// In what.
        key: &'static str,
    },
    /// Two folders are the same part.
    #[error("{} and {} are both shard {shard}", one.display(), other.display())]
    Twice {
        /// The first folder.
        one: PathBuf,
        /// The second.
        other: PathBuf,
        /// Which part they are.
        shard: Shard,
    },
    /// A part is not among the folders.
    #[error("no folder has shard {shard}")]
    Missing {
        /// The first part that is missing.
        shard: Shard,
    },
    /// A part did not get to its end.
    #[error(
        "{}: shard {shard} is not finished: {missing} of its {all} simulations are missing",
        folder.display()
    )]
    Unfinished {
        /// Its folder.
        folder: PathBuf,
        /// Which part it is.
        shard: Shard,
        /// Simulations that it has not.
        missing: usize,
        /// Simulations that it should have.
        all: usize,
    },
    /// The experiment cannot be loaded, or has changed.
    #[error(transparent)]
    Again(#[from] AgainError),
    /// The simulations of a part cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// They cannot be put together.
    #[error(transparent)]
    Run(#[from] RunError),
}

impl ResultFolder {
    /// Simulates a part of the experiment, or the rest of that part, and leaves it in
    /// the folder for [`Shards`]; gives the number of its simulations.
    ///
    /// # Errors
    /// As [`run`](Self::run); and if the folder has another part.
    ///
    /// # Panics
    /// If `options` keep requests, which no journal holds.
    pub fn run_shard(
        &self,
        experiment: &Experiment,
        shard: Shard,
        options: &RunInto<'_>,
    ) -> Result<usize, RunError> {
        assert!(!options.keeps_requests(), "a part keeps no requests");
        let note = Note {
            schema_version: SCHEMA_VERSION,
            shard: shard.number(),
            shards: shard.of(),
            experiment: options.file.display().to_string(),
            overrides: options.overrides.clone(),
            tuned_for: options.tuned_for.clone(),
            config_hash: experiment.config_hash.clone(),
        };
        let file = self.path().join(SHARD_FILE);
        if let Ok(before) = read::<Note>(&file)
            && (before.shard, before.shards) != (note.shard, note.shards)
        {
            let reason = format!("it has shard {} of {}", before.shard, before.shards);
            let folder = self.path().into();
            return Err(RunError::Journal(StoreError::Unwritable { folder, reason }));
        }
        let mut files = self.store.stage()?;
        files.write(SHARD_FILE, save::json(&note).as_bytes())?;
        files.publish()?;
        let journal = Journal::open(self.path(), self.store.config_hash(), &this_program())?;
        if journal.found() > 0 {
            let (all, _) = experiment::lacking(experiment, shard, &journal);
            options.progress.resumed(journal.found(), all);
        }
        let run = RunOptions {
            jobs: options.jobs,
            progress: options.progress,
            stop: options.stop,
            keep_requests: false,
            journal: Some(&journal),
        };
        experiment::run_shard(experiment, shard, run)
    }
}

impl Shards {
    /// The parts in these folders, in any order.
    ///
    /// # Errors
    /// If one is no part, is there twice or is missing, or they do not belong together.
    pub fn open(folders: &[PathBuf]) -> Result<Self, MergeError> {
        let mut parts: BTreeMap<Shard, &PathBuf> = BTreeMap::new();
        let mut first: Option<(&PathBuf, Note)> = None;
        for folder in folders {
            let file = folder.join(SHARD_FILE);
            let note: Note = read(&file)?;
            let shard = Shard::new(note.shard, note.shards)
                .map_err(|source| MergeError::Shard { file, source })?;
            let (one, of) = first.get_or_insert_with(|| (folder, note.clone()));
            if let Some(key) = of.differs(&note) {
                let (one, other) = (one.to_path_buf(), folder.clone());
                return Err(MergeError::Apart { one, other, key });
            }
            if let Some(one) = parts.insert(shard, folder) {
                let (one, other) = (one.clone(), folder.clone());
                return Err(MergeError::Twice { one, other, shard });
            }
        }
        let nothing = || Shard::new(1, 1).expect("the only part");
        let Some((_, note)) = first else { return Err(MergeError::Missing { shard: nothing() }) };
        for number in 1..=note.shards {
            let shard = Shard::new(number, note.shards)
                .expect("the parts that were found have this number too");
            if !parts.contains_key(&shard) {
                return Err(MergeError::Missing { shard });
            }
        }
        Ok(Self { folders: parts.into_values().cloned().collect(), note })
    }

    /// The experiment of the parts; `file` says where it is if not where it was.
    ///
    /// # Errors
    /// If it cannot be loaded or has changed.
    pub fn experiment(
        &self,
        file: Option<PathBuf>,
        traces: Option<PathBuf>,
    ) -> Result<Experiment, AgainError> {
        let file = file.unwrap_or_else(|| PathBuf::from(&self.note.experiment));
        let overrides = self.note.overrides.clone();
        let options = LoadOptions { overrides, traces, ..LoadOptions::default() };
        let experiment = Experiment::load(&file, &options)?;
        if experiment.config_hash != self.note.config_hash {
            return Err(AgainError::Other { file, results: self.folders[0].clone() });
        }
        Ok(experiment)
    }

    /// How a single machine would have run it.
    pub fn options(&self) -> RunInto<'static> {
        let Note { experiment, overrides, tuned_for, .. } = self.note.clone();
        RunInto { tuned_for, ..RunInto::new(experiment, overrides) }
    }

    /// The results of all parts, to be [saved](ResultFolder::save) in `folder`.
    ///
    /// # Errors
    /// If a part cannot be read or is not finished, or two contradict each other.
    pub fn merge(
        &self,
        experiment: &Experiment,
        folder: &ResultFolder,
        options: &RunInto<'_>,
    ) -> Result<Done, MergeError> {
        let (hash, program) = (folder.store.config_hash(), this_program());
        let journal = Journal::open(folder.path(), hash, &program).map_err(RunError::from)?;
        let is_new = journal.found() == 0;
        let gathered = self.gather(experiment, &journal);
        if gathered.is_err() && is_new {
            // Nothing is left of a merge that failed.
            journal.remove().map_err(RunError::from)?;
        }
        gathered?;
        let run = RunOptions { journal: Some(&journal), ..RunOptions::default() };
        let outcome = simulate(experiment, run, options.makes_columns(experiment))?;
        Ok(Done { outcome, journal: Some(journal) })
    }

    /// Takes the simulations of all parts into `journal`.
    fn gather(&self, experiment: &Experiment, journal: &Journal) -> Result<(), MergeError> {
        for part in &self.folders {
            journal.take_over(part, is_same)?;
        }
        let first = experiment::parts_lacking(experiment, self.note.shards, journal).pop_first();
        if let Some(shard) = first {
            let (all, missing) = experiment::lacking(experiment, shard, journal);
            let folder = self.folders[shard.number() as usize - 1].clone();
            return Err(MergeError::Unfinished { folder, shard, missing, all });
        }
        Ok(())
    }
}

/// Simulations that other machines do, gathered in a result folder as they come. What has
/// come is kept there: a gathering that ends before its time goes on like any run.
#[derive(Debug)]
pub struct Gathering {
    folder: ResultFolder,
    journal: Journal,
}

impl Gathering {
    /// Into a folder, with what a run that was not finished has left there.
    ///
    /// # Errors
    /// If the folder cannot be read or written.
    pub fn resume(folder: ResultFolder) -> Result<Self, StoreError> {
        let journal = Journal::open(folder.path(), folder.store.config_hash(), &this_program())?;
        Ok(Self { folder, journal })
    }

    /// Into a folder, with nothing of what is there: for policies whose code may have
    /// changed.
    ///
    /// # Errors
    /// As [`resume`](Self::resume).
    pub fn begin(folder: ResultFolder) -> Result<Self, StoreError> {
        folder.store.discard_journal()?;
        Self::resume(folder)
    }

    /// How many simulations have come.
    pub fn done(&self) -> usize {
        self.journal.done()
    }

    /// Those of so many parts of which a simulation has not come yet, in order.
    ///
    /// # Errors
    /// If there cannot be so many parts.
    pub fn missing(&self, experiment: &Experiment, of: u32) -> Result<Vec<Shard>, Invalid> {
        let of = Shard::new(1, of)?.of();
        Ok(experiment::parts_lacking(experiment, of, &self.journal).into_iter().collect())
    }

    /// Takes the journal of a part, as its [folder](ResultFolder::run_shard) has it. What
    /// comes twice is kept once.
    ///
    /// # Errors
    /// If it is damaged, of another configuration or build, or contradicts what came
    /// before.
    pub fn take(&self, shard: Shard, journal: &[u8]) -> Result<usize, JournalError> {
        let name = PathBuf::from(format!("shard {shard}"));
        self.journal.take(&name, &mut &journal[..], is_same)
    }

    /// Simulates here what has not come, and gives the results; they are saved if
    /// `is_saved`.
    ///
    /// # Errors
    /// As [`run_into`](super::run_into).
    pub fn finish(
        self,
        experiment: &Experiment,
        options: &RunInto<'_>,
        is_saved: bool,
    ) -> Result<Saved, RunError> {
        let Self { folder, journal } = self;
        drop(journal);
        let mut options = RunInto { resumable: true, ..options.clone() };
        if is_saved {
            return run_into(folder, experiment, &options);
        }
        options.most_in_json = usize::MAX;
        let Done { outcome, journal } = folder.run(experiment, &options)?;
        journal.as_ref().map_or(Ok(()), Journal::remove)?;
        let outcome = *outcome.expect("only columns stay in the journal");
        let results = Results::of(experiment, outcome, &options).0;
        Ok(Saved { results, in_columns: None, report: Ok(()), contradicts: None })
    }

    /// Ends it, and leaves nothing of what has come.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn give_up(self) -> Result<(), StoreError> {
        self.journal.remove()
    }
}

impl Note {
    /// In what the other one is not a part of the same, if in anything.
    fn differs(&self, other: &Self) -> Option<&'static str> {
        let same = [
            ("the number of shards", self.shards == other.shards),
            ("the experiment", self.experiment == other.experiment),
            ("what was set in it", self.overrides == other.overrides),
            ("the metric to tune for", self.tuned_for == other.tuned_for),
            ("the configuration", self.config_hash == other.config_hash),
        ];
        same.into_iter().find_map(|(key, is_same)| (!is_same).then_some(key))
    }
}

/// Whether journals were written by copies of one program: the same version and size.
/// On another machine the file has another date.
fn is_same(build: &str, other: &str) -> bool {
    let of = |build: &str| build.split(' ').take(2).map(str::to_owned).collect::<Vec<_>>();
    of(build) == of(other)
}
