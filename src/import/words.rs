//! The words of a command, as Kubernetes and a shell make them of what a manifest says,
//! and back: a word that is changed is changed where it was written.

use std::collections::BTreeMap;
use std::ops::Range;

/// What a container runs: `command` and `args` of a manifest, or one line of a shell.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Written {
    pub(super) command: Vec<String>,
    pub(super) args: Vec<String>,
}

/// One word of a program, with variables in it replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) text: String,
    /// Where it was written.
    at: At,
}

/// Where a word was written: an item of `command` followed by `args`, and for words of a
/// shell their bytes in it. Words that a variable was split into have none of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
struct At {
    item: usize,
    span: Option<Range<usize>>,
    is_whole: bool,
}

impl Written {
    /// A line of a shell.
    pub(super) fn line(text: &str) -> Self {
        let command = ["sh", "-c", text].map(str::to_owned).to_vec();
        Self { command, args: Vec::new() }
    }

    /// The line of a shell, if it is one.
    pub(super) fn script(&self) -> Option<&str> {
        let at = self.script_item()?;
        Some(self.item(at))
    }

    fn item(&self, at: usize) -> &String {
        let of_args = || &self.args[at - self.command.len()];
        self.command.get(at).unwrap_or_else(of_args)
    }

    fn item_mut(&mut self, at: usize) -> &mut String {
        let commands = self.command.len();
        if at < commands { &mut self.command[at] } else { &mut self.args[at - commands] }
    }

    /// Which item is a script, if a shell is run.
    fn script_item(&self) -> Option<usize> {
        let items: Vec<&String> = self.command.iter().chain(&self.args).collect();
        let shell = items.first()?.rsplit('/').next()?;
        let is_shell = ["sh", "bash", "dash", "ash", "zsh"].contains(&shell);
        // `-c`, also together with others: `-lc`.
        let is_script = |item: &&String| item.starts_with('-') && item.ends_with('c');
        let option = items.iter().skip(1).position(is_script).filter(|_| is_shell)?;
        (option + 2 < items.len()).then_some(option + 2)
    }

    /// The commands that are run, each as words, with `variables` in their place and what
    /// a script sets beside them. Those that are not known stay as they are written.
    pub(super) fn commands(&self, variables: &BTreeMap<String, String>) -> Vec<Vec<Word>> {
        let Some(item) = self.script_item() else {
            let items = self.command.iter().chain(&self.args).enumerate();
            let word = |(item, text): (usize, &String)| Word {
                text: in_place(text, variables),
                at: At { item, span: None, is_whole: true },
            };
            return vec![items.map(word).collect()];
        };
        // Kubernetes replaces `$(NAME)` before the shell sees anything; here both at once.
        let mut shell = Shell { text: self.item(item), item, variables: variables.clone() };
        shell.commands()
    }

    /// Puts `text` in the place of a word; false if it has no place of its own.
    pub(super) fn replace(&mut self, word: &Word, text: &str) -> bool {
        let At { item, span, is_whole } = &word.at;
        match span {
            None if *is_whole => text.clone_into(self.item_mut(*item)),
            None => return false,
            Some(span) => self.item_mut(*item).replace_range(span.clone(), &quoted(text)),
        }
        true
    }

    /// Takes a word away, if it has a place of its own; places of words before it stay.
    pub(super) fn remove(&mut self, word: &Word) {
        let At { item, span, is_whole } = &word.at;
        match span {
            Some(span) => self.item_mut(*item).replace_range(span.clone(), ""),
            None if *is_whole && *item < self.command.len() => {
                self.command.remove(*item);
            }
            None if *is_whole => {
                self.args.remove(*item - self.command.len());
            }
            None => {}
        }
    }

    /// Adds words behind those of a command, whose last one is `last`.
    pub(super) fn append(&mut self, last: &Word, words: &[String]) {
        match &last.at {
            At { item, span: Some(span), .. } => {
                let added: String = words.iter().map(|word| format!(" {}", quoted(word))).collect();
                self.item_mut(*item).insert_str(span.end, &added);
            }
            _ if self.args.is_empty() => self.command.extend(words.iter().cloned()),
            _ => self.args.extend(words.iter().cloned()),
        }
    }
}

impl Word {
    /// The place of the first byte, to change words from the last to the first.
    pub(super) fn order(&self) -> (usize, usize) {
        (self.at.item, self.at.span.as_ref().map_or(0, |span| span.start))
    }
}

/// `$(NAME)` as Kubernetes replaces it, and `$$(NAME)`.
fn in_place(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut done = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        done.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(escaped) = rest.strip_prefix("$$") {
            done.push('$');
            rest = escaped;
            continue;
        }
        let name = rest.strip_prefix("$(").and_then(|rest| rest.split_once(')'));
        match name.and_then(|(name, behind)| Some((variables.get(name)?, behind))) {
            Some((value, behind)) => {
                done.push_str(value);
                rest = behind;
            }
            None => {
                done.push('$');
                rest = &rest[1..];
            }
        }
    }
    done + rest
}

/// `text` as one word of a shell.
pub(super) fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// As much of a shell as manifests use: quotes, lines that go on, comments, variables and
/// their defaults, assignments, and several commands.
struct Shell<'a> {
    text: &'a str,
    item: usize,
    variables: BTreeMap<String, String>,
}

/// A piece of a word.
struct Piece {
    text: String,
    /// Came from a variable without quotes: its white space separates words.
    splits: bool,
}

impl Shell<'_> {
    fn commands(&mut self) -> Vec<Vec<Word>> {
        let mut all = Vec::new();
        let mut words: Vec<Word> = Vec::new();
        let mut at = 0;
        let bytes = self.text.as_bytes();
        while at < bytes.len() {
            match bytes[at] {
                b'\\' if bytes.get(at + 1) == Some(&b'\n') => at += 2,
                b'\\' if self.text[at + 1..].starts_with("\r\n") => at += 3,
                b'\n' | b';' | b'&' | b'|' | b'(' | b')' => {
                    self.end(&mut words, &mut all);
                    at += 1;
                }
                b'#' => at = self.text[at..].find('\n').map_or(bytes.len(), |end| at + end),
                byte if is_blank(char::from(byte)) => at += 1,
                _ => {
                    let start = at;
                    let pieces;
                    (pieces, at) = self.word(start);
                    self.add(pieces, start..at, &mut words);
                }
            }
        }
        self.end(&mut words, &mut all);
        all
    }

    /// The word that begins at a byte, and where it ends.
    fn word(&self, start: usize) -> (Vec<Piece>, usize) {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut plain = |text: &str| match pieces.last_mut() {
            Some(piece) if !piece.splits => piece.text.push_str(text),
            _ => pieces.push(Piece { text: text.to_owned(), splits: false }),
        };
        let mut at = start;
        let mut quote: Option<char> = None;
        let mut variables: Vec<(usize, String)> = Vec::new();
        let mut rest = self.text[start..].chars();
        while let Some(c) = rest.next() {
            let next = self.text.len() - rest.as_str().len();
            match (quote, c) {
                (Some(open), c) if c == open => quote = None,
                (None, '\'' | '"') => {
                    quote = Some(c);
                    plain("");
                }
                (Some('\''), c) => plain(c.encode_utf8(&mut [0; 4])),
                (_, '\\') => match rest.next() {
                    Some('\n') | None => {}
                    Some(c) => {
                        let keeps = quote == Some('"') && !"\"\\$`".contains(c);
                        plain(if keeps { "\\" } else { "" });
                        plain(c.encode_utf8(&mut [0; 4]));
                    }
                },
                (_, '$') => {
                    let (value, used) = self.variable(&self.text[next..]);
                    rest = self.text[next + used..].chars();
                    if quote.is_some() {
                        plain(&value);
                    } else {
                        plain("");
                        // Put in below: a closure holds the pieces.
                        variables.push((next, value));
                        plain(MARK);
                    }
                }
                (None, c) if is_blank(c) || ";&|()".contains(c) => {
                    return (split(pieces, variables), at);
                }
                (_, c) => plain(c.encode_utf8(&mut [0; 4])),
            }
            at = self.text.len() - rest.as_str().len();
        }
        (split(pieces, variables), at)
    }

    /// What stands behind a `$`: its value, and how many bytes it takes.
    fn variable(&self, behind: &str) -> (String, usize) {
        let name_end = |text: &str| {
            text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len())
        };
        let (name, default, used) = if let Some(inner) = behind.strip_prefix('{') {
            let Some(end) = inner.find('}') else { return ("$".to_owned(), 0) };
            let name = &inner[..name_end(inner).min(end)];
            let default = inner[name.len()..end].trim_start_matches(':').strip_prefix('-');
            (name, default, end + 2)
        } else if let Some(inner) = behind.strip_prefix('(') {
            let Some(end) = inner.find(')') else { return ("$".to_owned(), 0) };
            (&inner[..end], None, end + 2)
        } else {
            let name = &behind[..name_end(behind)];
            (name, None, name.len())
        };
        let value = self.variables.get(name).map(String::as_str).filter(|value| {
            // `${NAME:-default}` also stands for an empty one.
            default.is_none() || !value.is_empty()
        });
        match value.or(default) {
            Some(value) => (value.to_owned(), used),
            None => (format!("${}", &behind[..used]), used),
        }
    }

    fn add(&self, pieces: Vec<Piece>, span: Range<usize>, words: &mut Vec<Word>) {
        let mut texts = vec![String::new()];
        for piece in &pieces {
            if !piece.splits {
                texts.last_mut().expect("never empty").push_str(&piece.text);
                continue;
            }
            let parts = piece.text.split(is_blank).filter(|part| !part.is_empty());
            for (at, part) in parts.enumerate() {
                if at > 0 || piece.text.starts_with(is_blank) {
                    texts.push(String::new());
                }
                texts.last_mut().expect("never empty").push_str(part);
            }
        }
        let is_quoted = pieces.iter().any(|piece| !piece.splits);
        texts.retain(|text| !text.is_empty() || is_quoted);
        let is_one = texts.len() == 1;
        for text in texts {
            let span = is_one.then(|| span.clone());
            words.push(Word { text, at: At { item: self.item, span, is_whole: false } });
        }
    }

    /// Ends a command; one that only sets variables sets them.
    fn end(&mut self, words: &mut Vec<Word>, all: &mut Vec<Vec<Word>>) {
        let words = std::mem::take(words);
        let assigned = |word: &Word| {
            let (name, value) = word.text.split_once('=')?;
            let is_name = !name.is_empty()
                && !name.starts_with(|c: char| c.is_ascii_digit())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            is_name.then(|| (name.to_owned(), value.to_owned()))
        };
        let from = usize::from(words.first().is_some_and(|word| word.text == "export"));
        let set: Vec<_> = words[from..].iter().map_while(assigned).collect();
        if set.len() + from == words.len() {
            self.variables.extend(set);
        } else {
            all.push(words);
        }
    }
}

/// What separates words: a shell knows no other space, so one of Unicode belongs to its word.
fn is_blank(c: char) -> bool {
    c.is_ascii_whitespace()
}

/// Stands for a variable in a word that is being read.
const MARK: &str = "\u{0}";

/// Puts the values of variables in the places that are marked.
fn split(pieces: Vec<Piece>, variables: Vec<(usize, String)>) -> Vec<Piece> {
    let mut values = variables.into_iter().map(|(_, value)| value);
    let mut done = Vec::new();
    for piece in pieces {
        let mut parts = piece.text.split(MARK).peekable();
        while let Some(part) = parts.next() {
            let is_marked = parts.peek().is_some();
            if !part.is_empty() || !is_marked && done.is_empty() {
                done.push(Piece { text: part.to_owned(), splits: false });
            }
            if is_marked && let Some(text) = values.next() {
                done.push(Piece { text, splits: true });
            }
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(written: &Written, variables: &[(&str, &str)]) -> Vec<Vec<String>> {
        let variables =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let commands = written.commands(&variables.collect());
        let texts = |words: Vec<Word>| words.into_iter().map(|word| word.text).collect();
        commands.into_iter().map(texts).collect()
    }

    #[test]
    fn words_are_those_of_a_shell() {
        for (script, expected) in [
            ("a  b\\\n c # d\ne", vec![vec!["a", "b", "c"], vec!["e"]]),
            (
                r#"a "b c" 'd "e"' f\ g "h\"i" '' x'y'"z""#,
                vec![vec!["a", "b c", "d \"e\"", "f g", "h\"i", "", "xyz"]],
            ),
            (
                "N=5; export M=m; a $N ${M} \"$N $M\" '$N' ${O:-o} $P",
                vec![vec!["a", "5", "m", "5 m", "$N", "o", "$P"]],
            ),
            ("a $MANY b$MANY \"$MANY\"", vec![vec!["a", "x", "y", "bx", "y", "x y"]]),
            (
                "cd /w && exec a --b=$(MANY_) & c | d",
                vec![vec!["cd", "/w"], vec!["exec", "a", "--b=2"], vec!["c"], vec!["d"]],
            ),
            (
                r#"a --c '{"d": 1}' --e {\"f\":2}"#,
                vec![vec!["a", "--c", "{\"d\": 1}", "--e", "{\"f\":2}"]],
            ),
            ("", vec![]),
            ("a \"b", vec![vec!["a", "b"]]),
            // Only ASCII has spaces that separate.
            ("a\u{a0}b \u{3000} c\u{b}d", vec![vec!["a\u{a0}b", "\u{3000}", "c\u{b}d"]]),
        ] {
            let texts = texts(&Written::line(script), &[("MANY", "x y"), ("MANY_", "2")]);
            assert_eq!(texts, expected, "{script}");
        }
    }

    #[test]
    fn items_are_words_and_kubernetes_replaces_variables_in_them() {
        let command = vec!["python3".to_owned()];
        let args = ["--a=$(A)", "$$(A)", "$(B)", "x y", "$A"].map(str::to_owned).to_vec();
        let written = Written { command, args };
        let expected = vec![vec!["python3", "--a=1", "$(A)", "$(B)", "x y", "$A"]];
        assert_eq!(texts(&written, &[("A", "1")]), expected);
        let command = ["/bin/bash", "-lc"].map(str::to_owned).to_vec();
        let shell = Written { command, args: vec!["a $A".to_owned()] };
        assert_eq!(texts(&shell, &[("A", "1")]), vec![vec!["a", "1"]]);
    }

    #[test]
    fn words_change_where_they_stand() {
        let mut written = Written::line("cd x; serve --n 5 --m=\"$M\" $ALL  # all\n");
        let variables = [("M", "1"), ("ALL", "--p 1")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        let commands = written.commands(&variables.into_iter().collect());
        let words = &commands[1];
        assert!(!written.replace(&words[4], "--q"));
        written.append(&words[2], &["--new".to_owned(), "a b".to_owned()]);
        assert!(written.replace(&words[2], "64"));
        let expected = "cd x; serve --n 64 --new 'a b' --m=\"$M\" $ALL  # all\n";
        assert_eq!(written.script(), Some(expected));

        let args = ["--n", "5"].map(str::to_owned).to_vec();
        let mut written = Written { command: vec!["serve".to_owned()], args };
        let words = written.commands(&BTreeMap::new()).remove(0);
        assert!(written.replace(&words[2], "6"));
        written.append(&words[2], &["--m".to_owned()]);
        assert_eq!(written.args, ["--n", "6", "--m"]);
    }
}
