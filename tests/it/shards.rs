//! A sweep in parts, on several machines: merged, they are what one machine makes.

use super::program::{Scratch, text};

const OVER: &str = "router.temperature=0,0.1,0.5";

fn sweep<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["sweep", "small.toml", "--seeds", "2", "--over", OVER, "--out", out];
    args.extend(more);
    args
}

/// Every file below `folder`, with its content.
fn folder(place: &Scratch, folder: &str) -> Vec<(String, Vec<u8>)> {
    let prefix = format!("{folder}/");
    let below =
        |(name, bytes): (String, Vec<u8>)| Some((name.strip_prefix(&prefix)?.to_owned(), bytes));
    place.files().into_iter().filter_map(below).collect()
}

#[test]
fn merged_parts_are_the_folder_of_one_machine() {
    let place = Scratch::new();
    let whole = place.sim(&sweep("whole", &[]));
    assert!(whole.status.success(), "{}", text(&whole.stderr));
    for shard in ["2/3", "1/3", "3/3"] {
        let part = place.sim(&sweep(&format!("part-{}", &shard[..1]), &["--shard", shard]));
        assert!(part.status.success(), "{}", text(&part.stderr));
        assert!(part.stdout.is_empty(), "a part has no answer");
    }
    let merged = place.sim(&["merge", "part-3", "part-1", "part-2", "--out", "merged"]);
    assert!(merged.status.success(), "{}", text(&merged.stderr));
    assert!(merged.stdout == whole.stdout, "{}", text(&merged.stdout));
    assert!(folder(&place, "merged") == folder(&place, "whole"));
    // The parts are as they were: merging them again gives the same.
    let again = place.sim(&["merge", "part-1", "part-2", "part-3", "--out", "merged"]);
    assert!(again.status.success() && again.stdout == whole.stdout, "{}", text(&again.stderr));
    // The same command in a part's folder, without --shard, does the rest.
    let rest = place.sim(&sweep("part-2", &[]));
    assert!(rest.status.success() && rest.stdout == whole.stdout, "{}", text(&rest.stderr));
    assert!(folder(&place, "part-2") == folder(&place, "whole"));
}

#[test]
fn a_part_that_lost_simulations_goes_on() {
    let place = Scratch::new();
    for shard in ["1/2", "2/2"] {
        let part = place.sim(&sweep(&format!("part-{}", &shard[..1]), &["--shard", shard]));
        assert!(part.status.success(), "{}", text(&part.stderr));
    }
    // As a kill in the middle of a write leaves it.
    let journal = place.path().join("part-1/journal.jsonl");
    let bytes = std::fs::read(&journal).expect("a journal");
    let lines = bytes.split_inclusive(|&b| b == b'\n');
    let kept: Vec<u8> = lines.take(3).flatten().copied().collect();
    std::fs::write(&journal, [&kept[..], b"{\"run\":0,\"se"].concat()).expect("written");

    let merge = ["merge", "part-1", "part-2", "--out", "merged"];
    let refused = place.sim(&merge);
    assert_eq!(refused.status.code(), Some(2));
    let said = text(&refused.stderr);
    assert!(said.contains("part-1: shard 1 of 2 is not finished"), "{said}");
    assert!(!place.path().join("merged").exists(), "nothing is left");

    let rest = place.sim(&sweep("part-1", &["--shard", "1/2"]));
    assert!(rest.status.success(), "{}", text(&rest.stderr));
    assert!(text(&rest.stderr).contains("going on: 2 of "), "{}", text(&rest.stderr));
    let merged = place.sim(&merge);
    assert!(merged.status.success(), "{}", text(&merged.stderr));
    let whole = place.sim(&sweep("whole", &[]));
    assert!(folder(&place, "merged") == folder(&place, "whole"));
    assert!(merged.stdout == whole.stdout);
}

#[test]
fn parts_that_do_not_go_together_are_refused() {
    let place = Scratch::new();
    let refused = |args: &[&str]| {
        let output = place.sim(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(!place.path().join("merged").exists(), "{args:?}");
        let said = text(&output.stderr);
        let mut errors = said.lines().filter(|line| !line.starts_with("note: "));
        let error = errors.next().expect("an error").to_owned();
        assert_eq!(errors.next(), None, "{said}");
        error
    };
    for (out, more) in [
        ("one", ["--shard", "1/2"]),
        ("again", ["--shard", "1/2"]),
        ("of-three", ["--shard", "2/3"]),
    ] {
        assert!(place.sim(&sweep(out, &more)).status.success());
    }
    let other = ["--shard", "2/2", "--set", "measure.window=21s"];
    assert!(place.sim(&sweep("other", &other)).status.success());

    let messages = [
        refused(&["merge", "one", "--out", "merged"]),
        refused(&["merge", "one", "again", "--out", "merged"]),
        refused(&["merge", "one", "of-three", "--out", "merged"]),
        refused(&["merge", "one", "other", "--out", "merged"]),
        refused(&["merge", "one", "nowhere", "--out", "merged"]),
        refused(&sweep("one", &["--shard", "2/2"])),
        refused(&sweep("merged", &["--shard", "3/2"])),
    ];
    insta::assert_snapshot!(messages.join("\n"));
}
