//! The prefix-ratio benchmark of Dynamo's router: requests whose first part is
//! one of a few shared texts, and the ratio of that part decides what a cache
//! can save.
//!
//! Source: `benchmarks/router/prefix_ratio_benchmark.py` of ai-dynamo/dynamo and
//! AIPerf's synthetic prompts, which it calls: the shared part has exactly
//! `ratio x input` tokens, the rest and the answer are normally distributed with
//! a standard deviation of a quarter of their mean, and every request draws its
//! text from the pool. It is a closed loop of single [`requests`](super::requests), unless `arrivals` are given.

use super::arrivals::ArrivalSettings;
use super::client::Client;
use super::distribution::{Distribution, Quantity, Tokens};
use super::requests::{RequestSettings, SharedPrefix};
use super::{PatienceSettings, Priorities};
use crate::settings::{self, Count, Invalid};
use crate::time::SimDuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What an experiment says of the benchmark.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PrefixRatioSettings {
    /// Requests in total.
    #[serde(deserialize_with = "settings::count")]
    #[schemars(with = "Count")]
    pub requests: u32,
    /// Requests at the same time; either this or `arrivals`.
    #[serde(
        default,
        deserialize_with = "settings::count_option",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<Count>")]
    pub concurrency: Option<u32>,
    /// When requests are sent, in place of `concurrency`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrivals: Option<ArrivalSettings>,
    /// Shared texts, all equally likely.
    #[serde(deserialize_with = "settings::count")]
    #[schemars(with = "Count")]
    pub prefix_groups: u32,
    /// Mean prompt length in tokens, shared part included.
    #[serde(deserialize_with = "settings::count")]
    #[schemars(with = "Count")]
    pub input_tokens: u32,
    /// Mean answer length in tokens.
    #[serde(deserialize_with = "settings::count")]
    #[schemars(with = "Count")]
    pub output_tokens: u32,
    /// Share of the mean prompt that is shared, from 0 to 1.
    pub prefix_ratio: f64,
    /// Standard deviation of the part that is not shared and of answers, over
    /// their means; 0.25 unless given, as in the benchmark.
    #[serde(default = "a_quarter")]
    pub relative_sd: f64,
    /// The way of a request to the router; no time unless given.
    #[serde(default)]
    pub client: Client,
    /// When clients hang up; never unless given.
    #[serde(default, skip_serializing_if = "PatienceSettings::is_default")]
    pub patience: PatienceSettings,
    /// The priority of requests, lower ones first, where workers schedule by it; 0 unless
    /// given. A whole number, or a distribution that each conversation draws from.
    #[serde(default, skip_serializing_if = "Priorities::are_zero")]
    pub priority: Priorities,
}

fn a_quarter() -> f64 {
    0.25
}

/// Draws beyond this many standard deviations are clamped (assumed; AIPerf has no
/// upper bound): 1 of 30,000.
const MOST_DEVIATIONS: f64 = 4.0;

impl PrefixRatioSettings {
    /// Refuses settings that no run can use.
    ///
    /// # Errors
    /// The first unusable key.
    pub fn validate(&self) -> Result<(), Invalid> {
        Invalid::unless(self.requests > 0, "requests", self.requests, "at least 1")?;
        Invalid::unless(self.prefix_groups > 0, "prefix_groups", self.prefix_groups, "at least 1")?;
        let ratio = self.prefix_ratio;
        Invalid::unless((0.0..=1.0).contains(&ratio), "prefix_ratio", ratio, "from 0 to 1")?;
        let sd = self.relative_sd;
        Invalid::unless((0.0..=1.0).contains(&sd), "relative_sd", sd, "from 0 to 1")?;
        for (key, tokens) in
            [("input_tokens", self.input_tokens), ("output_tokens", self.output_tokens)]
        {
            Invalid::unless(tokens > 0, key, tokens, "at least 1")?;
        }
        // What is left to refuse has other names as plain requests.
        self.requests().validate().map_err(|error| {
            let key = match error.key.as_str() {
                "prefix.groups" => "prefix_groups",
                "prefix.tokens" | "prompt_tokens" => "input_tokens",
                _ => return error,
            };
            Invalid { key: key.to_owned(), ..error }
        })
    }

    /// What the benchmark sends.
    pub fn requests(&self) -> RequestSettings {
        let input = f64::from(self.input_tokens);
        let tokens = |mean: f64| Tokens::from_f64(mean.floor());
        let around = |mean: f64| {
            let sd = (mean * self.relative_sd).round();
            Distribution::Normal {
                mean: tokens(mean.max(1.0)),
                sd: tokens(sd),
                min: Tokens(1),
                max: tokens((mean + MOST_DEVIATIONS * sd).max(1.0)),
            }
        };
        RequestSettings {
            concurrency: self.concurrency,
            start_spread: SimDuration::ZERO,
            arrivals: self.arrivals.clone(),
            count: Some(self.requests),
            prompt_tokens: around(input * (1.0 - self.prefix_ratio)),
            output_tokens: around(f64::from(self.output_tokens)),
            prefix: Some(SharedPrefix {
                groups: self.prefix_groups,
                tokens: tokens(input * self.prefix_ratio),
                exponent: 0.0,
            }),
            client: self.client.clone(),
            patience: self.patience.clone(),
            priority: self.priority.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::RequestId;
    use crate::workload::Workload;
    use crate::workload::requests::Requests;

    fn settings(prefix_ratio: f64) -> PrefixRatioSettings {
        PrefixRatioSettings {
            requests: 2_000,
            concurrency: Some(20),
            arrivals: None,
            prefix_groups: 20,
            input_tokens: 14_000,
            output_tokens: 200,
            prefix_ratio,
            relative_sd: 0.25,
            client: Client::default(),
            patience: PatienceSettings::default(),
            priority: Priorities::default(),
        }
    }

    #[test]
    fn requests_are_counted_and_have_the_means_asked_for() {
        for ratio in [0.0, 0.1, 0.5, 0.9, 1.0] {
            let settings = settings(ratio);
            settings.validate().unwrap();
            let mut workload = Requests::new(settings.requests(), 64, 3);
            let (mut prompt, mut output, mut count, mut groups) = (0.0, 0.0, 0_u32, Vec::new());
            while let Some(at) = workload.next_arrival() {
                let request = workload.take().request;
                prompt += f64::from(request.prompt_tokens);
                output += f64::from(request.output_tokens);
                let shared = request.content.shared_blocks();
                assert_eq!(shared, settings.requests().prefix.unwrap().tokens.0 / 64);
                if shared > 0 {
                    groups.push(request.content.block(0));
                }
                workload.observe_end(at, RequestId(count), true);
                count += 1;
            }
            assert_eq!(count, 2_000);
            let n = f64::from(count);
            let sd_of_mean = 14_000.0 * (1.0 - ratio) * 0.25 / n.sqrt();
            assert!((prompt / n - 14_000.0).abs() < 4.0 * sd_of_mean + 2.0, "{}", prompt / n);
            assert!((output / n - 200.0).abs() < 5.0, "{}", output / n);
            groups.sort_unstable();
            groups.dedup();
            assert_eq!(groups.len(), if ratio > 0.0 { 20 } else { 0 });
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_name() {
        let refused = |change: fn(&mut PrefixRatioSettings)| {
            let mut settings = settings(0.5);
            change(&mut settings);
            settings.validate().unwrap_err().to_string()
        };
        assert!(refused(|s| s.prefix_ratio = f64::NAN).starts_with("prefix_ratio"));
        assert!(refused(|s| s.prefix_ratio = 1.1).starts_with("prefix_ratio"));
        assert!(refused(|s| s.relative_sd = -0.1).starts_with("relative_sd"));
        assert!(refused(|s| s.requests = 0).starts_with("requests"));
        assert!(refused(|s| s.prefix_groups = 2_000_000).starts_with("prefix_groups"));
        assert!(refused(|s| s.input_tokens = u32::MAX).starts_with("input_tokens"));
        assert!(refused(|s| s.concurrency = Some(0)).starts_with("concurrency"));
    }
}
