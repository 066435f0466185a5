//! Two prompts side by side: which words stand in both, in order, and what differs between them.

use std::ops::Range;

use super::words::{MOST, Word};

/// What stands in one prompt where something else, or nothing, stands in the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    pub a: Range<usize>,
    pub b: Range<usize>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Alignment {
    pub edits: Vec<Edit>,
    /// Words that stand in both, in the same order.
    pub same: usize,
    /// Of these, those that say something by themselves.
    pub same_content: usize,
    /// The share of words with content, of the prompt that has more of them, that stand in both.
    pub likeness: f32,
}

/// Aligns two prompts; `None` when one is too long to be compared word by word.
pub fn align(a: &[Word], b: &[Word]) -> Option<Alignment> {
    if a.len() > MOST || b.len() > MOST {
        return None;
    }
    let same = |i: usize, j: usize| a[i].key == b[j].key && a[i].kind == b[j].kind;
    // Longest common subsequence, by the weights of the ends; `width` columns for b and one behind it. Names weigh less: where
    // two stand in each other's place, it is they that differ, and not the word between them.
    let weight = |i: usize| if a[i].is_name { 2 } else { 3 };
    let width = b.len() + 1;
    let mut weights = vec![0u16; (a.len() + 1) * width];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            weights[i * width + j] = if same(i, j) {
                weights[(i + 1) * width + j + 1] + weight(i)
            } else {
                weights[(i + 1) * width + j].max(weights[i * width + j + 1])
            };
        }
    }
    let mut found = Alignment { edits: Vec::new(), same: 0, same_content: 0, likeness: 0.0 };
    let (mut i, mut j) = (0, 0);
    let (mut from_a, mut from_b) = (0, 0);
    loop {
        let matched = i < a.len() && j < b.len() && same(i, j);
        let ended = i == a.len() && j == b.len();
        if matched || ended {
            if from_a < i || from_b < j {
                found.edits.push(Edit { a: from_a..i, b: from_b..j });
            }
            if ended {
                break;
            }
            found.same += 1;
            found.same_content += usize::from(!is_filler(&a[i]));
            (i, j) = (i + 1, j + 1);
            (from_a, from_b) = (i, j);
        } else if i < a.len() && (j == b.len() || weights[(i + 1) * width + j] >= weights[i * width + j + 1]) {
            i += 1;
        } else {
            j += 1;
        }
    }
    let content = |words: &[Word]| words.iter().filter(|word| !is_filler(word)).count();
    found.likeness = found.same_content as f32 / content(a).max(content(b)).max(1) as f32;
    Some(found)
}

/// A word that says nothing by itself: articles, auxiliaries, politeness.
pub fn is_filler(word: &Word) -> bool {
    FILLERS.binary_search(&word.key.as_str()).is_ok()
}

const FILLERS: [&str; 84] = [
    "a", "am", "an", "and", "any", "anyone", "are", "be", "been", "being", "can", "could", "dear", "did", "do", "does",
    "for", "get", "give", "good", "has", "have", "hello", "help", "hey", "hi", "i", "in", "is", "it", "its", "just",
    "know", "let", "like", "may", "me", "might", "my", "need", "of", "ok", "on", "or", "our", "please", "pls",
    "question", "really", "shall", "should", "so", "some", "tell", "thank", "thanks", "that", "the", "their", "there",
    "these", "they", "this", "those", "to", "us", "want", "was", "we", "were", "will", "with", "would", "you", "your",
    "一", "个", "了", "吗", "呢", "我", "的", "请", "问",
];

#[cfg(test)]
mod tests {
    use super::super::words::words;
    use super::*;
    use proptest::prelude::*;

    fn edits(a: &str, b: &str) -> Vec<(String, String)> {
        let (a, b) = (words(a), words(b));
        let text = |words: &[Word]| words.iter().map(|w| w.key.as_str()).collect::<Vec<_>>().join(" ");
        let found = align(&a, &b).unwrap();
        found.edits.iter().map(|edit| (text(&a[edit.a.clone()]), text(&b[edit.b.clone()]))).collect()
    }

    #[test]
    fn edits_are_what_differs() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(edits("fly from Rome to Oslo", "fly from Rome to Bergen"), [pair("oslo", "bergen")]);
        assert_eq!(edits("it is allowed", "it is not allowed"), [pair("", "not")]);
        assert_eq!(edits("a b c", "a b c"), []);
        assert_eq!(edits("", "x"), [pair("", "x")]);
    }

    #[test]
    fn likeness_counts_words_with_content() {
        let likeness = |a: &str, b: &str| align(&words(a), &words(b)).unwrap().likeness;
        assert_eq!(likeness("how do I bake bread", "please tell me how to bake bread"), 1.0);
        assert_eq!(likeness("bake bread", "sell cars"), 0.0);
        assert!((likeness("open the red door", "open the blue door") - 2.0 / 3.0).abs() < 1e-6);
    }

    #[test]
    fn the_fillers_are_in_order_so_that_they_are_found() {
        assert!(FILLERS.is_sorted(), "{:?}", FILLERS.windows(2).find(|pair| pair[0] > pair[1]));
    }

    proptest! {
        #[test]
        fn edits_turn_one_prompt_into_the_other(a in "[abc ]{0,40}", b in "[abc ]{0,40}") {
            let (a, b) = (words(&a), words(&b));
            let found = align(&a, &b).unwrap();
            let (mut turned, mut at) = (Vec::new(), 0);
            for edit in &found.edits {
                turned.extend_from_slice(&a[at..edit.a.start]);
                turned.extend_from_slice(&b[edit.b.clone()]);
                at = edit.a.end;
            }
            turned.extend_from_slice(&a[at..]);
            prop_assert_eq!(turned, b);
            prop_assert_eq!(found.same + found.edits.iter().map(|e| e.a.len()).sum::<usize>(), a.len());
        }
    }
}
