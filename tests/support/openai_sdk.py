#!/usr/bin/env python3
"""Drives the official `openai` SDK, unmodified, against a running service.

    openai_sdk.py BASE_URL CHAT_MODEL [EMBEDDING_MODEL]

BASE_URL ends in /v1. CHAT_MODEL must answer any prompt with some text. Exits with 0 when every check held, and with
1 after the first one that did not. Needs the `openai` package and nothing else.
"""

import base64
import struct
import sys
import uuid

import openai

UNKNOWN = "no-such-model-anywhere"


def main(base_url, model, embedding_model):
    client = openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0, timeout=60)
    # A prompt of its own for each run, so that the first answer is a miss.
    prompt = f"Say something about run {uuid.uuid4().hex}."
    checks = [
        (plain_then_streamed, (client, model, prompt)),
        (streamed_then_plain, (client, model, "Stream first. " + prompt)),
        (stream_without_usage, (client, model, prompt)),
        (stream_helper, (client, model, prompt)),
        (unknown_body_field, (client, model, "Pass it on. " + prompt)),
        (cache_controls, (client, model, "Only from the cache. " + prompt)),
        (unknown_model, (client, model)),
        (bad_requests, (client, model)),
        (models, (client, model)),
    ]
    if embedding_model:
        checks.append((embeddings, (client, embedding_model)))
    for check, arguments in checks:
        check(*arguments)
        print("ok", check.__name__, flush=True)


def plain_then_streamed(client, model, prompt):
    raw = client.chat.completions.with_raw_response.create(model=model, messages=user(prompt))
    first = raw.parse()
    same(raw.headers["x-reprise-cache"], "miss")
    same(len(raw.headers["x-reprise-entry"]), 64)
    true(raw.headers["x-request-id"], "a request id")
    same(first.object, "chat.completion")
    true(first.id.startswith("chatcmpl-"), f"id {first.id}")
    true(first.created > 1_600_000_000, f"created {first.created}")
    same(len(first.choices), 1)
    choice = first.choices[0]
    same((choice.index, choice.message.role), (0, "assistant"))
    true(choice.message.content, "an answer with text")
    true(choice.finish_reason in ("stop", "length"), f"finish_reason {choice.finish_reason}")
    same(first.usage.total_tokens, first.usage.prompt_tokens + first.usage.completion_tokens)

    # What was remembered from the whole answer serves a stream, in the shape of a live one.
    text, finish, usage, headers = stream(client, model, prompt, include_usage=True)
    same(text, choice.message.content)
    same(finish, choice.finish_reason)
    same(usage.total_tokens, first.usage.total_tokens)
    if choice.finish_reason == "stop":
        same(headers["x-reprise-cache"], "exact")
        true(int(headers["age"]) >= 0, "an age")


def streamed_then_plain(client, model, prompt):
    text, finish, usage, headers = stream(client, model, prompt, include_usage=True)
    same(headers["x-reprise-cache"], "miss")
    true(text, "a streamed answer with text")
    raw = client.chat.completions.with_raw_response.create(model=model, messages=user(prompt))
    whole = raw.parse()
    if finish == "stop":
        same(raw.headers["x-reprise-cache"], "exact")
        same(whole.choices[0].message.content, text)
        same(whole.usage.total_tokens, usage.total_tokens)


def stream_without_usage(client, model, prompt):
    _, _, usage, _ = stream(client, model, prompt, include_usage=False)
    same(usage, None)


def stream_helper(client, model, prompt):
    """The SDK's own accumulator is strict about the order and shape of chunks."""
    with client.chat.completions.stream(model=model, messages=user(prompt)) as events:
        for _ in events:
            pass
        final = events.get_final_completion()
    true(final.choices[0].message.content, "an accumulated answer")
    true(final.choices[0].finish_reason in ("stop", "length"), "an accumulated finish reason")


def unknown_body_field(client, model, prompt):
    reply = client.chat.completions.create(
        model=model, messages=user(prompt), extra_body={"x_unknown_field": {"kept": [1, 2]}}
    )
    true(reply.choices[0].message.content, "an answer to a request with an unknown field")


def cache_controls(client, model, prompt):
    only = {"Cache-Control": "only-if-cached"}
    try:
        client.chat.completions.create(model=model, messages=user(prompt), extra_headers=only)
        raise AssertionError("an answer that was never made")
    except openai.APIStatusError as error:
        same((error.status_code, error.code), (504, "NOT_CACHED"))
    never = {"Cache-Control": "no-cache, no-store"}
    raw = client.chat.completions.with_raw_response.create(
        model=model, messages=user(prompt), extra_headers=never
    )
    same(raw.headers["x-reprise-cache"], "bypass")
    true("age" not in raw.headers, "no age on what is not a hit")


def unknown_model(client, model):
    try:
        client.chat.completions.create(model=UNKNOWN, messages=user("hi"))
        raise AssertionError("an unknown model answered")
    except openai.NotFoundError as error:
        same(error.type, "invalid_request_error")
        true(UNKNOWN in error.message, f"the model's name in {error.message!r}")
    try:
        client.chat.completions.create(model=UNKNOWN, messages=user("hi"), stream=True)
        raise AssertionError("an unknown model streamed")
    except openai.NotFoundError:
        pass


def bad_requests(client, model):
    for body, field in [
        ({"messages": []}, "messages"),
        ({"messages": user("")}, "messages[0].content"),
        ({"messages": user("hi"), "temperature": 9}, "temperature"),
        ({"messages": user("hi"), "temperature": "hot"}, "temperature"),
        ({"messages": [{"role": "king", "content": "hi"}]}, "messages[0].role"),
    ]:
        try:
            client.chat.completions.create(model=model, **body)
            raise AssertionError(f"{body} was answered")
        except openai.BadRequestError as error:
            same(error.param, field)
            same(error.code, "INVALID_ARGUMENT")


def models(client, model):
    listed = [m.id for m in client.models.list()]
    true(listed, "a list of models")
    name = model if model in listed else listed[0]
    same(client.models.retrieve(name).id, name)
    try:
        client.models.retrieve(UNKNOWN)
        raise AssertionError("an unknown model was found")
    except openai.NotFoundError:
        pass


def embeddings(client, model):
    texts = ["How do I reset my password?", "What is the capital of France?"]
    # The SDK asks for base64 by itself, and decodes it.
    decoded = client.embeddings.create(model=model, input=texts)
    same([row.index for row in decoded.data], [0, 1])
    true(decoded.usage.prompt_tokens > 0, "tokens of the embedded texts")
    for row in decoded.data:
        true(abs(sum(x * x for x in row.embedding) - 1) < 1e-3, "a unit vector")
    floats = client.embeddings.create(model=model, input=texts[0], encoding_format="float")
    true(close(floats.data[0].embedding, decoded.data[0].embedding), "the same vector in both formats")
    coded = client.embeddings.create(model=model, input=texts[0], encoding_format="base64")
    raw = base64.b64decode(coded.data[0].embedding)
    true(close(struct.unpack(f"<{len(raw) // 4}f", raw), floats.data[0].embedding), "little-endian floats")
    for wrong in [{"input": [[1, 2, 3]]}, {"input": texts[0], "dimensions": 7}]:
        try:
            client.embeddings.create(model=model, **wrong)
            raise AssertionError(f"{wrong} was embedded")
        except openai.BadRequestError as error:
            same(error.code, "INVALID_ARGUMENT")


def stream(client, model, prompt, include_usage):
    """Text, finish reason, usage and headers of a streamed answer; checks the shape of its chunks."""
    options = {"stream_options": {"include_usage": True}} if include_usage else {}
    raw = client.chat.completions.with_raw_response.create(
        model=model, messages=user(prompt), stream=True, **options
    )
    chunks = list(raw.parse())
    true(raw.headers["content-type"].startswith("text/event-stream"), raw.headers["content-type"])
    same({chunk.object for chunk in chunks}, {"chat.completion.chunk"})
    same(len({chunk.id for chunk in chunks}), 1)
    usage = chunks.pop() if include_usage else None
    if usage:
        same(usage.choices, [])
    same(chunks[0].choices[0].delta.role, "assistant")
    finishes = [chunk.choices[0].finish_reason for chunk in chunks]
    same([f for f in finishes if f], finishes[-1:])
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    return text, finishes[-1], usage and usage.usage, raw.headers


def user(text):
    return [{"role": "user", "content": text}]


def close(a, b):
    return len(a) == len(b) and all(abs(x - y) < 1e-4 for x, y in zip(a, b))


def same(got, expected):
    if got != expected:
        raise AssertionError(f"expected {expected!r}, got {got!r}")


def true(held, what):
    if not held:
        raise AssertionError(f"expected {what}")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) == 4 else None)
