//! Reads conversations that are texts: ShareGPT, the messages of vLLM's multi-turn
//! benchmark, and two of AIPerf's files, `inputs.json` and sessions of turns.
//!
//! A tokenizer file that the user names makes tokens of the texts, message by message: an
//! engine puts the special tokens of its chat template between them, which the files do
//! not have and are left out here. A block of [`BLOCK_TOKENS`] tokens is known by a hash
//! of them, and chained to the block before by [`Naming::Content`](super::Naming).

mod elements;
mod messages;
mod tokens;

pub(super) use tokens::Tokenizer;

use super::build::{Build, Given};
use super::place::RowPlace;
use super::stamp::Stamp;
use super::{Trace, TraceError, TraceFormat};
use elements::each_element;
use messages::{Message, Object, Payload, Prompt, answer_tokens, of_turn};
use sha2::{Digest, Sha256};
use std::io::BufRead;
use std::path::Path;

/// Tokens that an id stands for: the blocks that engines have, or parts of them.
pub(super) const BLOCK_TOKENS: u32 = 16;

/// Parses `text`, the content of `path`, of one of these formats.
pub(super) fn parse(
    path: &Path,
    text: impl BufRead,
    format: TraceFormat,
    tokenizer: Tokenizer,
    mut build: Build<'_>,
) -> Result<Trace, TraceError> {
    build.set_block_tokens(BLOCK_TOKENS);
    let mut reader =
        Reader { tokenizer, build, sessions: 0, is_timed: false, notes: Notes::default() };
    let list = (format == TraceFormat::AiperfInputs).then_some("data");
    each_element(path, text, list, |place, object| {
        match format {
            TraceFormat::Sharegpt => reader.conversation(place, object, "conversations")?,
            TraceFormat::AiperfInputs => reader.payloads(place, object)?,
            TraceFormat::AiperfMultiTurn => reader.turns(place, object)?,
            _ => reader.conversation(place, object, "messages")?,
        }
        Ok(!reader.build.is_full())
    })?;
    let notices = reader.notes.said(reader.is_timed);
    reader.build.notices(notices);
    reader.build.finish()
}

/// What is left out or assumed, to be said once.
#[derive(Debug, Default)]
struct Notes {
    /// Answers whose length is the one that was asked for.
    unsaid_answers: u64,
    /// Whether messages went through a chat template before a model saw them.
    has_messages: bool,
    /// Messages with calls of tools, and requests that offer tools.
    tools: u64,
}

impl Notes {
    fn said(&self, is_timed: bool) -> Vec<String> {
        let mut said = Vec::new();
        if self.has_messages {
            let template = "its prompts are the tokens of its texts: those of a chat template \
                            are left out";
            said.push(template.to_owned());
        }
        if !is_timed {
            said.push(super::build::AT_ONCE.to_owned());
        }
        if self.unsaid_answers > 0 {
            let answers = self.unsaid_answers;
            said.push(format!(
                "{answers} of its answers are not in it: each is as long as the most that was \
                 asked for"
            ));
        }
        if self.tools > 0 {
            let tools = self.tools;
            said.push(format!(
                "{tools} of its messages and requests have tools, whose tokens are left out"
            ));
        }
        said
    }
}

/// A request as it is added.
#[derive(Clone, Copy, Default)]
struct Asked {
    output_tokens: u32,
    max_tokens: Option<u32>,
    timestamp: Option<Stamp>,
    delay: Option<Stamp>,
}

struct Reader<'a> {
    tokenizer: Tokenizer,
    build: Build<'a>,
    sessions: u64,
    /// Whether a row has a time of its own.
    is_timed: bool,
    notes: Notes,
}

impl Reader<'_> {
    /// A conversation of which every answer is in the file.
    fn conversation(
        &mut self,
        place: &RowPlace<'_>,
        object: &Object,
        key: &'static str,
    ) -> Result<(), TraceError> {
        let session = self.session();
        if let Some(most) = ["max_tokens", "max_completion_tokens"]
            .into_iter()
            .find(|most| key == "messages" && object.contains_key(*most))
        {
            return Err(place.row(format!(
                "field \"{most}\" is that of a request, and not of a conversation: sim reads \
                 requests with messages in an inputs.json"
            )));
        }
        let messages = messages::list(place, object, key)?;
        let mut context: Vec<u32> = Vec::new();
        let (mut is_begun, mut at) = (false, 0);
        while at < messages.len() {
            let is_question = |message: &Message<'_>| !message.is_answer;
            let answer =
                at + messages[at..].iter().position(|m| m.is_answer).unwrap_or(messages.len() - at);
            let next = answer
                + messages[answer..]
                    .iter()
                    .position(is_question)
                    .unwrap_or(messages.len() - answer);
            for message in &messages[at..answer] {
                self.extend(&mut context, place, message)?;
            }
            let prompt = context.len();
            for message in &messages[answer..next] {
                self.extend(&mut context, place, message)?;
            }
            let output_tokens = count(place, context.len() - prompt)?;
            match prompt > 0 && output_tokens > 0 {
                // What begins with an answer has no question: that is only context.
                false if answer == at && !is_begun => {}
                false => self.build.leave_out(1),
                true if self.build.is_full() => return Ok(()),
                true => {
                    let asked = Asked { output_tokens, ..Asked::default() };
                    self.add(place, &session, !is_begun, &context[..prompt], asked)?;
                    is_begun = true;
                }
            }
            at = next;
        }
        Ok(())
    }

    /// A session of an `inputs.json`: every request has its whole prompt.
    fn payloads(&mut self, place: &RowPlace<'_>, object: &Object) -> Result<(), TraceError> {
        let session = self.session();
        let payloads = messages::objects(place, object, "payloads")?;
        let payloads = payloads.into_iter().map(|object| messages::payload(place, object));
        let payloads = payloads.collect::<Result<Vec<Payload<'_>>, _>>()?;
        for (at, payload) in payloads.iter().enumerate() {
            if self.build.is_full() {
                return Ok(());
            }
            self.notes.tools += u64::from(payload.has_tools);
            let tokens = self.prompt(place, &payload.prompt)?;
            let answer = match payloads.get(at + 1) {
                Some(next) => answer_tokens(&payload.prompt, &next.prompt, &mut self.tokenizer)?,
                None => None,
            };
            let most = payload.max_tokens;
            let output_tokens = match (answer, most) {
                (Some(answer), _) => count(place, answer)?,
                (None, Some(most)) => {
                    self.notes.unsaid_answers += 1;
                    most
                }
                (None, None) => {
                    return Err(place.row(
                        "field \"max_tokens\" of a payload is missing: no later one has its \
                         answer, so nothing says how long that is",
                    ));
                }
            };
            let max_tokens = most.map(|most| most.max(output_tokens));
            let asked = Asked { output_tokens, max_tokens, ..Asked::default() };
            self.add(place, &session, at == 0, &tokens, asked)?;
        }
        Ok(())
    }

    /// The tokens of a payload's prompt.
    fn prompt(
        &mut self,
        place: &RowPlace<'_>,
        prompt: &Prompt<'_>,
    ) -> Result<Vec<u32>, TraceError> {
        let mut tokens = Vec::new();
        match prompt {
            Prompt::Ids(ids) => tokens.clone_from(ids),
            Prompt::Text(text) => tokens.extend_from_slice(self.tokenizer.of(text)?),
            Prompt::Messages(messages) => {
                for message in messages {
                    self.extend(&mut tokens, place, message)?;
                }
            }
        }
        Ok(tokens)
    }

    /// A session whose later turns are only what is new after the answer before.
    fn turns(&mut self, place: &RowPlace<'_>, object: &Object) -> Result<(), TraceError> {
        let session = self.session();
        let mut tokens = Vec::new();
        let mut is_begun = false;
        for (at, turn) in messages::objects(place, object, "turns")?.into_iter().enumerate() {
            let turn = of_turn(place, turn)?;
            tokens.extend_from_slice(self.tokenizer.of(turn.text)?);
            self.notes.has_messages = true;
            // A system prompt stands before the first turn.
            if at == 0 && turn.is_system {
                continue;
            }
            let Some(output_tokens) = turn.output_tokens else {
                return Err(place.row(
                    "field \"output_length\" of a turn is missing: nothing says how long the \
                     answer is",
                ));
            };
            if self.build.is_full() {
                return Ok(());
            }
            let (timestamp, delay) = (turn.timestamp, turn.delay);
            let asked = Asked { output_tokens, max_tokens: None, timestamp, delay };
            self.add(place, &session, !is_begun, &tokens, asked)?;
            is_begun = true;
            tokens.clear();
        }
        Ok(())
    }

    /// Names of sessions need not differ.
    fn session(&mut self) -> String {
        self.tokenizer.forget();
        self.sessions += 1;
        self.sessions.to_string()
    }

    fn extend(
        &mut self,
        context: &mut Vec<u32>,
        place: &RowPlace<'_>,
        message: &Message<'_>,
    ) -> Result<(), TraceError> {
        self.notes.tools += u64::from(message.has_tools);
        self.notes.has_messages = true;
        for text in &message.texts {
            context.extend_from_slice(self.tokenizer.of(text)?);
        }
        count(place, context.len()).map(|_| ())
    }

    fn add(
        &mut self,
        place: &RowPlace<'_>,
        session: &str,
        is_first: bool,
        prompt: &[u32],
        asked: Asked,
    ) -> Result<(), TraceError> {
        self.is_timed |= is_first && asked.timestamp.is_some();
        let ids: Vec<u64> = prompt.chunks(BLOCK_TOKENS as usize).map(block).collect();
        let at_once = is_first.then_some(Stamp::Whole(0));
        self.build.add(
            place,
            Given {
                timestamp: asked.timestamp.or(at_once),
                written: None,
                delay: asked.delay.filter(|_| !is_first),
                input_tokens: count(place, prompt.len())?,
                output_tokens: asked.output_tokens,
                max_tokens: asked.max_tokens,
                hash_ids: Some(&ids),
                prefix: None,
                session: Some(session),
                waits_for: None,
            },
        )
    }
}

/// What a block of these tokens is known by: 64 bits of their SHA-256.
fn block(tokens: &[u32]) -> u64 {
    let mut hash = Sha256::new();
    tokens.iter().for_each(|token| hash.update(token.to_le_bytes()));
    u64::from_le_bytes(hash.finalize()[..8].try_into().expect("eight bytes"))
}

/// A number of tokens, of a conversation that fits into a trace.
fn count(place: &RowPlace<'_>, tokens: usize) -> Result<u32, TraceError> {
    let most = crate::workload::MAX_TOKENS;
    let tokens = u32::try_from(tokens).ok().filter(|tokens| *tokens <= most);
    tokens.ok_or_else(|| place.row(format!("a conversation of more than {most} tokens")))
}
