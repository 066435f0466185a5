//! Narrow vetoes: two prompts that read alike word for word but for a number, a negation, a name, a direction… ask for
//! different answers, however near they are. A guard speaks only where the alignment shows that this is what differs.

use std::collections::HashSet;

use super::align::{Alignment, is_filler};
use super::lexicon::{LEXICON, Unit};
use super::words::{Kind, Word};

/// What stands between two prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Guard {
    Number,
    Date,
    Unit,
    Negation,
    Antonym,
    Entity,
    Direction,
    Quotation,
    Language,
    Format,
}

impl Guard {
    pub const ALL: [Self; 10] = [
        Self::Number,
        Self::Date,
        Self::Unit,
        Self::Negation,
        Self::Antonym,
        Self::Entity,
        Self::Direction,
        Self::Quotation,
        Self::Language,
        Self::Format,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Number => "number",
            Self::Date => "date",
            Self::Unit => "unit",
            Self::Negation => "negation",
            Self::Antonym => "antonym",
            Self::Entity => "entity",
            Self::Direction => "direction",
            Self::Quotation => "quotation",
            Self::Language => "language",
            Self::Format => "format",
        }
    }
}

/// Share of the words with content that must stand in both prompts before any guard speaks.
const ALIKE: f32 = 0.5;
/// ... and more for those that rest on a single word.
const NEARLY_EQUAL: f32 = 0.6;
/// Differences at most: with more of them the prompts are worded freely, and words say little.
const EDITS: usize = 4;

/// Two prompts side by side, as the guards read them.
pub(super) struct Compared<'a> {
    pub a: &'a [Word],
    pub b: &'a [Word],
    pub alignment: &'a Alignment,
}

impl Compared<'_> {
    pub(super) fn vetoes(&self, guard: Guard) -> bool {
        let few = self.alignment.edits.len() <= EDITS;
        let alike = self.alignment.likeness >= ALIKE && few;
        let nearly_equal = self.alignment.likeness >= NEARLY_EQUAL && few;
        match guard {
            Guard::Number => alike && self.numbers_differ(),
            Guard::Date => alike && self.times_differ(),
            Guard::Unit => alike && self.units_differ(),
            Guard::Negation => nearly_equal && self.is_turned() && !self.has_opposites(),
            Guard::Antonym => nearly_equal && self.is_turned() && self.has_opposites(),
            Guard::Entity => nearly_equal && self.names_differ(),
            Guard::Direction => self.is_swapped() || (alike && self.names_swapped()),
            Guard::Quotation => alike && self.quotations_differ(),
            Guard::Language => {
                let differ = self.listed_differ(&LEXICON.languages) || self.listed_differ(&LEXICON.code);
                self.alignment.likeness >= ALIKE && differ
            }
            Guard::Format => alike && self.listed_differ(&LEXICON.formats),
        }
    }

    /// The words of each edit, of both sides.
    fn replaced(&self) -> impl Iterator<Item = (&[Word], &[Word])> {
        self.alignment.edits.iter().map(|edit| (&self.a[edit.a.clone()], &self.b[edit.b.clone()]))
    }

    fn quantities(&self) -> [Vec<Quantity>; 2] {
        [quantities(self.a), quantities(self.b)]
    }

    /// Each prompt has a number that the other has not.
    fn numbers_differ(&self) -> bool {
        let [a, b] = self.quantities();
        let alone = |own: &[Quantity], other: &[Quantity]| own.iter().any(|q| !other.iter().any(|o| q.equals(o)));
        alone(&a, &b) && alone(&b, &a)
    }

    fn times_differ(&self) -> bool {
        LEXICON.times.iter().any(|row| self.listed_differ(row))
    }

    /// A unit stands where another does, and the numbers are not the same measure all the same.
    fn units_differ(&self) -> bool {
        let unit = |words: &[Word]| match words {
            [only] => LEXICON.unit(&only.key),
            _ => None,
        };
        let differ = |(a, b): (&[Word], &[Word])| matches!((unit(a), unit(b)), (Some(a), Some(b)) if a != b);
        self.replaced().any(differ) && !self.numbers_are_equal_measures()
    }

    /// `2 hours` and `120 minutes`.
    fn numbers_are_equal_measures(&self) -> bool {
        let [a, b] = self.quantities();
        let measured = |q: &[Quantity]| q.iter().filter(|q| q.unit.is_some()).count();
        measured(&a) > 0 && measured(&a) == measured(&b) && a.iter().all(|q| b.iter().any(|other| q.equals(other)))
    }

    /// An odd number of negations and opposites differ: `is not allowed` and `is forbidden` say the same.
    fn is_turned(&self) -> bool {
        let negators = |words: &[Word]| words.iter().filter(|w| LEXICON.is_negator(&w.key)).count();
        let flips = negators(self.a).abs_diff(negators(self.b)) + self.opposites();
        // Whatever else differs must say nothing by itself, or the negation may belong to it.
        let others = self.replaced().filter(|(a, b)| {
            let says = |words: &[Word]| words.iter().any(|w| !is_filler(w) && !LEXICON.is_negator(&w.key));
            (says(a) || says(b)) && !holds_opposites(a, b)
        });
        flips % 2 == 1 && others.count() == 0
    }

    fn opposites(&self) -> usize {
        self.replaced().filter(|(a, b)| holds_opposites(a, b)).count()
    }

    fn has_opposites(&self) -> bool {
        self.opposites() > 0
    }

    /// Names of one prompt where the other has other names. `moved`: they stand elsewhere in the other prompt, too.
    fn names_replaced(&self, moved: bool) -> impl Iterator<Item = (&[Word], &[Word])> {
        let name = |words: &[Word]| {
            let mut content = words.iter().filter(|word| !is_filler(word)).peekable();
            content.peek().is_some() && words.len() <= 4 && content.all(|word| word.is_name)
        };
        let elsewhere = |words: &[Word], other: &[Word]| words.iter().any(|w| w.is_name && other.contains(w));
        self.replaced().filter(move |(a, b)| {
            let found = elsewhere(a, self.b) || elsewhere(b, self.a);
            name(a) && name(b) && found == moved && !is_other_form(a, b)
        })
    }

    /// One name stands where another does.
    fn names_differ(&self) -> bool {
        self.names_replaced(false).next().is_some()
    }

    /// Two names stand in each other's places, and not as members of one list.
    fn names_swapped(&self) -> bool {
        let listed = |words: &[Word], x: &[Word], y: &[Word]| {
            let at = |name: &[Word]| words.iter().position(|word| name.contains(word));
            let (Some(x), Some(y)) = (at(x), at(y)) else { return false };
            let between = &words[x.min(y)..=x.max(y)];
            between.iter().all(|word| {
                word.is_name || ["and", "or", "nor", "vs", "versus", "the", "和"].contains(&word.key.as_str())
            })
        };
        self.names_replaced(true).any(|(a, b)| !listed(self.a, a, b))
    }

    /// The same words, two of them in each other's place around a word that gives them a direction.
    fn is_swapped(&self) -> bool {
        let content = |words: &[Word]| -> Vec<String> {
            words.iter().filter(|w| !is_filler(w) || LEXICON.is_directed(&w.key)).map(|w| w.key.clone()).collect()
        };
        let (a, b) = (content(self.a), content(self.b));
        if a == b || a.len() != b.len() || a.len() < 3 {
            return false;
        }
        let sorted = |words: &[String]| {
            let mut words = words.to_vec();
            words.sort();
            words
        };
        if sorted(&a) != sorted(&b) {
            return false;
        }
        let moved: Vec<usize> = (0..a.len()).filter(|&i| a[i] != b[i]).collect();
        // Exactly two spans in each other's place, with something directed between or before them.
        let (Some(&first), Some(&last)) = (moved.first(), moved.last()) else { return false };
        let directed = |word: &String| LEXICON.is_directed(word);
        !directed(&a[first])
            && !directed(&a[last])
            && a[first..last].iter().any(directed)
            && a[first] == b[last]
            && a[last] == b[first]
    }

    fn quotations_differ(&self) -> bool {
        let of = |words: &[Word]| -> Vec<String> {
            words.iter().filter(|w| w.kind == Kind::Quoted).map(|w| w.key.clone()).collect()
        };
        let (a, b) = (of(self.a), of(self.b));
        !a.is_empty() && !b.is_empty() && a != b
    }

    /// Each prompt names something of a list that the other does not; a plural is its singular.
    fn listed_differ(&self, list: &HashSet<&str>) -> bool {
        fn of<'a>(list: &HashSet<&str>, words: &'a [Word]) -> HashSet<&'a str> {
            let singular = |key: &'a str| key.strip_suffix('s').filter(|stem| list.contains(stem));
            let listed = |key: &'a str| singular(key).or_else(|| Some(key).filter(|key| list.contains(key)));
            words.iter().filter_map(|word| listed(&word.key)).collect()
        }
        let (a, b) = (of(list, self.a), of(list, self.b));
        !a.is_subset(&b) && !b.is_subset(&a)
    }
}

fn holds_opposites(a: &[Word], b: &[Word]) -> bool {
    let few = a.len() <= 3 && b.len() <= 3;
    few && a.iter().any(|x| b.iter().any(|y| LEXICON.are_opposites(&x.key, &y.key)))
}

/// One name written in two ways: an abbreviation, a plural, a typing error.
fn is_other_form(a: &[Word], b: &[Word]) -> bool {
    let joined = |words: &[Word]| words.iter().map(|word| word.key.as_str()).collect::<String>();
    let (x, y) = (joined(a), joined(b));
    let (short, long) = if x.chars().count() <= y.chars().count() { (&x, &y) } else { (&y, &x) };
    let initials = |words: &[Word]| words.iter().filter_map(|word| word.key.chars().next()).collect::<String>();
    let longer = if x.chars().count() <= y.chars().count() { b } else { a };
    long.starts_with(short.as_str())
        || *short == initials(longer)
        || (short.chars().count() > 4 && distance(short, long) <= 2)
}

/// Edits of letters between two words (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let cost = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

/// A number, with what it measures if that is said.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Quantity {
    value: f64,
    unit: Option<Unit>,
}

impl Quantity {
    fn equals(&self, other: &Self) -> bool {
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-6 * a.abs().max(b.abs());
        match (self.unit, other.unit) {
            (Some(own), Some(its)) if own.measures == its.measures => {
                near(self.value * own.factor, other.value * its.factor)
            }
            // 3 % is 0.03.
            (Some(own), None) if own.measures == "percent" && near(self.value / 100.0, other.value) => true,
            (None, Some(its)) if its.measures == "percent" && near(self.value, other.value / 100.0) => true,
            _ => near(self.value, other.value),
        }
    }
}

/// The numbers of a prompt, each with the unit behind it, or before it.
fn quantities(words: &[Word]) -> Vec<Quantity> {
    let unit = |at: usize| words.get(at).and_then(|word| LEXICON.unit(&word.key));
    let number = |(at, word): (usize, &Word)| match word.kind {
        Kind::Number(value) => {
            let before = at.checked_sub(1).and_then(unit).filter(|unit| unit.leads());
            Some(Quantity { value, unit: unit(at + 1).or(before) })
        }
        _ => None,
    };
    words.iter().enumerate().filter_map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guards(a: &str, b: &str) -> Vec<Guard> {
        super::super::compare::compare(a, b).guards
    }

    #[test]
    fn a_guard_speaks_where_what_it_guards_is_what_differs() {
        for (guard, a, b) in [
            (Guard::Number, "Convert 5 miles to km", "Convert 7 miles to km"),
            (Guard::Number, "a hotel for two people in Rome", "a hotel for three people in Rome"),
            (Guard::Date, "Is the shop open on Monday?", "Is the shop open on Sunday?"),
            (Guard::Unit, "How many grams are in a cup of rice?", "How many ounces are in a cup of rice?"),
            (Guard::Negation, "Which rooms allow pets?", "Which rooms don't allow pets?"),
            (Guard::Negation, "可以取消订单吗", "不可以取消订单吗"),
            (Guard::Antonym, "How do I enable dark mode?", "How do I disable dark mode?"),
            (Guard::Entity, "What is the capital of Norway?", "What is the capital of Sweden?"),
            (Guard::Direction, "flights from Rome to Oslo", "flights from Oslo to Rome"),
            (
                Guard::Direction,
                "Did Anna give Paul her old car last week?",
                "Did Paul give Anna his old car last week?",
            ),
            (Guard::Quotation, "Translate \"good morning\" for me", "Translate \"good night\" for me"),
            (Guard::Language, "Write a greeting in French", "Write a greeting in German"),
            (Guard::Language, "sort a list in Python", "sort a list in Java"),
            (Guard::Format, "Explain photosynthesis as a table", "Explain photosynthesis as a poem"),
        ] {
            assert!(guards(a, b).contains(&guard), "{guard:?}: {a} / {b}: {:?}", guards(a, b));
            assert!(guards(b, a).contains(&guard), "{guard:?}: {b} / {a}");
        }
    }

    #[test]
    fn what_is_said_in_other_words_is_not_vetoed() {
        for (a, b) in [
            ("How long is 2 hours?", "How long is 120 minutes?"),
            ("Is smoking not allowed here?", "Is smoking forbidden here?"),
            ("What's the population of the USA?", "What's the population of the United States of America?"),
            ("Compare Rome and Oslo", "Compare Oslo and Rome"),
            ("Which is bigger, Rome, Oslo or Bern?", "Which is bigger, Bern, Rome or Oslo?"),
            ("What is 1,000 divided by 10?", "what is one thousand divided by ten"),
            ("How do I cancel my order?", "I don't want my order any more, what do I do?"),
            ("I can't log in. How do I reset my password?", "how to reset my password"),
            ("Who wrote Hamlet?", "Hamlet was written by whom?"),
        ] {
            assert_eq!(guards(a, b), [], "{a} / {b}");
        }
    }

    #[test]
    fn distances_are_those_counted_by_hand() {
        assert_eq!((distance("kitten", "sitting"), distance("", "abc"), distance("same", "same")), (3, 3, 0));
    }
}
