//! What a server says of itself, held against what an experiment assumes.

use super::events::EventSource;
use super::http::{Failure, Http, Lengths};
use super::key::{ApiKey, hide, place};
use super::metrics::Samples;
use crate::engine::config::EngineConfig;
use bytes::Bytes;
use hyper::Uri;
use serde::Deserialize;

/// A prompt for trying a server out: too short to leave a block in its cache.
const TRIAL: [u32; 3] = [17, 18, 19];

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFacts {
    /// vLLM's version.
    pub version: String,
    /// The model that it serves.
    pub model: String,
    /// Longest prompt plus answer.
    pub max_model_len: Option<u32>,
    /// Tokens in a KV block.
    pub block_size: Option<u32>,
    /// KV blocks that requests can use.
    pub num_blocks: Option<u32>,
    /// Whether prompts are looked up in what is there.
    pub prefix_caching: Option<bool>,
    /// Whether answers say how much of the prompt was.
    pub reports_cached_tokens: bool,
    /// Where it publishes KV events, if it says so (only in development mode).
    pub events: Option<EventSource>,
}

/// A server that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerError {
    /// The address is none.
    #[error("worker {url:?}: not an address of a server; like http://127.0.0.1:8000")]
    Address {
        /// As given, without what may be a key.
        url: String,
    },
    /// The address holds more than a place.
    #[error(
        "worker {url}: its address has a user, a query or a fragment, where keys stand: leave them \
         out and give the key in the variable SIM_API_KEY"
    )]
    Key {
        /// Its address, without these.
        url: String,
    },
    /// It does not answer as vLLM does.
    #[error("worker {url}: {path}: {failure}")]
    Request {
        /// Its address.
        url: String,
        /// What was asked for.
        path: &'static str,
        /// What came of it.
        failure: Failure,
    },
    /// It is not as the experiment has it.
    #[error("worker {url}: {what} is {server} there and {experiment} in the experiment: {way_out}")]
    Mismatch {
        /// Its address.
        url: String,
        /// The setting.
        what: &'static str,
        /// Its value at the server.
        server: String,
        /// Its value in the experiment.
        experiment: String,
        /// What to do.
        way_out: String,
    },
    /// Its KV events cannot be heard.
    #[error("worker {url}: {reason}")]
    Events {
        /// Its address.
        url: String,
        /// Why.
        reason: String,
    },
    /// No connection to any server can be made.
    #[error("no HTTP client: {0}")]
    Client(String),
}

#[derive(Deserialize)]
struct Models {
    data: Vec<ModelCard>,
}

#[derive(Deserialize)]
struct ModelCard {
    id: String,
    max_model_len: Option<u32>,
}

#[derive(Deserialize)]
struct Version {
    version: String,
}

#[derive(Deserialize)]
struct Publisher {
    endpoint: Option<String>,
    replay_endpoint: Option<String>,
}

impl ServerError {
    /// The same without `key` in what it quotes.
    pub(super) fn hiding(mut self, key: Option<&ApiKey>) -> Self {
        match &mut self {
            Self::Address { url } | Self::Key { url } => *url = hide(key, url),
            Self::Request { url, failure, .. } => {
                *url = hide(key, url);
                *failure = failure.clone().hiding(key);
            }
            Self::Mismatch { url, server, way_out, .. } => {
                *url = hide(key, url);
                *server = hide(key, server);
                *way_out = hide(key, way_out);
            }
            Self::Events { url, reason } => {
                *url = hide(key, url);
                *reason = hide(key, reason);
            }
            Self::Client(reason) => *reason = hide(key, reason),
        }
        self
    }
}

/// The address of `path` at the server `base`.
pub(super) fn address(base: &str, path: &str) -> Result<Uri, ServerError> {
    let wrong = || ServerError::Address { url: place(base) };
    let authority = base.split_once("://").map_or(base, |(_, rest)| rest);
    if authority.contains(['@', '?', '#']) {
        return Err(ServerError::Key { url: place(base) });
    }
    let uri: Uri = format!("{}{path}", base.trim_end_matches('/')).parse().map_err(|_| wrong())?;
    let is_http = matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
    if is_http { Ok(uri) } else { Err(wrong()) }
}

/// Asks the server at `url`; `model` is the one wanted, else its first is taken.
pub(super) async fn facts(
    http: &Http,
    url: &str,
    model: Option<&str>,
) -> Result<ServerFacts, ServerError> {
    let failed = |path| move |failure| ServerError::Request { url: place(url), path, failure };
    let get = async |path: &'static str| http.get(&address(url, path)?).await.map_err(failed(path));
    let malformed =
        |path| move |error: serde_json::Error| failed(path)(Failure::Malformed(error.to_string()));
    let version: Version =
        serde_json::from_str(&get("/version").await?).map_err(malformed("/version"))?;
    let models: Models =
        serde_json::from_str(&get("/v1/models").await?).map_err(malformed("/v1/models"))?;
    let card = models.data.iter().find(|card| model.is_none_or(|model| card.id == model));
    let Some(card) = card else {
        let served: Vec<&str> = models.data.iter().map(|card| card.id.as_str()).collect();
        return Err(ServerError::Mismatch {
            url: place(url),
            what: "the model",
            server: served.join(", "),
            experiment: model.unwrap_or_default().to_owned(),
            way_out: "ask for one that it serves".to_owned(),
        });
    };
    let metrics = get("/metrics").await?;
    let samples = Samples::new(&metrics);
    let cache = samples.named("vllm:cache_config_info").next();
    let label = |name| cache.and_then(|cache| cache.label(name));
    let number = |name| label(name).and_then(|value| value.parse::<u32>().ok());
    let events = match get("/kv_event_sources").await {
        Ok(text) => event_source(&text),
        // Only servers in development mode tell.
        Err(_) => None,
    };
    let body = completion(&card.id, &TRIAL, 1);
    let lengths = Lengths { prompt: TRIAL.len(), answer: 1, limit: None };
    let uri = address(url, "/v1/completions")?;
    let trial =
        http.complete(&uri, body, lengths, |_, _| ()).await.map_err(failed("/v1/completions"))?;
    Ok(ServerFacts {
        version: hide(http.key(), &version.version),
        model: card.id.clone(),
        max_model_len: card.max_model_len,
        block_size: number("block_size"),
        // One of vLLM's blocks is the null block.
        num_blocks: number("num_gpu_blocks").map(|blocks| blocks.saturating_sub(1)),
        prefix_caching: label("enable_prefix_caching").map(|value| value == "True"),
        reports_cached_tokens: trial.cached_tokens.is_some(),
        events,
    })
}

/// Reads `text` as whatever a server may say of itself.
#[cfg(fuzzing)]
pub(super) fn take_anything(text: &str) {
    let _ = serde_json::from_str::<Version>(text);
    let _ = serde_json::from_str::<Models>(text);
    let _ = event_source(text);
    let _ = address(text, "/version");
}

/// The publisher of the first engine.
fn event_source(json: &str) -> Option<EventSource> {
    let publishers: std::collections::BTreeMap<String, Publisher> =
        serde_json::from_str(json).ok()?;
    let first = publishers.into_values().next()?;
    Some(EventSource::of_setting(&first.endpoint?, first.replay_endpoint.as_deref()))
}

impl ServerFacts {
    /// Refuses a server that is not one of the experiment's workers. What it does
    /// not tell cannot be compared.
    ///
    /// # Errors
    /// The first difference, with both values.
    pub fn check(&self, url: &str, engine: &EngineConfig) -> Result<(), ServerError> {
        let same = |what, key: &str, server: Option<String>, experiment: String| match server {
            Some(server) if server != experiment => Err(ServerError::Mismatch {
                url: place(url),
                what,
                way_out: format!("restart the server, or set engine.{key} = {server}"),
                server,
                experiment,
            }),
            _ => Ok(()),
        };
        let text = |value: Option<u32>| value.map(|value| value.to_string());
        same("block_size", "block_size", text(self.block_size), engine.block_size.to_string())?;
        let what = "the number of usable KV blocks";
        same(what, "num_blocks", text(self.num_blocks), engine.num_blocks.to_string())?;
        let server = self.prefix_caching.map(|on| on.to_string());
        same("prefix_caching", "prefix_caching", server, engine.prefix_caching.to_string())?;
        let server = text(self.max_model_len);
        same("max_model_len", "max_model_len", server, engine.max_model_len.to_string())?;
        if !self.reports_cached_tokens {
            return Err(ServerError::Mismatch {
                url: place(url),
                what: "the report of cached tokens",
                server: "off".to_owned(),
                experiment: "needed".to_owned(),
                way_out: "start the server with --enable-prompt-tokens-details".to_owned(),
            });
        }
        Ok(())
    }
}

/// The request for a completion of `max_tokens` tokens, whatever they are.
pub(super) fn completion(model: &str, prompt: &[u32], max_tokens: u32) -> Bytes {
    let json = serde_json::json!({
        "model": model,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "ignore_eos": true,
        "temperature": 0,
        "stream": true,
        "stream_options": { "include_usage": true },
        "return_token_ids": true,
    });
    Bytes::from(json.to_string())
}
