//! How a router in another language is found, and what it hears.

use super::wire::Knowledge;
use crate::router::parameters::{Parameters, check_report_period};
use crate::settings::{Invalid, duration_text};
use crate::time::SimDuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;
use toml::{Table, Value};

/// Parameters of [`External`](super::External).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ExternalParams {
    /// The program that routes, with its arguments. It runs as the user who runs the
    /// simulation, once for every front end of every simulation. This or `socket`.
    pub command: Vec<String>,
    /// The Unix socket of a router that runs already; every front end of every simulation
    /// has a connection of its own. This or `command`.
    pub socket: String,
    /// The folder in which `command` runs and `socket` is looked up. Empty: that of the
    /// experiment's file.
    pub directory: String,
    /// What is handed over to the router as it is: a section of its own keys.
    ///
    /// Numbers are finite, and dates are texts: the lines to the router are JSON.
    #[schemars(with = "BTreeMap<String, Json>")]
    pub parameters: BTreeMap<String, Value>,
    /// Wall time for an answer, from 1 ms to 1 h. A router that takes longer ends the
    /// simulation.
    pub timeout: SimDuration,
    /// Ask two processes everything and compare: an answer that depends on anything but
    /// the lines and the seed ends the simulation.
    pub check_determinism: bool,
    /// Whether it hears of blocks that workers store and remove.
    pub use_kv_events: bool,
    /// Whether it hears of every block that an output grows into.
    pub track_output_blocks: bool,
    /// Time between two reports of a worker's gauges, at least 1 ms. Unset: it gets none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report_period: Option<SimDuration>,
}

impl Default for ExternalParams {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            socket: String::new(),
            directory: String::new(),
            parameters: BTreeMap::new(),
            timeout: SimDuration::from_secs(10),
            check_determinism: false,
            use_kv_events: true,
            track_output_blocks: false,
            report_period: None,
        }
    }
}

const LEAST_TIMEOUT: SimDuration = SimDuration::from_millis(1);

const LONGEST_TIMEOUT: SimDuration = SimDuration::from_secs(3_600);

impl Parameters for ExternalParams {
    /// A date would be read as a text.
    fn check_given(given: &Table) -> Result<(), Invalid> {
        given.get("parameters").map_or(Ok(()), |value| check_json(("parameters".into(), value)))
    }

    fn check(&self) -> Result<(), Invalid> {
        let either = "given where policy = \"external\" (a list, like [\"python3\", \
                      \"my_router.py\"]), or else socket";
        match (self.command.as_slice(), self.socket.as_str()) {
            ([], "") => return Err(Invalid::new("command", crate::settings::NOTHING, either)),
            ([], _) | ([_, ..], "") => {}
            ([_, ..], socket) => {
                let allowed = "left out where command is given";
                return Err(Invalid::new("socket", format!("{socket:?}"), allowed));
            }
        }
        let program = self.command.first();
        let allowed = "a list whose first text names a program";
        Invalid::unless(program.is_none_or(|name| !name.is_empty()), "command", "[\"\"]", allowed)?;
        let fits = (LEAST_TIMEOUT..=LONGEST_TIMEOUT).contains(&self.timeout);
        let written = duration_text(self.timeout);
        Invalid::unless(fits, "timeout", written, "from 1ms to 1h")?;
        if let Some(period) = self.report_period {
            check_report_period(period)?;
        }
        let given = self.parameters.iter();
        given.map(|(key, value)| (format!("parameters.{key}"), value)).try_for_each(check_json)
    }
}

/// What JSON has no word for would reach the router as something else.
fn check_json((key, value): (String, &Value)) -> Result<(), Invalid> {
    match value {
        Value::Float(number) if !number.is_finite() => {
            let allowed = "a finite number, or text in quotes: the router gets it as JSON";
            Err(Invalid::new(&key, value, allowed))
        }
        Value::Datetime(_) => {
            let allowed = "text in quotes, not a date: the router gets it as JSON";
            Err(Invalid::new(&key, value, allowed))
        }
        Value::Array(items) => {
            let items = items.iter().enumerate();
            items.map(|(at, item)| (format!("{key}[{at}]"), item)).try_for_each(check_json)
        }
        Value::Table(table) => {
            let keys = table.iter();
            keys.map(|(inner, value)| (format!("{key}.{inner}"), value)).try_for_each(check_json)
        }
        _ => Ok(()),
    }
}

impl ExternalParams {
    /// [`parameters`](Self::parameters) as the router reads them; [`check`](Parameters::check)
    /// refuses those that cannot be written.
    pub(super) fn handed_over(&self) -> Map<String, Json> {
        let json = |value: &Value| serde_json::to_value(value).unwrap_or_default();
        self.parameters.iter().map(|(key, value)| (key.clone(), json(value))).collect()
    }

    /// Which events the router hears.
    pub(super) fn knowledge(&self) -> Knowledge {
        Knowledge {
            kv_events: self.use_kv_events,
            output_blocks: self.track_output_blocks,
            report_period_ns: self.report_period.map(|period| period.as_ps() / 1_000),
        }
    }
}
