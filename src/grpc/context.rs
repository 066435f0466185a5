//! `RequestContext` and the call's metadata to a [`Context`].

use std::time::Duration;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;

use super::pb;
use crate::surface::{Context, DEFAULT_OWNER, MAX_TAGS, Violations, after, check_label, check_ttl, new_request_id};
use crate::types::{
    CacheControls, Namespace, Owner, Priority, Result, SessionId, Similarity, Tag, TenantId, UseCache, UserId,
    WrongRate,
};

/// Reads who asks and how; what is wrong goes to `errors`, under `context`. `None` only after a violation.
pub fn context(
    wire: Option<pb::RequestContext>,
    metadata: &MetadataMap,
    now: Instant,
    errors: &mut Violations,
) -> Option<Context> {
    let wire = wire.unwrap_or_default();
    let tenant = or_default(wire.tenant, TenantId::new, "context.tenant", errors);
    let namespace = or_default(wire.namespace, Namespace::new, "context.namespace", errors);
    let user = optional(wire.user, UserId::new, "context.user", errors);
    let session = optional(wire.session, SessionId::new, "context.session", errors);
    let template = optional(wire.template_version, label, "context.template_version", errors);
    let id = optional(wire.request_id, label, "context.request_id", errors).unwrap_or_else(new_request_id);
    let controls = controls(wire.cache.unwrap_or_default(), errors);
    let priority = wire.priority.and_then(|level| errors.check("context.priority", Priority::new(level)));
    let deadline = wire.deadline.and_then(|wait| {
        let wait = errors.check("context.deadline", positive(wait))?;
        after(now, wait)
    });
    Some(Context {
        id,
        owner: Owner { tenant: tenant?, namespace: namespace? },
        user,
        session,
        template,
        controls,
        priority: priority.unwrap_or_default(),
        deadline: deadline.into_iter().chain(grpc_timeout(metadata).and_then(|wait| after(now, wait))).min(),
    })
}

fn controls(wire: pb::CacheControls, errors: &mut Violations) -> CacheControls {
    let use_cache = match pb::CacheUse::try_from(wire.r#use) {
        Ok(pb::CacheUse::Unspecified | pb::CacheUse::Use) => UseCache::Use,
        Ok(pb::CacheUse::Bypass) => UseCache::Bypass,
        Ok(pb::CacheUse::Refresh) => UseCache::Refresh,
        Ok(pb::CacheUse::OnlyIfCached) => UseCache::OnlyIfCached,
        Err(_) => {
            errors.add("context.cache.use", format!("{} is not a CacheUse", wire.r#use));
            UseCache::Use
        }
    };
    let ttl = wire.ttl.and_then(|ttl| errors.check("context.cache.ttl", positive(ttl).and_then(check_ttl)));
    let max_age = wire.max_age.and_then(|age| errors.check("context.cache.max_age", not_negative(age)));
    let min_similarity =
        wire.min_similarity.and_then(|s| errors.check("context.cache.min_similarity", Similarity::new(s)));
    let max_wrong_rate =
        wire.max_wrong_rate.and_then(|r| errors.check("context.cache.max_wrong_rate", WrongRate::new(r)));
    if wire.tags.len() > MAX_TAGS {
        errors.add("context.cache.tags", format!("{} tags; at most {MAX_TAGS} are allowed", wire.tags.len()));
    }
    let tags = wire.tags.into_iter().take(MAX_TAGS).enumerate();
    let tags = tags.filter_map(|(i, tag)| errors.check(format!("context.cache.tags[{i}]"), Tag::new(tag))).collect();
    CacheControls { use_cache, no_store: wire.no_store, ttl, max_age, max_wrong_rate, min_similarity, tags }
}

/// An absent text stands for "default".
fn or_default<T>(text: String, read: impl Fn(String) -> Result<T>, field: &str, errors: &mut Violations) -> Option<T> {
    errors.check(field, read(if text.is_empty() { DEFAULT_OWNER.to_owned() } else { text }))
}

fn optional<T, E: Into<crate::surface::Complaint>>(
    text: String,
    read: impl Fn(String) -> Result<T, E>,
    field: &str,
    errors: &mut Violations,
) -> Option<T> {
    if text.is_empty() { None } else { errors.check(field, read(text)) }
}

fn label(text: String) -> Result<String, String> {
    check_label(&text).map(|()| text)
}

fn positive(wire: prost_types::Duration) -> Result<Duration, String> {
    match not_negative(wire)? {
        Duration::ZERO => Err("must be positive".into()),
        duration => Ok(duration),
    }
}

/// By hand: the conversion of `prost_types` overflows on the most negative seconds and hides malformed nanoseconds.
fn not_negative(wire: prost_types::Duration) -> Result<Duration, String> {
    match (u64::try_from(wire.seconds), u32::try_from(wire.nanos)) {
        (Ok(seconds), Ok(nanos @ 0..=999_999_999)) => Ok(Duration::new(seconds, nanos)),
        (Ok(_), Ok(_)) => Err("has a second or more in its nanoseconds".into()),
        _ => Err("must not be negative".into()),
    }
}

/// The deadline of the call itself, a little early: the reply has to arrive before the caller, or the transport
/// (which answers CANCELLED), stops waiting. Malformed values are ignored, as the transport does.
fn grpc_timeout(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    let timeout = match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    };
    Some(timeout - (timeout / 20).min(Duration::from_millis(5)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Error;
    use proptest::prelude::*;

    fn read(wire: pb::RequestContext, timeout: Option<&str>) -> Result<Context, Error> {
        let mut metadata = MetadataMap::new();
        if let Some(timeout) = timeout {
            metadata.insert("grpc-timeout", timeout.parse().unwrap());
        }
        let mut errors = Violations::default();
        let context = context(Some(wire), &metadata, Instant::now(), &mut errors);
        errors.finish(context)
    }

    fn fields(error: Error) -> Vec<String> {
        error.violations.into_iter().map(|v| v.field).collect()
    }

    fn seconds(seconds: i64) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos: 0 })
    }

    #[test]
    fn nothing_set_is_the_default_owner_and_plain_use() {
        let mut errors = Violations::default();
        let context = context(None, &MetadataMap::new(), Instant::now(), &mut errors).unwrap();
        assert_eq!(context.owner.to_string(), "default/default");
        assert_eq!(context.controls, CacheControls::default());
        assert_eq!((context.priority.get(), context.deadline, context.user), (5, None, None));
        assert_eq!(context.id.len(), 36);
    }

    #[test]
    fn everything_wrong_is_told_at_once_with_its_path() {
        let cache = pb::CacheControls {
            r#use: 99,
            ttl: seconds(-1),
            max_age: seconds(-5),
            min_similarity: Some(f32::NAN),
            tags: vec!["ok".into(), "not ok".into()],
            ..Default::default()
        };
        let wire = pb::RequestContext {
            tenant: "a b".into(),
            priority: Some(10),
            deadline: seconds(0),
            request_id: "new\nline".into(),
            cache: Some(cache),
            ..Default::default()
        };
        assert_eq!(
            fields(read(wire, None).unwrap_err()),
            [
                "context.tenant",
                "context.request_id",
                "context.cache.use",
                "context.cache.ttl",
                "context.cache.max_age",
                "context.cache.min_similarity",
                "context.cache.tags[1]",
                "context.priority",
                "context.deadline"
            ]
        );
    }

    #[test]
    fn zero_and_malformed_durations_are_refused() {
        for ttl in [
            prost_types::Duration { seconds: 0, nanos: 0 },
            prost_types::Duration { seconds: 0, nanos: 999 },
            prost_types::Duration { seconds: 1, nanos: -1 },
            prost_types::Duration { seconds: 0, nanos: 1_000_000_000 },
            prost_types::Duration { seconds: i64::MIN, nanos: 0 },
        ] {
            let cache = pb::CacheControls { ttl: Some(ttl), ..Default::default() };
            let wire = pb::RequestContext { cache: Some(cache), ..Default::default() };
            assert_eq!(fields(read(wire, None).unwrap_err()), ["context.cache.ttl"], "{ttl:?}");
        }
    }

    #[test]
    fn a_max_age_of_zero_is_allowed() {
        let cache = pb::CacheControls { max_age: seconds(0), ..Default::default() };
        let context = read(pb::RequestContext { cache: Some(cache), ..Default::default() }, None).unwrap();
        assert_eq!(context.controls.max_age, Some(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn the_shorter_of_both_deadlines_holds() {
        let start = Instant::now();
        let wait = |own: Option<i64>, grpc: Option<&str>| {
            let wire = pb::RequestContext { deadline: own.and_then(seconds), ..Default::default() };
            read(wire, grpc).unwrap().deadline.map(|d| d - start)
        };
        assert_eq!(wait(Some(3), Some("10S")), Some(Duration::from_secs(3)));
        assert_eq!(wait(Some(30), Some("10S")), Some(Duration::from_millis(9995)));
        assert_eq!(wait(None, Some("20m")), Some(Duration::from_millis(19)));
        assert_eq!(wait(None, Some("7x")), None);
        assert_eq!(wait(Some(i64::MAX), None), None, "beyond the clock");
    }

    #[test]
    fn too_many_tags_are_refused() {
        let cache = pb::CacheControls { tags: vec!["t".into(); MAX_TAGS + 1], ..Default::default() };
        let error = read(pb::RequestContext { cache: Some(cache), ..Default::default() }, None).unwrap_err();
        assert_eq!(error.message, "context.cache.tags: 65 tags; at most 64 are allowed");
    }

    proptest! {
        #[test]
        fn no_context_panics(tenant in ".*", id in ".*", secs: i64, nanos: i32, sim: f32, priority: u32, timeout in "[ -~]*") {
            let cache = pb::CacheControls {
                ttl: Some(prost_types::Duration { seconds: secs, nanos }),
                max_age: Some(prost_types::Duration { seconds: secs, nanos }),
                min_similarity: Some(sim),
                ..Default::default()
            };
            let deadline = Some(prost_types::Duration { seconds: secs, nanos });
            let wire = pb::RequestContext {
                tenant, request_id: id, priority: Some(priority), deadline, cache: Some(cache), ..Default::default()
            };
            let _ = read(wire, Some(&timeout));
        }
    }
}
