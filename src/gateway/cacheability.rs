//! What the cache may do for a request, from the caller's wish, the namespace's policy and the nature of the request.

use crate::config::{AudienceRule, Cache as Settings};
use crate::types::{Audience, CacheMode, ChatRequest, UseCache};

use super::Request;

/// What the cache may do for one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cacheability {
    pub read_exact: bool,
    pub read_semantic: bool,
    pub write: bool,
    /// Decide and record, but serve from upstream.
    pub shadow: bool,
    /// What kept it from being fully cacheable, in a stable word or two.
    pub reason: Option<&'static str>,
}

impl Cacheability {
    const FULL: Self = Self { read_exact: true, read_semantic: true, write: true, shadow: false, reason: None };

    fn bypass(reason: &'static str) -> Self {
        Self { read_exact: false, read_semantic: false, write: false, shadow: false, reason: Some(reason) }
    }

    /// Neither read nor written.
    pub fn is_bypass(&self) -> bool {
        !self.read_exact && !self.write
    }
}

/// Who may be served what this request leaves behind.
pub fn audience(request: &Request, settings: &Settings) -> Audience {
    let user = request.user.clone().filter(|_| settings.audience == AudienceRule::User);
    match (user, request.session.clone()) {
        (Some(user), Some(session)) => Audience::UserSession(user, session),
        (Some(user), None) => Audience::User(user),
        (None, Some(session)) => Audience::Session(session),
        (None, None) => Audience::Shared,
    }
}

/// What the cache may do for `request`. `has_probe`: whether it can be compared by meaning.
pub fn cacheability(request: &Request, settings: &Settings, has_probe: bool) -> Cacheability {
    let controls = &request.controls;
    if settings.mode == CacheMode::Off {
        return Cacheability::bypass("cache off");
    }
    if controls.use_cache == UseCache::Bypass {
        return Cacheability::bypass("requested");
    }
    if let Some(reason) = uncacheable(&request.chat) {
        return Cacheability::bypass(reason);
    }
    // Without a user there is nobody to keep the answer to, and keeping it to "nobody" would share it.
    if settings.audience == AudienceRule::User && request.user.is_none() {
        return Cacheability::bypass("no user");
    }
    if settings.bypass_time_sensitive && is_time_sensitive(&request.chat) {
        return Cacheability::bypass("time-sensitive");
    }
    let mut allowed = Cacheability { write: !controls.no_store, ..Cacheability::FULL };
    if request.chat.has_tools() {
        // The answer may hang on what a tool would say now.
        allowed.read_semantic = false;
        allowed.reason = Some("tools");
    } else if !has_probe {
        allowed.read_semantic = false;
        allowed.reason = Some("no text to compare");
    }
    if controls.use_cache == UseCache::Refresh {
        allowed.read_exact = false;
        allowed.read_semantic = false;
        allowed.reason = Some("refresh");
    }
    allowed.shadow = settings.mode == CacheMode::Shadow;
    allowed
}

/// Why no answer to such a request is ever reused.
fn uncacheable(chat: &ChatRequest) -> Option<&'static str> {
    if chat.n.is_some_and(|n| n > 1) {
        // Several samples are asked for because they differ.
        Some("n > 1")
    } else if chat.logprobs == Some(true) {
        Some("logprobs")
    } else {
        None
    }
}

/// Phrases that ask for the present moment. Narrow on purpose: a false alarm costs a hit, "currently" alone is in
/// half of all questions.
const NOW_PHRASES: &[&str] = &[
    "right now",
    "as of now",
    "at the moment",
    "today",
    "tonight",
    "tomorrow",
    "yesterday",
    "this morning",
    "this afternoon",
    "this evening",
    "this week",
    "what time is it",
    "what day is it",
    "current time",
    "current date",
    "current weather",
    "latest news",
    "breaking news",
    "live score",
    "stock price",
];

/// The same in Chinese, which has no spaces between words.
const NOW_PHRASES_ZH: &[&str] = &[
    "现在几点",
    "今天",
    "今晚",
    "明天",
    "昨天",
    "此刻",
    "目前的天气",
    "当前时间",
    "最新新闻",
    "最新消息",
    "实时",
    "本周",
];

fn is_time_sensitive(chat: &ChatRequest) -> bool {
    let Some(text) = chat.messages.last().and_then(|m| m.text()) else { return false };
    // The question is what asks for the moment; a long pasted text may hold any word.
    if text.len() > 2000 {
        return false;
    }
    let text = text.to_lowercase();
    NOW_PHRASES.iter().any(|phrase| contains_words(&text, phrase))
        || NOW_PHRASES_ZH.iter().any(|phrase| text.contains(phrase))
}

/// Whether `phrase` stands in `text` on word boundaries.
fn contains_words(text: &str, phrase: &str) -> bool {
    text.match_indices(phrase).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + phrase.len()..].chars().next();
        // "today's" asks for today too, so an apostrophe is a boundary.
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::request;
    use super::*;
    use crate::types::{SessionId, UserId};

    fn of(request: &Request, settings: &Settings) -> Cacheability {
        cacheability(request, settings, request.chat.probe().is_some())
    }

    #[test]
    fn an_ordinary_question_is_fully_cacheable() {
        assert_eq!(of(&request("What is the capital of France?"), &Settings::default()), Cacheability::FULL);
    }

    #[test]
    fn sampling_several_answers_or_logprobs_bypasses() {
        let mut several = request("q");
        several.chat.n = Some(2);
        assert_eq!(of(&several, &Settings::default()).reason, Some("n > 1"));
        let mut logprobs = request("q");
        logprobs.chat.logprobs = Some(true);
        assert!(of(&logprobs, &Settings::default()).is_bypass());
    }

    #[test]
    fn callers_choose_to_read_or_to_write() {
        let mut refresh = request("q");
        refresh.controls.use_cache = UseCache::Refresh;
        let allowed = of(&refresh, &Settings::default());
        assert!(!allowed.read_exact && allowed.write && !allowed.is_bypass());
        let mut no_store = request("q");
        no_store.controls.no_store = true;
        let allowed = of(&no_store, &Settings::default());
        assert!(allowed.read_exact && !allowed.write);
    }

    #[test]
    fn tools_keep_to_exact_hits() {
        let mut tools = request("q");
        tools.chat.tools = Some(vec![serde_json::json!({"type": "function"})]);
        let allowed = of(&tools, &Settings::default());
        assert!(allowed.read_exact && !allowed.read_semantic);
    }

    #[test]
    fn questions_about_now_bypass_unless_told_otherwise() {
        for now in
            ["What's the weather today?", "TODAY'S news", "what time is it", "今天天气怎么样？", "bitcoin stock price"]
        {
            assert_eq!(of(&request(now), &Settings::default()).reason, Some("time-sensitive"), "{now}");
        }
        for timeless in ["How do todays engines differ from todayish ones?", "Is the moment of inertia a tensor?"] {
            assert_eq!(of(&request(timeless), &Settings::default()), Cacheability::FULL, "{timeless}");
        }
        let off = Settings { bypass_time_sensitive: false, ..Settings::default() };
        assert_eq!(of(&request("What's the weather today?"), &off), Cacheability::FULL);
    }

    #[test]
    fn a_user_audience_without_a_user_bypasses() {
        let settings = Settings { audience: AudienceRule::User, ..Settings::default() };
        assert_eq!(of(&request("q"), &settings).reason, Some("no user"));
        let mut known = request("q");
        known.user = Some(UserId::new("bo").unwrap());
        assert_eq!(of(&known, &settings), Cacheability::FULL);
        assert_eq!(audience(&known, &settings), Audience::User(UserId::new("bo").unwrap()));
        assert_eq!(audience(&known, &Settings::default()), Audience::Shared);
        let session = SessionId::new("1").unwrap();
        known.session = Some(session.clone());
        assert_eq!(audience(&known, &settings), Audience::UserSession(UserId::new("bo").unwrap(), session));
    }
}
