//! The engines that a worker can follow, each in a folder of its own.
//!
//! An engine is seen from outside through two interfaces and nothing else:
//!
//! * [`Engine`], implemented by its options: what it does unless told otherwise, which
//!   options it has, how it divides a GPU's memory. Settings and pools ask for that.
//! * `scheduler::Scheduler`: its queue, its batch and its cache. A worker asks for that.
//!
//! A further engine is a folder that implements both and a line in the list below (and
//! its options a key of [`EngineSettings`](crate::engine::settings::EngineSettings)).
//! No other file asks which engine a worker follows: both interfaces are entered
//! through an enum, once per call, so that nothing in a step is dynamic.
//!
//! What may come fits behind them: versions of an engine that differ in defaults are
//! further [`Defaults`], those that differ in rules further options; caches of several
//! groups of layers are the engine's own, since a worker sees no more of a cache than
//! block counts and hits; ranks that step together are several schedulers of one
//! worker, which forms one step of theirs; and when events are published is the log's
//! business.

mod engine;

/// The list of engines: `Name = folder(options, scheduler)`, handed to the macro `$then`.
macro_rules! engines {
    ($then:ident $dollar:tt) => {
        $then! { $dollar
            /// vLLM V1: optimistic admission, block by block, preemption of the newest.
            Vllm = vllm(VllmOptions, VllmScheduler),
            /// TensorRT-LLM's PyTorch backend: blocks for prompt and answer are
            /// reserved at admission, nothing is preempted.
            Trtllm = trtllm(TrtllmOptions, TrtllmScheduler),
        }
    };
}

pub(super) mod dispatch;
pub mod trtllm;
pub mod vllm;

pub use engine::{Defaults, Engine, Limits, Spread};
pub use trtllm::TrtllmOptions;
pub use vllm::{LayerGroups, VllmOptions};

use super::balance::AttentionDpConfig;
use super::memory::Budget;
use super::shape::Shape;
use crate::settings::Invalid;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! rules {
    ($dollar:tt $($(#[$doc:meta])* $name:ident = $folder:ident($options:ident, $scheduler:ident),)*) => {
        /// Whose scheduling rules a worker follows.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        #[schemars(rename = "Rules")]
        pub enum RulesName {
            $($(#[$doc])* $name,)*
        }

        /// Whose scheduling rules a worker follows, with the options that only that
        /// engine has.
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub enum Rules {
            $($(#[$doc])* $name($options),)*
        }

        /// The keys of `[engine]` that single engines have.
        #[derive(Clone, Copy, Debug, Default)]
        pub struct OwnSettings {
            $($(#[$doc])* pub $folder: <$options as Engine>::Keys,)*
        }

        impl RulesName {
            /// Every engine.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The value of the key `rules`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($folder),)*
                }
            }

            /// What the engine does unless told otherwise.
            pub const fn defaults(self) -> Defaults {
                match self {
                    $(Self::$name => $options::DEFAULTS,)*
                }
            }

            /// The keys of `[engine]` that only this engine has.
            pub const fn own_keys(self) -> &'static [&'static str] {
                match self {
                    $(Self::$name => $options::KEYS,)*
                }
            }

            /// The engine's rules with the options that `settings` ask for, and a pool
            /// of `num_blocks`.
            ///
            /// # Errors
            /// As [`Engine::resolve`].
            pub fn resolve(
                self,
                settings: &OwnSettings,
                num_blocks: u32,
                shape: Option<&Shape>,
            ) -> Result<Rules, Invalid> {
                match self {
                    $(Self::$name => {
                        $options::resolve(&settings.$folder, num_blocks, shape).map(Rules::$name)
                    })*
                }
            }

            /// See [`Engine::block_share`].
            pub fn block_share(self, settings: &OwnSettings, shape: &Shape) -> f64 {
                match self {
                    $(Self::$name => $options::block_share(&settings.$folder, shape),)*
                }
            }

            /// KV blocks that requests can use, where a token takes `bytes_per_token`
            /// on each GPU; 0 if there is no room.
            pub fn kv_blocks(self, budget: &Budget, bytes_per_token: f64, block_size: u32) -> u32 {
                let blocks = match self {
                    $(Self::$name => $options::kv_blocks(budget, bytes_per_token, block_size),)*
                };
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "`as` saturates: no room is 0, too much room is refused by validation"
                )]
                {
                    blocks as u32
                }
            }
        }

        impl Rules {
            /// Whose rules they are.
            pub const fn name(&self) -> RulesName {
                match self {
                    $(Self::$name(_) => RulesName::$name,)*
                }
            }

            /// Groups of layers that keep KV apart, if they do.
            pub fn layer_groups(&self) -> Option<&LayerGroups> {
                match self {
                    $(Self::$name(options) => options.layer_groups(),)*
                }
            }

            /// Whether ranks wait for each other's prompts.
            pub fn attention_dp_config(&self) -> AttentionDpConfig {
                match self {
                    $(Self::$name(options) => options.attention_dp_config(),)*
                }
            }

            /// See [`Engine::validate`].
            ///
            /// # Errors
            /// As there.
            pub fn validate(&self, limits: Limits) -> Result<(), Invalid> {
                match self {
                    $(Self::$name(options) => options.validate(limits),)*
                }
            }
        }
    };
}

engines!(rules $);

impl RulesName {
    /// The first key of `engine`, a section of that name, that only an engine has which is none
    /// of these; with its value, and why it is refused.
    pub(crate) fn find_foreign(these: &[Self], engine: &toml::Table) -> Option<ForeignKey> {
        let others = Self::ALL.iter().filter(|other| !these.contains(other));
        let mut keys =
            others.flat_map(|other| other.own_keys().iter().map(move |key| (*other, *key)));
        keys.find_map(|(owner, key)| {
            let (key, value) = innermost(key.to_owned(), engine.get(key)?)?;
            let followed = Self::listed(|rules| these.contains(&rules), " and ");
            let problem = format!(
                "must be left out: only workers with engine.rules = {:?} have this key, and these \
                 have {followed}",
                owner.as_str()
            );
            Some(ForeignKey { key, value: value.clone(), problem })
        })
    }

    /// The engines of which `is_meant` holds, as a message lists values.
    pub fn list(is_meant: impl Fn(Self) -> bool) -> String {
        Self::listed(is_meant, " or ")
    }

    fn listed(is_meant: impl Fn(Self) -> bool, between: &str) -> String {
        let meant = Self::ALL.iter().filter(|name| is_meant(**name));
        let quoted: Vec<String> = meant.map(|name| format!("{:?}", name.as_str())).collect();
        quoted.join(between)
    }
}

/// A key of `[engine]` that another engine has.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ForeignKey {
    /// Relative to `[engine]`.
    pub(crate) key: String,
    pub(crate) value: toml::Value,
    pub(crate) problem: String,
}

/// The first key in `value` that is no section, if it has any.
fn innermost(key: String, value: &toml::Value) -> Option<(String, &toml::Value)> {
    let toml::Value::Table(table) = value else { return Some((key, value)) };
    table.iter().find_map(|(inner, value)| innermost(format!("{key}.{inner}"), value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::settings::EngineSettings;

    #[test]
    fn every_own_key_is_a_key_of_one_engine() {
        let schema = serde_json::Value::from(schemars::schema_for!(EngineSettings));
        let properties = schema["properties"].as_object().expect("keys");
        let mut seen = std::collections::BTreeSet::new();
        for key in RulesName::ALL.iter().flat_map(|rules| rules.own_keys()) {
            assert!(properties.contains_key(*key), "{key}");
            assert!(seen.insert(key), "{key}");
        }
        // What the documentation of a key says of itself.
        for (key, property) in properties {
            let about =
                property.get("description").and_then(serde_json::Value::as_str).unwrap_or("");
            let is_vllm = about.starts_with("vLLM: ");
            assert_eq!(is_vllm, RulesName::Vllm.own_keys().contains(&&**key), "{key}");
        }
    }

    #[test]
    fn a_key_of_another_engine_is_found() {
        let engine: toml::Table =
            "watermark = 0.1\ntrtllm.scheduler_config.enable_prefix_aware_scheduling = true"
                .parse()
                .expect("TOML");
        let found = |these: &[RulesName]| RulesName::find_foreign(these, &engine).map(|f| f.key);
        assert_eq!(found(&[RulesName::Trtllm]).as_deref(), Some("watermark"));
        assert_eq!(
            found(&[RulesName::Vllm]).as_deref(),
            Some("trtllm.scheduler_config.enable_prefix_aware_scheduling")
        );
        assert_eq!(found(RulesName::ALL), None);
    }
}
