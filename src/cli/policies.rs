//! `sim policies`.

use super::error::CliError;
use super::talk::print;
use kv_router_sim::report::render::save;
use kv_router_sim::router::settings::RouterSettings;
use kv_router_sim::router::{About, Parameter, Registry, Version, Wants};
use kv_router_sim::settings::{duration_text, parse_duration};
use serde_json::{Value, json};
use std::fmt::Write;

/// List the policies that router.policy may name, with their parameters
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sim policies
  sim policies consistent_hash
  sim policies --json")]
pub(crate) struct PoliciesArgs {
    /// A policy [default: all]
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Print JSON, with the schemas of parameters
    #[arg(long)]
    json: bool,
}

/// Prints what each policy is and takes.
pub(super) fn run(args: &PoliciesArgs) -> Result<(), CliError> {
    let registry = Registry::default();
    let chosen: Vec<&About> = match &args.name {
        Some(name) => vec![registry.find(name)?.about()],
        None => registry.abouts().collect(),
    };
    if args.json {
        return print(&save::json(&Value::from_iter(chosen.into_iter().map(as_json))));
    }
    let mut text = String::new();
    for (at, about) in chosen.iter().enumerate() {
        if at > 0 {
            text.push('\n');
        }
        describe(about, &chosen[..at], &mut text);
    }
    print(&text)
}

/// What the policy asks for with its parameters at their defaults; nothing of one
/// that this build leaves out.
fn wants(about: &About) -> Option<Wants> {
    let settings = RouterSettings::new(&about.name);
    settings.validate().ok().map(|()| settings.chosen().wants())
}

fn as_json(about: &About) -> Value {
    let parameter = |parameter: &Parameter| {
        json!({
            "name": parameter.name,
            "doc": parameter.doc,
            "default": parameter.default,
            "allowed": parameter.allowed,
            "changeable": parameter.changeable,
            "schema": parameter.schema,
        })
    };
    let version = |version: &Version| {
        let chosen_by = version.chosen_by.as_ref();
        json!({
            "name": version.name,
            "date": version.date,
            "chosen_by": chosen_by.map(|(key, value)| json!({ "key": key, "value": value })),
        })
    };
    let origin = about.origin.as_ref().map(|origin| {
        json!({
            "project": origin.project,
            "source": origin.source,
            "versions": origin.versions.iter().map(version).collect::<Vec<_>>(),
            "left_out": origin.left_out,
        })
    });
    let wants = wants(about).map(|wants| {
        json!({
            "kv_events": wants.kv_events,
            "reports": wants.reports,
            "output_blocks": wants.output_blocks,
            "truth": wants.truth,
        })
    });
    json!({
        "name": about.name,
        "rule": about.rule,
        "follows": origin,
        "wants": wants,
        "metrics": about.metrics,
        "parameters": about.parameters.iter().map(parameter).collect::<Vec<_>>(),
    })
}

/// A policy in lines; parameters that one of the policies `before` has are named only.
fn describe(about: &About, before: &[&About], text: &mut String) {
    let _ = writeln!(text, "{}: {}", about.name, about.rule);
    if let Some(origin) = &about.origin {
        let versions: Vec<String> = origin.versions.iter().map(in_words).collect();
        let (project, source) = (&origin.project, &origin.source);
        let versions = versions.join("; ");
        wrapped(text, "  ", &format!("follows {project}, {versions}: {source}"));
        if !origin.left_out.is_empty() {
            wrapped(text, "  ", &format!("left out: {}", origin.left_out));
        }
    }
    match wants(about) {
        None => text.push_str("  left out of this build (feature `dynamo`)\n"),
        Some(wants) => {
            let asks = [
                (wants.kv_events, "KV events"),
                (wants.reports.is_some(), "reports of gauges"),
                (wants.output_blocks, "blocks of outputs"),
                (wants.truth, "the true state of workers, which no router has"),
            ];
            let asks: Vec<&str> =
                asks.into_iter().filter(|(asked, _)| *asked).map(|(_, what)| what).collect();
            if !asks.is_empty() {
                wrapped(text, "  ", &format!("wants {}", asks.join(", ")));
            }
        }
    }
    let mut shared: Vec<(&str, Vec<&str>)> = Vec::new();
    for parameter in &about.parameters {
        let known = before.iter().find(|other| other.parameters.contains(parameter));
        if let Some(other) = known {
            match shared.iter_mut().find(|(name, _)| *name == other.name) {
                Some((_, names)) => names.push(&parameter.name),
                None => shared.push((&other.name, vec![&parameter.name])),
            }
            continue;
        }
        let default = match &parameter.default {
            Some(default) => format!(" = {}", as_written(parameter, default)),
            None => " (unset)".to_owned(),
        };
        let changeable = if parameter.changeable { "  [can change while it runs]" } else { "" };
        let _ = writeln!(text, "  {}{default}{changeable}", parameter.name);
        wrapped(text, "      ", &parameter.doc);
    }
    for (name, names) in shared {
        wrapped(text, "  ", &format!("and, as {name}: {}", names.join(", ")));
    }
}

/// A default as a person would write it: durations are kept in nanoseconds.
fn as_written(parameter: &Parameter, default: &toml::Value) -> String {
    let is_duration = parameter.allowed.contains("duration");
    let time = default.as_str().filter(|_| is_duration);
    let time = time.and_then(|text| parse_duration(text).ok());
    time.map_or_else(|| default.to_string(), duration_text)
}

fn in_words(version: &Version) -> String {
    let Version { name, date, chosen_by, .. } = version;
    match chosen_by {
        None => format!("{name} ({date})"),
        Some((key, value)) => format!("{name} ({date}) where {key} = {value:?}"),
    }
}

/// Adds `words` in lines of at most 100 characters, each after `indent`.
fn wrapped(text: &mut String, indent: &str, words: &str) {
    const WIDTH: usize = 100;
    let mut line = String::new();
    for word in words.split_whitespace() {
        if !line.is_empty() && indent.len() + line.len() + 1 + word.len() > WIDTH {
            let _ = writeln!(text, "{indent}{line}");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if !line.is_empty() {
        let _ = writeln!(text, "{indent}{line}");
    }
}
