//! llm-d's router put together from parts, against policies that are such routers as a whole.

use crate::id::WorkerId;
use crate::router::policies::Books;
use crate::router::policies::llmd::{Llmd, LlmdParams};
use crate::router::settings::RouterSettings;
use crate::router::testing::history::{Act, BLOCK_SIZE, Heard, History, any_acts};
use crate::router::testing::{Texts, any_texts, cluster};
use crate::router::{
    ChosenPolicy, ClusterSpec, CostParts, Policy, Registry, Reported, Role, Verdict, WorkerView,
    Workers,
};
use crate::time::SimTime;
use proptest::prelude::*;

const WORKERS: u32 = 4;

/// A Helm values file, as llm-d's guides have them, of an affinity filter and a scorer of
/// tokens in flight.
const BY_TOKENS: &str = "
router:
  epp:
    replicas: 1
    pluginsConfigFile: by-tokens.yaml
    pluginsCustomConfig:
      by-tokens.yaml: |
        apiVersion: llm-d.ai/v1alpha1
        kind: EndpointPickerConfig
        plugins:
        - type: token-load-scorer
        - type: inflight-load-producer
        - type: approx-prefix-cache-producer
          parameters:
            maxPrefixTokensToMatch: 40960 # the longest context
        - type: prefix-cache-affinity-filter
          parameters:
            affinityThreshold: 0.80
            peakPrefillThroughput: 20
        schedulingProfiles:
        - name: default
          plugins:
          - pluginRef: prefix-cache-affinity-filter
          - pluginRef: token-load-scorer
";

fn llmd(config: &str) -> Llmd {
    let params = LlmdParams { config: config.to_owned(), ..LlmdParams::default() };
    Llmd::new(&params, &cluster(WORKERS, BLOCK_SIZE), 1)
}

/// Plays a history on a policy and on parts that book what the policy chooses; shows what
/// both think of every request before it is routed.
fn beside(
    policy: &ChosenPolicy,
    mut parts: Llmd,
    (texts, acts): (&Texts, &[Act]),
    mut look: impl FnMut(&[CostParts], &[CostParts]),
) {
    let mut policy = policy.build(&cluster(WORKERS, BLOCK_SIZE), 3);
    let mut views = vec![WorkerView::default(); WORKERS as usize];
    let mut history = History::new(texts, WORKERS);
    for act in acts {
        let request = history.play(act, |heard| {
            if let Heard::Life(event) = &heard {
                if event.kind.ends_stay() {
                    views[event.worker.index()].inflight -= 1;
                }
                policy.observe(SimTime::ZERO, event);
                parts.observe(SimTime::ZERO, event);
            }
        });
        let Some(request) = request else { continue };
        for view in &mut views {
            let (waiting, used_blocks) = (view.inflight, 100 * view.inflight);
            view.reported = Some(Reported { at: SimTime::ZERO, running: 0, waiting, used_blocks });
        }
        // A report of another time, so that it is read.
        let at = SimTime::from_ps(u64::from(request.id.0) + 1);
        views.iter_mut().flat_map(|view| &mut view.reported).for_each(|last| last.at = at);
        let workers = Workers::new(views.clone());
        let view = request.route_view(BLOCK_SIZE);
        look(&policy.explain(&view, &workers.view()), &parts.explain(&view, &workers.view()));
        let verdict = policy.route(SimTime::ZERO, &view, &workers.view());
        let Verdict::Send(worker) = verdict else { panic!("{verdict:?}") };
        parts.book(&view, worker);
        views[worker.index()].inflight += 1;
        history.sent(&request, worker);
    }
}

fn best(costs: &[CostParts]) -> Vec<WorkerId> {
    let lowest = costs.iter().map(|parts| parts.cost).fold(f64::INFINITY, f64::min);
    costs.iter().filter(|parts| parts.cost == lowest).map(|parts| parts.worker).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn a_filter_and_a_scorer_of_tokens_are_llmd_token_load(
        texts in any_texts(), acts in any_acts(WORKERS, 80),
    ) {
        let whole = RouterSettings::new("llmd_token_load")
            .with("peak_prefill_tokens_per_s", 20.0)
            .chosen();
        beside(&whole, llmd(BY_TOKENS), (&texts, &acts), |whole, parts| {
            assert_eq!(best(whole), best(parts), "{whole:?} {parts:?}");
        });
    }

    #[test]
    fn without_a_file_the_parts_are_the_inference_extension(
        texts in any_texts(), acts in any_acts(WORKERS, 80),
    ) {
        let whole = RouterSettings::new("inference_extension").chosen();
        beside(&whole, llmd(""), (&texts, &acts), |whole, parts| {
            for (whole, parts) in whole.iter().zip(parts) {
                assert!((whole.cost - parts.cost).abs() < 1e-9, "{whole:?} {parts:?}");
            }
        });
    }
}

/// A file of these plug-ins.
fn file(plugins: &str, profile: &str) -> String {
    format!(
        "kind: EndpointPickerConfig\nplugins: [{plugins}]\n\
         schedulingProfiles: [{{name: default, plugins: [{profile}]}}]\n"
    )
}

#[test]
fn what_is_not_modelled_is_refused_by_name() {
    let wrong = [
        "a: [".to_owned(),
        "- a".to_owned(),
        "kind: InferencePool".to_owned(),
        "kind: EndpointPickerConfig\nflowControl: {}".to_owned(),
        "kind: EndpointPickerConfig\nfeatureGates: [flowControl]".to_owned(),
        file("{type: lora-affinity-scorer}", "{pluginRef: lora-affinity-scorer}"),
        // In no profile: it may still turn requests away.
        file("{type: queue-scorer}, {type: probabilistic-admitter}", "{pluginRef: queue-scorer}"),
        file("{type: queue-scorer, parameters: {threshold: 2}}", "{pluginRef: queue-scorer}"),
        file("{type: queue-scorer}", "{pluginRef: kv-cache-utilization-scorer}"),
        file("{type: queue-scorer}", "{pluginRef: queue-scorer, weight: heavy}"),
        file(
            "{type: prefix-cache-affinity-filter, parameters: {ttftSource: latencyPredictor}}",
            "{pluginRef: prefix-cache-affinity-filter}",
        ),
        file(
            "{type: prefix-cache-scorer, parameters: {prefixMatchInfoProducerName: mine}}",
            "{pluginRef: prefix-cache-scorer}",
        ),
        file(
            "{type: inflight-load-producer, parameters: {addEstimatedOutputTokens: true}}",
            "{pluginRef: inflight-load-producer}",
        ),
        "kind: EndpointPickerConfig\nschedulingProfiles: [{name: a}, {name: b}]".to_owned(),
    ]
    .map(|text| RouterSettings::new("llmd").with("config", text).validate().expect_err("wrong"));
    insta::assert_snapshot!(wrong.map(|error| error.to_string()).join("\n"));
}

/// Files of public guides, restated: what is in their `plugins` and `schedulingProfiles`.
/// With what is refused of them, if anything is.
///
/// Source: `guides/` of github.com/llm-d/llm-d and `deploy/config/` of
/// github.com/llm-d/llm-d-router, each file at the commit that stands before it.
const GUIDES: &str = include_str!("epp_guides.yaml");

#[test]
fn files_of_the_guides_are_read_or_refused_by_name() {
    let guides = crate::settings::yaml::parse(GUIDES).expect("YAML");
    let guides = guides.as_object().expect("files by name");
    let mut seen = Vec::new();
    for (place, guide) in guides {
        let text = serde_json::to_string(guide).expect("JSON is YAML");
        let chosen = RouterSettings::new("llmd").with("config", text).validate();
        seen.push(match chosen {
            Ok(()) => format!("{place}: read"),
            Err(error) => format!("{place}: {error}"),
        });
    }
    insta::assert_snapshot!(seen.join("\n"));
}

/// The guide for prefill and decode apart: each side goes by its own profile.
#[test]
fn prefill_and_decode_go_by_their_own_profiles() {
    let guides = crate::settings::yaml::parse(GUIDES).expect("YAML");
    let place = "guides/pd-disaggregation/router/pd-disaggregation.values.yaml@83bb7c1";
    let config = serde_json::to_string(&guides[place]).unwrap();
    let side = |role| {
        let params = LlmdParams { config: config.clone(), ..LlmdParams::default() };
        Llmd::new(&params, &ClusterSpec { role, ..cluster(2, BLOCK_SIZE) }, 1)
    };
    let mut texts = Texts::default();
    let (text, other) = (texts.add(None), texts.add(None));
    let workers = Workers::new(vec![WorkerView::default(); 2]);
    let costs = |mut parts: Llmd| {
        // Worker 0 holds the prompt and has one request, worker 1 has two short ones.
        for (id, text, tokens, worker) in [(0, text, 256, 0), (1, other, 16, 1), (2, other, 16, 1)]
        {
            let request = texts.request(id, text, tokens, BLOCK_SIZE);
            parts.book(&request.route_view(BLOCK_SIZE), WorkerId(worker));
        }
        let request = texts.request(9, text, 256, BLOCK_SIZE);
        best(&parts.explain(&request.route_view(BLOCK_SIZE), &workers.view()))
    };
    // Prefill: the affinity filter leaves worker 0. Decode: the fewest requests.
    assert_eq!(costs(side(Role::Prefill)), [WorkerId(0)]);
    assert_eq!(costs(side(Role::Decode { may_prefill: false })), [WorkerId(0)]);
    let decode = side(Role::Decode { may_prefill: false });
    assert_eq!(decode.report_period(), None);
    let around = |has_prefill_workers| {
        RouterSettings::new("llmd")
            .with("config", config.clone())
            .resolve(&Registry::default(), &[1, 1], has_prefill_workers)
            .map(drop)
    };
    assert_eq!(around(Some(true)), Ok(()));
    let error = around(Some(false)).expect_err("no workers of their own").to_string();
    assert!(error.contains("here every worker does both"), "{error}");
}

/// Of each scorer what it says, on two workers with different loads.
#[test]
fn scorers_say_what_the_originals_say() {
    let mut texts = Texts::default();
    let (text, other) = (texts.add(None), texts.add(None));
    let reported = |running, waiting, used_blocks| {
        Some(Reported { at: SimTime::ZERO, running, waiting, used_blocks })
    };
    let view = |reported| WorkerView { reported, ..WorkerView::default() };
    let views = vec![
        view(reported(3, 0, 2_500)),
        view(reported(1, 32, 5_000)),
        view(reported(2, 8, 0)),
        view(reported(1, 64, 10_000)),
    ];
    let workers = Workers::new(views);
    let scores = |plugins: &str| {
        let kind = plugins.split(['{', ',', '}']).nth(1).unwrap_or_default();
        let mut parts =
            llmd(&file(plugins, &format!("{{pluginRef: {}}}", &kind["type: ".len()..])));
        let book = |parts: &mut Llmd, id, text, tokens, worker| {
            let request = texts.request(id, text, tokens, BLOCK_SIZE);
            parts.book(&request.route_view(BLOCK_SIZE), WorkerId(worker));
        };
        // Worker 0 gets 128 tokens of the prompt, worker 1 two requests of 64 and 100.
        book(&mut parts, 0, text, 128, 0);
        book(&mut parts, 1, other, 64, 1);
        book(&mut parts, 2, other, 100, 1);
        let request = texts.request(9, text, 256, BLOCK_SIZE);
        let costs = parts.explain(&request.route_view(BLOCK_SIZE), &workers.view());
        costs.iter().map(|parts| -parts.cost).collect::<Vec<_>>()
    };
    assert_eq!(scores("{type: prefix-cache-scorer}"), [0.5, 0.0, 0.0, 0.0]);
    assert_eq!(scores("{type: kv-cache-utilization-scorer}"), [0.75, 0.5, 1.0, 0.0]);
    assert_eq!(scores("{type: queue-scorer}"), [1.0, 0.5, 0.875, 0.0]);
    assert_eq!(scores("{type: running-requests-size-scorer}"), [0.0, 1.0, 0.5, 1.0]);
    let load = scores("{type: load-aware-scorer, parameters: {threshold: 32}}");
    assert_eq!(load, [0.5, 0.0, 0.375, 0.0]);
    // In flight and its own: 128 + 128, 64 + 36 + 256, 256, 256 of 512.
    let tokens = scores("{type: token-load-scorer, parameters: {queueThresholdTokens: 512}}");
    assert_eq!(tokens, [0.5, 0.304_687_5, 0.5, 0.5]);
    let active = scores("{type: active-request-scorer, parameters: {maxBusyScore: 0.5}}");
    assert_eq!(active, [0.25, 0.0, 1.0, 1.0]);
    // Not cold: worker 0 holds some.
    assert_eq!(scores("{type: no-hit-lru-scorer}"), [0.5; 4]);
    // 128 x 2, 256 x 3, 256, 256.
    assert_eq!(scores("{type: lmetric-scorer}"), [1.0, 0.0, 1.0, 1.0]);
}

#[test]
fn cold_prompts_go_round() {
    let mut texts = Texts::default();
    let mut parts = llmd(&file("{type: no-hit-lru-scorer}", "{pluginRef: no-hit-lru-scorer}"));
    let workers = Workers::new(vec![WorkerView::default(); WORKERS as usize]);
    for id in 0..12 {
        let text = texts.add(None);
        let request = texts.request(id, text, 100, BLOCK_SIZE);
        let view = request.route_view(BLOCK_SIZE);
        let verdict = parts.route(SimTime::ZERO, &view, &workers.view());
        assert_eq!(verdict, Verdict::send(WorkerId(id % WORKERS)));
    }
}
