//! Texts to token ids, without paying for what the model will not read.

use tokenizers::Tokenizer;

use super::Input;
use crate::types::{Error, ErrorKind, Result};

/// Characters read of a long text per token the model takes, look after look until they give enough tokens. English
/// has about 4 per token. What lies behind the last look is never read: it would take endless runs of blanks, accents
/// or letters without a break to get there, and a megabyte of those costs the tokeniser half a second.
const CHARS_PER_TOKEN: [usize; 3] = [8, 32, 128];
/// Tokens before the end of a prefix that might come out differently in the whole text, besides its last word: a
/// special token that the cut went through is read as a few words.
const MARGIN: usize = 8;

/// Token ids of one text, `[CLS]` and `[SEP]` included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tokens {
    pub ids: Vec<u32>,
    /// Where the second text begins; the end where there is none.
    pub second: usize,
    pub truncated: bool,
    /// How many of `ids` stand for something that is not in the vocabulary.
    pub unknown: u32,
}

impl Tokens {
    pub(super) fn input(&self) -> Input<'_> {
        Input { ids: &self.ids, second: self.second }
    }
}

/// What makes tokens of a text or a pair of texts; tests put their own.
pub(super) trait Tokenise<T = String>: Send + 'static {
    fn tokenise(&self, text: &T) -> Result<Tokens>;
}

/// A `tokenizer.json` of the BERT family: one special token before the text, one after it.
pub(super) struct BertTokenizer {
    inner: Tokenizer,
    max_tokens: usize,
    unknown: Option<u32>,
    /// The special tokens before and after a text.
    opens: u32,
    closes: u32,
}

impl BertTokenizer {
    /// `max_tokens`: most ids of one text, special tokens included. The file's own truncation and padding are not
    /// used: sentence-transformers writes training-time values there (128 for MiniLM), and batches are padded later.
    pub(super) fn from_bytes(json: &[u8], max_tokens: usize) -> Result<Self> {
        let mut inner =
            Tokenizer::from_bytes(json).map_err(|e| Error::new(ErrorKind::Corrupt, format!("tokenizer.json: {e}")))?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| Error::internal(format!("tokenizer.json: {e}")))?;
        let unknown = inner.token_to_id("[UNK]");
        let empty = inner.encode_fast("", true).map_err(|e| Error::internal(format!("the tokeniser failed: {e}")))?;
        let &[opens, closes] = empty.get_ids() else {
            let message = "tokenizer.json does not put one special token before and one after a text";
            return Err(Error::new(ErrorKind::Unsupported, message));
        };
        Ok(Self { inner, max_tokens, unknown, opens, closes })
    }

    pub(super) fn vocabulary(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Keeps the last id, which closes the text.
    fn cut(&self, mut ids: Vec<u32>) -> Tokens {
        let truncated = ids.len() > self.max_tokens;
        if truncated {
            let last = ids.pop();
            ids.truncate(self.max_tokens.saturating_sub(1));
            ids.extend(last);
        }
        let unknown = self.unknown(&ids);
        Tokens { second: ids.len(), ids, truncated, unknown }
    }

    fn unknown(&self, ids: &[u32]) -> u32 {
        let unknown = ids.iter().filter(|&&id| Some(id) == self.unknown).count();
        u32::try_from(unknown).unwrap_or(u32::MAX)
    }

    pub(super) fn tokenise(&self, text: &str) -> Result<Tokens> {
        let failed = |e| Error::internal(format!("the tokeniser failed: {e}"));
        for per_token in CHARS_PER_TOKEN {
            let Some((end, _)) = text.char_indices().nth(self.max_tokens.saturating_mul(per_token)) else { break };
            let encoding = self.inner.encode(&text[..end], true).map_err(failed)?;
            let words = encoding.get_word_ids();
            let last_word = words.iter().rev().find_map(|word| *word);
            let last_starts = words.iter().position(|word| word.is_some() && *word == last_word).unwrap_or(0);
            let is_enough = last_starts.saturating_sub(MARGIN) >= self.max_tokens;
            if is_enough || Some(&per_token) == CHARS_PER_TOKEN.last() {
                let tokens = self.cut(encoding.get_ids().to_vec());
                return Ok(Tokens { truncated: true, ..tokens });
            }
        }
        Ok(self.cut(self.inner.encode_fast(text, true).map_err(failed)?.get_ids().to_vec()))
    }

    /// The last tokens of a text, special tokens left out, up to `most`; and whether there are more.
    fn tail(&self, text: &str, most: usize) -> Result<(Vec<u32>, bool)> {
        let failed = |e| Error::internal(format!("the tokeniser failed: {e}"));
        let last = |mut ids: Vec<u32>| {
            let more = ids.len().saturating_sub(most);
            ids.drain(..more);
            (ids, more > 0)
        };
        for per_token in CHARS_PER_TOKEN {
            let chars = most.saturating_mul(per_token);
            let Some((start, _)) = text.char_indices().nth_back(chars.saturating_sub(1)).filter(|(at, _)| *at > 0)
            else {
                break;
            };
            let encoding = self.inner.encode(&text[start..], false).map_err(failed)?;
            let words = encoding.get_word_ids();
            let first_word = words.iter().find_map(|word| *word);
            let first_ends =
                words.iter().rposition(|word| word.is_some() && *word == first_word).map_or(0, |at| at + 1);
            let certain = words.len().saturating_sub(first_ends + MARGIN);
            if certain >= most || Some(&per_token) == CHARS_PER_TOKEN.last() {
                return Ok((last(encoding.get_ids().to_vec()).0, true));
            }
        }
        Ok(last(self.inner.encode_fast(text, false).map_err(failed)?.get_ids().to_vec()))
    }
}

impl Tokenise for BertTokenizer {
    fn tokenise(&self, text: &String) -> Result<Tokens> {
        self.tokenise(text.as_str())
    }
}

/// Two texts as one sequence, `[CLS] first [SEP] second [SEP]`. The longer one comes first, of two of one length that with the
/// higher ids: both orders of a pair are the same sequence. Of what is too long the end is kept, which of a conversation
/// is its last turns; a short text leaves its room to the other.
impl Tokenise<(String, String)> for BertTokenizer {
    fn tokenise(&self, (a, b): &(String, String)) -> Result<Tokens> {
        /// Around the texts.
        const SPECIAL: usize = 3;
        let room = self.max_tokens.saturating_sub(SPECIAL);
        let ((a, more_a), (b, more_b)) = (self.tail(a, room)?, self.tail(b, room)?);
        let (first, second) = if (a.len(), &a) >= (b.len(), &b) { (a, b) } else { (b, a) };
        let most =
            if first.len() + second.len() > room { (room / 2).max(room.saturating_sub(second.len())) } else { room };
        let most_first = most.min(first.len());
        let most_second = (room - most_first).min(second.len());
        let truncated = more_a || more_b || most_first < first.len() || most_second < second.len();
        let (first, second) = (&first[first.len() - most_first..], &second[second.len() - most_second..]);
        let mut ids = Vec::with_capacity(first.len() + second.len() + SPECIAL);
        ids.push(self.opens);
        ids.extend_from_slice(first);
        ids.push(self.closes);
        let start = ids.len();
        ids.extend_from_slice(second);
        ids.push(self.closes);
        Ok(Tokens { unknown: self.unknown(&ids), ids, second: start, truncated })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tokenizer() -> Option<BertTokenizer> {
        let dir = crate::test_models::find_or_pull("all-MiniLM-L6-v2")?;
        Some(BertTokenizer::from_bytes(&std::fs::read(dir.join("tokenizer.json")).unwrap(), 256).unwrap())
    }

    #[test]
    fn texts_become_the_ids_of_the_vocabulary_between_cls_and_sep() {
        let Some(tokenizer) = tokenizer() else { return };
        // Ids from vocab.txt: hello 7592, world 2088, ! 999.
        let tokens = tokenizer.tokenise("Hello, world!").unwrap();
        assert_eq!(
            tokens,
            Tokens { ids: vec![101, 7592, 1010, 2088, 999, 102], second: 6, truncated: false, unknown: 0 }
        );
        assert_eq!(tokenizer.tokenise("").unwrap().ids, [101, 102]);
        assert_eq!(tokenizer.tokenise(" \n\u{0}\u{200b}").unwrap().ids, [101, 102]);
    }

    #[test]
    fn what_the_vocabulary_lacks_is_counted_because_different_texts_look_alike() {
        let Some(tokenizer) = tokenizer() else { return };
        let cancel = tokenizer.tokenise("如何取消订单").unwrap();
        assert_eq!(cancel, tokenizer.tokenise("如何修改订单").unwrap());
        assert_eq!((cancel.ids.len(), cancel.unknown), (8, 6));
        assert_eq!(tokenizer.tokenise("What does \u{1f600} mean?").unwrap().unknown, 1);
    }

    #[test]
    fn texts_are_cut_at_256_and_say_so() {
        let Some(tokenizer) = tokenizer() else { return };
        let exact = tokenizer.tokenise(&"hello ".repeat(254)).unwrap();
        assert_eq!((exact.ids.len(), exact.truncated), (256, false));
        let cut = tokenizer.tokenise(&"hello ".repeat(255)).unwrap();
        assert_eq!((cut.ids, cut.truncated), (exact.ids, true));
    }

    #[test]
    fn a_prefix_of_a_long_text_gives_what_the_whole_gives() {
        let Some(tokenizer) = tokenizer() else { return };
        let texts = [
            "word ".repeat(100_000),
            "缓存命中率".repeat(20_000),
            " ".repeat(20_000) + "the first token comes late",
            format!("{} {}", "x".repeat(10_000), "and then words ".repeat(1000)),
            "[SEP]".repeat(5000),
            "e\u{301}\u{302}".repeat(5000),
        ];
        for text in &texts {
            let whole = tokenizer.cut(tokenizer.inner.encode_fast(text.as_str(), true).unwrap().get_ids().to_vec());
            assert_eq!(tokenizer.tokenise(text).unwrap(), whole, "{}…", text.chars().take(20).collect::<String>());
        }
    }

    #[test]
    fn a_text_that_gives_too_few_tokens_is_not_read_to_its_end_and_counts_as_cut() {
        let Some(tokenizer) = tokenizer() else { return };
        let late = " ".repeat(1 << 20) + "after";
        assert_eq!(
            tokenizer.tokenise(&late).unwrap(),
            Tokens { ids: vec![101, 102], second: 2, truncated: true, unknown: 0 }
        );
        let unbroken = tokenizer.tokenise(&"x".repeat(1 << 20)).unwrap();
        assert_eq!(unbroken, Tokens { ids: vec![101, 100, 102], second: 3, truncated: true, unknown: 1 }); // 100 is [UNK]
    }

    #[test]
    fn no_text_makes_the_tokeniser_fail_or_give_too_many_ids() {
        let Some(tokenizer) = tokenizer() else { return };
        proptest!(ProptestConfig::with_cases(200), |(text in ".{0,300}", times in 1usize..20)| {
            let text = text.repeat(times);
            let whole = tokenizer.cut(tokenizer.inner.encode_fast(text.as_str(), true).unwrap().get_ids().to_vec());
            prop_assert!((2..=256).contains(&whole.ids.len()));
            prop_assert_eq!(tokenizer.tokenise(&text).unwrap(), whole);
        });
    }

    fn pair(tokenizer: &BertTokenizer, a: &str, b: &str) -> Tokens {
        Tokenise::<(String, String)>::tokenise(tokenizer, &(a.to_owned(), b.to_owned())).unwrap()
    }

    #[test]
    fn both_orders_of_a_pair_are_one_sequence() {
        let Some(tokenizer) = tokenizer() else { return };
        let expected = vec![101, 7592, 1010, 2088, 999, 102, 7592, 102];
        let tokens = Tokens { ids: expected, second: 6, truncated: false, unknown: 0 };
        assert_eq!(pair(&tokenizer, "Hello, world!", "hello"), tokens);
        assert_eq!(pair(&tokenizer, "hello", "Hello, world!"), tokens);
        assert_eq!(pair(&tokenizer, "", "").ids, [101, 102, 102]);
        proptest!(ProptestConfig::with_cases(100), |(a in ".{0,300}", b in ".{0,300}", times in 1usize..20)| {
            let (a, b) = (a.repeat(times), b.repeat(times));
            let tokens = pair(&tokenizer, &a, &b);
            prop_assert_eq!(&tokens, &pair(&tokenizer, &b, &a));
            prop_assert!(tokens.ids.len() <= 256 && 1 < tokens.second && tokens.second < tokens.ids.len());
        });
    }

    #[test]
    fn of_a_long_pair_the_ends_are_read_and_a_short_text_leaves_its_room() {
        let Some(tokenizer) = tokenizer() else { return };
        let long = |word: &str, end: &str| format!("{} {end}", format!("{word} ").repeat(100_000));
        let both = pair(&tokenizer, &long("one", "hello"), &long("two", "world"));
        assert_eq!((both.ids.len(), both.second, both.truncated), (256, 128, true));
        let hello = tokenizer.tokenise("hello world").unwrap().ids;
        assert!([both.ids[126], both.ids[254]].iter().all(|id| hello[1..3].contains(id)), "the ends of both");
        let one = pair(&tokenizer, &long("one", "hello"), "world");
        assert_eq!((one.ids.len(), one.second, one.truncated), (256, 254, true));
        assert_eq!(&one.ids[252..], [hello[1], 102, hello[2], 102]);
    }
}
