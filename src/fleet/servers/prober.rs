//! Requests to one server, a batch at a time, to learn how long its steps take.

use super::http::{Failure, Http, Lengths, Limits};
use super::key::{ApiKey, place};
use super::probe::{self, ServerError, ServerFacts};
use super::text::TOKENS;
use crate::rng::mix;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::runtime::{self, Runtime};

/// A server that is measured. Nothing else may send it requests meanwhile.
#[derive(Debug)]
pub struct Prober {
    runtime: Runtime,
    http: Http,
    url: String,
    facts: ServerFacts,
    /// Makes every prompt one that no cache has.
    texts: u64,
}

/// When tokens of one answer came, from the moment at which the batch was sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Timing {
    /// The first one.
    pub first_token: Duration,
    /// The last one.
    pub last_token: Duration,
    /// How many there were.
    pub tokens: u32,
}

impl Prober {
    /// Connects to the server at `url`.
    ///
    /// # Errors
    /// If it does not answer as vLLM does.
    pub fn connect(
        url: &str,
        model: Option<&str>,
        api_key: Option<&ApiKey>,
        limits: Limits,
    ) -> Result<Self, ServerError> {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| ServerError::Client(error.to_string()))?;
        let http = {
            let _inside = runtime.enter();
            Http::new(limits, api_key).map_err(ServerError::Client)?
        };
        let facts = runtime.block_on(probe::facts(&http, url, model));
        let facts = facts.map_err(|error| error.hiding(api_key))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let texts = mix(now.as_secs() ^ u64::from(now.subsec_nanos()) << 32);
        Ok(Self { runtime, http, url: url.to_owned(), facts, texts })
    }

    /// Where the server is, as messages may show it.
    pub fn place(&self) -> String {
        place(&self.url)
    }

    /// What the server says of itself.
    pub fn facts(&self) -> &ServerFacts {
        &self.facts
    }

    /// Sends `count` prompts of `prompt_tokens` tokens, all new, at once, each to be
    /// answered with `max_tokens`.
    ///
    /// # Errors
    /// If one is not answered.
    pub fn batch(
        &mut self,
        count: usize,
        prompt_tokens: usize,
        max_tokens: u32,
    ) -> Result<Vec<Timing>, ServerError> {
        let path = "/v1/completions";
        let uri = probe::address(&self.url, path)?;
        let tasks: Vec<_> = (0..count)
            .map(|_| {
                self.texts = mix(self.texts);
                let prompt = text(self.texts, prompt_tokens);
                let body = probe::completion(&self.facts.model, &prompt, max_tokens);
                let (http, uri) = (self.http.clone(), uri.clone());
                let limit = self.facts.max_model_len.map(|limit| limit as usize);
                let answer = max_tokens as usize;
                let lengths = Lengths { prompt: prompt_tokens, answer, limit };
                self.runtime.spawn(async move {
                    let sent = Instant::now();
                    let mut first = None;
                    let told = |at, _| {
                        first.get_or_insert(at);
                    };
                    let answer = http.complete(&uri, body, lengths, told).await?;
                    let first = first.unwrap_or(answer.last_token);
                    Ok::<_, Failure>(Timing {
                        first_token: first - sent,
                        last_token: answer.last_token - sent,
                        tokens: u32::try_from(answer.tokens.len()).unwrap_or(u32::MAX),
                    })
                })
            })
            .collect();
        let failed = |failure| ServerError::Request { url: place(&self.url), path, failure };
        let done = tasks.into_iter().map(|task| {
            let ended = self.runtime.block_on(task);
            let lost = |error: tokio::task::JoinError| Failure::NoAnswer(error.to_string());
            ended.map_err(lost).flatten().map_err(failed)
        });
        done.collect()
    }
}

fn text(key: u64, tokens: usize) -> Vec<u32> {
    let span = u64::from(TOKENS.end - TOKENS.start);
    let token = |at: u64| TOKENS.start + u32::try_from(mix(key ^ at) % span).expect("below a u32");
    (0..tokens as u64).map(token).collect()
}
