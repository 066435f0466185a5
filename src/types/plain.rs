//! A text without what makes no other text of it.

/// The words of a text in lower case, without the stops at its end and without politeness around it. Empty where nothing else is
/// in it.
pub fn plain_words(text: &str) -> Vec<String> {
    let ends = |c: char| matches!(c, '.' | '?' | '!' | ',' | '。' | '？' | '！' | '，');
    let lower = text.to_lowercase();
    let mut words: Vec<&str> = lower.split_whitespace().collect();
    // "Hello, …" is a greeting, "Hello Kitty …" is not; "…, please" is polite, "how to spell please" is not.
    while let [first, _, _, ..] = words[..] {
        let bare = first.trim_end_matches(ends);
        let greets = matches!(bare, "hi" | "hello" | "hey") && bare != first;
        if !(greets || matches!(bare, "please" | "pls")) {
            break;
        }
        words.remove(0);
    }
    while let [_, .., before, last] = words[..] {
        let thanks = matches!(last.trim_end_matches(ends), "please" | "pls" | "thanks" | "thx");
        if !(thanks && before.ends_with(ends)) {
            break;
        }
        words.pop();
    }
    while let Some(last) = words.pop() {
        let bare = last.trim_end_matches(ends);
        if !bare.is_empty() {
            words.push(bare);
            break;
        }
    }
    words.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain(text: &str) -> String {
        plain_words(text).join(" ")
    }

    #[test]
    fn politeness_and_stops_go_and_all_else_stays() {
        for (text, expected) in [
            ("Please, how do I pay?", "how do i pay"),
            ("Hi! pls show my bill, thanks", "show my bill"),
            ("where is my parcel? Thanks!", "where is my parcel"),
            ("how do you spell please", "how do you spell please"),
            ("hello kitty shop", "hello kitty shop"),
            ("退款要多久？", "退款要多久"),
            ("please", "please"),
            ("is 1.5 enough ?", "is 1.5 enough"),
            ("...", ""),
        ] {
            assert_eq!(plain(text), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_plain_stays_as_it_is(text in "([a-z]{1,6}[ ,.!?]{1,2}){0,8}(please|thanks)?[!?]?") {
            let once = plain(&text);
            // A comma that stood before what went was a stop of the text's end.
            prop_assert!(!once.ends_with(['.', '?', '!', ',']));
            prop_assert!(once.len() <= text.len());
        }
    }
}
