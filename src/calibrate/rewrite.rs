//! New values in the text of a TOML file, everything else as it was.

/// `text` with `key = value` in the section (empty: before the first one)
/// replaced by `key = new`. `None` if the key is not there.
pub fn rewrite(text: &str, section: &str, key: &str, new: &str) -> Option<String> {
    let mut within = section.is_empty();
    let mut found = false;
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let bare = line.trim();
        if let Some(head) = bare.strip_prefix('[') {
            within = head.strip_suffix(']') == Some(section);
        }
        let is_key = bare.split_once('=').is_some_and(|(name, _)| name.trim() == key);
        if within && is_key && !found {
            found = true;
            out.push_str(&format!("{key} = {new}\n"));
        } else {
            out.push_str(line);
        }
    }
    found.then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_value_changes() {
        let text = "# words\na = 1\n\n[host]\n# a = 2\na = 3 \nb=4\n[other]\na = 5\n";
        let all = |section, key| rewrite(text, section, key, "9");
        assert_eq!(all("", "a").unwrap(), text.replace("a = 1\n", "a = 9\n"));
        assert_eq!(all("host", "a").unwrap(), text.replace("a = 3 \n", "a = 9\n"));
        assert_eq!(all("host", "b").unwrap(), text.replace("b=4\n", "b = 9\n"));
        assert_eq!(all("", "b"), None);
        assert_eq!(all("nowhere", "a"), None);
    }
}
