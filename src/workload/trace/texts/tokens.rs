//! Tokens of texts, by a tokenizer file.

use super::super::TraceError;
use crate::settings::Invalid;
use std::collections::BTreeMap;
use std::path::Path;

/// Turns texts into tokens, as a `tokenizer.json` of Hugging Face's says. Without one every
/// text is refused, so that files of token ids need none.
#[derive(Default)]
pub(in super::super) struct Tokenizer {
    #[cfg(feature = "texts")]
    rules: Option<tokenizers::Tokenizer>,
    /// The texts of a conversation: later requests repeat them.
    known: BTreeMap<String, Vec<u32>>,
}

impl Tokenizer {
    /// Reads `file`.
    ///
    /// # Errors
    /// If it is no tokenizer that is read, or this build reads none.
    #[cfg(feature = "texts")]
    pub(in super::super) fn read(file: &Path) -> Result<Self, Invalid> {
        let refused = |problem: String| {
            let allowed = format!("a tokenizer.json that can be read ({problem})");
            Invalid::new("tokenizer", file.display(), allowed)
        };
        let bytes = std::fs::read(file).map_err(|error| refused(error.to_string()))?;
        let rules = tokenizers::Tokenizer::from_bytes(bytes);
        let mut rules = rules.map_err(|error| refused(error.to_string()))?;
        // Some files say how their users cut and fill texts.
        rules.with_padding(None);
        rules.with_truncation(None).map_err(|error| refused(error.to_string()))?;
        Ok(Self { rules: Some(rules), known: BTreeMap::new() })
    }

    #[cfg(not(feature = "texts"))]
    pub(in super::super) fn read(file: &Path) -> Result<Self, Invalid> {
        let allowed = "absent: this sim reads no texts; build it with the feature texts";
        Err(Invalid::new("tokenizer", file.display(), allowed))
    }

    /// The tokens of `text`.
    ///
    /// # Errors
    /// If there is no tokenizer, or it does not take the text.
    #[cfg(feature = "texts")]
    pub(super) fn of(&mut self, text: &str) -> Result<&[u32], TraceError> {
        let Some(rules) = &self.rules else { return Err(Self::missing("").into()) };
        if !self.known.contains_key(text) {
            let tokens = rules.encode_fast(text, false).map_err(|error| {
                Invalid::new("tokenizer", error, "one that takes every text of the file")
            })?;
            self.known.insert(text.to_owned(), tokens.get_ids().to_vec());
        }
        Ok(&self.known[text])
    }

    #[cfg(not(feature = "texts"))]
    pub(super) fn of(&mut self, text: &str) -> Result<&[u32], TraceError> {
        let _ = text;
        Err(Self::missing(", in a sim that is built with the feature texts").into())
    }

    fn missing(how: &str) -> Invalid {
        let allowed = format!("the tokenizer.json of the model, as the file holds texts{how}");
        Invalid::new("tokenizer", "nothing", allowed)
    }

    /// A conversation is over.
    pub(super) fn forget(&mut self) {
        self.known.clear();
    }
}
