//! HTTP to servers: pooled connections, TLS, time limits, and one completion
//! from request to last token.

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
}

impl Failure {
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
    authorization: Option<HeaderValue>,
    pub(super) limits: Limits,
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
}

#[derive(Clone, Copy, Deserialize)]
struct Usage {
    prompt_tokens: u32,
    prompt_tokens_details: Option<Details>,
}

#[derive(Clone, Copy, Deserialize)]
struct Details {
    cached_tokens: Option<u32>,
}

impl Http {
    /// `api_key` goes into the header `Authorization` and nowhere else.
    pub(super) fn new(limits: Limits, api_key: Option<&str>) -> Result<Self, String> {
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
        let authorization = api_key.map(|key| {
            let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
                .map_err(|_| "the API key has characters that no HTTP header can hold")?;
            value.set_sensitive(true);
            Ok::<_, &str>(value)
        });
        Ok(Self { client, authorization: authorization.transpose()?, limits })
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
        Failure::Status { status, message: shorten(said.unwrap_or(&text)) }
    }

    async fn read(&self, response: Response<Incoming>) -> Result<String, Failure> {
        let body = Limited::new(response.into_body(), MOST_BYTES).collect();
        let body = tokio::time::timeout(self.limits.silence, body)
            .await
            .map_err(|_| Failure::Silent(self.limits.silence))?
            .map_err(|error| Failure::Cut { tokens: 0, reason: error.to_string() })?;
        Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
    }

    /// The text at `uri`.
    pub(super) async fn get(&self, uri: &Uri) -> Result<String, Failure> {
        let response = self.send(Method::GET, uri, Bytes::new()).await?;
        self.read(response).await
    }

    /// Asks for something to be done.
    pub(super) async fn post(&self, uri: &Uri) -> Result<String, Failure> {
        let response = self.send(Method::POST, uri, Bytes::new()).await?;
        self.read(response).await
    }

    /// One streamed completion of token ids. `told` hears of every chunk with
    /// tokens: how many, and when it came.
    pub(super) async fn complete(
        &self,
        uri: &Uri,
        body: Bytes,
        (prompt_tokens, max_tokens): (usize, usize),
        mut told: impl FnMut(Instant, usize) + Send,
    ) -> Result<Answer, Failure> {
        let limits = self.limits;
        let whole = async {
            let response = self.send(Method::POST, uri, body).await?;
            let mut answer = Incomplete { prompt_tokens, max_tokens, ..Incomplete::default() };
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
                let tokens = answer.take(now, &data)?;
                if tokens > 0 {
                    told(now, tokens);
                }
            }
        };
        tokio::time::timeout(limits.total, whole)
            .await
            .unwrap_or(Err(Failure::TooLong(limits.total)))
    }
}

/// A completion that is under way.
#[derive(Default)]
struct Incomplete {
    prompt_tokens: usize,
    max_tokens: usize,
    tokens: Vec<u32>,
    usage: Option<Usage>,
    last_token: Option<Instant>,
}

impl Incomplete {
    /// Takes a chunk in; how many tokens it has.
    fn take(&mut self, now: Instant, data: &str) -> Result<usize, Failure> {
        let chunk: Chunk = serde_json::from_str(data).map_err(|error| {
            Failure::Malformed(format!("{error} in a chunk {:?}", shorten(data)))
        })?;
        if let Some(error) = chunk.error {
            let said = error.get("message").and_then(serde_json::Value::as_str);
            return Err(self.cut(&shorten(said.unwrap_or(&error.to_string()))));
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
        }
        let tokens = self.tokens.len() - before;
        if self.tokens.len() > self.max_tokens {
            let (came, asked) = (self.tokens.len(), self.max_tokens);
            return Err(Failure::Malformed(format!("{came} tokens where {asked} were asked for")));
        }
        if tokens > 0 {
            self.last_token = Some(now);
        }
        Ok(tokens)
    }

    fn cut(&self, reason: &str) -> Failure {
        Failure::Cut { tokens: self.tokens.len(), reason: reason.to_owned() }
    }

    fn complete(self) -> Result<Answer, Failure> {
        let Some(last_token) = self.last_token else { return Err(self.cut("no token")) };
        if let Some(usage) = self.usage
            && usage.prompt_tokens as usize != self.prompt_tokens
        {
            let (seen, sent) = (usage.prompt_tokens, self.prompt_tokens);
            let what = format!("usage of {seen} prompt tokens where {sent} were sent");
            return Err(Failure::Malformed(what));
        }
        let details = self.usage.and_then(|usage| usage.prompt_tokens_details);
        let cached_tokens = details.and_then(|details| details.cached_tokens);
        Ok(Answer { tokens: self.tokens, cached_tokens, last_token })
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

/// The first line of what somebody else wrote, or its beginning.
pub(super) fn shorten(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    let mut short: String = line.chars().filter(|c| !c.is_control()).take(200).collect();
    if short.len() < line.len() {
        short.push_str("...");
    }
    short
}
