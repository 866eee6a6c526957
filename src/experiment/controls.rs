//! `[[control]]`: what an experiment changes while its simulations run.

use super::document::Document;
use super::error::ExperimentError;
use super::run_spec::Settings;
use super::simulate::policy_named;
use crate::router::admission::{limit_of, no_gate};
use crate::settings::{Invalid, duration_text, same};
use crate::simulation::{Control, ControlSettings};
use crate::time::{SimDuration, SimTime};
use std::collections::BTreeSet;

/// More clients than this none can have: see `workload.concurrency`.
const MOST_CLIENTS: u32 = 1_000_000;
/// Requests a second that a process of arrivals can have.
const RATES: std::ops::RangeInclusive<f64> = 1e-3..=1e6;

/// The controls as written, in order.
pub(super) fn read(document: &Document) -> Result<Vec<ControlSettings>, ExperimentError> {
    let items = match document.get("control") {
        None => return Ok(Vec::new()),
        Some(toml::Value::Array(items)) => items,
        Some(other) => {
            let problem = "must be a list of controls: begin each with [[control]]";
            return Err(document.value_error("control", other, problem));
        }
    };
    let control = |(index, item): (usize, &toml::Value)| {
        let key = format!("control[{index}]");
        match item {
            toml::Value::Table(table) => document.item(&key, table),
            other => {
                let problem = "must be a table: begin each control with [[control]]";
                Err(document.value_error(&key, other, problem))
            }
        }
    };
    items.iter().enumerate().map(control).collect()
}

/// Places in `all` of those that control the simulation of `document`, a point with
/// all its values in it.
pub(super) fn applicable(document: &Document, all: &[ControlSettings]) -> Vec<usize> {
    let has = |(key, wanted): (&String, &serde_json::Value)| {
        let value = document.get(key).map(|value| serde_json::json!(value));
        value.is_some_and(|value| same(&value, wanted))
    };
    let chosen = all.iter().enumerate().filter(|(_, control)| control.only.iter().all(has));
    chosen.map(|(index, _)| index).collect()
}

/// What the `chosen` of `all` do to the simulations of `settings`, in order of time;
/// everything that can be checked before a run is.
pub(super) fn resolve(
    document: &Document,
    all: &[ControlSettings],
    chosen: &[usize],
    settings: &Settings,
) -> Result<Vec<(SimTime, Control)>, ExperimentError> {
    let mut controls = Vec::new();
    for &index in chosen {
        let of_this = |wrong| document.invalid(&format!("control[{index}]"), wrong);
        let control = all[index].control().map_err(of_this)?;
        check(&control, settings).map_err(of_this)?;
        controls.push((index, SimTime::ZERO + all[index].at, control));
    }
    controls.sort_by_key(|(_, at, _)| *at);
    check_parameters(&controls, settings)
        .map_err(|(index, wrong)| document.invalid(&format!("control[{index}]"), wrong))?;
    let is_of_worker = |control: &Control| matches!(control, Control::Worker(_));
    let of_workers = controls.iter().filter(|(_, _, control)| is_of_worker(control));
    let of_workers: Vec<usize> = of_workers.map(|(index, ..)| *index).collect();
    let script = controls.into_iter().map(|(_, at, control)| (at, control)).collect();
    let with = Settings { controls: script, ..settings.clone() };
    let planned = settings.cluster.change.len();
    with.plan().validate().map_err(|wrong| match own_key(&wrong.key, planned, &of_workers) {
        Some((index, key)) => {
            document.invalid(&format!("control[{index}]"), Invalid { key, ..wrong })
        }
        None => document.invalid("cluster", wrong),
    })?;
    Ok(with.controls)
}

/// The control, and the key in it, that a plan means by `change[N].KEY`, where the
/// changes of workers `of_workers` follow `planned` others.
fn own_key(key: &str, planned: usize, of_workers: &[usize]) -> Option<(usize, String)> {
    let (number, key) = key.strip_prefix("change[")?.split_once("].")?;
    let number: usize = number.parse().ok()?;
    Some((*of_workers.get(number.checked_sub(planned)?)?, key.to_owned()))
}

/// Refuses controls that no simulation has: `controlled` are those that some have.
pub(super) fn check_used(
    document: &Document,
    controlled: &BTreeSet<usize>,
) -> Result<(), ExperimentError> {
    let all = read(document)?;
    let Some(unused) = (0..all.len()).find(|index| !controlled.contains(index)) else {
        return Ok(());
    };
    let only = serde_json::json!(all[unused].only).to_string();
    let allowed = "settings with values that some simulation has: no point of this experiment has \
                   all of these";
    Err(document.invalid(&format!("control[{unused}]"), Invalid::new("only", only, allowed)))
}

/// The error for a control `at` the `end` of the run, or later.
pub(super) fn too_late(document: &Document, at: SimDuration, end: SimDuration) -> ExperimentError {
    let all = read(document).unwrap_or_default();
    let index = all.iter().position(|control| control.at == at).unwrap_or(0);
    let allowed = format!("before the end of the run, {}", duration_text(end));
    document.invalid(&format!("control[{index}]"), Invalid::new("at", duration_text(at), allowed))
}

/// Refuses what simulations of `settings` cannot do, whenever it comes.
pub(crate) fn check(control: &Control, settings: &Settings) -> Result<(), Invalid> {
    match control {
        Control::Load { concurrency, .. } => {
            let is_closed = settings.workload.concurrency().is_some();
            let allowed = "another one: this workload has no number of concurrent clients";
            Invalid::unless(is_closed, "what", "\"load\"", allowed)?;
            let allowed = format!("from 0 to {MOST_CLIENTS}");
            let fits = *concurrency <= MOST_CLIENTS;
            Invalid::unless(fits, "concurrency", concurrency, &allowed)
        }
        Control::Rate { per_s } => {
            let has_process = settings.source.arrivals().is_some();
            let allowed = "another one: this workload does not come by a process of arrivals";
            Invalid::unless(has_process, "what", "\"rate\"", allowed)?;
            let (low, high) = (RATES.start(), RATES.end());
            let allowed = format!("requests per second from {low} to {high}");
            Invalid::unless(RATES.contains(per_s), "rate", per_s, &allowed)
        }
        Control::Policy { name } => {
            let allowed = "left out where router.restart is given: that brings back a policy";
            let restarts = settings.router.restart.is_some();
            Invalid::unless(!restarts, "policy", format!("{name:?}"), allowed)
        }
        Control::Worker(_)
        | Control::Parameter { .. }
        | Control::Feed { .. }
        | Control::Marker { .. } => Ok(()),
    }
}

/// Tries policies and parameters out, in order of time; names the control.
fn check_parameters(
    controls: &[(usize, SimTime, Control)],
    settings: &Settings,
) -> Result<(), (usize, Invalid)> {
    let steers =
        |control: &Control| matches!(control, Control::Policy { .. } | Control::Parameter { .. });
    if !controls.iter().any(|(_, _, control)| steers(control)) {
        return Ok(());
    }
    let named = |name: &str| policy_named(settings, name, 0, 0);
    let mut admission = settings.router.admission.clone();
    let mut running = named(settings.policy.name()).map_err(|wrong| (controls[0].0, wrong))?;
    for (index, _, control) in controls {
        let of_this = |wrong| (*index, wrong);
        match control {
            Control::Policy { name } => running = named(name).map_err(of_this)?,
            Control::Parameter { key, value } => {
                let of_value =
                    |wrong| of_this(Invalid { key: "value".to_owned(), ..named_key(wrong, key) });
                match limit_of(key) {
                    None => running.set_parameter(key, *value).map_err(of_value)?,
                    Some(limit) => {
                        let admission = admission.as_mut().ok_or_else(|| of_this(no_gate(key)))?;
                        admission.set(limit, *value).map_err(|wrong| match wrong.key.as_str() {
                            "key" => of_this(wrong),
                            _ => of_value(wrong),
                        })?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Says which parameter a refusal is about.
fn named_key(wrong: Invalid, key: &str) -> Invalid {
    let allowed = format!("{} (key = {key:?})", wrong.allowed);
    Invalid { allowed, ..wrong }
}
