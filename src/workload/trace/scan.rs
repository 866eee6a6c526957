//! A row of Mooncake's format; [`scan`] reads the one form in which programs write it,
//! some ten times as fast as a JSON reader can.

use super::ids::optional_ids;
use super::stamp::Stamp;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny};

/// One line of the file.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    #[serde(default, deserialize_with = "Stamp::optional")]
    pub(super) timestamp: Option<Stamp>,
    pub(super) input_length: u32,
    pub(super) output_length: u32,
    #[serde(default, deserialize_with = "optional_ids")]
    pub(super) hash_ids: Option<Vec<u64>>,
    #[serde(default, deserialize_with = "name")]
    pub(super) session_id: Option<String>,
    #[serde(default, deserialize_with = "Stamp::optional")]
    pub(super) delay: Option<Stamp>,
    #[serde(default)]
    pub(super) max_tokens: Option<u32>,
    #[serde(default, rename = "worker")]
    _worker: IgnoredAny,
    #[serde(default, rename = "cached_tokens")]
    _cached_tokens: IgnoredAny,
    #[serde(default, rename = "request_id")]
    _request_id: IgnoredAny,
    #[serde(default, rename = "context_len")]
    _context_len: IgnoredAny,
    #[serde(default, rename = "unique_user_prompt_len")]
    _unique_user_prompt_len: IgnoredAny,
}

/// A session is called by a text or a number.
fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Name {
        Text(String),
        Number(u64),
    }
    Ok(Option::<Name>::deserialize(deserializer)?.map(|name| match name {
        Name::Text(text) => text,
        Name::Number(number) => number.to_string(),
    }))
}

/// What is left of a line.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn skip(&mut self, text: &[u8]) -> Option<()> {
        self.0 = self.0.strip_prefix(text)?;
        Some(())
    }

    fn spaces(&mut self) {
        while let [b' ', rest @ ..] = self.0 {
            self.0 = rest;
        }
    }

    /// A whole number below 10^18, written as JSON wants it.
    #[inline]
    fn number(&mut self) -> Option<u64> {
        // Its own variables, and not what is left, are changed by each digit: they are registers.
        let text = self.0;
        let (mut digits, mut value) = (0, 0u64);
        while let Some(digit @ b'0'..=b'9') = text.get(digits) {
            value = value.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
            digits += 1;
        }
        self.0 = &text[digits..];
        (1..=18).contains(&digits).then_some(value).filter(|_| digits == 1 || text[0] != b'0')
    }

    fn field(&mut self, name: &[u8]) -> Option<()> {
        self.spaces();
        self.skip(b"\"")?;
        self.skip(name)?;
        self.skip(b"\":")?;
        self.spaces();
        Some(())
    }
}

/// Reads `text` into `row`: an object with the four fields in their usual order,
/// all of them whole numbers, no space but blanks after commas and colons.
/// `None` says nothing about the line: it has to be read as JSON.
pub(super) fn scan(text: &[u8], row: &mut Line) -> Option<()> {
    let mut rest = Rest(text);
    rest.skip(b"{")?;
    rest.field(b"timestamp")?;
    row.timestamp = Some(Stamp::Whole(rest.number()?));
    rest.skip(b",")?;
    rest.field(b"input_length")?;
    row.input_length = u32::try_from(rest.number()?).ok()?;
    rest.skip(b",")?;
    rest.field(b"output_length")?;
    row.output_length = u32::try_from(rest.number()?).ok()?;
    rest.skip(b",")?;
    rest.field(b"hash_ids")?;
    rest.skip(b"[")?;
    (row.session_id, row.delay, row.max_tokens) = (None, None, None);
    let ids = row.hash_ids.get_or_insert_default();
    ids.clear();
    loop {
        rest.spaces();
        ids.push(rest.number()?);
        match rest.0 {
            [b',', more @ ..] => rest.0 = more,
            end => return matches!(end.trim_ascii_end(), b"]}").then_some(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scanned(text: &str) -> Option<Line> {
        let mut row = Line::default();
        scan(text.as_bytes(), &mut row).map(|()| row)
    }

    proptest! {
        /// What it reads, the JSON reader reads too, and the same.
        #[test]
        fn agrees_with_the_json_reader(
            numbers in prop::collection::vec(
                prop_oneof![
                    (0u32..64, any::<u64>()).prop_map(|(shift, n)| (n >> shift).to_string()),
                    "[0-9]{1,3}",
                    "-?[0-9]{0,2}(\\.[0-9])?",
                ],
                3..8,
            ),
            blank in prop_oneof![Just(""), Just(" "), Just("  "), Just("\t")],
        ) {
            let [timestamp, input, output, ids @ ..] = numbers.as_slice() else { unreachable!() };
            let ids = ids.join(&format!(",{blank}"));
            let text = format!(
                "{{\"timestamp\":{blank}{timestamp},{blank}\"input_length\": {input}, \
                 \"output_length\": {output}, \"hash_ids\": [{ids}]}}{blank}"
            );
            if let Some(row) = scanned(&text) {
                prop_assert_eq!(row, serde_json::from_str::<Line>(&text).unwrap());
            }
        }
    }

    #[test]
    fn the_usual_form_is_read() {
        let text = r#"{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, 2354]}"#;
        let row = scanned(text).unwrap();
        assert_eq!(
            (row.timestamp, row.input_length, row.output_length),
            (Some(Stamp::Whole(27_482)), 6_955, 52)
        );
        assert_eq!(row.hash_ids, Some(vec![46, 47, 2_354]));
        let row = scanned(&format!("{}\r", text.replace(' ', "")));
        assert_eq!(row.and_then(|row| row.hash_ids).map(|ids| ids.len()), Some(3));
        for other in ["", "{}", "[]", &text.replace("46", "046"), &text.replace("47", "4.7")] {
            assert_eq!(scanned(other), None, "{other}");
        }
    }
}
