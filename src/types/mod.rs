//! The nouns of Reprise: identities, keys, requests, answers, entries, errors. No I/O here.

mod answer;
mod canonical;
mod chat;
mod controls;
mod entry;
mod error;
mod hit;
mod ids;
pub mod json;
mod key;
mod money;
mod outcome;
mod plain;
mod similarity;
mod wrong_rate;

pub use answer::{Answer, Assembler, AssistantMessage, Choice, Delta, FinishReason, Usage};
pub use chat::{ChatRequest, Content, Message, Probe, Role, Stop, StreamOptions, Turn};
pub use controls::{CacheControls, CacheMode, Priority, UseCache};
pub use entry::{Entry, Source, Trust, UnixMillis};
pub use error::{Error, ErrorKind, Result, Violation};
pub use hit::{HitId, PairId};
pub use ids::{Audience, Namespace, Owner, SessionId, Tag, TenantId, UserId};
pub use key::{EntryKey, Scope, ScopeId};
pub use money::{Price, Usd};
pub use outcome::{CacheStatus, Outcome};
pub use plain::plain_words;
pub use similarity::{Embedding, Similarity};
pub use wrong_rate::WrongRate;
