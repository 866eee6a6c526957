//! Text for workers that have no tokenizer.
//!
//! Every token has a word of three letters, so that what was answered is the same
//! tokens when a client sends it back. All other text is cut into pieces of a
//! space and up to four characters, about what tokenizers make of English.

use crate::fleet::servers::TOKENS;
use crate::rng::mix;

/// The letters of words; 16, so that three of them name every token.
const LETTERS: &[u8; 16] = b"abcdefghijklmnop";

/// Characters of a piece, its space apart.
const PIECE: usize = 4;

/// The text of a token, its space included.
pub(super) fn word(token: u32) -> String {
    let letter = |shift: u32| char::from(LETTERS[(token >> shift & 15) as usize]);
    [' ', letter(8), letter(4), letter(0)].iter().collect()
}

/// The tokens of a text.
pub(super) fn tokens(text: &str) -> Vec<u32> {
    let mut tokens = Vec::new();
    let mut piece = String::new();
    for c in text.chars() {
        let letters = piece.chars().filter(|c| *c != ' ').count();
        if !piece.is_empty() && (c == ' ' || letters == PIECE) {
            tokens.push(token(&piece));
            piece.clear();
        }
        piece.push(c);
    }
    if !piece.is_empty() {
        tokens.push(token(&piece));
    }
    tokens
}

fn token(piece: &str) -> u32 {
    let letters = piece.strip_prefix(' ').filter(|letters| letters.len() == 3);
    let number = |letter: u8| LETTERS.iter().position(|other| *other == letter);
    let named = letters.and_then(|letters| {
        letters.bytes().try_fold(0, |sum, letter| {
            number(letter).and_then(|number| u32::try_from(number).ok()).map(|n| sum << 4 | n)
        })
    });
    let drawn = || {
        let span = u64::from(TOKENS.end - TOKENS.start);
        let hash = piece.bytes().fold(0, |state, byte| mix(state ^ u64::from(byte)));
        TOKENS.start + u32::try_from(hash % span).expect("less than a u32")
    };
    named.filter(|token| TOKENS.contains(token)).unwrap_or_else(drawn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_the_same_tokens_when_it_is_sent_back() {
        let answer: Vec<u32> = TOKENS.collect();
        let text: String = answer.iter().map(|&token| word(token)).collect();
        assert_eq!(tokens(&text), answer);
        let framed = tokens(&format!("[assistant] {text}\n[user] hello"));
        let at = framed.iter().position(|token| *token == answer[0]).expect("there");
        assert_eq!(framed[at..at + answer.len() - 1], answer[..answer.len() - 1]);
    }

    #[test]
    fn text_is_cut_from_its_beginning() {
        let (short, long) = (tokens("The quick brown"), tokens("The quick brown foxes jump"));
        assert_eq!(short, long[..short.len()]);
        assert_eq!(tokens(" a  b").len(), 3);
        assert!(tokens("").is_empty());
        assert!(tokens("ünïcödé — ok").iter().all(|token| TOKENS.contains(token)));
    }
}
