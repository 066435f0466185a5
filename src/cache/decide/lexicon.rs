//! The word lists of the guards, from `lexicon.txt`.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

pub static LEXICON: LazyLock<Lexicon> = LazyLock::new(|| Lexicon::parse(include_str!("lexicon.txt")));

#[derive(Debug, Default)]
pub struct Lexicon {
    /// Words that turn a sentence round.
    pub negators: HashSet<&'static str>,
    /// Both ways round.
    opposites: HashSet<(&'static str, &'static str)>,
    /// Two of one row are never the same time.
    pub times: Vec<HashSet<&'static str>>,
    units: HashMap<&'static str, Unit>,
    pub languages: HashSet<&'static str>,
    pub code: HashSet<&'static str>,
    pub formats: HashSet<&'static str>,
    directed: HashSet<&'static str>,
}

/// A unit: what it measures, and how much of the first of its kind it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Unit {
    pub measures: &'static str,
    pub factor: f64,
}

impl Unit {
    /// Whether people write it before the number.
    pub fn leads(self) -> bool {
        ["dollar", "euro", "sterling", "yen"].contains(&self.measures)
    }
}

impl Lexicon {
    fn parse(text: &'static str) -> Self {
        let mut lexicon = Self::default();
        let mut list = "";
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(name) = line.strip_prefix('[') {
                list = name.trim_end_matches(']');
                continue;
            }
            let words = line.split(' ');
            match list {
                "negators" => lexicon.negators.extend(words),
                "opposites" => {
                    let pairs = words.filter_map(|pair| pair.split_once('/'));
                    lexicon.opposites.extend(pairs.flat_map(|(a, b)| [(a, b), (b, a)]));
                }
                "times" => lexicon.times.push(words.collect()),
                "units" => lexicon.units.extend(words.filter_map(unit)),
                "languages" => lexicon.languages.extend(words),
                "code" => lexicon.code.extend(words),
                "formats" => lexicon.formats.extend(words),
                "directed" => lexicon.directed.extend(words),
                _ => {}
            }
        }
        lexicon
    }

    pub fn is_negator(&self, word: &str) -> bool {
        self.negators.contains(word)
    }

    pub fn are_opposites(&self, a: &str, b: &str) -> bool {
        self.opposites.contains(&(a, b))
    }

    pub fn unit(&self, word: &str) -> Option<Unit> {
        self.units.get(word).copied()
    }

    /// Whether the order of what stands around a word matters.
    pub fn is_directed(&self, word: &str) -> bool {
        self.directed.contains(word)
    }
}

fn unit(text: &'static str) -> Option<(&'static str, Unit)> {
    let mut parts = text.split('/');
    let (name, measures, factor) = (parts.next()?, parts.next()?, parts.next()?.parse().ok()?);
    Some((name, Unit { measures, factor }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_of_the_file_is_read() {
        let lexicon = &*LEXICON;
        let text = include_str!("lexicon.txt");
        let lists = text.split("\n[").skip(1);
        let mut counts = HashMap::new();
        for list in lists {
            let (name, rest) = list.split_once("]\n").unwrap();
            let entries = rest.lines().take_while(|line| !line.is_empty()).flat_map(|line| line.split(' '));
            counts.insert(name, entries.collect::<HashSet<_>>().len());
        }
        let times: HashSet<_> = lexicon.times.iter().flatten().collect();
        let read = [
            ("negators", lexicon.negators.len()),
            ("times", times.len()),
            ("units", lexicon.units.len()),
            ("languages", lexicon.languages.len()),
            ("code", lexicon.code.len()),
            ("formats", lexicon.formats.len()),
            ("directed", lexicon.directed.len()),
        ];
        for (name, count) in read {
            assert_eq!(counts[name], count, "{name}");
        }
        assert!(lexicon.opposites.len() >= counts["opposites"] && lexicon.are_opposites("open", "close"));
        assert_eq!(lexicon.unit("km"), Some(Unit { measures: "length", factor: 1000.0 }));
    }
}
