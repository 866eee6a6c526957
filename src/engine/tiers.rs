//! `[[engine.tier]]`: KV memory below the GPU's, and whether a prompt's cached
//! beginning is loaded from there or computed again.
//!
//! A prompt whose beginning lies in lower tiers may have it loaded. It takes the
//! GPU blocks for it at once and waits; others go on, and the boundary after the
//! load's end sees it as a prompt with that much computed (vLLM's
//! `WAITING_FOR_REMOTE_KVS`; the asynchronous connectors of TensorRT-LLM).
//! `[engine] load` says when it does: see [`LoadRule`].

use crate::event::Medium;
pub use crate::kv::{Offload, TierSpec};
use crate::settings::Invalid;
use crate::time::SimDuration;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;

/// Most blocks in a tier (assumed: 17 thousand million tokens at 16 a block, more
/// than a petabyte of KV of any large model). Tiers count and number blocks in 32 bits.
const MAX_TIER_BLOCKS: u32 = 1 << 30;

/// The tiers of a worker, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TierOptions {
    /// Fast to slow; those without room are left out.
    pub tiers: Vec<TierSpec>,
    /// When blocks enter the first of them.
    pub offload: Offload,
    /// When a prompt's blocks are loaded from them.
    pub load: LoadRule,
}

/// When blocks in lower tiers are loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoadRule {
    /// If the prompt would be computed sooner: the time until the load is done,
    /// with what else waits for the link, against that of computing the same
    /// tokens alone on the GPU, at the worker's pace, after the prompts that are in
    /// the step already. A load may end where a slower tier begins. (Assumed: the engines
    /// load whatever there is.)
    #[default]
    Auto,
    /// Whatever it costs: vLLM, TensorRT-LLM.
    Always,
    /// Never: what writing alone would do.
    Never,
}

/// One `[[engine.tier]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TierSettings {
    /// `"host"`, `"disk"` or `"remote"`.
    pub name: Medium,
    /// What a worker has of it: bytes as `"200GiB"`, or KV blocks. 0: no such tier.
    pub capacity: Capacity,
    /// Of the worker's link to it, in each direction: `"50GB/s"`, `"400Gbit/s"` or `"unlimited"`.
    pub bandwidth: Bandwidth,
    /// Added to every load. Default: none.
    #[serde(default)]
    pub latency: SimDuration,
}

/// How much a tier holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Capacity {
    /// Bytes of a worker, all its GPUs together.
    Bytes(f64),
    /// KV blocks.
    Blocks(u32),
}

/// How fast a link is: bytes per second; infinite if unlimited.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bandwidth(pub f64);

const CAPACITY: &str =
    "bytes with their unit, like \"200GiB\" or \"1TB\", or a number of KV blocks";
const BANDWIDTH: &str =
    "bytes or bits per second, like \"50GB/s\" or \"400Gbit/s\", above 0, or \"unlimited\"";

impl JsonSchema for Capacity {
    fn schema_name() -> Cow<'static, str> {
        "Capacity".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": CAPACITY,
            "anyOf": [
                { "type": "integer", "minimum": 0, "maximum": MAX_TIER_BLOCKS },
                { "type": "string", "pattern": r"^\s*[0-9_.]+\s*[MGT]i?B\s*$" },
            ]
        })
    }
}

impl JsonSchema for Bandwidth {
    fn schema_name() -> Cow<'static, str> {
        "Bandwidth".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": BANDWIDTH,
            "type": "string",
            "pattern": r"^\s*([0-9_.]+\s*([MGT]i?B/s|[MGT]bit/s)|unlimited)\s*$",
        })
    }
}

/// Splits `"200GiB"` into number and unit.
fn quantity(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.trim().replace('_', "").parse().ok()?;
    (number.is_finite() && number >= 0.0).then_some((number, unit))
}

/// Bytes in a unit of them.
fn byte_unit(unit: &str) -> Option<f64> {
    Some(match unit {
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        "MiB" => 1_048_576.0,
        "GiB" => 1_073_741_824.0,
        "TiB" => 1_099_511_627_776.0,
        _ => return None,
    })
}

impl Capacity {
    fn parse(text: &str) -> Option<Self> {
        let (number, unit) = quantity(text)?;
        Some(Self::Bytes(number * byte_unit(unit)?))
    }
}

impl Bandwidth {
    fn parse(text: &str) -> Option<Self> {
        if text.trim() == "unlimited" {
            return Some(Self(f64::INFINITY));
        }
        let (number, unit) = quantity(text)?;
        let unit = match unit {
            "Mbit/s" => 1e6 / 8.0,
            "Gbit/s" => 1e9 / 8.0,
            "Tbit/s" => 1e12 / 8.0,
            _ => byte_unit(unit.strip_suffix("/s")?)?,
        };
        Some(Self(number * unit)).filter(|bandwidth| bandwidth.0 > 0.0)
    }
}

struct Quantity<T> {
    expected: &'static str,
    count: fn(u32) -> Option<T>,
    text: fn(&str) -> Option<T>,
}

impl<T> Visitor<'_> for Quantity<T> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }
    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        let value = u32::try_from(number).ok().and_then(self.count);
        value.ok_or_else(|| E::custom(format!("{number} is not {}", self.expected)))
    }
    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        let value = u32::try_from(number).ok().and_then(self.count);
        value.ok_or_else(|| E::custom(format!("{number} is not {}", self.expected)))
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.text)(text).ok_or_else(|| E::custom(format!("{text:?} is not {}", self.expected)))
    }
}

impl<'de> Deserialize<'de> for Capacity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Quantity {
            expected: CAPACITY,
            count: |blocks| Some(Self::Blocks(blocks)),
            text: Self::parse,
        })
    }
}

impl<'de> Deserialize<'de> for Bandwidth {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Quantity {
            expected: BANDWIDTH,
            count: |_| None,
            text: Self::parse,
        })
    }
}

impl Serialize for Capacity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bytes(bytes) => serializer.collect_str(&format_args!("{}MB", bytes / 1e6)),
            Self::Blocks(blocks) => serializer.serialize_u32(*blocks),
        }
    }
}

impl Serialize for Bandwidth {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_infinite() {
            return serializer.serialize_str("unlimited");
        }
        serializer.collect_str(&format_args!("{}MB/s", self.0 / 1e6))
    }
}

/// The tiers of a worker as `[engine]` gives them, where a KV block has `block_bytes`;
/// keys in errors are relative to it.
///
/// # Errors
/// The first value that will not do.
pub(super) fn resolve(
    settings: &[TierSettings],
    block_bytes: Option<f64>,
) -> Result<Vec<TierSpec>, Invalid> {
    let needed = |why: String| {
        let allowed = format!("given, as there is no model file with GPUs: {why}");
        block_bytes.ok_or_else(|| Invalid::new("kv_bytes_per_token", "nothing", allowed))
    };
    let mut tiers = Vec::new();
    for (at, tier) in settings.iter().enumerate() {
        let key = |key: &str| format!("tier[{at}].{key}");
        if let Some(before) = at.checked_sub(1).map(|before| &settings[before]) {
            check_order(before, tier, &key)?;
        }
        let blocks = match tier.capacity {
            Capacity::Blocks(blocks) => f64::from(blocks),
            Capacity::Bytes(bytes) => bytes / needed("a capacity in bytes needs it".into())?,
        };
        Invalid::unless(
            blocks <= f64::from(MAX_TIER_BLOCKS),
            &key("capacity"),
            format!("{blocks:.0} blocks"),
            &format!("at most {MAX_TIER_BLOCKS} blocks"),
        )?;
        let block_s = match tier.bandwidth.0 {
            f64::INFINITY => 0.0,
            bandwidth => needed("a bandwidth needs it".into())? / bandwidth,
        };
        // A load of a whole prompt stays far from the end of the clock.
        Invalid::unless(
            block_s <= 1.0,
            &key("bandwidth"),
            format!("{block_s:.0} s for a KV block"),
            "fast enough to move a KV block within a second",
        )?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "rounds down a number that was just bounded"
        )]
        let blocks = blocks as u32;
        if blocks > 0 {
            let block_time = SimDuration::from_ps(ceil_ps(block_s));
            tiers.push(TierSpec { medium: tier.name, blocks, block_time, latency: tier.latency });
        }
    }
    Ok(tiers)
}

/// Tiers stand in the order in which blocks go down.
fn check_order(
    before: &TierSettings,
    tier: &TierSettings,
    key: &impl Fn(&str) -> String,
) -> Result<(), Invalid> {
    let (name, above) = (tier.name.name(), before.name.name());
    Invalid::unless(
        tier.name != before.name,
        &key("name"),
        format!("{name:?}"),
        "named once: give it the sum of both capacities",
    )?;
    Invalid::unless(
        tier.name > before.name,
        &key("name"),
        format!("{name:?}"),
        &format!(
            "listed before {above:?}: tiers stand in the order \"host\", \"disk\", \"remote\""
        ),
    )?;
    Invalid::unless(
        tier.bandwidth.0 <= before.bandwidth.0,
        &key("bandwidth"),
        format!("{:.1} GB/s", tier.bandwidth.0 / 1e9),
        &format!(
            "at most that of the tier above ({above:?}, {:.1} GB/s): tiers stand from fast to slow",
            before.bandwidth.0 / 1e9
        ),
    )
}

/// Picoseconds, rounded up: a load takes at least bytes / bandwidth.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "finite, not negative, far below 2^64"
)]
fn ceil_ps(seconds: f64) -> u64 {
    (seconds * 1e12).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacities_and_bandwidths_need_units() {
        assert_eq!(Capacity::parse("200GiB"), Some(Capacity::Bytes(200.0 * 1_073_741_824.0)));
        assert_eq!(Capacity::parse(" 1.5TB"), Some(Capacity::Bytes(1.5e12)));
        assert_eq!(Bandwidth::parse("50GB/s"), Some(Bandwidth(50e9)));
        assert_eq!(Bandwidth::parse("400Gbit/s"), Some(Bandwidth(50e9)));
        assert_eq!(Bandwidth::parse("unlimited"), Some(Bandwidth(f64::INFINITY)));
        for bad in ["", "200", "-1GiB", "GiB", "1GiB/s", "infGiB", "200 gigs"] {
            assert_eq!(Capacity::parse(bad), None, "{bad}");
        }
        for bad in ["", "50", "50GB", "0GB/s", "-1GB/s", "Gbit/s", "1e400GB/s"] {
            assert_eq!(Bandwidth::parse(bad), None, "{bad}");
        }
    }

    /// The schema allows what is read, and no more.
    #[test]
    fn the_schema_has_every_unit() {
        fn is_valid<T: JsonSchema>(value: impl Into<serde_json::Value>) -> bool {
            let schema = schemars::schema_for!(T).to_value();
            jsonschema::validator_for(&schema).expect("a schema").is_valid(&value.into())
        }
        for unit in ["MB", "GB", "TB", "MiB", "GiB", "TiB"] {
            let capacity = format!("1_000.5{unit}");
            assert!(Capacity::parse(&capacity).is_some(), "{capacity}");
            assert!(is_valid::<Capacity>(capacity.as_str()), "{capacity}");
            let bandwidth = format!("2{unit}/s");
            assert!(Bandwidth::parse(&bandwidth).is_some(), "{bandwidth}");
            assert!(is_valid::<Bandwidth>(bandwidth), "{unit}/s");
        }
        for bandwidth in ["2Mbit/s", "2Gbit/s", " 2.5 Tbit/s", "unlimited"] {
            assert!(Bandwidth::parse(bandwidth).is_some(), "{bandwidth}");
            assert!(is_valid::<Bandwidth>(bandwidth), "{bandwidth}");
        }
        for bad in ["2kB/s", "2Pbit/s", "2", "2GB", "fast"] {
            assert!(Bandwidth::parse(bad).is_none() && !is_valid::<Bandwidth>(bad), "{bad}");
            assert!(bad == "2GB" || !is_valid::<Capacity>(bad), "{bad}");
        }
        assert!(is_valid::<Capacity>(MAX_TIER_BLOCKS));
        assert!(!is_valid::<Capacity>(MAX_TIER_BLOCKS + 1));
    }
}
