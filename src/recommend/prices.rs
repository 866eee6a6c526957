//! What a fleet costs: prices of an hour from a file, and what the pools of a fleet take
//! of them.
//!
//! ```toml
//! currency = "USD"
//! source = "our contract of 2026"
//! [gpu_hour]          # by names of `sim models`, or as a data sheet calls the GPU
//! h200 = 3.5
//! [gib_hour]          # optional: a GiB of a tier below GPU memory
//! host = 0.004
//! [gpu_watts]         # optional: a GPU with its share of the machine, under load
//! h200 = 1000
//! ```

use crate::catalogue::{self, Kind};
use crate::engine::config::EngineConfig;
use crate::engine::model::{Gpu, Model};
use crate::experiment::{Experiment, Settings};
use crate::kv::TierSpec;
use crate::settings::{Invalid, NOTHING, Sheet};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

/// The unit of costs where hours of GPUs are counted.
pub(super) const GPU_HOURS: &str = "GPU hours";

/// The unit of costs where hours of workers are counted.
pub(super) const WORKER_HOURS: &str = "worker hours";

/// Bytes in a GiB.
const BYTES_IN_GIB: f64 = 1_073_741_824.0;

/// The highest price or power that is believed (assumed: thousands of times today's).
const MOST: f64 = 1e6;

/// Prices of an hour, and the power of GPUs, as a file gives them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// What prices are in, as `USD`.
    pub currency: String,
    /// Where they come from.
    pub source: Option<String>,
    /// Of a GPU, with its share of the machine.
    #[serde(default)]
    pub gpu_hour: BTreeMap<String, f64>,
    /// Of a worker whose GPUs its model does not name.
    pub worker_hour: Option<f64>,
    /// Of a GiB below GPU memory, by tier: `host`, `disk`, `remote`.
    #[serde(default)]
    pub gib_hour: BTreeMap<String, f64>,
    /// Watts of a GPU under load, with its share of the machine.
    #[serde(default)]
    pub gpu_watts: BTreeMap<String, f64>,
}

impl Prices {
    /// Reads the text of a file; `file` names it in messages.
    ///
    /// # Errors
    /// What is wrong in it, with its place.
    pub fn parse(file: &Path, text: &str) -> Result<Self, crate::settings::SettingsError> {
        let sheet = Sheet::parse(file, text)?;
        let prices: Self = sheet.read()?;
        prices.validate().map_err(|invalid| sheet.invalid(invalid))?;
        Ok(prices)
    }

    fn validate(&self) -> Result<(), Invalid> {
        let is_word = (1..=12).contains(&self.currency.len())
            && self.currency.chars().all(|c| !c.is_control() && !c.is_whitespace());
        let shown = format!("{:?}", self.currency);
        Invalid::unless(is_word, "currency", shown, "a word, like \"USD\"")?;
        let tiers =
            self.gib_hour.keys().find(|tier| !["host", "disk", "remote"].contains(&tier.as_str()));
        if let Some(tier) = tiers {
            return Err(Invalid::new("gib_hour", tier, "given for host, disk or remote"));
        }
        let sections = [
            ("gpu_hour", &self.gpu_hour),
            ("gib_hour", &self.gib_hour),
            ("gpu_watts", &self.gpu_watts),
        ];
        let of_sections = sections.into_iter().flat_map(|(section, prices)| {
            prices.iter().map(move |(name, price)| (format!("{section}.{name}"), *price))
        });
        let of_workers = self.worker_hour.map(|price| ("worker_hour".to_owned(), price));
        for (key, price) in of_sections.chain(of_workers) {
            let is_price = price > 0.0 && price <= MOST;
            Invalid::unless(is_price, &key, price, "above 0 and at most 1000000")?;
        }
        Ok(())
    }

    /// What `table` says of a GPU: by its name in the catalogue or on its data sheet.
    fn of_gpu(table: &BTreeMap<String, f64>, gpu: &Gpu) -> Option<f64> {
        let of = |name: &str| {
            let is_it = |(known, _): &(&String, &f64)| known.eq_ignore_ascii_case(name);
            table.iter().find(is_it).map(|(_, price)| *price)
        };
        of(&gpu.name).or_else(|| of(catalogue_name(gpu)?))
    }
}

/// The name that the catalogue has for a GPU.
fn catalogue_name(gpu: &Gpu) -> Option<&'static str> {
    /// By the name on the data sheet.
    static NAMES: LazyLock<BTreeMap<String, &str>> = LazyLock::new(|| {
        let named = |name: &'static str| {
            let path = catalogue::named(Kind::Gpu, name).ok()?;
            let gpu: Gpu = toml::from_str(&catalogue::read_text(&path).ok()?).ok()?;
            Some((gpu.name, name))
        };
        catalogue::names(Kind::Gpu).filter_map(named).collect()
    });
    NAMES.get(&gpu.name).copied()
}

/// What a fleet takes, and what an hour of it costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// An hour of the fleet, in the unit of all costs.
    pub per_hour: f64,
    /// Its workers.
    pub workers: u32,
    /// Its GPUs by name; empty where its models name none.
    pub gpus: BTreeMap<String, u32>,
    /// Watts of all its GPUs; `None` unless those of every GPU are given.
    pub watts: Option<f64>,
}

impl Cost {
    /// Its GPUs in words, or its workers.
    pub fn fleet(&self) -> String {
        if self.gpus.is_empty() {
            return format!("{} workers", self.workers);
        }
        let gpus: Vec<String> = self.gpus.iter().map(|(name, n)| format!("{n} {name}")).collect();
        gpus.join(" and ")
    }
}

/// How costs are counted.
#[derive(Clone, Debug)]
pub(super) enum Counted {
    /// In money.
    Prices(Prices),
    /// In hours of the only kind of GPU there is.
    Gpus,
    /// In hours of workers, which name no GPUs.
    Workers,
}

impl Counted {
    /// By prices, or, without them, by what all runs have in common.
    ///
    /// # Errors
    /// If runs without prices have nothing in common that could be counted.
    pub(super) fn of(prices: Option<Prices>, experiment: &Experiment) -> Result<Self, Invalid> {
        if let Some(prices) = prices {
            return Ok(Self::Prices(prices));
        }
        let pools = experiment.runs.iter().flat_map(|run| run.settings.models.iter());
        let mut kinds: Vec<&str> = pools
            .map(|model| gpu_of(model.as_deref()).map_or("workers", |gpu| gpu.name.as_str()))
            .collect();
        kinds.sort_unstable();
        kinds.dedup();
        match kinds.as_slice() {
            ["workers"] => Ok(Self::Workers),
            [_] => Ok(Self::Gpus),
            several => {
                let allowed = format!(
                    "given: an hour of each of these costs something else: {}",
                    several.join(", ")
                );
                Err(Invalid::new("prices", NOTHING, allowed))
            }
        }
    }

    /// What costs are in.
    pub(super) fn unit(&self) -> &str {
        match self {
            Self::Prices(prices) => &prices.currency,
            Self::Gpus => GPU_HOURS,
            Self::Workers => WORKER_HOURS,
        }
    }

    /// An hour of a fleet.
    ///
    /// # Errors
    /// If something of it has no price.
    pub(super) fn cost(&self, settings: &Settings) -> Result<Cost, Invalid> {
        let mut cost = Cost { per_hour: 0.0, workers: 0, gpus: BTreeMap::new(), watts: Some(0.0) };
        for (pool, model) in settings.pools.pools().iter().zip(settings.models.iter()) {
            let workers = f64::from(pool.workers);
            cost.workers += pool.workers;
            let hardware = model.as_deref().and_then(|model| model.hardware.as_ref());
            let gpus = hardware.map_or(0, |hardware| hardware.gpus() * pool.workers);
            let gpu = gpu_of(model.as_deref());
            if let Some(gpu) = gpu {
                *cost.gpus.entry(gpu.name.clone()).or_default() += gpus;
            }
            let prices = match self {
                Self::Gpus => {
                    cost.per_hour += f64::from(gpus);
                    None
                }
                Self::Workers => {
                    cost.per_hour += workers;
                    None
                }
                Self::Prices(prices) => Some(prices),
            };
            let watts = prices.zip(gpu).and_then(|(p, gpu)| Prices::of_gpu(&p.gpu_watts, gpu));
            cost.watts = cost.watts.zip(watts).map(|(all, of_one)| all + of_one * f64::from(gpus));
            let Some(prices) = prices else { continue };
            cost.per_hour += match gpu {
                Some(gpu) => f64::from(gpus) * priced(prices, gpu)?,
                None => workers * of_worker(prices, &pool.name)?,
            };
            cost.per_hour += workers * tiers(prices, &pool.engine);
        }
        // So that sums in another order are the same cost.
        cost.per_hour = (cost.per_hour * 1e6).round() / 1e6;
        Ok(cost)
    }

    /// What costs nothing because no price of it is given, or is not counted.
    pub(super) fn uncounted(&self, experiment: &Experiment) -> Vec<String> {
        let pools = experiment.runs.iter().flat_map(|run| run.settings.pools.pools());
        let mut media: Vec<&str> = pools
            .flat_map(|pool| {
                let is_sized = pool.engine.kv_bytes_per_token.is_some();
                pool.engine.tiers.tiers.iter().map(move |tier| (tier.medium.name(), is_sized))
            })
            .filter(|(medium, is_sized)| match self {
                Self::Prices(prices) => !is_sized || !prices.gib_hour.contains_key(*medium),
                _ => true,
            })
            .map(|(medium, _)| medium)
            .collect();
        media.sort_unstable();
        media.dedup();
        let free = |medium| format!("KV in the tier {medium} counts as free: it has no price");
        media.into_iter().map(free).collect()
    }
}

fn gpu_of(model: Option<&Model>) -> Option<&Gpu> {
    model?.hardware.as_ref().map(|hardware| &hardware.gpu)
}

fn priced(prices: &Prices, gpu: &Gpu) -> Result<f64, Invalid> {
    Prices::of_gpu(&prices.gpu_hour, gpu).ok_or_else(|| {
        let name = catalogue_name(gpu).unwrap_or(&gpu.name);
        let known: Vec<&str> = prices.gpu_hour.keys().map(String::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let allowed = format!("given: a candidate runs on {}; the prices have {known}", gpu.name);
        Invalid::new(format!("prices.gpu_hour.{name}"), NOTHING, allowed)
    })
}

fn of_worker(prices: &Prices, pool: &str) -> Result<f64, Invalid> {
    prices.worker_hour.ok_or_else(|| {
        let allowed = format!("given: the model of the workers of {pool} names no GPU");
        Invalid::new("prices.worker_hour", NOTHING, allowed)
    })
}

/// An hour of a worker's tiers below GPU memory; what has no price is free.
fn tiers(prices: &Prices, engine: &EngineConfig) -> f64 {
    let Some(bytes) = engine.kv_bytes_per_token else { return 0.0 };
    let of_tier = |tier: &TierSpec| {
        let price = prices.gib_hour.get(tier.medium.name()).copied().unwrap_or(0.0);
        let tokens = f64::from(tier.blocks) * f64::from(engine.block_size);
        price * tokens * bytes / BYTES_IN_GIB
    };
    engine.tiers.tiers.iter().map(of_tier).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::LoadOptions;

    fn parse(text: &str) -> Result<Prices, String> {
        Prices::parse(Path::new("prices.toml"), text).map_err(|error| error.to_string())
    }

    fn doks(overrides: &[&str]) -> Experiment {
        let options = LoadOptions::default().set("workload.concurrency=60");
        let options = options.set("router.policy=kv").set_all(overrides.iter().copied());
        Experiment::load(Path::new("doks-3xh200"), &options).expect("loads")
    }

    #[test]
    fn prices_are_checked_where_they_stand() {
        let good = "currency = \"USD\"\n[gpu_hour]\nh200 = 3.5\n";
        assert_eq!(parse(good).expect("good").gpu_hour["h200"], 3.5);
        for (bad, part) in [
            ("currency = \"USD\"\n[gpu_hour]\nh200 = -1\n", "prices.toml:3"),
            ("currency = \"\"\n", "currency"),
            ("currency = \"USD\"\n[gib_hour]\ntape = 1.0\n", "tape"),
            ("currency = \"USD\"\n[gpu_hour]\nh200 = nan\n", "gpu_hour.h200"),
            ("currency = \"USD\"\nprice = 1\n", "price"),
            ("[gpu_hour]\nh200 = 1\n", "currency"),
        ] {
            let message = parse(bad).expect_err(bad);
            assert!(message.contains(part), "{bad}: {message}");
        }
    }

    #[test]
    fn a_fleet_costs_the_hours_of_its_gpus() {
        let experiment = doks(&[]);
        let settings = &experiment.runs[0].settings;
        let text = "currency = \"USD\"\n[gpu_hour]\nH200 = 3.5\n[gpu_watts]\nh200 = 1000\n";
        let counted = Counted::of(Some(parse(text).unwrap()), &experiment).unwrap();
        let cost = counted.cost(settings).unwrap();
        assert_eq!((cost.per_hour, cost.workers, cost.watts), (10.5, 3, Some(3_000.0)));
        assert_eq!(cost.fleet(), "3 H200 SXM");
        let counted = Counted::of(None, &experiment).unwrap();
        let cost = counted.cost(settings).unwrap();
        assert_eq!((cost.per_hour, counted.unit(), cost.watts), (3.0, "GPU hours", None));
        let text = "currency = \"USD\"\n[gpu_hour]\nh100 = 2\n";
        let counted = Counted::of(Some(parse(text).unwrap()), &experiment).unwrap();
        let missing = counted.cost(settings).unwrap_err().to_string();
        assert!(missing.contains("gpu_hour.h200") && missing.contains("h100"), "{missing}");
    }

    #[test]
    fn two_kinds_of_gpus_need_prices() {
        let models = "sweep.cluster.model=[\"llama-3.1-70b-fp8-h200-trtllm\", \
                      \"llama-3.1-70b-fp8-h100-tp2-trtllm\"]";
        let experiment = doks(&[models]);
        let wrong = Counted::of(None, &experiment).unwrap_err().to_string();
        assert!(wrong.contains("H100") && wrong.contains("H200"), "{wrong}");
    }
}
