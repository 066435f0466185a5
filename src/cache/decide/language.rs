//! Whether the models in force know the language of a prompt. Where they don't, nothing they say of it can be trusted: a prompt and
//! its opposite in a language that a model never read are the same to it.

/// Languages that are known, by their codes of three letters (ISO 639-3); none means any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Languages(Vec<String>);

impl Languages {
    pub fn new(codes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self(codes.into_iter().map(Into::into).collect())
    }

    /// Those that both know.
    pub fn and(&self, other: &Self) -> Self {
        match (self.0.is_empty(), other.0.is_empty()) {
            (true, _) => other.clone(),
            (_, true) => self.clone(),
            _ => Self(self.0.iter().filter(|code| other.0.contains(code)).cloned().collect()),
        }
    }

    /// False only where the text is told to be in another language with some certainty: a few words are often of several.
    pub fn know(&self, text: &str) -> bool {
        self.0.is_empty() || told(text).is_none_or(|code| self.0.iter().any(|known| known == code))
    }
}

/// The language of a text, where one detector is sure of it or both say the same.
fn told(text: &str) -> Option<&'static str> {
    let first = whatlang::detect(text)?;
    let code = first.lang().code();
    (first.is_reliable() || whichlang::detect_language(text).three_letter_code() == code).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_languages_are_told_and_english_is_not_taken_for_one() {
        let english = Languages::new(["eng"]);
        for text in [
            "Wie kann ich mein Passwort zurücksetzen?",
            "Was ist die Hauptstadt von Frankreich?",
            "Quelle est la capitale de l'Espagne ?",
            "Combien de temps faut-il pour la livraison ?",
            "¿Cuánto tarda el envío a Canarias?",
            "Qual è la capitale della Francia?",
            "Как сбросить пароль?",
            "怎么重置密码",
        ] {
            assert!(!english.know(text), "{text}");
        }
        for text in [
            "How do I reset my password?",
            "reset password",
            "capital of Spain",
            "SELECT name FROM users WHERE id = 3",
            "How do you say goodbye in German?",
            "",
            "12345",
        ] {
            assert!(english.know(text), "{text}");
        }
    }

    #[test]
    fn without_a_list_any_language_is_known() {
        let (any, two) = (Languages::default(), Languages::new(["eng", "deu"]));
        assert!(
            any.know("Wie kann ich mein Passwort zurücksetzen?") && two.know("Was ist die Hauptstadt von Frankreich?")
        );
        assert_eq!((any.and(&two), two.and(&any)), (two.clone(), two.clone()));
        assert_eq!(two.and(&Languages::new(["eng"])), Languages::new(["eng"]));
    }
}
