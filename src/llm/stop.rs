//! Stop sequences in a text that arrives in pieces.

/// Lets text through up to the first stop sequence, and holds back what may still become one.
#[derive(Debug, Default)]
pub struct StopFilter {
    stops: Vec<String>,
    held: String,
}

impl StopFilter {
    /// Empty sequences never match.
    pub fn new(stops: &[String]) -> Self {
        Self { stops: stops.iter().filter(|s| !s.is_empty()).cloned().collect(), held: String::new() }
    }

    /// Takes the next piece; gives the text that is safe to emit, and whether a stop sequence was met. After one
    /// was met, the rest of the text is dropped.
    pub fn push(&mut self, piece: &str) -> (String, bool) {
        self.held.push_str(piece);
        if let Some(at) = self.stops.iter().filter_map(|s| self.held.find(s.as_str())).min() {
            let mut text = std::mem::take(&mut self.held);
            text.truncate(at);
            return (text, true);
        }
        let held = self.longest_beginning();
        let tail = self.held.split_off(self.held.len() - held);
        (std::mem::replace(&mut self.held, tail), false)
    }

    /// What was held back, when the text ends by itself.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Bytes at the end of the held text that begin a stop sequence.
    fn longest_beginning(&self) -> usize {
        let begins = |stop: &String, n: usize| stop.is_char_boundary(n) && self.held.ends_with(&stop[..n]);
        let longest = |stop: &String| (1..stop.len()).rev().find(|n| begins(stop, *n));
        self.stops.iter().filter_map(longest).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut filter = StopFilter::new(&stops.iter().map(|s| s.to_string()).collect::<Vec<_>>());
        let mut out = String::new();
        for piece in pieces {
            let (text, stopped) = filter.push(piece);
            out.push_str(&text);
            if stopped {
                return (out, true);
            }
        }
        (out + &filter.finish(), false)
    }

    #[test]
    fn a_sequence_across_pieces_is_never_emitted() {
        assert_eq!(run(&["END"], &["a E", "N", "D b"]), ("a ".into(), true));
        assert_eq!(run(&["aab"], &["a", "a", "a", "b"]), ("a".into(), true));
    }

    #[test]
    fn a_beginning_that_comes_to_nothing_is_emitted_after_all() {
        assert_eq!(run(&["END"], &["a EN", "X"]), ("a ENX".into(), false));
        assert_eq!(run(&["END"], &["a EN"]), ("a EN".into(), false));
    }

    #[test]
    fn the_earliest_of_several_sequences_wins() {
        assert_eq!(run(&["\n\n", "."], &["a.b\n", "\nc"]), ("a".into(), true));
        assert_eq!(run(&["é"], &["caf", "é!"]), ("caf".into(), true));
    }

    proptest! {
        #[test]
        fn pieces_give_what_the_whole_text_gives(
            text in "[abé]{0,24}", stops in prop::collection::vec("[abé]{1,4}", 1..3), size in 1usize..5,
        ) {
            let cut = stops.iter().filter_map(|s| text.find(s.as_str())).min();
            let mut filter = StopFilter::new(&stops);
            let (mut out, mut stopped) = (String::new(), false);
            let chars: Vec<char> = text.chars().collect();
            for piece in chars.chunks(size) {
                let (text, end) = filter.push(&piece.iter().collect::<String>());
                out.push_str(&text);
                stopped = end;
                if end { break; }
            }
            if !stopped { out.push_str(&filter.finish()); }
            // Stops that overlap may end at different pieces, but never later than the first to be complete.
            match cut {
                None => prop_assert_eq!(out, text),
                Some(_) => prop_assert!(stopped && text.starts_with(&out) && !stops.iter().any(|s| out.contains(s.as_str()))),
            }
        }
    }
}
