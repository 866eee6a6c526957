//! Law 9: with one worker, all policies that neither hold nor reject give one
//! result. They differ in what they ask of the worker (cache events, or none),
//! so this also shows that looking changes nothing.

use super::rig::closed_loop;
use super::rig::{POLICIES, any_conversations, any_draws, any_engine, arrivals, cases};
use super::script::{Run, Script, play, router};
use kv_router_sim::engine::config::EngineConfig;
use kv_router_sim::router::settings::RouterSettings;
use kv_router_sim::time::SimDuration;
use kv_router_sim::workload::Workload;
use proptest::prelude::*;

/// Every policy, the KV policy in several shapes.
fn routers() -> Vec<RouterSettings> {
    let kv = || RouterSettings::new("kv");
    let variants = [
        kv().with("semantics", "0.9"),
        kv().with("temperature", 0.7).with("overlap_weight", 3.0),
        kv().with("overlap_weight", 0.0).with("track_active_blocks", false),
    ];
    POLICIES.into_iter().map(RouterSettings::new).chain(variants).collect()
}

fn same_for_all(
    config: &EngineConfig,
    workload: impl Fn() -> Box<dyn Workload>,
    window: Option<SimDuration>,
) -> Result<(), TestCaseError> {
    let run = |settings: &RouterSettings| -> Run {
        play(config, 1, workload(), router(settings, config, 1), window)
    };
    let routers = routers();
    let first = run(&routers[0]);
    for settings in &routers[1..] {
        let other = run(settings);
        prop_assert_eq!(&first.records, &other.records, "{:?}", settings);
        prop_assert_eq!(&first.metrics, &other.metrics, "{:?}", settings);
        prop_assert_eq!(first.digest, other.digest, "{:?}", settings);
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn policies_have_no_say_over_one_worker(config in any_engine(), draws in any_draws()) {
        let requests = arrivals(&draws, config.block_size);
        same_for_all(&config, || Script::new(requests.clone()), None)?;
    }

    #[test]
    fn not_even_in_a_closed_loop(
        config in any_engine(), loops in any_conversations(), seed: u64,
    ) {
        let window = Some(SimDuration::from_secs(1));
        same_for_all(&config, || closed_loop(&loops, &config, seed), window)?;
    }
}
