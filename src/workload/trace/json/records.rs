//! The requests of a line of each format.

use super::super::build::AT_ONCE;
use super::super::error::short;
use super::super::ids::ids_of;
use super::super::place::RowPlace;
use super::super::stamp::{Stamp, TimeUnit};
use super::super::{TraceError, TraceFormat};
use crate::rng::mix;
use crate::workload::MAX_TOKENS;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Tokens that an id of Bailian's traces stands for.
const BAILIAN_BLOCK_TOKENS: u32 = 16;

type Object = Map<String, Value>;

/// A request as a file has it.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) line: usize,
    /// What others call it.
    pub(super) name: Option<String>,
    pub(super) session: Option<String>,
    /// The session that called its session.
    pub(super) parent: Option<String>,
    pub(super) at_ns: Option<u64>,
    pub(super) end_ns: Option<u64>,
    pub(super) delay_ns: u64,
    pub(super) waits_for: WaitsFor,
    /// Whether what it waits for may be missing from the file.
    pub(super) may_lack: bool,
    pub(super) input_tokens: u32,
    pub(super) output_tokens: u32,
    pub(super) ids: Option<Vec<u64>>,
}

impl Record {
    /// The places of those that it waits for, once they are known.
    pub(super) fn rows(&self) -> &[usize] {
        match &self.waits_for {
            WaitsFor::Rows(rows) => rows,
            WaitsFor::Ended | WaitsFor::Named(_) => &[],
        }
    }
}

/// What a request waits for.
#[derive(Debug, Default)]
pub(super) enum WaitsFor {
    /// What had ended when it was sent.
    #[default]
    Ended,
    /// Requests of these names.
    Named(Vec<String>),
    /// Requests in these places.
    Rows(Vec<usize>),
}

/// Reads lines of one format.
pub(super) struct Reader {
    format: TraceFormat,
    unit: TimeUnit,
    pub(super) records: Vec<Record>,
    pub(super) left_out: u64,
    pub(super) block_tokens: Option<u32>,
    /// What was assumed of the file, a sentence each.
    pub(super) notices: Vec<String>,
    /// Whether sub-agents count their times from their own start, once it is known.
    is_relative: Option<bool>,
    /// Requests of Dynamo whose hashes are of another number of tokens than the prompt.
    unlike: u64,
    /// By the name of a chat of Bailian's: the first turn of all that it goes on from.
    chats: BTreeMap<String, String>,
}

/// A line with its place.
#[derive(Clone, Copy)]
struct Row<'a> {
    place: RowPlace<'a>,
    object: &'a Object,
}

impl<'a> Row<'a> {
    fn inner(self, key: &str) -> Result<Row<'a>, TraceError> {
        match self.object.get(key) {
            Some(Value::Object(object)) => Ok(Row { place: self.place, object }),
            Some(other) => Err(self.place.field(key, short(other), "an object")),
            None => Err(self.place.row(format!("field \"{key}\" is missing"))),
        }
    }

    /// A time that counts `unit` and is not negative, in nanoseconds.
    fn time(self, key: &str, unit: TimeUnit) -> Result<Option<u64>, TraceError> {
        let value = match self.object.get(key) {
            None | Some(Value::Null) => return Ok(None),
            Some(value) => value,
        };
        let stamp = match (value.as_u64(), value.as_f64()) {
            (Some(whole), _) => Some(Stamp::Whole(whole)),
            (None, real) => real.filter(|real| *real >= 0.0).map(Stamp::Real),
        };
        stamp.and_then(|stamp| unit.to_ns(stamp)).map(Some).ok_or_else(|| {
            self.place.field(key, short(value), "a time that is not negative, within 500 years")
        })
    }

    fn tokens(self, keys: &[&str]) -> Result<u32, TraceError> {
        let Some((key, value)) =
            keys.iter().find_map(|key| self.object.get(*key).map(|value| (*key, value)))
        else {
            return Err(self.place.row(format!("field \"{}\" is missing", keys[0])));
        };
        let whole = value.as_u64().or_else(|| {
            let real = value.as_f64().filter(|real| real.fract() == 0.0 && *real >= 0.0)?;
            Stamp::parse(&format!("{real:.0}")).and_then(|stamp| TimeUnit::Ns.to_ns(stamp))
        });
        let whole = whole.and_then(|whole| u32::try_from(whole).ok());
        whole.filter(|tokens| *tokens <= MAX_TOKENS).ok_or_else(|| {
            let allowed = format!("a whole number from 0 to {MAX_TOKENS}");
            self.place.field(key, short(value), allowed)
        })
    }

    fn text(self, key: &str) -> Option<String> {
        match self.object.get(key)? {
            Value::String(text) if !text.is_empty() => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    fn ids(self, key: &str) -> Result<Option<Vec<u64>>, TraceError> {
        let Some(value) = self.object.get(key) else { return Ok(None) };
        let ids = ids_of(value).map_err(|(seen, allowed)| self.place.field(key, seen, allowed))?;
        Ok(ids.filter(|ids| !ids.is_empty()))
    }
}

impl Reader {
    pub(super) fn new(format: TraceFormat, unit: TimeUnit) -> Self {
        let block_tokens = match format {
            TraceFormat::Bailian => Some(BAILIAN_BLOCK_TOKENS),
            _ => None,
        };
        let notices = match format {
            TraceFormat::Weka => vec![AT_ONCE.to_owned()],
            _ => Vec::new(),
        };
        Self {
            format,
            unit,
            records: Vec::new(),
            left_out: 0,
            block_tokens,
            notices,
            is_relative: None,
            unlike: 0,
            chats: BTreeMap::new(),
        }
    }

    /// Adds the requests of a line.
    pub(super) fn add(&mut self, place: &RowPlace<'_>, object: &Object) -> Result<(), TraceError> {
        let row = Row { place: *place, object };
        match self.format {
            TraceFormat::MooncakeAgentic => self.agentic(row),
            TraceFormat::DynamoRequests => self.dynamo(row),
            TraceFormat::Bailian => self.bailian(row),
            TraceFormat::AiperfProfile => self.aiperf(row),
            _ => self.weka(row),
        }
    }

    /// Adds what was assumed of the whole file to the notices.
    pub(super) fn finish(&mut self) {
        if self.unlike > 0 {
            self.notices.push(format!(
                "replay.input_length is not request.input_tokens in {} of its requests: the former \
                 is the prompt",
                self.unlike
            ));
        }
    }

    fn push(&mut self, record: Record) {
        if record.input_tokens == 0 || record.output_tokens == 0 {
            self.left_out += 1;
        } else {
            self.records.push(record);
        }
    }

    /// The file says that an id stands for so many tokens, as it said before.
    fn has_blocks_of(&mut self, row: Row<'_>, key: &str, tokens: u32) -> Result<(), TraceError> {
        let known = *self.block_tokens.get_or_insert(tokens);
        if known == tokens {
            return Ok(());
        }
        Err(row.place.field(key, tokens, format!("{known}, as before")))
    }

    fn agentic(&mut self, row: Row<'_>) -> Result<(), TraceError> {
        if let Some(schema) = row.text("schema") {
            let version = row.object.get("version");
            if let Some(version) = version.filter(|version| version.as_u64() != Some(1)) {
                let what = format!("{schema:?} of version {}", short(version));
                return Err(row.place.row(format!(
                    "{what} is not read: only version 1, in which requests have wait_for"
                )));
            }
            if row.object.contains_key("block_size") {
                let tokens = row.tokens(&["block_size"])?;
                self.has_blocks_of(row, "block_size", tokens)?;
            }
            return Ok(());
        }
        if row.object.contains_key("dependencies") {
            let problem = "field \"dependencies\" is not read: only wait_for";
            return Err(row.place.row(problem));
        }
        let Some(name) = row.text("request_id") else {
            return Err(row.place.row("field \"request_id\" is missing"));
        };
        let unit = self.unit;
        let delay = match (row.time("delay", unit)?, row.time("delay_ms", TimeUnit::Ms)?) {
            (Some(_), Some(_)) => {
                return Err(row.place.row("fields \"delay\" and \"delay_ms\" are both there"));
            }
            (delay, of_ms) => delay.or(of_ms).unwrap_or(0),
        };
        let tool = row.time("tool_wait_ms", TimeUnit::Ms)?.unwrap_or(0);
        let names = match row.object.get("wait_for") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(names)) => names
                .iter()
                .map(|name| name.as_str().map_or_else(|| name.to_string(), str::to_owned))
                .collect(),
            Some(other) => {
                return Err(row.place.field("wait_for", short(other), "a list of request_id"));
            }
        };
        let at_ns = match names.is_empty() {
            true => row.time("timestamp", unit)?.or(row.time("created_time", unit)?),
            false => None,
        };
        if names.is_empty() && at_ns.is_none() {
            let problem = "field \"timestamp\" is missing: the request waits for no other";
            return Err(row.place.row(problem));
        }
        let record = Record {
            line: row.place.line,
            name: Some(name),
            session: row.text("session_id"),
            at_ns,
            delay_ns: delay.saturating_add(tool),
            waits_for: WaitsFor::Named(names),
            input_tokens: row.tokens(&["input_length", "input_tokens"])?,
            output_tokens: row.tokens(&["output_length", "output_tokens"])?,
            ids: row.ids("hash_ids")?,
            ..Record::default()
        };
        if record.input_tokens == 0 || record.output_tokens == 0 {
            let problem = "input_length and output_length must be at least 1: others wait for it";
            return Err(row.place.row(problem));
        }
        self.records.push(record);
        Ok(())
    }

    fn dynamo(&mut self, row: Row<'_>) -> Result<(), TraceError> {
        // Alone, or as the event of an envelope.
        let row = match row.object.get("event") {
            Some(Value::Object(object)) => Row { object, ..row },
            _ => row,
        };
        let Some(schema) = row.text("schema") else { return Ok(()) };
        if schema != "dynamo.request.trace.v1" {
            return Err(row.place.field("schema", schema, "dynamo.request.trace.v1"));
        }
        if row.text("event_type").as_deref() != Some("request_end") {
            return Ok(());
        }
        let request = row.inner("request")?;
        let name = request.text("request_id");
        let hashes = match request.object.get("replay") {
            Some(Value::Object(object)) => Some(Row { object, ..row }),
            _ => None,
        };
        let input_tokens = match hashes {
            Some(hashes) => {
                let hashed = hashes.tokens(&["input_length"])?;
                let is_known = request.object.contains_key("input_tokens");
                if is_known && request.tokens(&["input_tokens"])? != hashed {
                    self.unlike += 1;
                }
                hashed
            }
            None => request.tokens(&["input_tokens"])?,
        };
        let ids = match hashes {
            Some(hashes) => {
                let tokens = hashes.tokens(&["trace_block_size"])?;
                self.has_blocks_of(row, "trace_block_size", tokens)?;
                hashes.ids("input_sequence_hashes")?
            }
            None => None,
        };
        let Some(at_ns) = request.time("request_received_ms", TimeUnit::Ms)? else {
            return Err(row.place.row("field \"request_received_ms\" is missing"));
        };
        let lasting = request.time("total_time_ms", TimeUnit::Ms)?;
        let context = match row.object.get("agent_context") {
            Some(Value::Object(object)) => Some(Row { object, ..row }),
            _ => None,
        };
        let said = |keys: [&str; 3]| {
            context.and_then(|context| keys.iter().find_map(|key| context.text(key)))
        };
        let output_tokens = match request.object.get("output_tokens") {
            None | Some(Value::Null) => 0,
            Some(_) => request.tokens(&["output_tokens"])?,
        };
        self.push(Record {
            line: row.place.line,
            name,
            session: said(["trajectory_id", "session_id", "program_id"]),
            parent: said(["parent_trajectory_id", "parent_session_id", "parent_program_id"]),
            at_ns: Some(at_ns),
            end_ns: Some(at_ns.saturating_add(lasting.unwrap_or(0))),
            input_tokens,
            output_tokens,
            ids,
            ..Record::default()
        });
        Ok(())
    }

    fn bailian(&mut self, row: Row<'_>) -> Result<(), TraceError> {
        let Some(name) = row.text("chat_id") else {
            return Err(row.place.row("field \"chat_id\" is missing"));
        };
        let parent = row.text("parent_chat_id").filter(|parent| parent != "-1");
        let Some(at_ns) = row.time("timestamp", TimeUnit::S)? else {
            return Err(row.place.row("field \"timestamp\" is missing"));
        };
        // A chat is called by its first turn.
        let root = parent.as_ref().and_then(|parent| self.chats.get(parent));
        let session = root.cloned().unwrap_or_else(|| name.clone());
        self.chats.insert(name.clone(), session.clone());
        self.push(Record {
            line: row.place.line,
            name: Some(name),
            session: Some(session),
            at_ns: Some(at_ns),
            waits_for: WaitsFor::Named(parent.into_iter().collect()),
            may_lack: true,
            input_tokens: row.tokens(&["input_length"])?,
            output_tokens: row.tokens(&["output_length"])?,
            ids: row.ids("hash_ids")?,
            ..Record::default()
        });
        Ok(())
    }

    fn aiperf(&mut self, row: Row<'_>) -> Result<(), TraceError> {
        let metadata = row.inner("metadata")?;
        let was_cut = metadata.object.get("was_cancelled").and_then(Value::as_bool) == Some(true);
        let has_failed = row.object.get("error").is_some_and(|error| !error.is_null());
        if was_cut || has_failed {
            self.left_out += 1;
            return Ok(());
        }
        let metrics = row.inner("metrics")?;
        let tokens = |key: &str| match metrics.object.get(key) {
            None => Ok(0),
            Some(_) => metrics.inner(key)?.tokens(&["value"]),
        };
        let Some(at_ns) = metadata.time("request_start_ns", TimeUnit::Ns)? else {
            return Err(row.place.row("field \"request_start_ns\" is missing"));
        };
        let end_ns = metadata.time("request_end_ns", TimeUnit::Ns)?;
        if let Some(end_ns) = end_ns.filter(|end_ns| *end_ns < at_ns) {
            let allowed = format!("at least {at_ns}, its request_start_ns");
            return Err(row.place.field("request_end_ns", end_ns, allowed));
        }
        // A conversation may be played several times; this names the play.
        let session = metadata.text("x_correlation_id").or(metadata.text("conversation_id"));
        self.push(Record {
            line: row.place.line,
            session,
            at_ns: Some(at_ns),
            end_ns,
            input_tokens: tokens("input_sequence_length")?,
            output_tokens: tokens("output_sequence_length")?,
            ..Record::default()
        });
        Ok(())
    }

    fn weka(&mut self, row: Row<'_>) -> Result<(), TraceError> {
        let tokens = row.tokens(&["block_size"])?;
        self.has_blocks_of(row, "block_size", tokens)?;
        let scope = match row.text("hash_id_scope").as_deref() {
            // Ids of one conversation say nothing of those of another.
            Some("local") | None => Some(mix(row.place.line as u64)),
            Some("global") => None,
            Some(other) => {
                return Err(row.place.field("hash_id_scope", other, "local or global"));
            }
        };
        let name = row.text("id").unwrap_or_else(|| row.place.line.to_string());
        // Two conversations of one name are two.
        let session = format!("{name}#{}", row.place.line);
        self.conversation(row, &session, None, 0, scope)
    }

    /// The requests of a conversation or a sub-agent, whose times count from `begin_ns`.
    fn conversation(
        &mut self,
        row: Row<'_>,
        session: &str,
        parent: Option<&str>,
        begin_ns: u64,
        scope: Option<u64>,
    ) -> Result<(), TraceError> {
        let Some(Value::Array(requests)) = row.object.get("requests") else {
            return Err(row.place.row("field \"requests\" is missing, a list"));
        };
        for (number, request) in requests.iter().enumerate() {
            let Value::Object(object) = request else {
                return Err(row.place.field("requests", short(request), "a list of objects"));
            };
            let request = Row { object, ..row };
            let Some(t_ns) = request.time("t", TimeUnit::S)? else {
                return Err(row.place.row("field \"t\" of a request is missing"));
            };
            let at_ns = begin_ns.saturating_add(t_ns);
            if request.text("type").as_deref() == Some("subagent") {
                let child = format!(
                    "{session}/{}",
                    request.text("agent_id").unwrap_or_else(|| number.to_string())
                );
                let begin_ns = if self.is_relative(request, t_ns)? { at_ns } else { begin_ns };
                self.conversation(request, &child, Some(session), begin_ns, scope)?;
                continue;
            }
            let lasting = request.time("api_time", TimeUnit::S)?.unwrap_or(0);
            let mut ids = request.ids("hash_ids")?;
            if let (Some(ids), Some(scope)) = (&mut ids, scope) {
                ids.iter_mut().for_each(|id| *id = mix(*id ^ scope) | 1 << 63);
            }
            self.push(Record {
                line: row.place.line,
                session: Some(session.to_owned()),
                parent: parent.map(str::to_owned),
                at_ns: Some(at_ns),
                end_ns: Some(at_ns.saturating_add(lasting)),
                input_tokens: request.tokens(&["in"])?,
                output_tokens: request.tokens(&["out"])?,
                ids,
                ..Record::default()
            });
        }
        Ok(())
    }

    /// Whether sub-agents count from their own start: the first that says so decides for
    /// the file, as one whose first request is before its own start can only do that.
    fn is_relative(&mut self, agent: Row<'_>, t_ns: u64) -> Result<bool, TraceError> {
        if let Some(known) = self.is_relative {
            return Ok(known);
        }
        let Some(Value::Array(requests)) = agent.object.get("requests") else {
            return Ok(false);
        };
        let Some(Value::Object(object)) = requests.first() else { return Ok(false) };
        let first = Row { object, ..agent }.time("t", TimeUnit::S)?.unwrap_or(0);
        if t_ns > 0 {
            self.is_relative = Some(first < t_ns);
            let from = match first < t_ns {
                true => "their own start",
                false => "that of the conversation",
            };
            self.notices.push(format!(
                "its sub-agents count times from {from}, as the first of them (line {}) does",
                agent.place.line
            ));
        }
        Ok(first < t_ns)
    }
}
