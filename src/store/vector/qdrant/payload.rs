//! Points and filters in Qdrant's terms.
//!
//! A point's id is a UUID of the first 16 bytes of its key; the whole key stands in the payload.

use qdrant_client::Payload;
use qdrant_client::qdrant::r#match::MatchValue;
use qdrant_client::qdrant::point_id::PointIdOptions;
use qdrant_client::qdrant::{Condition, PointId, PointStruct, Range, ScoredPoint};

use crate::store::vector::{Point, document_id, owner_text};
use crate::types::{EntryKey, Owner, ScopeId, Tag, UnixMillis};

pub const KEY: &str = "key";
pub const SCOPE: &str = "scope";
pub const OWNER: &str = "owner";
pub const TAGS: &str = "tags";
/// Ids of the documents a point depends on, without their versions.
pub const DOCUMENTS: &str = "documents";
/// Milliseconds since the Unix epoch.
pub const EXPIRES: &str = "expires";

/// Qdrant compares numbers as f64; this is the last time that is exact in it, in the year 287,396.
const LAST_TIME: u64 = (1 << 53) - 1;

pub fn to_struct(point: &Point) -> PointStruct {
    let mut payload = Payload::with_capacity(6);
    payload.insert(KEY, point.key.to_string());
    payload.insert(SCOPE, point.scope.to_string());
    payload.insert(OWNER, owner_text(&point.owner));
    payload.insert(EXPIRES, time(point.expires) as i64);
    let tags: Vec<_> = point.tags.iter().map(|tag| tag.as_str().to_owned()).collect();
    let documents: Vec<_> = point.depends_on.iter().map(|dependency| document_id(dependency).to_owned()).collect();
    for (field, labels) in [(TAGS, tags), (DOCUMENTS, documents)] {
        if !labels.is_empty() {
            payload.insert(field, labels);
        }
    }
    PointStruct::new(point_id(&point.key), point.vector.to_vec(), payload)
}

pub fn point_id(key: &EntryKey) -> PointId {
    let mut half = [0; 16];
    half.copy_from_slice(&key.as_bytes()[..16]);
    PointId::from(uuid::Uuid::from_bytes(half).to_string())
}

/// The key of a point that was found; `None` when it has none, or one that does not fit its id.
pub fn key_of(point: &ScoredPoint) -> Option<EntryKey> {
    let key: EntryKey = point.payload.get(KEY)?.as_str()?.parse().ok()?;
    let PointIdOptions::Uuid(id) = point.id.as_ref()?.point_id_options.as_ref()? else { return None };
    let id: uuid::Uuid = id.parse().ok()?;
    (id.as_bytes()[..] == key.as_bytes()[..16]).then_some(key)
}

pub fn in_scope(scope: &ScopeId) -> Condition {
    is(SCOPE, scope.to_string())
}

pub fn is_live(now: UnixMillis) -> Condition {
    Condition::range(EXPIRES, Range { gt: Some(time(now) as f64), ..Range::default() })
}

pub fn is_expired(now: UnixMillis) -> Condition {
    Condition::range(EXPIRES, Range { lte: Some(time(now) as f64), ..Range::default() })
}

pub fn of_owner(owner: &Owner) -> Condition {
    is(OWNER, owner_text(owner))
}

pub fn has_tag(tag: &Tag) -> Condition {
    is(TAGS, tag.as_str().to_owned())
}

pub fn has_document(document: &str) -> Condition {
    is(DOCUMENTS, document.to_owned())
}

pub fn has_id(ids: Vec<PointId>) -> Condition {
    Condition::has_id(ids)
}

/// Always a keyword: left to itself, the client turns text with a space into a full-text match, which also holds for
/// longer texts.
fn is(field: &str, word: String) -> Condition {
    Condition::matches(field, MatchValue::Keyword(word))
}

fn time(time: UnixMillis) -> u64 {
    time.0.min(LAST_TIME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::vector::contract::{key, point, tag};

    fn found(point: &Point) -> ScoredPoint {
        let stored = to_struct(point);
        ScoredPoint { id: stored.id, payload: stored.payload, ..ScoredPoint::default() }
    }

    #[test]
    fn the_key_comes_back_whole_and_only_under_its_own_id() {
        assert_eq!(key_of(&found(&point(1, 1))), Some(key(1)));
        let foreign = ScoredPoint { id: Some(point_id(&key(2))), ..found(&point(1, 1)) };
        assert_eq!(key_of(&foreign), None);
        assert_eq!(key_of(&ScoredPoint { payload: Default::default(), ..found(&point(1, 1)) }), None);
        assert_eq!(key_of(&ScoredPoint { id: Some(7.into()), ..found(&point(1, 1)) }), None);
    }

    #[test]
    fn a_payload_holds_what_filters_ask_for() {
        let depends_on = vec!["faq@1".into(), "a@b@2".into()];
        let stored =
            to_struct(&Point { tags: vec![tag("t")], depends_on, expires: UnixMillis(u64::MAX), ..point(1, 1) });
        let text = |field: &str| stored.payload[field].to_string();
        assert_eq!(text(OWNER), "\"acme support\"");
        assert_eq!(text(TAGS), "[\"t\"]");
        assert_eq!(text(DOCUMENTS), "[\"faq\",\"a@b\"]");
        assert_eq!(stored.payload[EXPIRES].as_integer(), Some(9_007_199_254_740_991));
        assert!(!to_struct(&point(1, 1)).payload.contains_key(TAGS));
    }
}
