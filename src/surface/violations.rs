//! Everything that is wrong with a request, told in one error.

use std::borrow::Cow;

use crate::types::{Error, ErrorKind, Result, Violation};

/// Most violations told of one request: they travel in a header in gRPC, and headers are bounded.
const MAX_TOLD: usize = 10;

/// Longest field path and description told, in bytes.
const MAX_TEXT_BYTES: usize = 200;

/// Collects violations while a request is read, so that its caller hears of all of them at once.
#[derive(Debug, Default)]
pub struct Violations {
    told: Vec<Violation>,
    untold: usize,
}

impl Violations {
    pub fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        if self.told.len() == MAX_TOLD {
            self.untold += 1;
            return;
        }
        let (field, description) = (field.into(), description.into());
        self.told.push(Violation {
            field: shorten(&field, MAX_TEXT_BYTES).into_owned(),
            description: shorten(&description, MAX_TEXT_BYTES).into_owned(),
        });
    }

    /// The value, or a violation of `field` that says why there is none.
    pub fn check<T>(&mut self, field: impl Into<String>, result: Result<T, impl Into<Complaint>>) -> Option<T> {
        result.map_err(|why| self.add(field, why.into().0)).ok()
    }

    /// The value, or the violations of an error with their fields under `prefix`.
    pub fn under<T>(&mut self, prefix: &str, result: Result<T>) -> Option<T> {
        let error = match result {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        if error.violations.is_empty() {
            self.add(prefix, error.message);
            return None;
        }
        for Violation { field, description } in error.violations {
            let separator = if field.is_empty() || field.starts_with('[') || prefix.is_empty() { "" } else { "." };
            self.add(format!("{prefix}{separator}{field}"), description);
        }
        None
    }

    pub fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// What was read, when nothing was wrong with it. `value` is `None` only after a violation.
    pub fn finish<T>(self, value: Option<T>) -> Result<T> {
        if self.told.is_empty() {
            return value.ok_or_else(|| Error::internal("a request was refused without a reason"));
        }
        let mut parts: Vec<_> = self.told.iter().map(|v| format!("{}: {}", v.field, v.description)).collect();
        if self.untold > 0 {
            parts.push(format!("and {} more", self.untold));
        }
        let mut error = Error::new(ErrorKind::InvalidArgument, parts.join("; "));
        error.violations = self.told;
        Err(error)
    }
}

/// Why a value was refused, from an [`Error`] or from text.
pub struct Complaint(String);

impl From<String> for Complaint {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<Error> for Complaint {
    fn from(mut error: Error) -> Self {
        Self(if error.violations.is_empty() { error.message } else { error.violations.swap_remove(0).description })
    }
}

/// The same error with its fields named as this surface's callers know them.
pub fn rename_fields(mut error: Error, name: impl Fn(&str) -> String) -> Error {
    for violation in &mut error.violations {
        let inner = std::mem::take(&mut violation.field);
        violation.field = name(&inner);
        // The message of an error with one field begins with it.
        if let Some(rest) = error.message.strip_prefix(&inner).filter(|rest| rest.starts_with(": ")) {
            error.message = format!("{}{rest}", violation.field);
        }
    }
    error
}

/// At most `max` bytes of a text, cut between characters.
pub fn shorten(text: &str, max: usize) -> Cow<'_, str> {
    if text.len() <= max { text.into() } else { format!("{}…", &text[..text.floor_char_boundary(max)]).into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_violations_are_told_together() {
        let mut errors = Violations::default();
        assert_eq!(errors.check("a", Ok::<_, String>(1)), Some(1));
        assert_eq!(errors.check("ttl", Err::<i32, _>("must be positive".to_owned())), None);
        assert_eq!(errors.under::<i32>("chat", Err(Error::invalid("messages", "is empty"))), None);
        assert_eq!(errors.under::<i32>("chats", Err(Error::invalid("[2].role", "is missing"))), None);
        let error = errors.finish(Some(())).unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument);
        assert_eq!(error.message, "ttl: must be positive; chat.messages: is empty; chats[2].role: is missing");
        assert_eq!(error.violations.len(), 3);
    }

    #[test]
    fn thousands_of_violations_stay_a_short_error() {
        let mut errors = Violations::default();
        for i in 0..10_000 {
            errors.add(format!("messages[{i}]"), "é".repeat(10_000));
        }
        let error = errors.finish(Some(())).unwrap_err();
        assert_eq!(error.violations.len(), MAX_TOLD);
        assert!(error.message.ends_with("and 9990 more"), "{}", error.message);
        assert!(error.message.len() < 3000);
    }

    #[test]
    fn renamed_fields_stand_in_the_message_too() {
        let error = rename_fields(Error::invalid("texts[0]", "is empty"), |f| f.replace("texts", "input"));
        assert_eq!((&*error.violations[0].field, &*error.message), ("input[0]", "input[0]: is empty"));
        let error = rename_fields(Error::unavailable("texts are not embedded"), |_| "x".into());
        assert_eq!(error.message, "texts are not embedded");
    }

    #[test]
    fn nothing_wrong_gives_the_value() {
        assert_eq!(Violations::default().finish(Some(3)).unwrap(), 3);
    }
}
