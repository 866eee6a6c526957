//! What makes policies: known by name in `router.policy`, with parameters of
//! their own.

use super::parameters::{self, Parameter, Parameters, Surroundings};
use super::policy::Policy;
use super::spec::ClusterSpec;
use crate::settings::Invalid;
use crate::time::SimDuration;
use std::fmt;
use std::sync::{Arc, OnceLock};
use toml::Table;

/// Makes policies of one kind.
///
/// A factory is shared by everything that runs, so it must not change. A policy
/// is made inside the job that runs it and need not be `Send`. For a policy in
/// Rust a [`Registration`] is all it takes; other languages implement this trait.
///
/// Parameters are a TOML table of keys of `[router]`:
/// [`complete`](Self::complete) makes it from those that were given, and every
/// other method gets what it made.
pub trait PolicyFactory: fmt::Debug + Send + Sync {
    /// What the policy is.
    fn about(&self) -> &About;

    /// As written in `router.policy`. Where [`about`](Self::about) takes a while, as it does
    /// where parameters are described, this need not.
    fn name(&self) -> &str {
        &self.about().name
    }

    /// All parameters, where these were `given`; each of them is known.
    ///
    /// # Errors
    /// The first key whose value is not of its kind.
    fn complete(&self, given: &Table) -> Result<Table, Invalid>;

    /// Refuses parameters that the policy cannot work with.
    ///
    /// # Errors
    /// The first such key.
    fn check(&self, _parameters: &Table) -> Result<(), Invalid> {
        Ok(())
    }

    /// Refuses parameters that do not fit what stands around the policy.
    ///
    /// # Errors
    /// The first such key.
    fn check_in(&self, _parameters: &Table, _: &Surroundings) -> Result<(), Invalid> {
        Ok(())
    }

    /// A fresh policy for one front end; `seed` is all the randomness it gets.
    fn build(&self, parameters: &Table, cluster: &ClusterSpec, seed: u64) -> Box<dyn Policy>;

    /// Whether the publisher of KV events that goes with the policy counts copies
    /// of a block, unless `[router.feed]` says.
    fn counts_copies(&self, _parameters: &Table) -> bool {
        true
    }
}

/// What a policy is, whatever its parameters.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct About {
    /// As written in `router.policy`.
    pub name: String,
    /// Its rule, in one line.
    pub rule: String,
    /// What it restates, if anything.
    pub origin: Option<Origin>,
    /// Its keys in `[router]`.
    pub parameters: Vec<Parameter>,
    /// The metrics that it counts about itself ([`Policy::notes`]).
    pub metrics: Vec<String>,
    /// Whether it takes a worker of the lowest cost that it explains and books
    /// what others decided, so that it can be asked what it would have done.
    pub can_follow: bool,
    /// Whether it chooses among ranks, where workers have several, unless
    /// `router.targets` says.
    pub targets_ranks: bool,
    /// Whether single workers can be left out of its choice while they are busy.
    pub can_leave_out: bool,
}

impl About {
    /// A policy without parameters.
    pub fn new(name: impl Into<String>, rule: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            rule: rule.into(),
            origin: None,
            parameters: Vec::new(),
            metrics: Vec::new(),
            can_follow: false,
            targets_ranks: false,
            can_leave_out: false,
        }
    }

    /// True if `key` is a parameter.
    pub fn knows(&self, key: &str) -> bool {
        self.parameters.iter().any(|parameter| parameter.name == key)
    }
}

/// What a policy restates.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Origin {
    /// The project, or the paper.
    pub project: String,
    /// Where in it the rule stands.
    pub source: String,
    /// The versions that are restated.
    pub versions: Vec<Version>,
    /// What the original has and the policy has not; empty if nothing is known.
    pub left_out: String,
}

/// A version of a project that a policy restates.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Version {
    /// As the project calls it: a release, a commit, a year.
    pub name: String,
    /// When it was released, or read where there was no release: year, month and day as
    /// far as they are known.
    pub date: String,
    /// The parameter and its value that choose it, where there are several.
    pub chosen_by: Option<(String, String)>,
}

impl Origin {
    /// A rule of `project` that stands in `source`.
    pub fn new(project: &str, source: &str) -> Self {
        let (project, source) = (project.to_owned(), source.to_owned());
        Self { project, source, versions: Vec::new(), left_out: String::new() }
    }

    /// Restated as in version `name` of `date`.
    pub fn version(mut self, name: &str, date: &str) -> Self {
        let (name, date) = (name.to_owned(), date.to_owned());
        self.versions.push(Version { name, date, chosen_by: None });
        self
    }

    /// Restated as in version `name` of `date` where the parameter `key` is `value`.
    pub fn version_where(mut self, key: &str, value: &str, name: &str, date: &str) -> Self {
        self = self.version(name, date);
        if let Some(version) = self.versions.last_mut() {
            version.chosen_by = Some((key.to_owned(), value.to_owned()));
        }
        self
    }

    /// Says what is left out.
    pub fn without(mut self, what: &str) -> Self {
        self.left_out = what.to_owned();
        self
    }

    /// The project and the version that these parameters choose.
    pub fn with(&self, parameters: &Table) -> String {
        let is_chosen = |version: &&Version| match &version.chosen_by {
            None => true,
            Some((key, value)) => {
                parameters.get(key).and_then(toml::Value::as_str) == Some(value.as_str())
            }
        };
        match self.versions.iter().find(is_chosen) {
            None => self.project.clone(),
            Some(Version { name, date, .. }) => format!("{} {name} ({date})", self.project),
        }
    }
}

/// What a policy asks of those around it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// KV events, for an index of the workers' caches.
    pub kv_events: bool,
    /// How often workers report their gauges.
    pub reports: Option<SimDuration>,
    /// Every block that an output grows into.
    pub output_blocks: bool,
    /// The true state of workers, which no router has.
    pub truth: bool,
}

impl Wants {
    /// What `policy` asks for.
    pub fn of(policy: &dyn Policy) -> Self {
        Self {
            kv_events: policy.wants_kv_events(),
            reports: policy.report_period(),
            output_blocks: policy.wants_output_blocks(),
            truth: policy.wants_truth(),
        }
    }
}

/// A policy in Rust, with the parameters `P`.
pub struct Registration<P> {
    /// Without parameters.
    about: About,
    /// With them: they are read off a JSON Schema, which most runs can do without.
    described: OnceLock<About>,
    build: Box<Build<P>>,
}

type Build<P> = dyn Fn(&P, &ClusterSpec, u64) -> Box<dyn Policy> + Send + Sync;

impl<P: Parameters> Registration<P> {
    /// The policy `name`, whose `rule` fits one line, made by `build` from checked
    /// parameters, the facts of the fleet and the seed of all its draws.
    pub fn new<T: Policy + 'static>(
        name: &str,
        rule: &str,
        build: impl Fn(&P, &ClusterSpec, u64) -> T + Send + Sync + 'static,
    ) -> Self {
        Self::boxed(name, rule, move |parameters, cluster, seed| {
            Box::new(build(parameters, cluster, seed))
        })
    }

    /// As [`new`](Self::new), where the parameters decide about the type.
    pub fn boxed(
        name: &str,
        rule: &str,
        build: impl Fn(&P, &ClusterSpec, u64) -> Box<dyn Policy> + Send + Sync + 'static,
    ) -> Self {
        Self { about: About::new(name, rule), described: OnceLock::new(), build: Box::new(build) }
    }

    /// Says what the policy restates.
    pub fn follows(mut self, origin: Origin) -> Self {
        self.about.origin = Some(origin);
        self
    }

    /// Names the metrics that the policy counts about itself.
    pub fn counts(mut self, metrics: &[&str]) -> Self {
        self.about.metrics = metrics.iter().map(|&name| name.to_owned()).collect();
        self
    }

    /// Says that the policy takes a worker of the lowest cost that it explains and
    /// books what others decided.
    pub fn can_follow(mut self) -> Self {
        self.about.can_follow = true;
        self
    }

    /// Says that the policy chooses among ranks, where workers have several, unless
    /// `router.targets` says.
    pub fn targets_ranks(mut self) -> Self {
        self.about.targets_ranks = true;
        self
    }

    /// Says that single workers can be [left out](Policy::leave_out) while they are busy.
    pub fn can_leave_out(mut self) -> Self {
        self.about.can_leave_out = true;
        self
    }

    /// To be named in experiments.
    pub fn shared(self) -> Arc<dyn PolicyFactory> {
        Arc::new(self)
    }
}

impl<P> fmt::Debug for Registration<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("name", &self.about.name).finish_non_exhaustive()
    }
}

impl<P: Parameters> PolicyFactory for Registration<P> {
    fn about(&self) -> &About {
        let describe = || About { parameters: parameters::describe::<P>(), ..self.about.clone() };
        self.described.get_or_init(describe)
    }

    fn name(&self) -> &str {
        &self.about.name
    }

    fn complete(&self, given: &Table) -> Result<Table, Invalid> {
        parameters::read::<P>(given).map(|parameters| parameters::to_table(&parameters))
    }

    fn check(&self, parameters: &Table) -> Result<(), Invalid> {
        typed::<P>(parameters).check()
    }

    fn check_in(&self, parameters: &Table, surroundings: &Surroundings) -> Result<(), Invalid> {
        typed::<P>(parameters).check_in(surroundings)
    }

    fn build(&self, parameters: &Table, cluster: &ClusterSpec, seed: u64) -> Box<dyn Policy> {
        (self.build)(&typed(parameters), cluster, seed)
    }

    fn counts_copies(&self, parameters: &Table) -> bool {
        typed::<P>(parameters).counts_copies()
    }
}

fn typed<P: Parameters>(parameters: &Table) -> P {
    parameters::from_table(parameters)
        .unwrap_or_else(|error| panic!("{error}: no parameters that were completed: {parameters}"))
}
