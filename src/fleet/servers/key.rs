//! The key that servers ask for: sent to them, and shown nowhere.

use std::fmt;

/// What stands in place of a key.
const HIDDEN: &str = "[key]";

/// A key for servers. It goes into the header `Authorization` of requests; every
/// message that quotes a server goes through [`ApiKey::hide`].
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    key: String,
    /// Forms in which a server may repeat it, the longest first.
    forms: Vec<String>,
}

impl ApiKey {
    /// The key as the server wants it.
    pub fn new(key: &str) -> Self {
        let in_json = serde_json::Value::from(key).to_string();
        let in_url = |all: bool| -> String {
            let escaped = |byte: u8| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' if !all => {
                    char::from(byte).to_string()
                }
                byte => format!("%{byte:02x}"),
            };
            key.bytes().map(escaped).collect()
        };
        let backwards: String = key.chars().rev().collect();
        let mut forms = vec![
            key.to_owned(),
            in_json.trim_matches('"').to_owned(),
            in_url(false),
            in_url(true),
            base64(key.as_bytes()),
            base64(format!("Bearer {key}").as_bytes()),
            backwards,
        ];
        forms.retain(|form| !form.is_empty());
        forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
        forms.dedup();
        Self { key: key.to_owned(), forms }
    }

    /// The value of the header `Authorization`.
    pub(super) fn authorization(&self) -> String {
        format!("Bearer {}", self.key)
    }

    /// `text` without the key, in whatever form and case.
    pub fn hide(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for form in &self.forms {
            let form = form.to_ascii_lowercase();
            let mut from = 0;
            // ASCII letters keep their length, so places in the two texts agree.
            while let Some(at) = text.to_ascii_lowercase()[from..].find(&form) {
                text.replace_range(from + at..from + at + form.len(), HIDDEN);
                from += at + HIDDEN.len();
            }
        }
        text
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

/// `text` without `key`, if there is one.
pub(super) fn hide(key: Option<&ApiKey>, text: &str) -> String {
    key.map_or_else(|| text.to_owned(), |key| key.hide(text))
}

/// An address as messages show it: scheme, host and port. A key may stand in any
/// other part of it; where it is not clear which part is the host, only the scheme
/// remains.
pub(super) fn place(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    if matches!(scheme, "ipc" | "inproc") {
        // ZMQ's local addresses are paths.
        return url.to_owned();
    }
    let scheme = if scheme.is_empty() { String::new() } else { format!("{scheme}://") };
    let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    let (authority, more) = rest.split_at(end);
    if more.contains('@') {
        return format!("{scheme}...");
    }
    let host = authority.rsplit('@').next().unwrap_or_default();
    // What stands for a port and is none may be a password.
    let is_port =
        |port: &str| port.ends_with(']') || port.bytes().all(|byte| byte.is_ascii_digit());
    let host = match host.rsplit_once(':') {
        Some((name, port)) if !is_port(port) => name,
        _ => host,
    };
    let more = if more.trim_start_matches('/').is_empty() { "" } else { "/..." };
    format!("{scheme}{host}{more}")
}

/// Base64 without padding: a longer text that begins with these bytes has all but
/// its last characters.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for bytes in bytes.chunks(3) {
        let bits = (0..3).fold(0_u32, |bits, at| {
            bits << 8 | u32::from(bytes.get(at).copied().unwrap_or_default())
        });
        for at in 0..=bytes.len() {
            text.push(char::from(DIGITS[(bits >> (18 - 6 * at) & 63) as usize]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_key_is_hidden_in_every_form() {
        let key = ApiKey::new("sk-\"Se/cret\"+0");
        assert_eq!(format!("{key:?}"), "[key]");
        for said in [
            "no sk-\"Se/cret\"+0 here",
            "no SK-\"SE/CRET\"+0 here",
            "no sk-\\\"Se/cret\\\"+0 here",
            "no sk-%22Se%2Fcret%22%2b0 here",
            "no %73%6b%2d%22%53%65%2f%63%72%65%74%22%2b%30 here",
            "no 0+\"terc/eS\"-ks here",
        ] {
            assert_eq!(key.hide(said), "no [key] here", "{said}");
        }
        assert_eq!(base64(b"Bearer abc"), "QmVhcmVyIGFiYw");
        assert_eq!(key.hide(&format!("<{}>", base64(b"Bearer sk-\"Se/cret\"+0"))), "<[key]>");
    }

    #[test]
    fn an_address_is_shown_by_its_host() {
        for (url, shown) in [
            ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
            ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
            ("https://user:pa@ss@host/v1?key=1#2", "https://host/..."),
            ("https://host?key=1", "https://host/..."),
            ("sk-1@host", "host"),
            ("http://user:a/b@host", "http://..."),
            ("http://host/v1?mail=a@b", "http://..."),
            ("http://user:sk-1", "http://user"),
            ("http://[::1]:80", "http://[::1]:80"),
            ("http://[::1]", "http://[::1]"),
            ("ipc:///run/kv.ipc", "ipc:///run/kv.ipc"),
        ] {
            assert_eq!(place(url), shown);
        }
    }

    proptest! {
        #[test]
        fn nothing_of_a_key_remains(key in "[ -~]{4,20}", before in ".{0,9}", after in ".{0,9}") {
            let hidden = ApiKey::new(&key).hide(&format!("{before}{key}{after}{key}"));
            prop_assert!(!hidden.contains(&key) || HIDDEN.contains(&key), "{hidden}");
        }
    }
}
