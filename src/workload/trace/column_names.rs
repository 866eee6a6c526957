//! What an experiment says of the columns of a log.

use super::TraceFormat;
use crate::settings::{self, Invalid};
use crate::workload::MAX_TOKENS;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// Which columns of a CSV, or which keys of JSON lines, say what. Keys of objects in
/// objects are joined by dots: `usage.prompt_tokens`. Names are matched to the letter,
/// else without capitals, blanks and underscores.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Columns {
    /// When the request was sent: a number in `time_unit`, or a date.
    pub time: String,
    /// Tokens of its prompt; several columns are added: `"new + cached"`.
    pub prompt: String,
    /// Tokens of its answer; several columns are added.
    pub output: String,
    /// What requests of one conversation have in common; none have anything unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// When its answer had ended. With it a later turn of a session waits as long after
    /// the answer as it did; without, it comes at its own time, if the answer is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    /// Ids of the blocks of the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<String>,
    /// What requests whose prompts begin with the same text have in common.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// How long that text is, or the column that says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_tokens: Option<PrefixTokens>,
    /// Where the rows are inside a line of JSON: keys of lists, joined by dots. The line
    /// itself unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<String>,
}

/// The length of a text that prompts begin with.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum PrefixTokens {
    /// This many tokens.
    Tokens(u32),
    /// What this column says.
    Column(String),
}

impl Columns {
    /// Refuses columns that say nothing, or too little.
    ///
    /// # Errors
    /// The first unusable key.
    pub fn validate(&self) -> Result<(), Invalid> {
        for (key, name) in self.named() {
            let is_named = name.split('+').all(|part| !part.trim().is_empty());
            Invalid::unless(is_named, key, format!("{name:?}"), "the name of a column")?;
        }
        let parts = |names: &str| names.split('+').map(|part| part.trim().to_owned()).collect();
        let [time, prompt, output]: [Vec<String>; 3] =
            [&self.time, &self.prompt, &self.output].map(|names| parts(names));
        for (key, names, others) in [
            ("prompt", &prompt, [("time", &time)].as_slice()),
            ("output", &output, &[("time", &time), ("prompt", &prompt)]),
        ] {
            for (other, taken) in others {
                if let Some(name) = names.iter().find(|name| taken.contains(name)) {
                    let allowed = format!("another column than {other}");
                    return Err(Invalid::new(key, format!("{name:?}"), allowed));
                }
            }
        }
        if let Some(end) = self.end.as_ref().filter(|_| self.session.is_none()) {
            let allowed = "given beside session: it says how long the next turn of a session waits \
                           after an answer, and does nothing else";
            return Err(Invalid::new("end", format!("{end:?}"), allowed));
        }
        let (prefix, tokens) = (self.prefix.as_deref(), &self.prefix_tokens);
        let allowed = "given beside prefix: how many tokens its text has";
        let is_paired = prefix.is_some() == tokens.is_some();
        Invalid::unless(
            is_paired,
            "prefix_tokens",
            if tokens.is_some() { "given" } else { "nothing" },
            allowed,
        )?;
        if let Some(PrefixTokens::Tokens(tokens)) = tokens {
            let allowed = format!("from 1 to {MAX_TOKENS}");
            Invalid::unless((1..=MAX_TOKENS).contains(tokens), "prefix_tokens", tokens, &allowed)?;
        }
        let both = self.ids.is_some() && self.prefix.is_some();
        Invalid::unless(!both, "prefix", "given", "absent beside ids, which say what is shared")
    }

    /// Refuses what [`validate`](Self::validate) does, and columns beside a format; keys are
    /// those of the workload.
    ///
    /// # Errors
    /// The first unusable key.
    pub(super) fn validate_beside(&self, format: Option<TraceFormat>) -> Result<(), Invalid> {
        self.validate().map_err(|invalid| invalid.within("columns"))?;
        let allowed = "absent beside columns, which say how rows are written";
        let format = format.map(TraceFormat::name);
        Invalid::unless(format.is_none(), "format", format.unwrap_or_default(), allowed)
    }

    /// The keys that are given, with the names of their columns.
    pub(super) fn named(&self) -> Vec<(&'static str, &str)> {
        let optional = [
            ("session", &self.session),
            ("end", &self.end),
            ("ids", &self.ids),
            ("prefix", &self.prefix),
            ("rows", &self.rows),
        ];
        let mut named: Vec<(&'static str, &str)> =
            vec![("time", &self.time), ("prompt", &self.prompt), ("output", &self.output)];
        named.extend(optional.iter().filter_map(|(key, name)| Some((*key, name.as_deref()?))));
        if let Some(PrefixTokens::Column(name)) = &self.prefix_tokens {
            named.push(("prefix_tokens", name));
        }
        named
    }
}

/// Reads `time=ts,prompt=prompt_tokens,output=completion_tokens`: the keys of [`Columns`].
impl FromStr for Columns {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const KEYS: &str =
            "time, prompt, output, session, end, ids, prefix, prefix_tokens and rows";
        let mut table = toml::Table::new();
        for part in text.split(',') {
            let (key, name) = part
                .split_once('=')
                .ok_or_else(|| format!("{part:?}: must be KEY=COLUMN, with the keys {KEYS}"))?;
            let (key, name) = (key.trim(), name.trim());
            let tokens = settings::parse_count(name).ok().filter(|_| key == "prefix_tokens");
            let value = match tokens {
                Some(tokens) => toml::Value::Integer(tokens.into()),
                None => toml::Value::String(name.to_owned()),
            };
            if table.insert(key.to_owned(), value).is_some() {
                return Err(format!("{key} is given twice"));
            }
        }
        let columns: Self = table.try_into().map_err(|error: toml::de::Error| {
            let problem = error.message();
            match problem.starts_with("missing") {
                true => format!("{problem}: the keys are {KEYS}"),
                false => problem.to_owned(),
            }
        })?;
        columns.validate().map_err(|invalid| invalid.to_string())?;
        Ok(columns)
    }
}
