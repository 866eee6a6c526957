//! `sim models`.

use super::args::Format;
use super::error::CliError;
use super::talk::print;
use kv_router_sim::accuracy::{AccuracySettings, Record};
use kv_router_sim::catalogue::{self, Kind};
use kv_router_sim::engine::model::{Efficiency, Gpu, Model, Shape, Worth};
use kv_router_sim::engine::settings::EngineSettings;
use kv_router_sim::report::render::save;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Write;
use std::path::Path;

/// List the models that come with sim, with their sources and accuracy, and parts to compose others
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sim models
  sim models --format json
  sim run doks-3xh200 --seeds 1 --out tp2 --set cluster.model=llama-3.1-70b-fp8-h100-tp2-trtllm
  sim run doks-3xh200 --seeds 1 --out parts --set workload.concurrency=60 \\
      --set 'cluster.model={ shape = \"qwen3-32b\", gpu = \"h100\", tp = 2, engine = \"trtllm\" }'

An experiment says cluster.model = \"NAME\", or gives the parts.")]
pub(crate) struct ModelsArgs {
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Short for --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

#[derive(Serialize)]
struct Listed {
    name: &'static str,
    title: String,
    worth: Worth,
    source: String,
    network: Option<String>,
    gpu: Option<String>,
    tp: Option<u32>,
    engine: &'static str,
    weights: Option<String>,
    kv: Option<String>,
    kv_pool_tokens: u64,
    /// Mean error of the time per output token against real serving runs, percent.
    tpot_error_percent: Option<f64>,
    tpot_runs: usize,
}

#[derive(Serialize)]
struct Part {
    name: &'static str,
    title: String,
    source: String,
}

#[derive(Serialize)]
struct Catalogue {
    models: Vec<Listed>,
    shapes: Vec<Part>,
    gpus: Vec<Part>,
    engines: Vec<Part>,
    /// Engines on GPUs whose speed is known.
    efficiencies: Vec<Part>,
}

/// Prints the catalogue.
pub(super) fn run(args: &ModelsArgs) -> Result<(), CliError> {
    let catalogue = Catalogue::new()?;
    let format = if args.json { Format::Json } else { args.format };
    match format {
        Format::Json => print(&save::json(&catalogue)),
        Format::Text => print(&catalogue.text()),
    }
}

impl Catalogue {
    fn new() -> Result<Self, CliError> {
        let record = Record::read(&AccuracySettings::load(Path::new(catalogue::ACCURACY))?.record)?;
        let titled = |kind, title: fn(&str) -> (String, Option<String>)| {
            let part = |name| {
                let (title, source) = title(name);
                Part { name, title, source: source.unwrap_or_default() }
            };
            catalogue::names(kind).map(part).collect()
        };
        Ok(Self {
            models: catalogue::names(Kind::Model).map(|name| listed(name, &record)).collect(),
            shapes: titled(Kind::Shape, |name| {
                let shape: Shape = shipped(Kind::Shape, name);
                (shape.name, shape.source)
            }),
            gpus: titled(Kind::Gpu, |name| {
                let gpu: Gpu = shipped(Kind::Gpu, name);
                (gpu.name, gpu.source)
            }),
            engines: titled(Kind::Engine, |name| {
                let engine: toml::Table = shipped(Kind::Engine, name);
                let rules = engine.get("rules").and_then(toml::Value::as_str);
                let about = catalogue::about_engine(name);
                (format!("the rules of {}: {about}", rules.unwrap_or_default()), None)
            }),
            efficiencies: titled(Kind::Efficiency, |name| {
                let efficiency: Efficiency = shipped(Kind::Efficiency, name);
                let title = efficiency.borrowed_from.map(|from| format!("borrowed from {from}"));
                (title.unwrap_or_default(), efficiency.source)
            }),
        })
    }

    fn text(&self) -> String {
        let head = ["model", "KV pool (tokens)", "worth", "TPOT error", "numbers"];
        let mut rows = vec![head.map(str::to_owned)];
        rows.extend(self.models.iter().map(|model| {
            let error = model
                .tpot_error_percent
                .map_or(String::new(), |error| format!("{error:.1} % of {} runs", model.tpot_runs));
            let worth = model.worth.to_string();
            let pool = model.kv_pool_tokens.to_string();
            [model.name.to_owned(), pool, worth, error, model.source.clone()]
        }));
        let mut text = aligned(&rows);
        text += "\n\
            measured: the operators of this very deployment were measured; step_time = { kind = \"table\" } or\n          \
            { kind = \"operators\" } takes those times; where the formula that was fitted to them describes\n          \
            the network, it is the default\n\
            composed: the formula, fitted to other deployments of this engine on this GPU\n\
            scaled: measured on another version of the engine, scaled by the known ratio of its kernels\n\
            borrowed: the formula, fitted to another GPU or engine\n\
            assumed: times without a measurement behind them\n\
            KV pools in tokens: under vLLM, where layers with a window keep little, of sequences as long as allowed;\n          \
            under TensorRT-LLM such layers hold KV in full\n\
            TPOT error: mean error of the time per output token against real serving runs (sim accuracy)\n\n\
            Parts, for model = { shape = .., gpu = .., tp = .., engine = .., weights = .., kv = .. }:\n\n";
        for (kind, parts) in [
            ("shape", &self.shapes),
            ("gpu", &self.gpus),
            ("engine", &self.engines),
            ("engine on gpu", &self.efficiencies),
        ] {
            let rows: Vec<[String; 3]> = parts
                .iter()
                .map(|Part { name, title, source }| {
                    let about = [title.as_str(), source.as_str()];
                    let about = about.iter().filter(|text| !text.is_empty());
                    let about = about.copied().collect::<Vec<_>>().join(": ");
                    [kind.to_owned(), (*name).to_owned(), about]
                })
                .collect();
            text += &aligned(&rows);
        }
        let _ = writeln!(
            text,
            "\nNot simulated: SGLang's scheduler, speculative decoding, LoRA, layers that keep a state \
             (Mamba), pipeline parallelism.\nshape may also be the config.json of a network; each part may be a file like those in models/."
        );
        text
    }
}

fn listed(name: &'static str, record: &Record) -> Listed {
    let path = catalogue::named(Kind::Model, name).expect("its name was listed");
    let model = Model::load(&path).expect("shipped models can be read");
    let config = model.engine_config().expect("shipped models are whole");
    let hardware = model.hardware.as_ref();
    let operators = || {
        let EngineSettings { operators, kernels, .. } = &model.engine;
        let composed = hardware?.composed(config.rules.name().as_str(), operators, kernels)?;
        let borrowed = composed.ok()?.borrowed;
        let mut source = "operators measured by NVIDIA AIConfigurator 0.12.0".to_owned();
        if !borrowed.is_empty() {
            let _ = write!(source, ", {}", borrowed.join(", "));
        }
        Some(source)
    };
    let source = model.source.clone().or_else(operators);
    let source = source.or_else(|| hardware?.efficiency.source.clone());
    let error = model.deployment.as_ref().and_then(|deployment| record.of_runs(deployment));
    Listed {
        name,
        worth: model.worth(),
        title: model.name,
        source: source.unwrap_or_default(),
        network: hardware.map(|hardware| hardware.shape.name.clone()),
        gpu: hardware.map(|hardware| hardware.gpu.name.clone()),
        tp: hardware.map(|hardware| hardware.tp),
        engine: config.rules.name().as_str(),
        weights: hardware.map(|hardware| hardware.weight_dtype.to_string()),
        kv: hardware.map(|hardware| hardware.kv_dtype.to_string()),
        // Of all ranks.
        kv_pool_tokens: config.pool_tokens() * u64::from(config.attention_dp),
        tpot_error_percent: error.map(|(percent, _)| percent),
        tpot_runs: error.map_or(0, |(_, runs)| runs),
    }
}

fn shipped<T: DeserializeOwned>(kind: Kind, name: &str) -> T {
    let path = catalogue::named(kind, name).expect("its name was listed");
    let text = catalogue::read_text(&path).expect("shipped");
    toml::from_str(&text).expect("shipped files can be read")
}

/// Rows with their columns under each other; no line ends with spaces.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let width = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            format!("{cell:<width$}")
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_shipped_says_where_it_comes_from() {
        let catalogue = Catalogue::new().expect("a catalogue");
        for model in &catalogue.models {
            assert!(!model.source.is_empty(), "{}", model.name);
        }
        let parts = [&catalogue.shapes, &catalogue.gpus, &catalogue.efficiencies];
        for part in parts.into_iter().flatten() {
            assert!(!part.source.is_empty(), "{}", part.name);
        }
        let worth = |name: &str| {
            catalogue.models.iter().find(|model| model.name == name).expect(name).worth
        };
        assert_eq!(worth("llama-3.1-70b-fp8-h200-trtllm"), Worth::Measured);
        assert_eq!(worth("llama-3.1-8b-bf16-h100-vllm"), Worth::Composed);
        assert_eq!(worth("fixed-20-10"), Worth::Assumed);
    }
}
