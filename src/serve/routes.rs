//! vLLM's HTTP interface: what is asked for, and how it is answered.

use super::desk::Said;
use super::engine::{Ask, Completion, Halt, text};
use super::words;
use crate::engine::config::EngineConfig;
use crate::event::RejectReason;
use crate::id::WorkerId;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::{Stream, StreamExt, stream};
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::oneshot;

/// Longer requests are refused.
const MOST_BYTES: usize = 64 << 20;
/// For the next bytes of a request's body (assumed: a client that sends at all does not
/// pause so long).
const BODY_PATIENCE: Duration = Duration::from_secs(30);
/// The version of vLLM whose interface this is.
const VERSION: &str = "0.32.0";
/// Tokens of an answer whose request names no number: vLLM's default for
/// completions; for chats, where vLLM would fill the context, assumed.
const DEFAULT_TOKENS: u32 = 16;
const DEFAULT_CHAT_TOKENS: u32 = 256;
/// Names the session, for policies that route by it.
const SESSION_HEADER: &str = "x-session-id";
/// Says which worker answered.
const WORKER_HEADER: &str = "x-sim-worker";

/// One port that is served.
pub(super) struct Port {
    engine: EngineConfig,
    model: String,
    /// `None`: behind the router.
    worker: Option<WorkerId>,
    events: Option<[String; 2]>,
    ask: Sender<Ask>,
    halt: Halt,
    answers: AtomicU64,
}

/// The body of a request for a completion, of both kinds; fields that change
/// nothing here are passed over.
#[derive(Deserialize)]
struct Wanted {
    model: Option<String>,
    prompt: Option<Prompt>,
    messages: Option<Vec<Message>>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    #[serde(default)]
    stream: bool,
    stream_options: Option<StreamOptions>,
    #[serde(default)]
    return_token_ids: bool,
    n: Option<u32>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Prompt {
    Tokens(Vec<u32>),
    Text(String),
    /// One prompt in a list.
    Lists(Vec<Vec<u32>>),
    Texts(Vec<String>),
}

#[derive(Deserialize)]
struct Message {
    role: String,
    #[serde(default)]
    content: Option<MessageContent>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum MessageContent {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    text: String,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

/// How the answer to a request is to look.
struct Form {
    id: String,
    model: String,
    created: u64,
    is_chat: bool,
    with_usage: bool,
    with_token_ids: bool,
    prompt: Vec<u32>,
}

/// A completion under way. Dropped before its end, as happens when the client closes the
/// connection, it hangs up.
struct Call {
    said: UnboundedReceiver<Said>,
    ask: Sender<Ask>,
    is_over: bool,
}

impl Call {
    /// The next news; `None` after the end.
    async fn hear(&mut self) -> Option<Said> {
        let said = self.said.recv().await;
        self.is_over |=
            matches!(said, None | Some(Said::Tokens { last: true, .. } | Said::Refused(_)));
        said
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.is_over {
            self.said.close();
            // The engine is gone when the program ends.
            let _ = self.ask.send(Ask::HangUp);
        }
    }
}

/// Why a request is refused.
struct Refusal(StatusCode, &'static str, String);

impl Refusal {
    fn method() -> Self {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Self(status, "BadRequestError", "Method Not Allowed".to_owned())
    }

    fn path() -> Self {
        Self(StatusCode::NOT_FOUND, "NotFoundError", "Not Found".to_owned())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(status, kind, message) = self;
        let code = status.as_u16();
        let error = json!({ "message": message, "type": kind, "param": null, "code": code });
        (status, Json(json!({ "error": error }))).into_response()
    }
}

/// Answers the requests to `port`.
pub(super) fn routes(port: Port) -> Router {
    type Served = State<Arc<Port>>;
    let healthy = || async { text_of(String::new()) };
    let mut routes = Router::new()
        .route("/health", get(healthy))
        .route("/ping", get(healthy))
        .route("/version", get(|| async { Json(json!({ "version": VERSION })) }))
        .route("/v1/models", get(|State(port): Served| async move { Json(port.models()) }))
        .route("/metrics", get(|State(port): Served| async move { port.metrics().await }))
        .route(
            "/v1/completions",
            post(|State(port): Served, request: Request| async move {
                port.complete(request, false).await
            }),
        )
        .route(
            "/v1/chat/completions",
            post(|State(port): Served, request: Request| async move {
                port.complete(request, true).await
            }),
        );
    if let Some(sources) = port.sources() {
        routes = routes.route("/kv_event_sources", get(|| async { Json(sources) }));
    }
    routes
        .fallback(|| async { Refusal::path() })
        .method_not_allowed_fallback(|| async { Refusal::method() })
        .with_state(Arc::new(port))
}

impl Port {
    pub(super) fn new(
        engine: EngineConfig,
        model: &str,
        worker: Option<WorkerId>,
        events: Option<[String; 2]>,
        (ask, halt): (Sender<Ask>, Halt),
    ) -> Self {
        let model = model.to_owned();
        Self { engine, model, worker, events, ask, halt, answers: AtomicU64::new(0) }
    }

    /// No worker answers: the simulation cannot go on, or the program ends.
    fn ended(&self) -> Refusal {
        let message = match self.halt.get() {
            Some(stuck) => format!("the simulation has stopped: {stuck}"),
            None => "no worker answers".to_owned(),
        };
        Refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError", message)
    }

    fn models(&self) -> Value {
        json!({ "object": "list", "data": [{
            "id": self.model, "object": "model", "created": seconds(), "owned_by": "sim",
            "root": self.model, "max_model_len": self.engine.max_model_len,
        }]})
    }

    /// Where KV events are, if they are published. As vLLM says it: an address with a star is
    /// one where the publisher binds.
    fn sources(&self) -> Option<Value> {
        let starred = |place: &String| {
            let port = place.rsplit(':').next().unwrap_or_default();
            format!("tcp://*:{port}")
        };
        let [endpoint, replay] = self.events.as_ref()?;
        Some(json!({ "0": {
            "enable_kv_cache_events": true, "publisher": "zmq",
            "endpoint": starred(endpoint), "replay_endpoint": starred(replay),
        }}))
    }

    async fn metrics(&self) -> Result<Response, Refusal> {
        let (reply, counted) = oneshot::channel();
        self.ask.send(Ask::Count(self.worker, reply)).map_err(|_| self.ended())?;
        Ok(text_of(counted.await.map_err(|_| self.ended())?))
    }

    async fn complete(&self, request: Request, is_chat: bool) -> Result<Response, Refusal> {
        let session = request.headers().get(SESSION_HEADER).and_then(|value| value.to_str().ok());
        let session = session.map(str::to_owned);
        let body = read(request.into_body()).await?;
        let wanted: Wanted = serde_json::from_slice(&body)
            .map_err(|error| bad(format!("the body is not a valid request: {error}")))?;
        let streamed = wanted.stream;
        let (form, max_tokens) = self.form(wanted, is_chat)?;
        let (say, said) = unbounded_channel();
        let prompt = form.prompt.clone();
        let completion = Completion { worker: self.worker, prompt, max_tokens, session, say };
        self.ask.send(Ask::Complete(completion)).map_err(|_| self.ended())?;
        let mut said = Call { said, ask: self.ask.clone(), is_over: false };
        // Refusals have a status of their own, so the first word is waited for.
        let worker = match said.hear().await {
            Some(Said::Accepted(worker)) => worker,
            Some(Said::Refused(reason)) => return Err(refused(reason)),
            _ => return Err(self.ended()),
        };
        let mut response = if streamed {
            let headers =
                [(CONTENT_TYPE, "text/event-stream; charset=utf-8"), (CACHE_CONTROL, "no-cache")];
            let events = form.events(said).map(Ok::<_, Infallible>);
            (headers, Body::from_stream(events)).into_response()
        } else {
            Json(form.whole(said).await.unwrap_or_else(|| Err(self.ended()))?).into_response()
        };
        response.headers_mut().insert(WORKER_HEADER, HeaderValue::from(worker.0));
        Ok(response)
    }

    /// What is wanted, checked as vLLM checks it; and how many tokens.
    fn form(&self, wanted: Wanted, is_chat: bool) -> Result<(Form, u32), Refusal> {
        if let Some(model) = wanted.model.as_ref().filter(|model| **model != self.model) {
            let message = format!("The model `{model}` does not exist.");
            return Err(Refusal(StatusCode::NOT_FOUND, "NotFoundError", message));
        }
        if wanted.n.is_some_and(|n| n != 1) {
            return Err(bad("n must be 1: one answer per request".to_owned()));
        }
        let prompt = if is_chat { chat(wanted.messages)? } else { prompt(wanted.prompt)? };
        if prompt.is_empty() {
            return Err(bad("the prompt is empty".to_owned()));
        }
        let limit = self.engine.max_model_len;
        let room = u32::try_from(prompt.len()).ok().and_then(|length| limit.checked_sub(length));
        let Some(room) = room.filter(|room| *room > 0) else {
            let length = prompt.len();
            return Err(bad(format!(
                "This model's maximum context length is {limit} tokens. However, your prompt has {length} tokens."
            )));
        };
        let default = if is_chat { DEFAULT_CHAT_TOKENS } else { DEFAULT_TOKENS };
        let max_tokens = wanted.max_completion_tokens.or(wanted.max_tokens).unwrap_or(default);
        if max_tokens == 0 {
            return Err(bad("max_tokens must be at least 1".to_owned()));
        }
        let number = self.answers.fetch_add(1, Ordering::Relaxed);
        let kind = if is_chat { "chatcmpl" } else { "cmpl" };
        let form = Form {
            id: format!("{kind}-{number:016x}"),
            model: self.model.clone(),
            created: seconds(),
            is_chat,
            with_usage: wanted.stream_options.is_some_and(|options| options.include_usage),
            with_token_ids: wanted.return_token_ids,
            prompt,
        };
        // vLLM cuts what does not fit; it is no error.
        Ok((form, max_tokens.min(room)))
    }
}

impl Form {
    /// One event per step, then the usage if it is wanted, then the end.
    fn events(self, said: Call) -> impl Stream<Item = Bytes> {
        let first = self.is_chat.then(|| {
            let delta = json!({ "role": "assistant", "content": "" });
            let choice = json!({ "index": 0, "delta": delta, "finish_reason": null });
            Bytes::from(self.event(&json!([choice]), None))
        });
        let state = Some((self, said, Progress::default()));
        let rest = stream::unfold(state, |state| async move {
            let (form, mut said, mut progress) = state?;
            loop {
                match said.hear().await? {
                    Said::Accepted(_) => {}
                    Said::Scheduled(cached_tokens) => progress.cached_tokens = cached_tokens,
                    Said::Tokens { tokens, last } => {
                        let event = form.tokens(&tokens, last, &mut progress);
                        let state = (!last).then_some((form, said, progress));
                        return Some((Bytes::from(event), state));
                    }
                    Said::Refused(reason) => {
                        let error = json!({ "message": reason.to_string(), "code": 500 });
                        let event = format!("data: {}\n\n{END}", json!({ "error": error }));
                        return Some((Bytes::from(event), None));
                    }
                }
            }
        });
        stream::iter(first).chain(rest)
    }

    /// The event of some tokens; with the last of them, all that follows.
    fn tokens(&self, tokens: &[u32], last: bool, progress: &mut Progress) -> String {
        let reason = last.then_some("length");
        let mut choice = json!({ "index": 0, "finish_reason": reason, "logprobs": null });
        if self.is_chat {
            choice["delta"] = json!({ "content": text(tokens) });
        } else {
            choice["text"] = json!(text(tokens));
        }
        if self.with_token_ids {
            choice["token_ids"] = json!(tokens);
            if progress.tokens == 0 {
                choice["prompt_token_ids"] = json!(self.prompt);
            }
        }
        progress.tokens += tokens.len();
        let mut event = self.event(&json!([choice]), None);
        if last {
            if self.with_usage {
                event += &self.event(&json!([]), Some(&self.usage(progress)));
            }
            event += END;
        }
        event
    }

    fn event(&self, choices: &Value, usage: Option<&Value>) -> String {
        let object = if self.is_chat { "chat.completion.chunk" } else { "text_completion" };
        format!("data: {}\n\n", self.object(object, choices, usage))
    }

    fn object(&self, object: &str, choices: &Value, usage: Option<&Value>) -> Value {
        let mut value = json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model,
            "choices": choices,
        });
        if let Some(usage) = usage {
            value["usage"] = usage.clone();
        }
        value
    }

    fn usage(&self, progress: &Progress) -> Value {
        let (prompt, tokens) = (self.prompt.len(), progress.tokens);
        json!({
            "prompt_tokens": prompt,
            "completion_tokens": tokens,
            "total_tokens": prompt + tokens,
            "prompt_tokens_details": { "cached_tokens": progress.cached_tokens },
        })
    }

    /// The whole answer at once; `None` if the workers are gone before its end.
    async fn whole(self, mut said: Call) -> Option<Result<Value, Refusal>> {
        let mut progress = Progress::default();
        let mut answer = Vec::new();
        loop {
            match said.hear().await? {
                Said::Accepted(_) => {}
                Said::Scheduled(cached_tokens) => progress.cached_tokens = cached_tokens,
                Said::Refused(reason) => return Some(Err(refused(reason))),
                Said::Tokens { tokens, last } => {
                    progress.tokens += tokens.len();
                    answer.extend(tokens);
                    if last {
                        break;
                    }
                }
            }
        }
        let mut choice = json!({ "index": 0, "finish_reason": "length", "logprobs": null });
        if self.is_chat {
            choice["message"] = json!({ "role": "assistant", "content": text(&answer) });
        } else {
            choice["text"] = json!(text(&answer));
        }
        if self.with_token_ids {
            choice["token_ids"] = json!(answer);
            choice["prompt_token_ids"] = json!(self.prompt);
        }
        let object = if self.is_chat { "chat.completion" } else { "text_completion" };
        Some(Ok(self.object(object, &json!([choice]), Some(&self.usage(&progress)))))
    }
}

/// What ends a stream of events.
const END: &str = "data: [DONE]\n\n";

/// How far an answer has come.
#[derive(Debug, Default)]
struct Progress {
    tokens: usize,
    cached_tokens: u32,
}

/// The body of a request.
async fn read(body: Body) -> Result<Vec<u8>, Refusal> {
    let broken = |error: &dyn std::fmt::Display| bad(format!("the body cannot be read: {error}"));
    let mut body = Limited::new(body, MOST_BYTES);
    let mut bytes = Vec::new();
    loop {
        let frame = tokio::time::timeout(BODY_PATIENCE, body.frame()).await.map_err(|_| {
            let message = format!("nothing more of the body came for {BODY_PATIENCE:?}");
            Refusal(StatusCode::REQUEST_TIMEOUT, "RequestTimeoutError", message)
        })?;
        let Some(frame) = frame else { return Ok(bytes) };
        let frame = frame.map_err(|error| broken(&error))?;
        if let Ok(data) = frame.into_data() {
            bytes.extend_from_slice(&data);
        }
    }
}

/// The tokens of a prompt.
fn prompt(prompt: Option<Prompt>) -> Result<Vec<u32>, Refusal> {
    let one = || bad("prompt must be one text or one list of token ids".to_owned());
    match prompt.ok_or_else(|| bad("prompt is missing".to_owned()))? {
        Prompt::Tokens(tokens) => Ok(tokens),
        Prompt::Text(text) => Ok(words::tokens(&text)),
        Prompt::Lists(lists) => match <[_; 1]>::try_from(lists) {
            Ok([tokens]) => Ok(tokens),
            Err(_) => Err(one()),
        },
        Prompt::Texts(texts) => match &texts[..] {
            [text] => Ok(words::tokens(text)),
            _ => Err(one()),
        },
    }
}

/// The tokens of a chat, each turn after the name of who said it.
fn chat(messages: Option<Vec<Message>>) -> Result<Vec<u32>, Refusal> {
    let messages = messages.ok_or_else(|| bad("messages are missing".to_owned()))?;
    if messages.is_empty() {
        return Err(bad("messages must hold at least one message".to_owned()));
    }
    let mut tokens = Vec::new();
    for Message { role, content } in messages {
        tokens.extend(words::tokens(&format!("\n[{role}]")));
        match content {
            None => {}
            Some(MessageContent::Text(text)) => tokens.extend(words::tokens(&text)),
            Some(MessageContent::Parts(parts)) => {
                parts.iter().for_each(|part| tokens.extend(words::tokens(&part.text)));
            }
        }
    }
    tokens.extend(words::tokens("\n[assistant]"));
    Ok(tokens)
}

fn bad(message: String) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, "BadRequestError", message)
}

fn refused(reason: RejectReason) -> Refusal {
    let message = format!("the request is {reason}");
    match reason {
        RejectReason::Policy => {
            Refusal(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailableError", message)
        }
        _ => bad(message),
    }
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// In Prometheus' text format, and as it is.
fn text_of(text: String) -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
