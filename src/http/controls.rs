//! Request headers to a [`Context`], and an [`Outcome`] to response headers.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use std::time::Duration;
use tokio::time::Instant;

use crate::surface::{Complaint, Context, DEFAULT_OWNER, MAX_TAGS, Violations, after, check_label, check_ttl};
use crate::types::{
    CacheControls, Namespace, Outcome, Owner, Priority, Result, SessionId, Similarity, Tag, TenantId, UseCache,
    WrongRate,
};

pub const CACHE_STATUS: HeaderName = HeaderName::from_static("x-reprise-cache");
const ENTRY: HeaderName = HeaderName::from_static("x-reprise-entry");
const SIMILARITY: HeaderName = HeaderName::from_static("x-reprise-similarity");
const RISK: HeaderName = HeaderName::from_static("x-reprise-risk");
const HIT: HeaderName = HeaderName::from_static("x-reprise-hit");
const REASON: HeaderName = HeaderName::from_static("x-reprise-reason");
pub const REQUEST_ID: &str = "X-Request-Id";

/// Reads who asks and how; what is wrong goes to `errors`, under the header's name. `None` only after a violation.
pub fn context(headers: &HeaderMap, id: String, now: Instant, errors: &mut Violations) -> Option<Context> {
    let tenant = single(headers, "X-Reprise-Tenant", errors).unwrap_or(DEFAULT_OWNER);
    let tenant = errors.check("X-Reprise-Tenant", TenantId::new(tenant));
    let namespace = single(headers, "X-Reprise-Namespace", errors).unwrap_or(DEFAULT_OWNER);
    let namespace = errors.check("X-Reprise-Namespace", Namespace::new(namespace));
    let session = read(headers, "X-Reprise-Session", SessionId::new, errors);
    let template = read(headers, "X-Reprise-Template", |t| check_label(t).map(|()| t.to_owned()), errors);
    let priority = read(headers, "X-Reprise-Priority", priority, errors).unwrap_or_default();
    let deadline = read(headers, "X-Reprise-Timeout", positive, errors).and_then(|wait| after(now, wait));
    let controls = CacheControls {
        ttl: read(headers, "X-Reprise-TTL", |t| duration(t).and_then(check_ttl), errors),
        max_wrong_rate: read(headers, "X-Reprise-Max-Wrong-Rate", wrong_rate, errors),
        min_similarity: read(headers, "X-Reprise-Min-Similarity", similarity, errors),
        tags: tags(headers, errors),
        ..cache_control(headers, errors)
    };
    let owner = Owner { tenant: tenant?, namespace: namespace? };
    Some(Context { id, owner, user: None, session, template, controls, priority, deadline })
}

/// The headers that say how a request was answered.
pub fn add_outcome(headers: &mut HeaderMap, outcome: &Outcome) {
    headers.insert(CACHE_STATUS, HeaderValue::from_static(outcome.status.as_str()));
    let mut add = |name: HeaderName, text: String| {
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(name, value);
        }
    };
    add(ENTRY, outcome.entry.to_string());
    if let Some(similarity) = outcome.similarity {
        add(SIMILARITY, similarity.to_string());
    }
    if let Some(risk) = outcome.risk {
        add(RISK, format!("{risk:.4}"));
    }
    if let Some(hit) = outcome.hit {
        add(HIT, hit.to_string());
    }
    if let Some(age) = outcome.age.filter(|_| outcome.status.is_hit()) {
        add(header::AGE, age.as_secs().to_string());
    }
    if let Some(reason) = outcome.reason {
        add(REASON, reason.to_owned());
    }
}

/// What the `Cache-Control` of a request asks for, after RFC 9111, section 5.2.1. Directives it does not name are
/// ignored, as it says; so are `max-stale`, `min-fresh` and `no-transform`.
fn cache_control(headers: &HeaderMap, errors: &mut Violations) -> CacheControls {
    let (mut no_cache, mut no_store, mut only_if_cached) = (false, false, false);
    let mut max_age: Option<Duration> = None;
    for line in all(headers, "Cache-Control", errors) {
        for directive in line.split(',').map(str::trim).filter(|d| !d.is_empty()) {
            let (name, argument) = match directive.split_once('=') {
                Some((name, argument)) => (name.trim_end(), Some(argument.trim_start().trim_matches('"'))),
                None => (directive, None),
            };
            match (name.to_ascii_lowercase().as_str(), argument) {
                ("no-cache", None) => no_cache = true,
                ("no-store", None) => no_store = true,
                ("only-if-cached", None) => only_if_cached = true,
                ("no-cache" | "no-store" | "only-if-cached", Some(_)) => {
                    errors.add("Cache-Control", format!("{name} takes no argument in a request"));
                }
                ("max-age", argument) => match delta_seconds(argument.unwrap_or_default()) {
                    Some(age) => max_age = Some(max_age.map_or(age, |m| m.min(age))),
                    None => errors.add("Cache-Control", "max-age needs whole seconds, as in max-age=60"),
                },
                _ => {}
            }
        }
    }
    let refresh = no_cache || max_age == Some(Duration::ZERO);
    let use_cache = match (only_if_cached, refresh, no_store) {
        (true, _, _) => UseCache::OnlyIfCached,
        (_, true, true) => UseCache::Bypass,
        (_, true, false) => UseCache::Refresh,
        _ => UseCache::Use,
    };
    match use_cache {
        // Nothing is as fresh as no-cache asks for, and nothing else may be served.
        UseCache::OnlyIfCached if no_cache => max_age = Some(Duration::ZERO),
        UseCache::Refresh | UseCache::Bypass => max_age = None,
        _ => {}
    }
    CacheControls { use_cache, no_store, max_age, ..CacheControls::default() }
}

/// Whole seconds; a number too large to hold counts as the largest.
fn delta_seconds(text: &str) -> Option<Duration> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| Duration::from_secs(text.parse::<u32>().unwrap_or(u32::MAX).into()))
}

fn tags(headers: &HeaderMap, errors: &mut Violations) -> Vec<Tag> {
    let lines = all(headers, "X-Reprise-Tags", errors);
    let texts: Vec<_> =
        lines.iter().flat_map(|line| line.split(',')).map(str::trim).filter(|t| !t.is_empty()).collect();
    if texts.len() > MAX_TAGS {
        errors.add("X-Reprise-Tags", format!("{} tags; at most {MAX_TAGS} are allowed", texts.len()));
        return Vec::new();
    }
    texts.into_iter().filter_map(|tag| errors.check("X-Reprise-Tags", Tag::new(tag))).collect()
}

fn priority(text: &str) -> Result<Priority, String> {
    let level = text.parse().map_err(|_| format!("{text:?} is not a priority; expected 0 to 9"))?;
    Priority::new(level).map_err(|_| format!("{level} is not a priority; expected 0 to 9"))
}

fn similarity(text: &str) -> Result<Similarity, String> {
    let cosine = text.parse().ok().and_then(|cosine| Similarity::new(cosine).ok());
    cosine.ok_or_else(|| format!("{text:?} is not a cosine; expected a number from -1 to 1"))
}

fn wrong_rate(text: &str) -> Result<WrongRate, String> {
    let share = text.parse().ok().and_then(|share| WrongRate::new(share).ok());
    share.ok_or_else(|| format!("{text:?} is not a share; {}", WrongRate::EXPECTED))
}

fn positive(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be positive".into()),
        wait => Ok(wait),
    }
}

/// `"250ms"`, `"1h 30m"`, or a number of seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let duration = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => humantime::parse_duration(text).ok(),
    };
    duration.ok_or_else(|| format!("{text:?} is not a duration; write for example 250ms, 5s, or seconds"))
}

/// The value of a header that may stand once; an empty one counts as absent.
fn read<'h, T, E: Into<Complaint>>(
    headers: &'h HeaderMap,
    name: &'static str,
    parse: impl Fn(&'h str) -> Result<T, E>,
    errors: &mut Violations,
) -> Option<T> {
    let text = single(headers, name, errors)?;
    errors.check(name, parse(text))
}

fn single<'h>(headers: &'h HeaderMap, name: &'static str, errors: &mut Violations) -> Option<&'h str> {
    let values = all(headers, name, errors);
    // Taking one of two tenants would be a guess.
    if values.len() > 1 {
        errors.add(name, "stands more than once");
    }
    values.first().copied().filter(|text| !text.is_empty())
}

fn all<'h>(headers: &'h HeaderMap, name: &'static str, errors: &mut Violations) -> Vec<&'h str> {
    let values = headers.get_all(name).iter().map(|value| std::str::from_utf8(value.as_bytes()));
    values.filter_map(|text| errors.check(name, text.map(str::trim).map_err(|_| "is not UTF-8".to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{CacheStatus, EntryKey, Error};
    use proptest::prelude::*;

    fn parse(headers: &[(&'static str, &[u8])]) -> Result<Context, Error> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        let mut errors = Violations::default();
        let context = context(&map, "id".into(), Instant::now(), &mut errors);
        errors.finish(context)
    }

    fn cache(value: &str) -> (UseCache, bool, Option<u64>) {
        let controls = parse(&[("cache-control", value.as_bytes())]).unwrap().controls;
        (controls.use_cache, controls.no_store, controls.max_age.map(|age| age.as_secs()))
    }

    #[test]
    fn no_header_is_the_default_owner_and_plain_use() {
        let context = parse(&[]).unwrap();
        assert_eq!(context.owner.to_string(), "default/default");
        assert_eq!(context.controls, CacheControls::default());
        assert_eq!((context.priority, context.deadline, context.id), (Priority::default(), None, "id".into()));
    }

    #[test]
    fn cache_control_follows_the_rfc() {
        for (value, expected) in [
            ("no-cache", (UseCache::Refresh, false, None)),
            ("No-Cache", (UseCache::Refresh, false, None)),
            ("max-age=0", (UseCache::Refresh, false, None)),
            ("no-store", (UseCache::Use, true, None)),
            ("no-cache, no-store", (UseCache::Bypass, true, None)),
            ("max-age=0,no-store", (UseCache::Bypass, true, None)),
            ("only-if-cached", (UseCache::OnlyIfCached, false, None)),
            ("only-if-cached, max-age=5", (UseCache::OnlyIfCached, false, Some(5))),
            ("only-if-cached, no-cache", (UseCache::OnlyIfCached, false, Some(0))),
            ("max-age=60", (UseCache::Use, false, Some(60))),
            ("max-age=\"60\" , max-age = 30", (UseCache::Use, false, Some(30))),
            ("max-age=99999999999999999999", (UseCache::Use, false, Some(u64::from(u32::MAX)))),
            ("max-stale, x-new=\"1\", no-transform,,", (UseCache::Use, false, None)),
        ] {
            assert_eq!(cache(value), expected, "{value}");
        }
    }

    #[test]
    fn two_cache_control_headers_count_as_one_list() {
        let controls = parse(&[("cache-control", b"no-cache"), ("cache-control", b"no-store")]).unwrap().controls;
        assert_eq!(controls.use_cache, UseCache::Bypass);
    }

    #[test]
    fn malformed_directives_are_refused() {
        for value in ["max-age", "max-age=", "max-age=-1", "max-age=1.5", "max-age=soon", "no-store=1"] {
            let error = parse(&[("cache-control", value.as_bytes())]).unwrap_err();
            assert_eq!(error.violations[0].field, "Cache-Control", "{value}");
        }
    }

    #[test]
    fn every_header_lands_in_its_place() {
        let context = parse(&[
            ("x-reprise-tenant", "売".as_bytes()),
            ("x-reprise-namespace", b"faq"),
            ("x-reprise-session", b"s1"),
            ("x-reprise-template", b"v2"),
            ("x-reprise-priority", b"9"),
            ("x-reprise-ttl", b"1h 30m"),
            ("x-reprise-min-similarity", b"0.9"),
            ("x-reprise-tags", b"a, b"),
            ("x-reprise-tags", b"c"),
        ])
        .unwrap();
        assert_eq!(context.owner.to_string(), "売/faq");
        assert_eq!(context.session.unwrap().as_str(), "s1");
        assert_eq!((context.template.as_deref(), context.priority.get()), (Some("v2"), 9));
        assert_eq!(context.controls.ttl, Some(Duration::from_secs(5400)));
        assert_eq!(context.controls.min_similarity.unwrap().get(), 0.9);
        assert_eq!(context.controls.tags.iter().map(Tag::as_str).collect::<Vec<_>>(), ["a", "b", "c"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_timeout_is_a_duration_or_seconds() {
        let start = Instant::now();
        for (text, wait) in [("5s", 5000), ("2.5", 2500), ("250ms", 250)] {
            let deadline = parse(&[("x-reprise-timeout", text.as_bytes())]).unwrap().deadline.unwrap();
            assert_eq!((deadline - start).as_millis(), wait, "{text}");
        }
    }

    #[test]
    fn everything_wrong_is_told_at_once_by_header() {
        let error = parse(&[
            ("x-reprise-tenant", b"a b"),
            ("x-reprise-namespace", b"one"),
            ("x-reprise-namespace", b"two"),
            ("x-reprise-template", b"\xff"),
            ("x-reprise-priority", b"10"),
            ("x-reprise-timeout", b"0"),
            ("x-reprise-ttl", b"-1"),
            ("x-reprise-min-similarity", b"NaN"),
            ("x-reprise-tags", b"fine,not fine"),
        ])
        .unwrap_err();
        let fields: Vec<_> = error.violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "X-Reprise-Tenant",
                "X-Reprise-Namespace",
                "X-Reprise-Template",
                "X-Reprise-Priority",
                "X-Reprise-Timeout",
                "X-Reprise-TTL",
                "X-Reprise-Min-Similarity",
                "X-Reprise-Tags"
            ]
        );
    }

    #[test]
    fn an_outcome_stands_in_the_headers() {
        let mut headers = HeaderMap::new();
        let mut outcome = Outcome {
            status: CacheStatus::Semantic,
            entry: EntryKey::from_bytes([0xab; 32]),
            similarity: Some(Similarity::new(0.97).unwrap()),
            risk: Some(0.00421),
            hit: None,
            age: Some(Duration::from_millis(61_900)),
            reason: None,
            saved: None,
        };
        add_outcome(&mut headers, &outcome);
        assert_eq!(headers["x-reprise-cache"], "semantic");
        assert_eq!(headers["x-reprise-entry"], "ab".repeat(32));
        assert_eq!(headers["x-reprise-similarity"], "0.9700");
        assert_eq!(headers["x-reprise-risk"], "0.0042");
        assert_eq!(headers["age"], "61");
        outcome =
            Outcome { status: CacheStatus::Bypass, similarity: None, age: None, reason: Some("tools"), ..outcome };
        let mut headers = HeaderMap::new();
        add_outcome(&mut headers, &outcome);
        assert_eq!(
            (&headers["x-reprise-cache"], &headers["x-reprise-reason"]),
            (&"bypass".parse().unwrap(), &"tools".parse().unwrap())
        );
        assert!(headers.get("age").is_none() && headers.get("x-reprise-similarity").is_none());
    }

    const NAMES: &[&str] = &[
        "x-reprise-tenant",
        "x-reprise-namespace",
        "x-reprise-session",
        "x-reprise-template",
        "x-reprise-priority",
        "x-reprise-timeout",
        "x-reprise-ttl",
        "x-reprise-min-similarity",
        "x-reprise-tags",
        "cache-control",
    ];

    /// Bytes a header may hold, many of them near what the parsers look for.
    fn header_bytes() -> impl Strategy<Value = Vec<u8>> {
        let near = "(no-cache|no-store|only-if-cached|max-age|max-age=[0-9\"-]{0,24}|[0-9.e+-]{1,24}[a-zµ]{0,3}|nan|inf)([ ,=\"]|,.{0,4})*";
        let any = proptest::collection::vec(any::<u8>(), 0..64);
        prop_oneof![near.prop_map(String::into_bytes), any]
            .prop_map(|bytes| bytes.into_iter().filter(|b| *b == b'\t' || (*b >= 32 && *b != 127)).collect())
    }

    proptest! {
        #[test]
        fn no_header_bytes_panic(values in proptest::collection::vec((0..NAMES.len(), header_bytes()), 0..12)) {
            let headers: Vec<_> = values.iter().map(|(i, bytes)| (NAMES[*i], bytes.as_slice())).collect();
            if let Err(error) = parse(&headers) {
                prop_assert!(!error.violations.is_empty());
            }
        }
    }
}
