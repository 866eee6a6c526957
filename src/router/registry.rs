//! The policies that `router.policy` may name, and the keys of `[router]`.
//!
//! The section is flat: keys that hold for every policy, and the parameters of
//! all policies beside each other, because experiments sweep `router.policy` and
//! keep the rest. So a key that any policy knows is accepted and takes effect on
//! those that know it; a key that none knows is an error.

use super::admission::AdmissionSettings;
use super::factory::{About, PolicyFactory, Wants};
use super::front_end_settings::{FrontEndSettings, Targets};
use super::parameters::{Parameter, Surroundings};
use super::policies;
use super::policy::Policy;
use super::spec::ClusterSpec;
use crate::settings::{Invalid, nearest};
use schemars::schema_for;
use serde_json::{Map, Value as Json, json};
use std::sync::Arc;
use toml::Table;

/// The policies that can be named.
#[derive(Clone, Debug)]
pub struct Registry {
    factories: Arc<[Arc<dyn PolicyFactory>]>,
}

impl Default for Registry {
    /// This crate's policies.
    fn default() -> Self {
        Self { factories: policies::all().into() }
    }
}

impl Registry {
    /// This crate's policies and `more`, which win where names are the same.
    ///
    /// # Errors
    /// If `more` repeats a name, or has a parameter that means something else to
    /// every router or to another policy: one key has one meaning.
    pub fn with(more: &[Arc<dyn PolicyFactory>]) -> Result<Self, Invalid> {
        let mut factories: Vec<Arc<dyn PolicyFactory>> = Vec::new();
        for factory in more {
            check_new(factory.about(), &factories)?;
            factories.push(Arc::clone(factory));
        }
        for factory in policies::all() {
            if named(&factories, factory.name()).is_none() {
                if !more.is_empty() {
                    check_new(factory.about(), &factories)?;
                }
                factories.push(Arc::clone(factory));
            }
        }
        Ok(Self { factories: factories.into() })
    }

    /// What each policy is, in the order in which messages list them.
    pub fn abouts(&self) -> impl Iterator<Item = &About> {
        self.factories.iter().map(|factory| factory.about())
    }

    fn get(&self, name: &str) -> Option<&Arc<dyn PolicyFactory>> {
        named(&self.factories, name)
    }

    /// What makes the policy `name`.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn find(&self, name: &str) -> Result<&Arc<dyn PolicyFactory>, Invalid> {
        self.get(name).ok_or_else(|| {
            let names = || self.factories.iter().map(|factory| factory.name());
            let hint = nearest(name, names()).map(|name| format!("; did you mean {name:?}?"));
            let listed: Vec<String> = names().map(|name| format!("{name:?}")).collect();
            let allowed = format!("one of {}{}", listed.join(", "), hint.unwrap_or_default());
            Invalid::new("policy", format!("{name:?}"), allowed)
        })
    }

    /// The policy `name`, where these parameters were `given`.
    ///
    /// # Errors
    /// If there is none of that name, or the first key with a value that will not
    /// do; a key that only other policies know has to be of its kind.
    pub fn choose(&self, name: &str, given: &Table) -> Result<ChosenPolicy, Invalid> {
        let factory = self.find(name)?;
        for (key, value) in given.iter().filter(|(key, _)| !factory.about().knows(key)) {
            let other = self.factories.iter().find(|other| other.about().knows(key));
            let Some(other) = other else { return Err(self.unknown(key, value)) };
            other.complete(&Table::from_iter([(key.clone(), value.clone())]))?;
        }
        factory.check(&complete(&**factory, given)?)?;
        let (factory, given) = (Arc::clone(factory), Arc::new(given.clone()));
        Ok(ChosenPolicy { factory, registry: self.clone(), given })
    }

    /// The first of the `given` keys that no policy knows.
    pub fn find_unknown<'a>(&self, given: &'a Table) -> Option<&'a String> {
        given.keys().find(|key| !self.abouts().any(|about| about.knows(key)))
    }

    fn unknown(&self, key: &str, value: &toml::Value) -> Invalid {
        let near = nearest(key, self.keys().iter().map(String::as_str))
            .map(|near| format!("; did you mean {near}?"));
        let allowed =
            format!("left out: no policy has such a parameter{}", near.unwrap_or_default());
        Invalid::new(key, value, allowed)
    }

    /// The keys to name where `unknown` stands: all of them if one of them is near,
    /// else those that the policy `name` takes.
    pub fn keys_for(&self, unknown: &str, name: &str) -> Vec<String> {
        let mut keys = self.keys();
        if nearest(unknown, keys.iter().map(String::as_str)).is_none() {
            let (common, policy) = (common_keys(), self.get(name));
            let takes = |key: &String| {
                let is_own = || policy.is_some_and(|policy| policy.about().knows(key));
                key == "policy" || common.contains_key(key) || is_own()
            };
            keys.retain(takes);
        }
        keys
    }

    /// The keys of `[router]`.
    pub fn keys(&self) -> Vec<String> {
        let mut keys = vec!["policy".to_owned()];
        keys.extend(common_keys().into_iter().map(|(key, _)| key));
        let parameters = self.abouts().flat_map(|about| &about.parameters);
        for parameter in parameters {
            if !keys.contains(&parameter.name) {
                keys.push(parameter.name.clone());
            }
        }
        keys
    }

    /// The parameters of all policies as properties of a JSON Schema; each says
    /// who knows it.
    pub fn properties(&self) -> Map<String, Json> {
        let mut properties = Map::new();
        for about in self.abouts() {
            for parameter in &about.parameters {
                if properties.contains_key(&parameter.name) {
                    continue;
                }
                let mut schema = parameter.schema.clone();
                schema["description"] = json!(self.describe(parameter));
                properties.insert(parameter.name.clone(), schema);
            }
        }
        properties
    }

    /// Who knows a parameter, what it means and what holds where it is not given.
    fn describe(&self, parameter: &Parameter) -> String {
        let (mut names, mut defaults) = (Vec::new(), Vec::new());
        for about in self.abouts() {
            let known = about.parameters.iter().find(|known| known.name == parameter.name);
            let Some(known) = known else { continue };
            names.push(about.name.as_str());
            defaults.extend(known.default.as_ref().map(|default| (about.name.as_str(), default)));
        }
        let default = match defaults.as_slice() {
            [] => String::new(),
            [(_, default), rest @ ..] if rest.iter().all(|(_, other)| other == default) => {
                format!(" Default: {default}.")
            }
            all => {
                let each: Vec<String> =
                    all.iter().map(|(name, default)| format!("{default} ({name})")).collect();
                format!(" Default: {}.", each.join(", "))
            }
        };
        format!("({}) {}{default}", names.join(", "), parameter.doc)
    }
}

fn named<'a>(
    factories: &'a [Arc<dyn PolicyFactory>],
    name: &str,
) -> Option<&'a Arc<dyn PolicyFactory>> {
    factories.iter().find(|factory| factory.name() == name)
}

/// Refuses a policy that the `others` leave no room for.
fn check_new(about: &About, others: &[Arc<dyn PolicyFactory>]) -> Result<(), Invalid> {
    let name = format!("{:?}", about.name);
    if named(others, &about.name).is_some() {
        return Err(Invalid::new("policy", name, "given to one policy only: two were added"));
    }
    let common = common_keys();
    for own in &about.parameters {
        if common.contains_key(&own.name) {
            let allowed = format!(
                "a policy whose parameters have names of their own; {} belongs to every router",
                own.name
            );
            return Err(Invalid::new("policy", name, allowed));
        }
        let same_name = |other: &Arc<dyn PolicyFactory>| {
            let mut parameters = other.about().parameters.iter();
            parameters.find(|parameter| parameter.name == own.name).cloned()
        };
        for other in others {
            if let Some(theirs) = same_name(other)
                && shape(&theirs.schema) != shape(&own.schema)
            {
                let allowed = format!(
                    "a policy whose parameters mean what others mean by them: {} is {} here, \
                     but {} to {:?}",
                    own.name,
                    own.allowed,
                    theirs.allowed,
                    other.name()
                );
                return Err(Invalid::new("policy", name, allowed));
            }
        }
    }
    Ok(())
}

/// All parameters of a policy, where these were `given`, which others may know.
fn complete(factory: &dyn PolicyFactory, given: &Table) -> Result<Table, Invalid> {
    let own = given.iter().filter(|(key, _)| factory.about().knows(key));
    factory.complete(&own.map(|(key, value)| (key.clone(), value.clone())).collect())
}

/// The keys of [`FrontEndSettings`], with their schemas.
fn common_keys() -> Map<String, Json> {
    let mut schema = Json::from(schema_for!(FrontEndSettings));
    match schema["properties"].take() {
        Json::Object(properties) => properties,
        other => unreachable!("a struct has properties: {other}"),
    }
}

/// What a schema says about values, without words and defaults.
fn shape(schema: &Json) -> Json {
    let mut shape = schema.clone();
    if let Some(map) = shape.as_object_mut() {
        map.retain(|key, _| key != "description" && key != "default");
    }
    shape
}

/// A policy with its parameters, checked.
#[derive(Clone, Debug)]
pub struct ChosenPolicy {
    factory: Arc<dyn PolicyFactory>,
    /// What else could have been chosen, and all parameters that were given: those that hold
    /// follow from them, and a sweep keeps very many policies.
    registry: Registry,
    given: Arc<Table>,
}

impl ChosenPolicy {
    /// The policy `name` in its place, where the same was given.
    ///
    /// # Errors
    /// If there is none of that name, or the first key with a value that will not
    /// do, relative to `[router]`.
    pub fn other(&self, name: &str) -> Result<Self, Invalid> {
        self.registry.choose(name, &self.given)
    }

    /// What it is.
    pub fn about(&self) -> &About {
        self.factory.about()
    }

    /// As written in `router.policy`.
    pub fn name(&self) -> &str {
        self.factory.name()
    }

    /// The project and the version whose rule it follows with its parameters, if any.
    pub fn follows(&self) -> Option<String> {
        self.about().origin.as_ref().map(|origin| origin.with(&self.parameters()))
    }

    /// All parameters that hold a value.
    pub fn parameters(&self) -> Table {
        complete(&*self.factory, &self.given).expect("they were checked when it was chosen")
    }

    /// All parameters that were given, those that only other policies know among them.
    pub fn given(&self) -> &Table {
        &self.given
    }

    /// Refuses parameters that do not fit what stands around the policy.
    ///
    /// # Errors
    /// The first such key, relative to `[router]`.
    pub fn check_in(&self, surroundings: &Surroundings) -> Result<(), Invalid> {
        self.factory.check_in(&self.parameters(), surroundings)
    }

    /// Refuses a gate that leaves out single busy workers in front of a policy that would go on
    /// choosing them.
    ///
    /// # Errors
    /// With the key relative to `[router]`.
    pub(crate) fn check_gate(&self, admission: Option<&AdmissionSettings>) -> Result<(), Invalid> {
        let is_asked = admission.is_some_and(|admission| admission.leave_out_busy);
        if !is_asked || self.about().can_leave_out {
            return Ok(());
        }
        let can = self.registry.abouts().filter(|about| about.can_leave_out);
        let can: Vec<&str> = can.map(|about| about.name.as_str()).collect();
        let allowed = format!(
            "left out with router.policy = {:?}, which has no such gate: {} have. All behind one \
             gate: leave_out_busy = false",
            self.name(),
            can.join(", ")
        );
        Err(Invalid::new("admission.leave_out_busy", "true", allowed))
    }

    /// A fresh policy for one front end; `seed` is all the randomness it gets.
    pub fn build(&self, cluster: &ClusterSpec, seed: u64) -> Box<dyn Policy> {
        self.factory.build(&self.parameters(), cluster, seed)
    }

    /// What it asks of those around it. A policy says that itself, so one is made
    /// and asked.
    pub fn wants(&self) -> Wants {
        Wants::of(&*self.build(&ClusterSpec::smallest(), 0))
    }

    /// Whether it chooses among the ranks of workers that have several, where `targets` is
    /// what `router.targets` says.
    pub(crate) fn by_rank(&self, targets: Option<Targets>) -> bool {
        targets.map_or(self.about().targets_ranks, |targets| targets == Targets::Ranks)
    }

    /// How many targets it has in front of workers with so many ranks each.
    ///
    /// # Errors
    /// If it cannot have workers as targets; the key is relative to `[router]`.
    pub(crate) fn targets_among(
        &self,
        targets: Option<Targets>,
        ranks: &[u32],
    ) -> Result<u32, Invalid> {
        // Cheaper to ask than the policy's description.
        if ranks.iter().all(|&ranks| ranks == 1) || self.by_rank(targets) {
            return Ok(ranks.iter().sum());
        }
        let allowed = "\"ranks\" for a policy that is shown the truth, which is that of each rank";
        Invalid::unless(!self.wants().truth, "targets", "\"workers\"", allowed)?;
        Ok(u32::try_from(ranks.len()).unwrap_or(u32::MAX))
    }

    /// Whether the publisher of KV events that goes with it counts copies of a
    /// block, unless `[router.feed]` says.
    pub fn counts_copies(&self) -> bool {
        self.factory.counts_copies(&self.parameters())
    }
}
