"""The one form in which a prompt is read: a single turn as it is, a conversation as lines with a role before each."""

from __future__ import annotations

Prompt = str | list[dict[str, str]] | list[tuple[str, str]]
"""A turn is `{"role": …, "content": …}` or `[role, content]`."""


def written(prompt: Prompt) -> str:
    """`[user, assistant, user]` becomes three lines, `role: content`; system turns belong to the scope and are left out.

    A conversation of one turn is that turn alone, so it reads like a prompt without a conversation.
    """
    if isinstance(prompt, str):
        return prompt
    both = [(turn["role"], turn["content"]) if isinstance(turn, dict) else turn for turn in prompt]
    turns = [(role, content.strip()) for role, content in both if role != "system"]
    if len(turns) == 1:
        return turns[0][1]
    return "\n".join(f"{role}: {content}" for role, content in turns)
