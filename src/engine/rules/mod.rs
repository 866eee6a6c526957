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
    /// The engines of which `is_meant` holds, as a message lists values.
    pub fn list(is_meant: impl Fn(Self) -> bool) -> String {
        let meant = Self::ALL.iter().filter(|name| is_meant(**name));
        let quoted: Vec<String> = meant.map(|name| format!("{:?}", name.as_str())).collect();
        quoted.join(" or ")
    }
}
