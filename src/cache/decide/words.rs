//! A prompt as words that can be compared: lower case, contractions written out, numbers by their value, Han characters one
//! by one.

/// One word, number, quoted text or Han character.
#[derive(Debug, Clone, PartialEq)]
pub struct Word {
    /// What is compared.
    pub key: String,
    pub kind: Kind,
    /// Begins with a capital letter elsewhere than at the start of a sentence.
    pub is_name: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Word,
    Number(f64),
    /// Text in quotation marks or backticks, as one.
    Quoted,
    Han,
}

/// Words of a prompt that are compared at most; aligning takes the product of two lengths.
pub const MOST: usize = 400;

/// The words of a text, in order. Punctuation is left out but for currency and percent signs, which are units.
pub fn words(text: &str) -> Vec<Word> {
    let mut reader = Reader { rest: text, words: Vec::new(), starts: true, after_space: true };
    while reader.step() {}
    join_numbers(reader.words)
}

struct Reader<'a> {
    rest: &'a str,
    words: Vec<Word>,
    /// At the start of a sentence.
    starts: bool,
    /// White space was read last: `3-4` is no negative number.
    after_space: bool,
}

impl Reader<'_> {
    fn step(&mut self) -> bool {
        let Some(first) = self.rest.chars().next() else { return false };
        let next = self.rest.chars().nth(1);
        match first {
            '"' | '“' | '”' | '「' | '『' | '`' | '«' if self.quoted(first) => {}
            c if c.is_ascii_digit() => self.number_from(0),
            '.' if next.is_some_and(|c| c.is_ascii_digit()) && self.after_space => self.number_from(0),
            c if is_han(c) => self.push(c.len_utf8(), Kind::Han),
            '$' | '€' | '£' | '¥' | '%' | '°' => self.push(first.len_utf8(), Kind::Word),
            '-' if next.is_some_and(|c| c.is_ascii_digit()) && self.after_space => self.number_from(first.len_utf8()),
            c if c.is_alphanumeric() => self.word(),
            '.' | '!' | '?' | '。' | '！' | '？' | '\n' | ':' => {
                self.starts = true;
                self.skip(first.len_utf8());
            }
            _ => self.skip(first.len_utf8()),
        }
        self.after_space = first.is_whitespace();
        true
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
    }

    fn push(&mut self, bytes: usize, kind: Kind) {
        let key = self.rest[..bytes].to_lowercase();
        self.words.push(Word { key, kind, is_name: false });
        self.starts = false;
        self.skip(bytes);
    }

    /// Takes a quotation, if it ends within the text and says something.
    fn quoted(&mut self, open: char) -> bool {
        let close = match open {
            '“' => '”',
            '「' => '」',
            '『' => '』',
            '«' => '»',
            other => other,
        };
        let inner = &self.rest[open.len_utf8()..];
        let Some(end) = inner.find(close) else { return false };
        let text = inner[..end].split_whitespace().collect::<Vec<_>>().join(" ");
        if text.is_empty() {
            return false;
        }
        let key = if open == '`' { text } else { text.to_lowercase() };
        self.words.push(Word { key, kind: Kind::Quoted, is_name: false });
        self.starts = false;
        self.rest = &inner[end + close.len_utf8()..];
        true
    }

    /// Digits with separators inside them: `1,000.5`, `10:30`; and an ordinal's ending.
    fn number_from(&mut self, sign: usize) {
        let text = self.rest;
        let mut end = sign;
        let mut chars = text[sign..].char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            let inside = matches!(c, '.' | ',' | ':') && chars.peek().is_some_and(|(_, next)| next.is_ascii_digit());
            if !c.is_ascii_digit() && !inside {
                break;
            }
            end = sign + at + c.len_utf8();
        }
        let value = value(&text[..end]);
        let key = text[..end].to_owned();
        self.skip(end);
        for ending in ["st", "nd", "rd", "th"] {
            if let Some(rest) = self.rest.strip_prefix(ending)
                && !rest.starts_with(char::is_alphanumeric)
            {
                self.rest = rest;
                break;
            }
        }
        let key = value.map_or(key, |value| format!("{value}"));
        let kind = value.map_or(Kind::Word, Kind::Number);
        self.words.push(Word { key, kind, is_name: false });
        self.starts = false;
    }

    fn word(&mut self) {
        let inside = |c: char| (c.is_alphanumeric() && !is_han(c)) || matches!(c, '\'' | '’' | '_' | '+' | '#');
        let end = self.rest.find(|c| !inside(c)).unwrap_or(self.rest.len());
        let text = &self.rest[..end];
        let text = text.trim_end_matches(['\'', '’']);
        let is_name = text.starts_with(char::is_uppercase) && !self.starts && text != "I";
        let key = text.to_lowercase().replace('’', "'");
        for part in expanded(&key) {
            self.words.push(Word { key: part.to_owned(), kind: Kind::Word, is_name });
        }
        self.starts = false;
        self.skip(end);
    }
}

/// `10:30` is 10.5, a time; `1,000.5` is 1000.5, and so is `1.000,5`.
fn value(text: &str) -> Option<f64> {
    if let Some((hours, minutes)) = text.split_once(':') {
        return Some(hours.parse::<f64>().ok()? + minutes.split(':').next()?.parse::<f64>().ok()? / 60.0);
    }
    let last_point = text.rfind(['.', ',']);
    let decimals = last_point.map_or(0, |at| text.len() - at - 1);
    let mixed = text.contains('.') && text.contains(',');
    let is_decimal = decimals > 0 && (decimals != 3 || mixed || text.starts_with("0.") || text.starts_with('.'));
    let points = text.matches(['.', ',']).count();
    let (whole, part) = match last_point {
        Some(at) if is_decimal && (points == 1 || mixed) => (&text[..at], &text[at + 1..]),
        _ => (text, ""),
    };
    let digits: String = whole.chars().filter(|c| !matches!(c, '.' | ',')).collect();
    let digits = if digits.is_empty() { "0" } else { &digits };
    format!("{digits}.{part}0").parse().ok()
}

/// A word, or what it is a contraction of.
fn expanded(word: &str) -> Vec<&str> {
    match word {
        "can't" | "cannot" | "cant" => vec!["can", "not"],
        "won't" | "wont" => vec!["will", "not"],
        "shan't" => vec!["shall", "not"],
        "ain't" => vec!["is", "not"],
        "dont" => vec!["do", "not"],
        "doesnt" => vec!["does", "not"],
        "didnt" => vec!["did", "not"],
        "isnt" => vec!["is", "not"],
        "let's" => vec!["let", "us"],
        _ => match word.split_once('\'') {
            Some((stem, "t")) if stem.ends_with('n') && stem.len() > 1 => vec![&stem[..stem.len() - 1], "not"],
            Some((stem, "s")) => vec![stem],
            Some((stem, "re")) => vec![stem, "are"],
            Some((stem, "ve")) => vec![stem, "have"],
            Some((stem, "ll")) => vec![stem, "will"],
            Some((stem, "m")) => vec![stem, "am"],
            Some((stem, "d")) => vec![stem, "would"],
            _ => vec![word],
        },
    }
}

/// Han characters, which stand for words or parts of words each.
pub fn is_han(c: char) -> bool {
    matches!(c, '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}')
}

const SMALL: [(&str, f64); 32] = [
    ("zero", 0.0),
    ("one", 1.0),
    ("two", 2.0),
    ("three", 3.0),
    ("four", 4.0),
    ("five", 5.0),
    ("six", 6.0),
    ("seven", 7.0),
    ("eight", 8.0),
    ("nine", 9.0),
    ("ten", 10.0),
    ("eleven", 11.0),
    ("twelve", 12.0),
    ("thirteen", 13.0),
    ("fourteen", 14.0),
    ("fifteen", 15.0),
    ("sixteen", 16.0),
    ("seventeen", 17.0),
    ("eighteen", 18.0),
    ("nineteen", 19.0),
    ("twenty", 20.0),
    ("thirty", 30.0),
    ("forty", 40.0),
    ("fifty", 50.0),
    ("sixty", 60.0),
    ("seventy", 70.0),
    ("eighty", 80.0),
    ("ninety", 90.0),
    ("dozen", 12.0),
    ("third", 3.0),
    ("fourth", 4.0),
    ("fifth", 5.0),
];
const LARGE: [(&str, f64); 5] = [("hundred", 1e2), ("thousand", 1e3), ("million", 1e6), ("billion", 1e9), ("k", 1e3)];

/// Number words to numbers: `two hundred`, `5 million`, `twenty five`.
fn join_numbers(words: Vec<Word>) -> Vec<Word> {
    let small = |key: &str| SMALL.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
    let large = |key: &str| LARGE.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
    let mut out: Vec<Word> = Vec::with_capacity(words.len());
    let mut spoken = false;
    for word in words {
        let last = out.last().and_then(|last| match last.kind {
            Kind::Number(value) => Some(value),
            _ => None,
        });
        let (value, joins) = match (word.kind, last) {
            (Kind::Word, Some(last)) if large(&word.key).is_some() => {
                (large(&word.key).map(|factor| last * factor), true)
            }
            (Kind::Word, last) => match small(&word.key) {
                Some(value)
                    if spoken
                        && value < 10.0
                        && last.is_some_and(|l| (20.0..100.0).contains(&l) && l % 10.0 == 0.0) =>
                {
                    (last.map(|last| last + value), true)
                }
                value => (value, false),
            },
            _ => (None, false),
        };
        spoken = value.is_some();
        match value {
            // "the one that", "no one": a pronoun more often than a number.
            Some(1.0) if word.key == "one" => out.push(word),
            Some(value) => {
                if joins {
                    out.pop();
                }
                out.push(Word { key: format!("{value}"), kind: Kind::Number(value), is_name: false });
            }
            None => out.push(word),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys(text: &str) -> Vec<String> {
        words(text).into_iter().map(|word| word.key).collect()
    }

    #[test]
    fn what_is_written_in_other_ways_is_the_same() {
        for (a, b) in [
            ("What's new?", "what is new"),
            ("I can’t log in", "i cannot log in"),
            ("Don't they?", "do not they"),
            ("two hundred people", "200 people"),
            ("twenty five", "25"),
            ("5 million", "5,000,000"),
            ("1.5k", "1500"),
            ("the 3rd of May", "the third of may"),
        ] {
            let contracted = |text: &str| keys(text).into_iter().filter(|k| k != "is").collect::<Vec<_>>();
            assert_eq!(contracted(a), contracted(b), "{a} / {b}");
        }
    }

    #[test]
    fn numbers_have_values() {
        let values = |text: &str| -> Vec<f64> {
            words(text).iter().filter_map(|w| if let Kind::Number(v) = w.kind { Some(v) } else { None }).collect()
        };
        assert_eq!(values("1,000.5 and 1.000,5 and 0.125 and 2,5"), [1000.5, 1000.5, 0.125, 2.5]);
        assert_eq!(values("at 10:30, -4 degrees, 3-4 days, 12kg, $5, 50%"), [10.5, -4.0, 3.0, 4.0, 12.0, 5.0, 50.0]);
        assert_eq!(values("10.000 and 2.75 and .375"), [10000.0, 2.75, 0.375]);
    }

    #[test]
    fn names_and_quotations_are_known() {
        let found = words("Is Paris in France? Say \"bonjour  Monde\" with `Let X`");
        let names: Vec<_> = found.iter().filter(|w| w.is_name).map(|w| w.key.as_str()).collect();
        assert_eq!(names, ["paris", "france"]);
        let quoted: Vec<_> = found.iter().filter(|w| w.kind == Kind::Quoted).map(|w| w.key.as_str()).collect();
        assert_eq!(quoted, ["bonjour monde", "Let X"]);
        assert_eq!(keys("如何 cancel订单?"), ["如", "何", "cancel", "订", "单"]);
    }

    proptest! {
        #[test]
        fn any_text_has_words(text in ".{0,200}") {
            let found = words(&text);
            prop_assert!(found.iter().all(|word| !word.key.is_empty()));
            prop_assert!(found.len() <= 2 * text.chars().count());
        }
    }
}
