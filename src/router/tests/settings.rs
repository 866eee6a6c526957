//! What `[router]` accepts, and what it says otherwise.

use crate::router::policies;
use crate::router::settings::RouterSettings;
use crate::router::testing::cluster;
use crate::time::SimDuration;

fn read(text: &str) -> Result<RouterSettings, String> {
    let settings: RouterSettings =
        toml::from_str(text).map_err(|error| error.message().to_owned())?;
    settings.validate().map_err(|invalid| invalid.to_string())?;
    Ok(settings)
}

#[test]
fn every_name_reads_back_and_builds() {
    for name in policies::all().iter().map(|policy| policy.about().name.as_str()) {
        let settings: RouterSettings = toml::from_str(&format!("policy = \"{name}\"")).unwrap();
        assert_eq!(settings.policy.as_str(), name);
        assert_eq!(settings, RouterSettings::new(name));
        if name == "external" {
            assert_eq!(settings.validate().unwrap_err().key, "command");
            continue; // it stands for a program that only an experiment can name
        }
        let built_in = cfg!(feature = "dynamo") || !["dynamo", "shadow"].contains(&name);
        assert_eq!(settings.validate().is_ok(), built_in, "{name}");
        if !built_in {
            continue;
        }
        let policy = settings.chosen().build(&cluster(3, 16), 1);
        assert!(policy.wake_at().is_none());
    }
}

#[test]
fn keys_of_another_policy_are_accepted_and_kept() {
    let settings = read(
        "policy = \"round_robin\"\noverlap_weight = 2.0\nsemantics = \"0.9\"\n\
         [feed]\ndelay = \"12ms\"",
    )
    .unwrap();
    assert_eq!(settings.policy, "round_robin");
    assert_eq!(settings.parameters["overlap_weight"].as_float(), Some(2.0));
    assert!(settings.chosen().parameters().is_empty(), "round robin has none");
    assert_eq!(settings.feed().delay, SimDuration::from_millis(12));
}

#[test]
fn settings_survive_a_round_trip() {
    let settings = read("policy = \"kv\"\ntemperature = 0.3\n[feed]\njitter = \"20ms\"").unwrap();
    assert_eq!(read(&toml::to_string(&settings).unwrap()), Ok(settings));
}

/// 0.9's publisher passes every removal on; all since then count copies.
#[test]
fn copies_are_counted_as_the_version_does() {
    let counts = |text| read(text).unwrap().feed().count_copies;
    assert_eq!(counts("policy = \"kv\""), Some(true));
    assert_eq!(counts("policy = \"kv\"\nsemantics = \"0.9\""), Some(false));
    assert_eq!(
        counts("policy = \"kv\"\nsemantics = \"0.9\"\nfeed.count_copies = true"),
        Some(true)
    );
}

#[test]
fn no_index_and_no_events_at_weight_0() {
    let wants =
        |text: &str| read(text).unwrap().chosen().build(&cluster(3, 16), 1).wants_kv_events();
    assert!(wants("policy = \"kv\""));
    assert!(!wants("policy = \"kv\"\noverlap_weight = 0.0"));
    assert!(!wants("policy = \"kv\"\noverlap_score_credit = 0.0"));
    assert!(!wants("policy = \"kv\"\nuse_kv_events = false"));
    assert!(!wants("policy = \"round_robin\""));
}

#[test]
fn mistakes_are_named() {
    let refusals: Vec<String> = [
        "policy = \"kv\"\noverlap_weight = -1.0",
        "policy = \"kv\"\ntemperature = nan",
        "policy = \"kv\"\nsemantics = \"0.9\"\noverlap_score_credit = 0.5",
        "policy = \"kv\"\nsemantics = \"0.9\"\ntrack_prefill_tokens = false",
        "policy = \"kv\"\nsemantics = \"0.9\"\nqueue_threshold = 2.0",
        "policy = \"kv\"\nqueue_threshold = -1.0",
        "policy = \"kv\"\nactive_decode_blocks_threshold = 1.5",
        "policy = \"kv\"\napproximate_prune_target_ratio = nan",
        "policy = \"kv\"\nuse_kv_events = false\napproximate_ttl = \"0s\"",
        "policy = \"kv\"\nreplicas = 0",
        "policy = \"kv\"\n[feed]\nloss_ratio = 1.5",
        "policy = \"consistent_hash\"\nhash_load_factor = 0.9",
        "policy = \"sglang_cache_aware\"\neviction_interval = \"0s\"",
        "policy = \"kv\"\noverlap_weight = 1e308",
        "policy = \"kv\"\ntemperature = 1e-300",
        "policy = \"kv\"\nsemantics = 0.9",
        "policy = \"kv\"\nsemantics = \"1.5\"",
        "policy = \"kv\"\nqueue_order = \"fsfc\"",
        "policy = \"kv\"\napproximate_ttl = \"300\"",
        "policy = \"kv\"\nuse_kv_events = 1",
        "policy = \"kv\"\nexpected_output_tokens = -1",
        "policy = \"kv\"\noverlap_wait = 1.0",
        "policy = \"round_robin\"\noverlap_weight = \"much\"",
        "policy = \"round_robins\"",
        "policy = \"round_robin\"\nreplicas = 500001",
        "policy = \"consistent_hash\"\nhash_replication = 4294967295",
        "policy = \"consistent_hash\"\nhash_replication = 1000000\nreplicas = 1000",
        "policy = \"kv\"\nsemantics = \"0.9\"\nconditional_disaggregation = {}",
    ]
    .into_iter()
    .map(|text| format!("{}\n    {}", text.replace('\n', " / "), read(text).unwrap_err()))
    .collect();
    insta::assert_snapshot!(refusals.join("\n"));
}

#[test]
fn what_is_not_known_is_refused() {
    for text in [
        "",
        "policy = \"kvv\"",
        "policy = \"kv\"\noverlap_wait = 1.0",
        "policy = \"kv\"\nsemantics = \"1.5\"",
        "policy = \"kv\"\n[feed]\ndelay = \"12\"",
    ] {
        assert!(read(text).is_err(), "{text}");
    }
}
