//! Messages of the protocol to the service's own types, with every check on input.

use serde_json::{Map, Value};

use super::pb;
use crate::surface::{Violations, chat_from_json, object, parse_answer, rename_fields};
use crate::types::json::parse_strict;
use crate::types::{Answer, ChatRequest, Content, FinishReason, Message, Result, Role, Stop, Usage};

/// Fields of a chat request that have a field of their own in the protocol, or that the call itself decides.
const OWN_CHAT_FIELDS: &[&str] =
    &["model", "messages", "temperature", "top_p", "max_tokens", "stop", "seed", "stream", "stream_options"];
const OWN_MESSAGE_FIELDS: &[&str] = &["role", "content"];

/// Reads a chat request; what is wrong goes to `errors`, under `at`. `None` only after a violation.
pub fn chat(wire: Option<pb::ChatRequest>, at: &str, errors: &mut Violations) -> Option<ChatRequest> {
    let Some(wire) = wire else {
        errors.add(at, "is missing");
        return None;
    };
    let extra = extra_json(&wire.extra_json, OWN_CHAT_FIELDS, at, errors)?;
    let messages = wire.messages.into_iter().enumerate();
    // All messages are read before the first failure counts, so that every violation is told.
    let messages: Vec<_> = messages.map(|(i, m)| message(m, &format!("{at}.messages[{i}]"), errors)).collect();
    let messages = messages.into_iter().collect::<Option<Vec<_>>>()?;
    let mut chat = if extra.is_empty() {
        ChatRequest::new(wire.model, messages)
    } else {
        let mut body = extra;
        body.insert("messages".into(), Value::Array(Vec::new()));
        let read = errors.under(&format!("{at}.extra_json"), chat_from_json(body))?;
        ChatRequest { model: wire.model, messages, ..read }
    };
    chat.temperature = wire.temperature;
    chat.top_p = wire.top_p;
    chat.max_tokens = wire.max_tokens;
    chat.seed = wire.seed;
    chat.stop = (!wire.stop.is_empty()).then_some(Stop::Many(wire.stop));
    Some(chat)
}

fn message(wire: pb::Message, at: &str, errors: &mut Violations) -> Option<Message> {
    let role = match pb::Role::try_from(wire.role) {
        Ok(pb::Role::System) => Some(Role::System),
        Ok(pb::Role::User) => Some(Role::User),
        Ok(pb::Role::Assistant) => Some(Role::Assistant),
        Ok(pb::Role::Tool) => Some(Role::Tool),
        Ok(pb::Role::Unspecified) => {
            errors.add(format!("{at}.role"), "must be set");
            None
        }
        Err(_) => {
            errors.add(format!("{at}.role"), format!("{} is not a Role", wire.role));
            None
        }
    };
    let extra = extra_json(&wire.extra_json, OWN_MESSAGE_FIELDS, at, errors);
    let content = if wire.content_json.is_empty() {
        Some(Content::Text(wire.content))
    } else if wire.content.is_empty() {
        parts(&wire.content_json, &format!("{at}.content_json"), errors)
    } else {
        errors.add(format!("{at}.content_json"), "content is set too; only one of the two may be");
        None
    };
    let (role, content, extra) = (role?, content?, extra?);
    // An assistant turn that only calls tools has no content at all, in OpenAI's shape.
    let only_calls =
        role == Role::Assistant && (extra.contains_key("tool_calls") || extra.contains_key("function_call"));
    let content = (!only_calls || content != Content::Text(String::new())).then_some(content);
    Some(Message { role, content, extra })
}

fn parts(json: &str, at: &str, errors: &mut Violations) -> Option<Content> {
    match parse_strict(json.as_bytes()) {
        Ok(Value::Array(parts)) => Some(Content::Parts(parts)),
        Ok(_) => {
            errors.add(at, "expected a JSON array of content parts");
            None
        }
        Err(error) => errors.check(at, Err(error)),
    }
}

/// The object in an `extra_json` field, without fields that the protocol has under their own name: two places for one
/// thing could disagree.
fn extra_json(json: &str, own: &[&str], at: &str, errors: &mut Violations) -> Option<Map<String, Value>> {
    if json.is_empty() {
        return Some(Map::new());
    }
    let at = format!("{at}.extra_json");
    let map = errors.check(&at, parse_strict(json.as_bytes()))?;
    let map = errors.check(&at, object(map))?;
    let mut twice = own.iter().filter(|name| map.contains_key(**name)).peekable();
    if twice.peek().is_none() {
        return Some(map);
    }
    for name in twice {
        errors.add(
            format!("{at}.{name}"),
            match *name {
                "stream" | "stream_options" => "is decided by the call".to_owned(),
                name => format!("belongs into the field {name}"),
            },
        );
    }
    None
}

/// Reads an answer to be stored; what is wrong goes to `errors`, under `answer`. `None` only after a violation.
pub fn answer(wire: Option<pb::Answer>, usage: Option<pb::Usage>, errors: &mut Violations) -> Option<Answer> {
    let Some(wire) = wire else {
        errors.add("answer", "is missing");
        return None;
    };
    let usage = usage.map(|u| Usage::new(u.prompt_tokens, u.completion_tokens));
    if wire.completion_json.is_empty() {
        let mut answer = Answer::text(wire.model, wire.content, usage.unwrap_or_default());
        if !wire.finish_reason.is_empty() {
            answer.choices[0].finish = FinishReason::from(wire.finish_reason.as_str());
        }
        return Some(answer);
    }
    const AT: &str = "answer.completion_json";
    let completion = errors.check(AT, parse_strict(wire.completion_json.as_bytes()))?;
    let mut answer = errors.under(AT, parse_answer(completion))?;
    for (field, said, meant) in [
        ("answer.content", &wire.content, answer.content()),
        ("answer.model", &wire.model, answer.model.as_str()),
        ("answer.finish_reason", &wire.finish_reason, answer.finish().as_str()),
    ] {
        if !said.is_empty() && said != meant {
            errors.add(field, "is not what completion_json says");
        }
    }
    if let Some(usage) = usage {
        answer.usage = Usage { extra: answer.usage.extra, ..usage };
    }
    Some(answer)
}

/// Puts the fields the gateway complains of under the place of the chat request in the message.
pub fn under<T>(at: &str, result: Result<T>) -> Result<T> {
    let place = |field: &str| if field.starts_with("answer") { field.to_owned() } else { format!("{at}.{field}") };
    result.map_err(|error| rename_fields(error, place))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::encode::to_answer;
    use crate::types::Error;
    use serde_json::json;

    fn user(text: &str) -> pb::Message {
        pb::Message { role: pb::Role::User.into(), content: text.into(), ..Default::default() }
    }

    fn read(wire: pb::ChatRequest) -> Result<ChatRequest, Error> {
        let mut errors = Violations::default();
        let chat = chat(Some(wire), "chat", &mut errors);
        errors.finish(chat)
    }

    fn fields(error: Error) -> Vec<String> {
        error.violations.into_iter().map(|v| v.field).collect()
    }

    #[test]
    fn a_chat_request_arrives_whole() {
        let wire = pb::ChatRequest {
            model: "m".into(),
            messages: vec![user("hi")],
            temperature: Some(0.5),
            max_tokens: Some(9),
            stop: vec!["x".into()],
            seed: Some(-1),
            extra_json: r#"{"n": 2, "tools": [{"type": "function"}], "reasoning_effort": "low"}"#.into(),
            ..Default::default()
        };
        let chat = read(wire).unwrap();
        assert_eq!((chat.model.as_str(), chat.temperature, chat.max_tokens), ("m", Some(0.5), Some(9)));
        assert_eq!((chat.n, chat.seed, chat.stop_sequences()), (Some(2), Some(-1), &["x".to_owned()][..]));
        assert_eq!(chat.tools.unwrap()[0]["type"], "function");
        assert_eq!(chat.extra["reasoning_effort"], "low");
        assert_eq!(chat.messages[0].text().unwrap(), "hi");
    }

    #[test]
    fn parts_and_tool_turns_keep_their_shape() {
        let parts = pb::Message {
            role: pb::Role::User.into(),
            content_json: r#"[{"type":"image_url","image_url":{"url":"u"}}]"#.into(),
            ..Default::default()
        };
        let calls = pb::Message {
            role: pb::Role::Assistant.into(),
            extra_json: r#"{"tool_calls":[{"id":"c"}]}"#.into(),
            ..Default::default()
        };
        let chat = read(pb::ChatRequest { messages: vec![parts, calls], ..Default::default() }).unwrap();
        assert!(matches!(&chat.messages[0].content, Some(Content::Parts(parts)) if parts.len() == 1));
        assert_eq!(chat.messages[1].content, None);
        assert_eq!(chat.messages[1].extra["tool_calls"], json!([{"id": "c"}]));
    }

    #[test]
    fn wrong_messages_are_all_named() {
        let role = |role| pb::Message { role, content: "a".into(), ..Default::default() };
        let both = pb::Message { content_json: "[]".into(), ..user("a") };
        let object = pb::Message { content_json: "{}".into(), ..user("") };
        let twice = pb::Message { extra_json: r#"{"role": "user"}"#.into(), ..user("a") };
        let messages = vec![role(0), role(77), both, object, twice];
        assert_eq!(
            fields(read(pb::ChatRequest { messages, ..Default::default() }).unwrap_err()),
            [
                "chat.messages[0].role",
                "chat.messages[1].role",
                "chat.messages[2].content_json",
                "chat.messages[3].content_json",
                "chat.messages[4].extra_json.role"
            ]
        );
    }

    #[test]
    fn extra_json_is_an_object_without_fields_of_the_protocol() {
        for (extra, field) in [
            ("[1]", "chat.extra_json"),
            ("{", "chat.extra_json"),
            (r#"{"a":1,"a":2}"#, "chat.extra_json"),
            (r#"{"temperature":1}"#, "chat.extra_json.temperature"),
            (r#"{"stream":true}"#, "chat.extra_json.stream"),
            (r#"{"n":"many"}"#, "chat.extra_json.n"),
        ] {
            let wire = pb::ChatRequest { messages: vec![user("a")], extra_json: extra.into(), ..Default::default() };
            assert_eq!(fields(read(wire).unwrap_err()), [field], "{extra}");
        }
        let newer = pb::ChatRequest {
            messages: vec![user("a")],
            extra_json: r#"{"max_completion_tokens":5}"#.into(),
            ..Default::default()
        };
        assert_eq!(read(newer).unwrap().max_answer_tokens(), Some(5));
    }

    #[test]
    fn a_missing_chat_is_a_violation() {
        let mut errors = Violations::default();
        assert_eq!(chat(None, "chat", &mut errors), None);
        assert_eq!(errors.finish(Some(())).unwrap_err().message, "chat: is missing");
    }

    #[test]
    fn a_stored_answer_is_plain_or_a_completion() {
        let store = |wire, usage| {
            let mut errors = Violations::default();
            let answer = answer(Some(wire), usage, &mut errors);
            errors.finish(answer)
        };
        let plain = pb::Answer { content: "hi".into(), model: "m".into(), ..Default::default() };
        let usage = Some(pb::Usage { prompt_tokens: 3, completion_tokens: 2 });
        assert_eq!(store(plain.clone(), usage).unwrap(), Answer::text("m", "hi", Usage::new(3, 2)));
        let cut = store(pb::Answer { finish_reason: "length".into(), ..plain.clone() }, None).unwrap();
        assert_eq!(*cut.finish(), FinishReason::Length);

        let mut rich = Answer::text("m", "hi", Usage::new(3, 2));
        rich.extra.insert("system_fingerprint".into(), "fp".into());
        let wire = to_answer(&rich);
        assert_eq!(store(wire.clone(), None).unwrap(), rich, "what was sent can be stored again");
        let error = store(pb::Answer { content: "other".into(), ..wire }, None).unwrap_err();
        assert_eq!(fields(error), ["answer.content"]);
        let broken = pb::Answer { completion_json: r#"{"choices":[]}"#.into(), ..Default::default() };
        assert_eq!(fields(store(broken, None).unwrap_err()), ["answer.completion_json.choices"]);
    }

    #[test]
    fn fields_the_gateway_complains_of_get_their_place_in_the_message() {
        let complaint = |field| under::<()>("chats[2]", Err(Error::invalid(field, "no"))).unwrap_err();
        assert_eq!(complaint("messages[0].content").message, "chats[2].messages[0].content: no");
        assert_eq!(fields(complaint("messages[0].content")), ["chats[2].messages[0].content"]);
        assert_eq!(fields(complaint("answer.content")), ["answer.content"]);
    }
}
