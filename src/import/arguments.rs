//! The flags of a program, found among the words of its command.

use super::words::Word;

/// The words behind a program, as flags and what stands alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Arguments {
    pub(super) flags: Vec<Flag>,
    /// Words that belong to no flag.
    pub(super) alone: Vec<Word>,
    /// The last word of all, or the program's.
    pub(super) last: Option<Word>,
}

/// A flag with its value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Flag {
    /// Without dashes in front, and with dashes for underscores: `max-num-seqs`.
    pub(super) name: String,
    pub(super) value: Option<String>,
    /// As written, for people.
    pub(super) shown: String,
    pub(super) word: Word,
    /// The word that has the value, where it is another one.
    pub(super) value_word: Option<Word>,
}

/// Flags that are on by being there; a word behind one is not its value. Others with the
/// beginnings below are told by these.
const SWITCHES: [&str; 20] = [
    "async-scheduling",
    "data-parallel-external-lb",
    "data-parallel-hybrid-lb",
    "enforce-disagg",
    "enforce-eager",
    "exclude-tools-when-tool-choice-none",
    "fail-fast-on-attention-window-too-large",
    "headless",
    "is-decode-worker",
    "is-prefill-worker",
    "language-model-only",
    "load-aware",
    "multimodal-worker",
    "publish-events-and-metrics",
    "router-assume-kv-reuse",
    "router-kv-events",
    "router-reset-states",
    "skip-mm-profiling",
    "trust-remote-code",
    "use-kv-events",
];

const SWITCH_BEGINNINGS: [&str; 6] = [
    "enable-",
    "no-",
    "disable-",
    "router-track-",
    "router-replica-sync",
    "router-conditional-disagg",
];

/// Flags that begin like switches, and have values.
const NO_SWITCHES: [&str; 2] =
    ["disable-access-log-for-endpoints", "router-conditional-disagg-config"];

/// Short forms of flags.
const SHORT: [(&str, &str); 10] = [
    ("tp", "tensor-parallel-size"),
    ("pp", "pipeline-parallel-size"),
    ("dp", "data-parallel-size"),
    ("dcp", "decode-context-parallel-size"),
    ("ep", "enable-expert-parallel"),
    ("q", "quantization"),
    ("asc", "api-server-count"),
    ("m", "module"),
    ("n", "nnodes"),
    ("r", "node-rank"),
];

/// Flags whose values are shown nowhere.
const SECRETS: [&str; 3] = ["api-key", "hf-token", "ssl-keyfile-password"];

fn is_switch(name: &str) -> bool {
    !NO_SWITCHES.contains(&name)
        && (SWITCHES.contains(&name)
            || SWITCH_BEGINNINGS.iter().any(|start| name.starts_with(start)))
}

/// The name of the flag that a word is, and whether it is short.
fn name(text: &str) -> Option<(String, bool)> {
    let (name, is_short) = match text.strip_prefix("--") {
        Some(name) => (name, false),
        None => (text.strip_prefix('-')?, true),
    };
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic());
    starts.then(|| (name.to_owned(), is_short))
}

impl Arguments {
    /// Of the words behind the program.
    pub(super) fn of(words: &[Word]) -> Self {
        let mut found = Self { last: words.last().cloned(), ..Self::default() };
        let mut rest = words.iter().peekable();
        while let Some(word) = rest.next() {
            let Some((written, is_short)) = name(&word.text) else {
                found.alone.push(word.clone());
                continue;
            };
            let (name, value) = match written.split_once('=') {
                Some((name, value)) => (name.replace('_', "-"), Some(value.to_owned())),
                None => (written.replace('_', "-"), None),
            };
            let long = SHORT.iter().find(|(short, _)| is_short && *short == name);
            let name = long.map_or(name, |(_, long)| (*long).to_owned());
            let mut flag = Flag {
                shown: word.text.clone(),
                name,
                value,
                word: word.clone(),
                value_word: None,
            };
            let takes_value = !is_switch(&flag.name);
            let is_value = |next: &&Word| match takes_value {
                true => self::name(&next.text).is_none(),
                false => ["true", "false"].contains(&next.text.to_lowercase().as_str()),
            };
            if flag.value.is_none() && rest.peek().is_some_and(is_value) {
                let value = rest.next().expect("looked at");
                flag.shown = format!("{} {}", flag.shown, value.text);
                flag.value = Some(value.text.clone());
                flag.value_word = Some(value.clone());
            }
            if SECRETS.contains(&flag.name.as_str()) {
                flag.shown = format!("--{} (value left out)", flag.name);
            }
            found.flags.push(flag);
        }
        found
    }

    /// The last flag of any of these names: it wins over those before.
    pub(super) fn get(&self, names: &[&str]) -> Option<&Flag> {
        self.flags.iter().rev().find(|flag| names.contains(&flag.name.as_str()))
    }
}

/// Where in `words` the arguments of a program begin that is the module `module` or the
/// command `command` (`vllm serve`: two words in a row).
pub(super) fn behind(words: &[Word], module: &str, command: &[&str]) -> Option<usize> {
    let is_module = |pair: &[Word]| pair[0].text == "-m" && pair[1].text == module;
    if let Some(at) = words.windows(2).position(is_module) {
        return Some(at + 2);
    }
    let is_command = |some: &[Word]| {
        let named = some[0].text.rsplit('/').next() == Some(command[0]);
        named && some.iter().zip(command).skip(1).all(|(word, wanted)| word.text == *wanted)
    };
    let at = words.windows(command.len()).position(is_command)?;
    Some(at + command.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::words::Written;
    use std::collections::BTreeMap;

    fn words(line: &str) -> Vec<Word> {
        Written::line(line).commands(&BTreeMap::new()).remove(0)
    }

    #[test]
    fn flags_have_one_name_however_they_are_written() {
        let line = "m/x --max_num_seqs 5 --async-scheduling y -tp 2 --a=b=c --n -1 -q fp8 --max-num-seqs=6 --enable_x True --end";
        let found = Arguments::of(&words(line)[1..]);
        let flags: Vec<(&str, Option<&str>)> =
            found.flags.iter().map(|flag| (flag.name.as_str(), flag.value.as_deref())).collect();
        let expected = [
            ("max-num-seqs", Some("5")),
            ("async-scheduling", None),
            ("tensor-parallel-size", Some("2")),
            ("a", Some("b=c")),
            ("n", Some("-1")),
            ("quantization", Some("fp8")),
            ("max-num-seqs", Some("6")),
            ("enable-x", Some("True")),
            ("end", None),
        ];
        assert_eq!(flags, expected);
        assert_eq!(found.alone[0].text, "y");
        assert_eq!(found.get(&["max-num-seqs"]).unwrap().shown, "--max-num-seqs=6");
        assert_eq!(found.flags[0].shown, "--max_num_seqs 5");
    }

    #[test]
    fn programs_are_found_behind_what_starts_them() {
        let at = |line: &str| behind(&words(line), "dynamo.vllm", &["vllm", "serve"]);
        assert_eq!(at("exec python3 -m dynamo.vllm --model m"), Some(4));
        assert_eq!(at("numactl -N 0 /usr/bin/vllm serve m"), Some(5));
        assert_eq!(at("vllm bench serve"), None);
        assert_eq!(at("vllm"), None);
    }
}
