//! Scaling, reuse distances and look-alikes.

use super::*;
use crate::time::SimDuration;
use std::collections::BTreeSet;

fn small(rows: &[(Vec<u64>, u32)]) -> Trace {
    read(jsonl(rows).as_bytes(), SMALL_BLOCK, None).unwrap()
}

/// Written and read again, by all rules of the format.
fn reread(trace: &Trace) -> Trace {
    read(write::lines(trace).as_bytes(), trace.block_tokens(), None).unwrap()
}

fn ids(trace: &Trace, row: usize) -> Vec<u64> {
    trace.blocks(row).map(|block| block.0).collect()
}

/// Leading ids of row `a` that row `b` has too.
fn common(trace: &Trace, a: usize, b: usize) -> usize {
    ids(trace, a).iter().zip(ids(trace, b)).take_while(|(a, b)| **a == *b).count()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small lengths")]
fn floor(length: f64) -> usize {
    length as usize
}

proptest! {
    #[test]
    fn multipliers_of_one_change_nothing(rows in rows()) {
        let trace = small(&rows);
        prop_assert_eq!(&Scaling::default().apply(trace.clone()).unwrap(), &trace);
        prop_assert_eq!(&trace.clone().sped_up(1.0).unwrap(), &trace);
    }

    /// Options of time and filters leave every row as it is, ids included.
    #[test]
    fn time_and_filters_leave_ids_alone(rows in rows(), max_isl in 1..40u32, speedup in 0.5..9.0) {
        let trace = small(&rows);
        let faster = trace.clone().sped_up(speedup).unwrap();
        prop_assert_eq!(&faster.runs, &trace.runs);
        let scaling = Scaling { max_isl: Some(max_isl), ..Scaling::default() };
        let kept: Vec<usize> =
            (0..rows.len()).filter(|&i| rows[i].1 <= max_isl).collect();
        let Ok(shorter) = scaling.apply(trace) else {
            prop_assert!(kept.is_empty());
            return Ok(());
        };
        prop_assert_eq!(shorter.rows().len(), kept.len());
        for (i, &row) in kept.iter().enumerate() {
            prop_assert_eq!(&ids(&shorter, i), &rows[row].0);
            prop_assert_eq!(shorter.rows()[i].at, SimDuration::from_millis(row as u64));
        }
        let first = shorter.rows()[0].at;
        prop_assert_eq!(reread(&shorter), shorter.within(Some(first), None).unwrap());
    }

    /// Against the rules for every pair of rows.
    #[test]
    fn scaled_rows_share_what_the_rules_say(
        rows in rows(),
        prefix in prop_oneof![Just(1.0), 0.1..4.0],
        prompt in prop_oneof![Just(1.0), 0.1..4.0],
        roots in 1..4u32,
    ) {
        let trace = small(&rows);
        let scaling = Scaling {
            prefix_len_multiplier: prefix,
            prompt_len_multiplier: prompt,
            prefix_root_multiplier: roots,
            max_isl: None,
        };
        let scaled = scaling.apply(trace.clone()).unwrap();
        prop_assert_eq!(&reread(&scaled), &scaled);
        let times = |trace: &Trace| -> Vec<(SimDuration, u32)> {
            trace.rows().iter().map(|row| (row.at, row.output_tokens)).collect()
        };
        prop_assert_eq!(times(&scaled), times(&trace));
        let depth = |blocks: usize| floor(blocks as f64 * prefix);
        for (i, (blocks, input)) in rows.iter().enumerate() {
            let others = (0..rows.len()).filter(|&j| j != i);
            let shared = others.map(|j| common(&trace, i, j)).max().unwrap_or(0);
            let whole = shared.min((input / SMALL_BLOCK) as usize);
            let rest = input - u32::try_from(whole).unwrap() * SMALL_BLOCK;
            let tail = match shared == blocks.len() {
                true => rest,
                false => u32::try_from(floor((f64::from(rest) * prompt).round())).unwrap().max(1),
            };
            let expected = u32::try_from(depth(whole)).unwrap() * SMALL_BLOCK + tail;
            prop_assert_eq!(scaled.rows()[i].input_tokens, expected.max(1), "row {}", i);
            for j in 0..i {
                let before = common(&trace, i, j);
                let after = common(&scaled, i, j);
                // The last one may be partial, which is not scaled.
                let least = depth(before.min(whole));
                if roots == 1 {
                    prop_assert!((least..=least + 1).contains(&after), "{} then {}", before, after);
                } else {
                    prop_assert!(after == 0 || (least..=least + 1).contains(&after));
                }
            }
        }
    }

    /// Against the definition: a list of blocks, the last used one in front.
    #[test]
    fn reuse_distances_are_places_in_a_list(rows in rows()) {
        let trace = small(&rows);
        let mut list: Vec<u64> = Vec::new();
        let mut expected = Vec::new();
        for row in 0..rows.len() {
            let ids = ids(&trace, row);
            let place = |id: &u64| list.iter().position(|known| known == id).map(|at| at as u64);
            expected.extend(ids.iter().map(place));
            list.retain(|id| !ids.contains(id));
            list.splice(0..0, ids);
        }
        prop_assert_eq!(ReuseDistances::of_references(&trace), expected.clone());
        let seen = ReuseDistances::of(&trace);
        let reused = expected.iter().flatten().count() as u64;
        prop_assert_eq!((seen.references_blocks, seen.reused_blocks), (expected.len() as u64, reused));
        let stats = TraceStats::of(&trace);
        prop_assert_eq!(seen.reused_blocks, stats.repeats_blocks);
        if let Some(last) = seen.lru.last() {
            prop_assert_eq!(last.hit_ratio, stats.hit_ratio);
        }
    }

    /// Whatever is drawn is a trace, and every copy of a session is shaped like it.
    #[test]
    fn a_look_alike_is_made_of_the_rows_of_its_original(
        rows in rows(), requests in 1..60u32, seed: u64,
    ) {
        let trace = small(&rows);
        let model = Lookalike::fit(&trace).unwrap();
        let drawn = model.draw(requests, seed);
        prop_assert_eq!(drawn.rows().len(), requests as usize);
        prop_assert_eq!(&reread(&drawn), &drawn);
        prop_assert_eq!(&model.draw(requests, seed), &drawn);
        let shapes = |trace: &Trace| -> BTreeSet<(u32, u32)> {
            trace.rows().iter().map(|row| (row.input_tokens, row.output_tokens)).collect()
        };
        prop_assert!(shapes(&drawn).is_subset(&shapes(&trace)));
    }
}

#[test]
fn roots_split_the_requests_of_a_prefix() {
    let rows: Vec<(Vec<u64>, u32)> = (0..300).map(|i| (vec![0, 1, 2 + i], 20)).collect();
    let roots = |n| {
        let scaling = Scaling { prefix_root_multiplier: n, ..Scaling::default() };
        let trace = scaling.apply(small(&rows)).unwrap();
        let firsts: Vec<u64> = (0..300).map(|row| ids(&trace, row)[0]).collect();
        let different: BTreeSet<u64> = firsts.iter().copied().collect();
        let first = firsts.iter().filter(|id| **id == firsts[0]).count();
        (different.len(), first)
    };
    assert_eq!(roots(1), (1, 300));
    let (different, first) = roots(3);
    assert_eq!(different, 3);
    assert!((70..130).contains(&first), "{first} of 300");
}

/// Also where blocks of one token make more ids than fit a run.
#[test]
fn prompts_that_grow_beyond_all_bounds_are_refused() {
    let mut trace = small(&[(vec![0], 1)]);
    let tokens = 5_000_000;
    trace.block_tokens = 1;
    trace.rows[0].input_tokens = tokens;
    trace.runs = vec![BlockRun { first: BlockId(0), len: tokens }];
    let scaling = Scaling { prompt_len_multiplier: 1_000.0, ..Scaling::default() };
    let refused = scaling.apply(trace).unwrap_err();
    assert_eq!(refused.key, "prompt_len_multiplier");
}

#[test]
fn sessions_are_cut_and_never_scaled() {
    let text = r#"{"session_id": "a", "timestamp": 0, "input_length": 600, "output_length": 10}
        {"session_id": "a", "input_length": 900, "output_length": 10}
        {"session_id": "b", "timestamp": 5, "input_length": 100, "output_length": 10}
        {"session_id": "a", "input_length": 40, "output_length": 10}
        {"session_id": "b", "input_length": 200, "output_length": 10}"#;
    let trace = parse(text).unwrap();
    let up_to = |max| Scaling { max_isl: Some(max), ..Scaling::default() }.apply(trace.clone());
    let rows = |trace: Trace| -> Vec<(u32, u32, u32)> {
        trace.rows().iter().map(|row| (row.session, row.turn, row.input_tokens)).collect()
    };
    assert_eq!(rows(up_to(800).unwrap()), [(0, 0, 600), (1, 0, 100), (1, 1, 200)]);
    assert_eq!(rows(up_to(300).unwrap()), [(0, 0, 100), (0, 1, 200)]);
    let allowed = "max_isl = 99: must be at least 100, the shortest first prompt of the trace";
    assert_eq!(up_to(99).unwrap_err().to_string(), allowed);
    let longer = Scaling { prompt_len_multiplier: 2.0, ..Scaling::default() };
    assert_eq!(longer.apply(trace.clone()).unwrap_err().key, "prompt_len_multiplier");
    assert!(Lookalike::fit(&trace).is_err());
}

#[test]
fn prompts_without_ids_scale_too() {
    let azure = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,4808,10\n\
        2023-11-16 18:17:04,3,8\n";
    let half = Scaling { prompt_len_multiplier: 0.1, ..Scaling::default() };
    let trace = half.apply(parse(azure).unwrap()).unwrap();
    let lengths: Vec<u32> = trace.rows().iter().map(|row| row.input_tokens).collect();
    assert_eq!(lengths, [481, 1]);
    assert_eq!(TraceStats::of(&trace).repeats_blocks, 0);
    assert_eq!(Lookalike::fit(&trace).unwrap().draw(5, 1).rows().len(), 5);
}

#[test]
fn unusable_scalings_are_named() {
    let huge = Scaling { prompt_len_multiplier: 1_000.0, ..Scaling::default() };
    let long = r#"{"timestamp": 0, "input_length": 9000000, "output_length": 1}"#;
    assert_eq!(huge.apply(parse(long).unwrap()).unwrap_err().key, "prompt_len_multiplier");
    for (toml, key) in [
        ("prefix_len_multiplier = 0", "prefix_len_multiplier"),
        ("prompt_len_multiplier = nan", "prompt_len_multiplier"),
        ("prefix_root_multiplier = 0", "prefix_root_multiplier"),
        ("max_isl = 0", "max_isl"),
    ] {
        let scaling: Scaling = toml::from_str(toml).unwrap();
        assert_eq!(scaling.validate().unwrap_err().key, key);
    }
}

/// A look-alike that the project ships, with so many references to blocks, and the first
/// `rows` of its original, if that is on this machine.
fn shipped_and_original(
    shipped: &[u8],
    references: u64,
    original: &str,
    rows: u32,
) -> Option<(Trace, Trace)> {
    let path = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(path.path(), shipped).unwrap();
    let shipped = Trace::read(path.path(), &ReadOptions::default()).unwrap();
    let reuse = ReuseDistances::of(&shipped);
    assert_eq!((shipped.rows().len(), reuse.references_blocks), (2_000, references));
    let Some(folder) = std::env::var_os("SIM_TRACES") else {
        eprintln!("skipped: SIM_TRACES does not name a folder with the public traces");
        return None;
    };
    let public = PublicTrace::named(original).unwrap();
    let path = public.find(&[PathBuf::from(folder)]).unwrap();
    let options = ReadOptions { limit: Some(rows), ..ReadOptions::default() };
    let original = Trace::read(&path, &options).unwrap();
    assert_eq!(Lookalike::fit(&original).unwrap().draw(2_000, 1), shipped);
    Some((original, shipped))
}

#[test]
fn the_look_alike_of_tools_and_agents_is_drawn_from_its_original() {
    let shipped = include_bytes!("../../../../traces/lookalike-toolagent.jsonl.gz");
    shipped_and_original(shipped, 41_029, "mooncake-arxiv-first1000", 1_000);
}

#[test]
fn the_shipped_look_alike_is_near_its_original() {
    let shipped = include_bytes!("../../../../traces/lookalike-conversation.jsonl.gz");
    let both = shipped_and_original(shipped, 55_731, "mooncake-conversation", 2_000);
    let Some((original, shipped)) = both else { return };
    let (a, b) = (TraceStats::of(&original), TraceStats::of(&shipped));
    let reuse = ReuseDistances::of(&shipped);
    let near = |a: f64, b: f64, most: f64| assert!((b / a - 1.0).abs() < most, "{b} for {a}");
    near(a.requests_per_s.unwrap(), b.requests_per_s.unwrap(), 0.01);
    near(a.input_tokens.mean, b.input_tokens.mean, 0.03);
    near(a.output_tokens.mean, b.output_tokens.mean, 0.03);
    near(a.prefix_tokens_mean, b.prefix_tokens_mean, 0.02);
    for (a, b) in ReuseDistances::of(&original).lru.iter().zip(&reuse.lru) {
        assert!((a.hit_ratio - b.hit_ratio).abs() < 0.02, "{a:?}, {b:?}");
    }
}
