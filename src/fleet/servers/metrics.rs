//! The text that servers answer to `GET /metrics` (Prometheus' exposition format).

/// The samples of one answer.
#[derive(Debug)]
pub(super) struct Samples<'a>(&'a str);

/// One sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample<'a> {
    labels: &'a str,
    pub(super) value: f64,
}

impl<'a> Samples<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self(text)
    }

    /// The samples called `name`; lines that are none are passed over.
    pub(super) fn named(&self, name: &str) -> impl Iterator<Item = Sample<'a>> {
        let name = name.to_owned();
        self.0.lines().filter_map(move |line| {
            let rest = line.strip_prefix(&name)?;
            let (labels, rest) = match rest.strip_prefix('{') {
                // Only label values may hold braces, and vLLM's hold none.
                Some(rest) => rest.split_once('}')?,
                None => ("", rest.strip_prefix(' ')?),
            };
            let value = rest.split_whitespace().next()?.parse().ok()?;
            Some(Sample { labels, value })
        })
    }

    /// The sum over the samples called `name` (vLLM has one per engine); `None` without any.
    pub(super) fn sum(&self, name: &str) -> Option<f64> {
        self.named(name).map(|sample| sample.value).reduce(|a, b| a + b)
    }
}

impl<'a> Sample<'a> {
    /// The value of a label.
    pub(super) fn label(&self, name: &str) -> Option<&'a str> {
        self.labels.split(',').find_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            (key.trim() == name).then(|| value.trim().trim_matches('"'))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found_by_whole_names() {
        let text = "# HELP vllm:x Help.\n# TYPE vllm:x gauge\nvllm:x{engine=\"0\",model_name=\"a\"} 3.0\n\
                    vllm:x{engine=\"1\",model_name=\"a\"} 1e1 1700000000\nvllm:x_sum 7\nplain 2\nvllm:x broken\n";
        let samples = Samples::new(text);
        assert_eq!(samples.sum("vllm:x"), Some(13.0));
        assert_eq!(samples.sum("plain"), Some(2.0));
        assert_eq!(samples.sum("vllm:y"), None);
        let engines: Vec<_> =
            samples.named("vllm:x").map(|sample| sample.label("engine")).collect();
        assert_eq!(engines, [Some("0"), Some("1")]);
    }
}
