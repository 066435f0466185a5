"""Generated conversations: a question of a group, an answer that says little, and a follow-up that needs the question.

Two are the same when their questions are of one group and their follow-ups ask for one thing.
"""

from __future__ import annotations

import random

from pairs import Pair
from prompts import written

FOLLOW_UPS = [
    ["How much does it cost?", "what's the price of that?", "And what would I pay for it?"],
    ["How long does it take?", "what's the time needed for that?", "And how many hours or days should I plan for it?"],
    ["Can you explain that in more detail?", "tell me more about it", "I'd like a longer explanation please"],
    ["Is it safe?", "any danger in that?", "Could that hurt anyone?"],
    ["Can you give me an example?", "show me an example", "What would that look like in practice?"],
    ["Is there a cheaper way?", "anything less expensive than that?", "can I do that for less money?"],
    ["Why is that?", "what's the reason for it?", "How come?"],
    ["What do I need for it?", "which things are required for that?", "Tell me what I should have ready"],
    ["And what if it doesn't work?", "what do I do if that fails?", "suppose that goes wrong, then what?"],
    ["Who can help me with that?", "whom do I ask about it?", "Is there somebody I can turn to for this?"],
    ["Where can I read more on it?", "any good sources on that?", "Which page or book covers this?"],
    ["Does that work on weekends too?", "is it the same on Saturdays and Sundays?", "What about weekends?"],
    ["What are the alternatives?", "any other options?", "Is there something else I could do instead?"],
    ["Can I undo it later?", "is that reversible?", "Could I take it back afterwards?"],
    ["Do I have to pay tax on it?", "is that taxable?", "Will the tax office want a part of that?"],
    ["Summarise that in one line", "give me the short version", "tl;dr please"],
    ["Are there any risks?", "what could go wrong with it?", "Tell me about the downsides"],
    ["Is that the same in every country?", "does it differ from country to country?", "Do other countries do it the same way?"],
    ["Cancel it", "please call that off", "I don't want it any more, cancel that"],
    ["Yes, do it", "yes please go ahead", "ok, go on with that"],
    ["Change it to tomorrow", "move that to tomorrow", "make it tomorrow instead"],
    ["When did that start?", "since when is it so?", "How long ago did it begin?"],
    ["Can I do it online?", "is there a way over the internet?", "Could I handle that on the web?"],
    ["What's the first step?", "how do I begin with that?", "Where do I start?"],
]
OPENINGS = [
    ("Hi", "Hello! How can I help?"),
    ("Hey, do you have a minute?", "Of course, what is it?"),
    ("Good morning", "Good morning! What can I do for you?"),
    ("hello there", "Hi, what would you like to know?"),
    ("I have a question", "Sure, go ahead."),
    ("Are you there?", "Yes, I am. What do you need?"),
    ("Quick question for you", "Happy to help. What is it?"),
]
ANSWERS = [
    "Sure, I can help with that.", "Good question. In short: it depends on a few things.", "Yes, here is a short overview.",
    "Let me explain that briefly.", "Thanks for asking. Here is what I know.", "Of course. I have put the main points together.",
    "That is a common question, and there is a clear answer.", "Right, this is how it usually goes.", "OK, I have noted that.",
]  # fmt: skip


def talk(question: str, follow_up: str | None, echo: str | None, dice: random.Random) -> str:
    turns = []
    if dice.random() < 0.4 or follow_up is None:
        hello, welcome = dice.choice(OPENINGS)
        turns += [("user", hello), ("assistant", welcome)]
    turns.append(("user", question))
    if follow_up is not None:
        answer = dice.choice(ANSWERS)
        turns += [("assistant", f"{answer} You asked: {echo}" if echo else answer), ("user", follow_up)]
    return written([{"role": role, "content": content} for role, content in turns])


def talks(units: list[list[Pair]], count: int, dice: random.Random) -> list[Pair]:
    """So many pairs of conversations, about as many right as wrong ones, from units that have both."""
    units = [unit for unit in units if {pair.label for pair in unit} == {0, 1} and "\n" not in unit[0].a]
    out: list[Pair] = []
    while units and len(out) < count:
        unit = dice.choice(units)
        right = dice.choice([pair for pair in unit if pair.label])
        wrong = dice.choice([pair for pair in unit if not pair.label])
        if dice.random() < 0.25:
            for pair in (right, wrong):
                out.append(Pair(talk(pair.a, None, None, dice), pair.b, pair.label, "talks", "greeting"))
            continue
        one, other = dice.sample(FOLLOW_UPS, 2)
        asked = dice.sample(one, 2) if dice.random() < 0.6 else [one[0]] * 2
        echoes = [dice.random() < 0.3 for _ in range(2)]

        def both(a: str, b: str, first: str, second: str) -> tuple[str, str]:
            return (talk(a, first, a if echoes[0] else None, dice), talk(b, second, b if echoes[1] else None, dice))

        out.append(Pair(*both(right.a, right.b, *asked), 1, "talks", "same"))
        if dice.random() < 0.7:
            out.append(Pair(*both(wrong.a, wrong.b, *asked), 0, "talks", "other question"))
        else:
            out.append(Pair(*both(right.a, right.b, asked[0], dice.choice(other)), 0, "talks", "other follow-up"))
    return out[:count]
