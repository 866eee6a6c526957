//! HTTP to servers: pooled connections, TLS, time limits, and one completion
//! from request to last token.

use super::key::{ApiKey, hide};
use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector};
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Deserialize;
use sse_stream::SseByteStream;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// More bytes than any answer has (assumed); a server that sends more is not read to its end.
const MOST_BYTES: usize = 64 << 20;
/// Times that a request is sent again; only while no server can have begun it
/// (assumed: enough for one that refuses connections for a moment).
const RETRIES: u32 = 2;
/// The pause before a request is sent again, times the number of tries (assumed).
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// An idle connection is kept this long; shorter than vLLM's own 5 s, so that
/// no request meets one that is being closed.
const IDLE: Duration = Duration::from_secs(4);

/// How long to wait for servers. The defaults are assumed: far above what a
/// server that works takes, however long its queue.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For a connection.
    pub connect: Duration,
    /// For the next bytes of an answer, the first included.
    pub silence: Duration,
    /// For a whole answer.
    pub total: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            silence: Duration::from_secs(120),
            total: Duration::from_secs(3600),
        }
    }
}

/// Why a server did not answer a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No connection, or it broke before there was an answer.
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// Nothing came for so long.
    #[error("silent for {0:?}")]
    Silent(Duration),
    /// The answer took too long.
    #[error("not complete after {0:?}")]
    TooLong(Duration),
    /// It answered with this status and message.
    #[error("HTTP {status}: {message}")]
    Status {
        /// The status.
        status: u16,
        /// What the server says, shortened.
        message: String,
    },
    /// The answer broke off after so many tokens.
    #[error("the answer broke off after {tokens} tokens: {reason}")]
    Cut {
        /// Tokens that came.
        tokens: usize,
        /// How it ended.
        reason: String,
    },
    /// The answer makes no sense.
    #[error("not an answer as vLLM gives it: {0}")]
    Malformed(String),
    /// It has another length than was asked for, with `ignore_eos` and below the
    /// context limit.
    #[error("{came} tokens where {asked} were asked for with ignore_eos")]
    WrongLength {
        /// Tokens that came.
        came: usize,
        /// Tokens that were asked for.
        asked: usize,
    },
    /// What the server says of the answer cannot be true.
    #[error("the server contradicts itself: {0}")]
    Contradiction(String),
}

impl Failure {
    /// The kind of failure, in a word or two.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NoAnswer(_) => "no answer",
            Self::Silent(_) => "silent",
            Self::TooLong(_) => "too long",
            Self::Status { .. } => "status",
            Self::Cut { .. } => "cut",
            Self::Malformed(_) => "malformed",
            Self::WrongLength { .. } => "wrong length",
            Self::Contradiction(_) => "contradiction",
        }
    }

    /// The same without `key` in what it quotes.
    pub(super) fn hiding(mut self, key: Option<&ApiKey>) -> Self {
        match &mut self {
            Self::NoAnswer(text)
            | Self::Status { message: text, .. }
            | Self::Cut { reason: text, .. }
            | Self::Malformed(text)
            | Self::Contradiction(text) => *text = hide(key, text),
            Self::Silent(_) | Self::TooLong(_) | Self::WrongLength { .. } => {}
        }
        self
    }

    /// True if no server can have begun the request.
    fn is_safe_to_retry(&self, connected: bool) -> bool {
        match self {
            Self::NoAnswer(_) => !connected,
            Self::Status { status, .. } => *status == StatusCode::SERVICE_UNAVAILABLE.as_u16(),
            _ => false,
        }
    }
}

/// A pool of connections.
#[derive(Clone, Debug)]
pub(super) struct Http {
    client: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    key: Option<ApiKey>,
    authorization: Option<HeaderValue>,
    pub(super) limits: Limits,
}

/// How long prompt and answer are to be, in tokens.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lengths {
    pub(super) prompt: usize,
    pub(super) answer: usize,
    /// Of both together, where the server says so: it ends answers there.
    pub(super) limit: Option<usize>,
}

/// A whole completion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The tokens.
    pub(super) tokens: Vec<u32>,
    /// Prompt tokens that the server had in its cache, if it says so.
    pub(super) cached_tokens: Option<u32>,
    /// When the last token came.
    pub(super) last_token: Instant,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Choice {
    token_ids: Option<Vec<u32>>,
    #[serde(default)]
    text: String,
    finish_reason: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: Option<u64>,
    prompt_tokens_details: Option<Details>,
}

#[derive(Clone, Copy, Deserialize)]
struct Details {
    cached_tokens: Option<u64>,
}

impl Http {
    /// `key` goes into the header `Authorization` and nowhere else.
    pub(super) fn new(limits: Limits, key: Option<&ApiKey>) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = || {
            let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider));
            builder.with_safe_default_protocol_versions().expect("ring has the default versions")
        };
        // Where the system has no certificates, only https fails.
        let tls = tls()
            .with_native_roots()
            .unwrap_or_else(|_| tls().with_root_certificates(rustls::RootCertStore::empty()));
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(limits.connect));
        connector.set_nodelay(true);
        connector.enforce_http(false);
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls.with_no_client_auth())
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .build(connector);
        let authorization = key.map(|key| {
            let mut value = HeaderValue::from_str(&key.authorization())
                .map_err(|_| "the API key has characters that no HTTP header can hold")?;
            value.set_sensitive(true);
            Ok::<_, &str>(value)
        });
        Ok(Self { client, key: key.cloned(), authorization: authorization.transpose()?, limits })
    }

    /// The key that no message may show.
    pub(super) fn key(&self) -> Option<&ApiKey> {
        self.key.as_ref()
    }

    /// Sends a request; an answer with an error status is a failure.
    async fn send(
        &self,
        method: Method,
        uri: &Uri,
        body: Bytes,
    ) -> Result<Response<Incoming>, Failure> {
        let mut tries = 0;
        loop {
            let mut request = Request::builder().method(method.clone()).uri(uri.clone());
            if !body.is_empty() {
                request = request.header(CONTENT_TYPE, "application/json");
            }
            if let Some(authorization) = &self.authorization {
                request = request.header(AUTHORIZATION, authorization.clone());
            }
            let request = request.body(Full::new(body.clone())).expect("a request of valid parts");
            let sent =
                tokio::time::timeout(self.limits.silence, self.client.request(request)).await;
            let (failure, connected) = match sent {
                Err(_) => (Failure::Silent(self.limits.silence), true),
                Ok(Err(error)) => (Failure::NoAnswer(causes(&error)), !error.is_connect()),
                Ok(Ok(response)) if response.status().is_success() => return Ok(response),
                Ok(Ok(response)) => (self.refusal(response).await, true),
            };
            tries += 1;
            if tries > RETRIES || !failure.is_safe_to_retry(connected) {
                return Err(failure);
            }
            tokio::time::sleep(RETRY_PAUSE * tries).await;
        }
    }

    /// What an answer with an error status says.
    async fn refusal(&self, response: Response<Incoming>) -> Failure {
        let status = response.status().as_u16();
        let text = self.read(response).await.unwrap_or_default();
        let json: Option<serde_json::Value> = serde_json::from_str(&text).ok();
        let said = json.as_ref().and_then(|json| {
            json.pointer("/error/message").or_else(|| json.get("message"))?.as_str()
        });
        Failure::Status { status, message: self.quote(said.unwrap_or(&text)) }
    }

    async fn read(&self, response: Response<Incoming>) -> Result<String, Failure> {
        let body = Limited::new(response.into_body(), MOST_BYTES).collect();
        let body = tokio::time::timeout(self.limits.silence, body)
            .await
            .map_err(|_| Failure::Silent(self.limits.silence))?
            .map_err(|error| Failure::Cut { tokens: 0, reason: error.to_string() })?;
        Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
    }

    /// What a server wrote, shortened; the key is taken out first, lest half of it
    /// remain.
    fn quote(&self, text: &str) -> String {
        shorten(&hide(self.key(), text))
    }

    /// The text at `uri`.
    pub(super) async fn get(&self, uri: &Uri) -> Result<String, Failure> {
        self.ask(Method::GET, uri).await
    }

    /// Asks for something to be done.
    pub(super) async fn post(&self, uri: &Uri) -> Result<String, Failure> {
        self.ask(Method::POST, uri).await
    }

    async fn ask(&self, method: Method, uri: &Uri) -> Result<String, Failure> {
        let answer = async { self.read(self.send(method, uri, Bytes::new()).await?).await };
        answer.await.map_err(|failure| failure.hiding(self.key()))
    }

    /// One streamed completion of token ids. `told` hears of every chunk with
    /// tokens: how many, and when it came.
    pub(super) async fn complete(
        &self,
        uri: &Uri,
        body: Bytes,
        lengths: Lengths,
        mut told: impl FnMut(Instant, usize) + Send,
    ) -> Result<Answer, Failure> {
        let limits = self.limits;
        let whole = async {
            let response = self.send(Method::POST, uri, body).await?;
            let mut answer = Incomplete { lengths, ..Incomplete::default() };
            let mut bytes = 0;
            let data = response.into_body().into_data_stream().map(|data| {
                let data = data.map_err(io::Error::other)?;
                bytes += data.len();
                if bytes > MOST_BYTES {
                    return Err(io::Error::other(format!("more than {MOST_BYTES} bytes")));
                }
                Ok(data)
            });
            let mut events = SseByteStream::new(Box::pin(data));
            loop {
                let event = tokio::time::timeout(limits.silence, events.next()).await;
                let now = Instant::now();
                let event = match event {
                    Err(_) => return Err(Failure::Silent(limits.silence)),
                    Ok(None) => return Err(answer.cut("the stream ended")),
                    Ok(Some(Err(error))) => return Err(answer.cut(&causes(&error))),
                    Ok(Some(Ok(event))) => event,
                };
                let Some(data) = event.data else { continue };
                if data == "[DONE]" {
                    return answer.complete();
                }
                let tokens = answer.take(now, &data, |text| self.quote(text))?;
                if tokens > 0 {
                    told(now, tokens);
                }
            }
        };
        tokio::time::timeout(limits.total, whole)
            .await
            .unwrap_or(Err(Failure::TooLong(limits.total)))
            .map_err(|failure| failure.hiding(self.key()))
    }
}

/// A completion that is under way.
#[derive(Default)]
struct Incomplete {
    lengths: Lengths,
    tokens: Vec<u32>,
    usage: Option<Usage>,
    last_token: Option<Instant>,
}

impl Incomplete {
    /// Takes a chunk in; how many tokens it has.
    fn take(
        &mut self,
        now: Instant,
        data: &str,
        quote: impl Fn(&str) -> String,
    ) -> Result<usize, Failure> {
        let chunk: Chunk = serde_json::from_str(data)
            .map_err(|error| Failure::Malformed(format!("{error} in a chunk {:?}", quote(data))))?;
        if let Some(error) = chunk.error {
            let said = error.get("message").and_then(serde_json::Value::as_str);
            return Err(self.cut(&quote(said.unwrap_or(&error.to_string()))));
        }
        self.usage = chunk.usage.or(self.usage);
        let before = self.tokens.len();
        for choice in chunk.choices {
            match choice.token_ids {
                Some(tokens) => self.tokens.extend(tokens),
                None if choice.text.is_empty() => {}
                None => {
                    let what = "text without token_ids: needed is vLLM 0.10.2 or later";
                    return Err(Failure::Malformed(what.to_owned()));
                }
            }
            if let Some(reason @ ("abort" | "error")) = choice.finish_reason.as_deref() {
                return Err(self.cut(&format!("finish_reason {reason:?}")));
            }
        }
        let tokens = self.tokens.len() - before;
        if self.tokens.len() > self.lengths.answer {
            return Err(self.wrong_length());
        }
        if tokens > 0 {
            self.last_token = Some(now);
        }
        Ok(tokens)
    }

    fn cut(&self, reason: &str) -> Failure {
        Failure::Cut { tokens: self.tokens.len(), reason: reason.to_owned() }
    }

    fn wrong_length(&self) -> Failure {
        Failure::WrongLength { came: self.tokens.len(), asked: self.lengths.answer }
    }

    fn complete(self) -> Result<Answer, Failure> {
        let Some(last_token) = self.last_token else { return Err(self.cut("no token")) };
        let Lengths { prompt, answer, limit } = self.lengths;
        let came = self.tokens.len();
        if came < answer && limit.is_none_or(|limit| prompt + came < limit) {
            return Err(self.wrong_length());
        }
        let Some(usage) = self.usage else {
            let what = "no usage, which stream_options asked for";
            return Err(Failure::Malformed(what.to_owned()));
        };
        let contradiction = |what: String| Err(Failure::Contradiction(what));
        let seen = usage.prompt_tokens;
        if seen != prompt as u64 {
            return contradiction(format!(
                "usage of {seen} prompt tokens where {prompt} were sent"
            ));
        }
        if let Some(counted) = usage.completion_tokens.filter(|counted| *counted != came as u64) {
            return contradiction(format!("usage of {counted} output tokens where {came} came"));
        }
        let cached = usage.prompt_tokens_details.and_then(|details| details.cached_tokens);
        if let Some(cached) = cached.filter(|cached| *cached > seen) {
            return contradiction(format!("{cached} cached tokens of a prompt of {prompt}"));
        }
        let cached_tokens = cached.and_then(|cached| u32::try_from(cached).ok());
        Ok(Answer { tokens: self.tokens, cached_tokens, last_token })
    }
}

/// Reads the lines of `text` as chunks of an answer.
#[cfg(fuzzing)]
pub(super) fn take_anything(text: &str) {
    let key = ApiKey::new("sk-key");
    let lengths = Lengths { prompt: 20, answer: 8, limit: Some(4096) };
    let mut answer = Incomplete { lengths, ..Incomplete::default() };
    let mut failed = None;
    for line in text.lines() {
        let quote = |text: &str| shorten(&key.hide(text));
        failed = answer.take(Instant::now(), line, quote).err();
        if failed.is_some() {
            break;
        }
    }
    let failed = failed.or_else(|| answer.complete().err());
    if let Some(failure) = failed {
        let shown = failure.hiding(Some(&key)).to_string();
        assert!(!shown.to_lowercase().contains("sk-key"), "{shown}");
    }
}

/// An error with what caused it, on one line.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}

/// The first line of a foreign text, or its beginning.
pub(super) fn shorten(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    let mut short: String = line.chars().filter(|c| !c.is_control()).take(200).collect();
    if short.len() < line.len() {
        short.push_str("...");
    }
    short
}
