//! Two prompts, word by word: what they differ in, and how alike they are.

use super::align::align;
use super::guards::{Compared, Guard};
use super::words::words;
use crate::types::plain_words;

/// Two prompts, word by word.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Comparison {
    /// What they differ in, though they read alike.
    pub guards: Vec<Guard>,
    /// Share of the words with content, of the prompt that has more of them, that stand in both in the same order.
    pub likeness: f32,
    /// The shorter one's words as a share of the longer one's.
    pub lengths: f32,
    /// They are one text but for case, white space, politeness and the end of the sentence.
    pub same: bool,
}

/// Compares two prompts. Of prompts too long to be compared word by word it says that nothing is alike.
pub fn compare(a: &str, b: &str) -> Comparison {
    let same = is_same(a, b);
    let (a, b) = (words(a), words(b));
    let lengths = a.len().min(b.len()) as f32 / a.len().max(b.len()).max(1) as f32;
    let Some(alignment) = align(&a, &b) else { return Comparison { lengths, same, ..Comparison::default() } };
    let seen = Compared { a: &a, b: &b, alignment: &alignment };
    let guards = Guard::ALL.into_iter().filter(|guard| seen.vetoes(*guard)).collect();
    Comparison { guards, likeness: alignment.likeness, lengths, same }
}

/// Whether two texts differ in nothing but case, white space, politeness around them, and how their last sentence ends. In code all
/// of these count.
fn is_same(a: &str, b: &str) -> bool {
    let (a, b) = (a.trim(), b.trim());
    if a == b {
        return true;
    }
    let is_code = |text: &str| text.contains(|c| "`{}[]<>=;\\|/_$#@^~*+\"'“”「」\n".contains(c));
    if is_code(a) || is_code(b) {
        return false;
    }
    let (a, b) = (plain_words(a), plain_words(b));
    !a.is_empty() && a == b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comparison_says_how_alike_two_prompts_are() {
        let equal = Comparison { guards: vec![], likeness: 1.0, lengths: 1.0, same: true };
        assert_eq!(compare("open the door", "open the door"), equal);
        let far = compare("open the door", "how many planets does the sun have");
        assert!(far.likeness == 0.0 && (far.lengths - 3.0 / 7.0).abs() < 1e-6 && far.guards.is_empty() && !far.same);
        let long = "word ".repeat(401);
        assert_eq!(compare(&long, &long), Comparison { likeness: 0.0, ..equal });
    }

    #[test]
    fn case_white_space_and_the_last_stop_make_no_other_text() {
        for (a, b) in [
            ("What is rust?", "what  is Rust"),
            ("  open it!", "Open it."),
            ("退款要多久？", "退款要多久"),
            ("Please, how do I pay?", "How do I pay"),
            ("Hi! pls show my bill, thanks", "show my bill"),
            ("where is my parcel? Thanks!", "Where is my parcel"),
            ("git branch -D x", "git branch -D x"),
            ("SELECT `A`", "SELECT `A`\n"),
        ] {
            assert!(is_same(a, b), "{a:?} / {b:?}");
        }
        for (a, b) in [
            ("SELECT `A`", "SELECT `a`"),
            ("is it on?", "is it in?"),
            ("is a<b", "is A<b"),
            ("eat, grandma", "eat grandma"),
            ("how do you spell please", "how do you spell"),
            ("hello kitty shop", "kitty shop"),
            ("please", "pls"),
            ("...", "?"),
            ("x -1", "x 1"),
            ("say \"Yes\"", "say \"yes\""),
            ("", "x"),
        ] {
            assert!(!is_same(a, b), "{a:?} / {b:?}");
        }
    }
}
