//! Who owns what: validated identity strings.

use serde::{Deserialize, Serialize};
use std::fmt;

use super::{Error, Result};

/// Longest identity accepted, in bytes.
const MAX_ID_BYTES: usize = 128;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $field:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// 1 to 128 bytes of printable text without white space.
            pub fn new(text: impl Into<String>) -> Result<Self> {
                let text = text.into();
                check(&text).map_err(|why| Error::invalid($field, why))?;
                Ok(Self(text))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                Self::new(text)
            }
        }
    };
}

id!(
    /// Who owns the data. Nothing crosses from one tenant to another.
    TenantId,
    "tenant"
);
id!(
    /// An application or use case within a tenant, with its own policy.
    Namespace,
    "namespace"
);
id!(
    /// A label on entries, to delete them by.
    Tag,
    "tags"
);
id!(
    /// The end user on whose behalf a request is made.
    UserId,
    "user"
);
id!(
    /// One conversation or login of an end user.
    SessionId,
    "session"
);

fn check(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("must not be empty".into());
    }
    if text.len() > MAX_ID_BYTES {
        return Err(format!("is {} bytes long; at most {MAX_ID_BYTES} are allowed", text.len()));
    }
    if let Some(bad) = text.chars().find(|c| c.is_whitespace() || c.is_control()) {
        return Err(format!("contains {bad:?}; white space and control characters are not allowed"));
    }
    Ok(())
}

/// A tenant and one of its namespaces: every stored thing has exactly one owner.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Owner {
    pub tenant: TenantId,
    pub namespace: Namespace,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.namespace)
    }
}

/// Who may be served an entry, within its namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    #[default]
    Shared,
    User(UserId),
    Session(SessionId),
    /// One user's session: sessions are numbered by the caller, so two users' may have the same name.
    UserSession(UserId, SessionId),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_refuse_what_could_be_confused_or_smuggled() {
        for bad in ["", "a b", "a\n", "\u{0}", &"x".repeat(129)] {
            assert!(TenantId::new(bad).is_err(), "{bad:?} was accepted");
        }
        assert_eq!(TenantId::new("acme-1.eu/売").unwrap().as_str(), "acme-1.eu/売");
    }

    #[test]
    fn deserialising_checks_too() {
        assert!(serde_json::from_str::<Namespace>("\"has space\"").is_err());
    }
}
