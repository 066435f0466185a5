"""Harmless changes: what real people do to a prompt without asking for anything else.

Applied to right and wrong pairs alike, so that such a change carries no label.
"""

from __future__ import annotations

import random
import re

BEFORE = (
    "please ",
    "hi, ",
    "hello, ",
    "hey, ",
    "could you tell me ",
    "can you tell me ",
    "i'd like to know ",
    "quick question: ",
    "i want to know ",
    "tell me ",
    "just wondering, ",
    "so ",
    "ok, ",
    "question: ",
    "i need to know ",
    "help: ",
    "good morning. ",
    "hi there! ",
    "excuse me, ",
    "sorry to bother you, ",
    "one more thing: ",
    "yo, ",
)
AFTER = (
    " please",
    " thanks",
    " thank you",
    " thanks in advance",
    " pls",
    " thx",
    " any idea?",
    " please help",
    " cheers",
    " i'd appreciate it",
    " many thanks",
    " asap",
    " :)",
    " anyone?",
    " if you can",
    " - thanks!",
)
CONTRACTIONS = (
    ("what is", "what's"),
    ("how is", "how's"),
    ("who is", "who's"),
    ("where is", "where's"),
    ("that is", "that's"),
    ("it is", "it's"),
    ("i am", "i'm"),
    ("i have", "i've"),
    ("do not", "don't"),
    ("does not", "doesn't"),
    ("can not", "can't"),
    ("cannot", "can't"),
    ("is not", "isn't"),
    ("are not", "aren't"),
    ("will not", "won't"),
    ("did not", "didn't"),
    ("should not", "shouldn't"),
    ("i will", "i'll"),
    ("you are", "you're"),
    ("we are", "we're"),
)
KEYS = {
    "a": "sq",
    "b": "vn",
    "c": "xv",
    "d": "sf",
    "e": "wr",
    "f": "dg",
    "g": "fh",
    "h": "gj",
    "i": "uo",
    "j": "hk",
    "k": "jl",
    "l": "k",
    "m": "n",
    "n": "bm",
    "o": "ip",
    "p": "o",
    "q": "w",
    "r": "et",
    "s": "ad",
    "t": "ry",
    "u": "yi",
    "v": "cb",
    "w": "qe",
    "x": "zc",
    "y": "tu",
    "z": "x",
}


def noisy(text: str, dice: random.Random) -> str:
    change = dice.choice((before, after, contract, typo, typo, punctuation, punctuation))
    return change(text, dice)


def before(text: str, dice: random.Random) -> str:
    return dice.choice(BEFORE) + text


def after(text: str, dice: random.Random) -> str:
    return text.rstrip(" ") + dice.choice(AFTER)


def contract(text: str, dice: random.Random) -> str:
    lower = text.lower()
    for long, short in dice.sample(CONTRACTIONS, len(CONTRACTIONS)):
        for old, new in ((long, short), (short, long)):
            if re.search(rf"\b{old}\b", lower):
                return re.sub(rf"\b{old}\b", new, lower, count=1)
    return punctuation(text, dice)


def typo(text: str, dice: random.Random) -> str:
    """In a word of five letters or more, not its first letter: never in a number or a short word that decides."""
    words = [m for m in re.finditer(r"\b[a-z]{5,}\b", text)]
    if not words:
        return text
    word = dice.choice(words)
    at = dice.randrange(word.start() + 1, word.end() - 1)
    kind = dice.randrange(4)
    if kind == 0:
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    if kind == 1:
        return text[:at] + text[at + 1 :]
    if kind == 2:
        return text[:at] + text[at] + text[at:]
    return text[:at] + dice.choice(KEYS.get(text[at], text[at])) + text[at + 1 :]


def punctuation(text: str, dice: random.Random) -> str:
    kind = dice.randrange(4)
    if kind == 0:
        return text.rstrip("?.! ")
    if kind == 1:
        return text.rstrip("?.! ") + dice.choice(("??", "?", "!", "...", "."))
    if kind == 2:
        return re.sub(r"[,']", "", text)
    return re.sub(r" ", "  ", text, count=1)
