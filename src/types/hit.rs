//! What a served hit can be named by later.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

use super::{EntryKey, Error, Result, UnixMillis, plain_words};

/// Two prompts, in their order: a hash, so that it can be kept where texts must not be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PairId([u8; 16]);

impl PairId {
    /// Of the prompt that an entry answered, and a new one. White space, case, politeness and how they end make no other pair.
    pub fn new(cached: &str, new: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("reprise 2026-11 pair of prompts");
        for text in [cached, new] {
            let plain = plain_words(text).join(" ");
            hasher.update(&(plain.len() as u64).to_le_bytes());
            hasher.update(plain.as_bytes());
        }
        let mut id = [0; 16];
        hasher.finalize_xof().fill(&mut id);
        Self(id)
    }

    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for PairId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PairId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PairId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(Self(bytes(text).ok_or_else(|| Error::invalid("pair", "is no pair of prompts"))?))
    }
}

impl TryFrom<String> for PairId {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<PairId> for String {
    fn from(id: PairId) -> String {
        id.to_string()
    }
}

/// A semantic hit as its caller can report it: the entry, the two prompts, and the risk that was said of it. It is all in the
/// id, so any replica understands it, also after a restart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HitId {
    pub entry: EntryKey,
    pub pair: PairId,
    /// `None` where similarity alone decided.
    pub risk: Option<f32>,
    /// Which answer of that entry it was: the low bits of the time it was created, in milliseconds.
    pub version: u32,
    /// What gave the risk: the first bytes of a hash of its name.
    pub judge: [u8; 4],
}

/// Bytes of an id: entry, pair, risk, version, judge, and the first bytes of a hash over them, so that a mangled id is refused.
const PARTS: [usize; 6] = [32, 16, 4, 4, 4, 4];
const CHECKED: usize = 60;
/// Stands for no risk in an id.
const NO_RISK: f32 = -1.0;
const LENGTH: usize = PARTS[0] + PARTS[1] + PARTS[2] + PARTS[3] + PARTS[4] + PARTS[5];

impl HitId {
    /// The bytes that stand for a judge of that name.
    pub fn judge_of(name: &str) -> [u8; 4] {
        let hash = blake3::hash(name.as_bytes());
        let [a, b, c, d, ..] = *hash.as_bytes();
        [a, b, c, d]
    }

    /// The version of an answer that was created then.
    pub fn version_of(created: UnixMillis) -> u32 {
        (created.0 & u64::from(u32::MAX)) as u32
    }

    fn encode(&self) -> [u8; LENGTH] {
        let mut id = [0; LENGTH];
        id[..32].copy_from_slice(self.entry.as_bytes());
        id[32..48].copy_from_slice(self.pair.as_bytes());
        id[48..52].copy_from_slice(&self.risk.unwrap_or(NO_RISK).to_le_bytes());
        id[52..56].copy_from_slice(&self.version.to_le_bytes());
        id[56..60].copy_from_slice(&self.judge);
        let check = blake3::derive_key("reprise 2026-11 id of a hit", &id[..CHECKED]);
        id[CHECKED..].copy_from_slice(&check[..4]);
        id
    }
}

impl fmt::Display for HitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.encode().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for HitId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let read = || -> Option<Self> {
            let id: [u8; LENGTH] = bytes(text)?;
            let risk = f32::from_le_bytes(id[48..52].try_into().ok()?);
            let hit = Self {
                entry: EntryKey::from_bytes(id[..32].try_into().ok()?),
                pair: PairId(id[32..48].try_into().ok()?),
                risk: (0.0..=1.0).contains(&risk).then_some(risk),
                version: u32::from_le_bytes(id[52..56].try_into().ok()?),
                judge: id[56..60].try_into().ok()?,
            };
            (hit.encode() == id).then_some(hit)
        };
        read().ok_or_else(|| {
            Error::invalid(
                "hit",
                "is no id of a semantic hit; it stands in the reply of the hit (X-Reprise-Hit, cache.hit)",
            )
        })
    }
}

fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    let mut out = [0; N];
    for (byte, at) in out.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_pair_has_an_order_and_no_case() {
        let pair = PairId::new("How do I  pay?", "Where do I pay?");
        assert_eq!(pair, PairId::new("Please, how do i pay", "where do I pay? "));
        assert_ne!(pair, PairId::new("Where do I pay?", "How do I pay?"));
        assert_ne!(PairId::new("a", "b c"), PairId::new("a b", "c"));
        assert_eq!(pair.to_string().parse::<PairId>().unwrap(), pair);
    }

    proptest! {
        #[test]
        fn an_id_says_what_was_put_in(entry in any::<[u8; 32]>(), pair in any::<[u8; 16]>(), risk in prop::option::of(0.0f32..=1.0)) {
            let hit = HitId { entry: EntryKey::from_bytes(entry), pair: PairId(pair), risk, version: 7, judge: [1; 4] };
            prop_assert_eq!(hit.to_string().parse::<HitId>().unwrap(), hit);
        }

        #[test]
        fn a_mangled_id_is_refused(entry in any::<[u8; 32]>(), at in 0usize..128, digit in "[0-9a-f]") {
            let hit = HitId { entry: EntryKey::from_bytes(entry), pair: PairId([7; 16]), risk: Some(0.25), version: 9, judge: [3; 4] };
            let mut text = hit.to_string();
            if text[at..=at] != digit {
                text.replace_range(at..=at, &digit);
                prop_assert!(text.parse::<HitId>().is_err());
            }
        }

        #[test]
        fn no_text_is_a_panic(text in ".{0,120}") {
            let _ = text.parse::<HitId>();
            let _ = text.parse::<PairId>();
        }
    }
}
