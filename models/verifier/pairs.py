"""Labelled pairs: where they come from, and which of them are held out.

A pair's label is 1 when one answer serves both prompts. What is held out is decided by a hash of the text, so that it
is the same in every run: whole groups, and whole connected components of questions, never a question in both parts.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from prompts import written


class Pair(NamedTuple):
    a: str
    b: str
    label: int
    source: str
    kind: str


class Source(NamedTuple):
    """Units that are trained on whole or held out whole."""

    train: list[list[Pair]]
    held_out: list[list[Pair]]


def share(text: str) -> float:
    """A number in [0, 1) that stands for the text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def rows(path: Path) -> Iterator[dict]:
    """Rows of a JSON Lines file; a last line that is still being written is left for the next time."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n") and line.strip():
                yield json.loads(line)


def split(units: list[list[Pair]], held_out: float) -> Source:
    out = Source([], [])
    for unit in units:
        key = min(min(pair.a, pair.b) for pair in unit)
        (out.held_out if share(key) < held_out else out.train).append(unit)
    return out


def components(pairs: list[Pair]) -> list[list[Pair]]:
    """Pairs that share a text, directly or through others, together."""
    parents: dict[str, str] = {}

    def root(text: str) -> str:
        while parents.setdefault(text, text) != text:
            parents[text] = parents[parents[text]]
            text = parents[text]
        return text

    for pair in pairs:
        parents[root(pair.a)] = root(pair.b)
    found: dict[str, list[Pair]] = {}
    for pair in pairs:
        found.setdefault(root(pair.a), []).append(pair)
    return list(found.values())


def labelled(path: Path, source: str) -> list[Pair]:
    return [Pair(tidy(written(r["a"])), tidy(written(r["b"])), r["label"], source, r["source"]) for r in rows(path)]


def tidy(text: str) -> str:
    """PAWS and others come with spaces between all tokens, which prompts do not have."""
    for before, after in ((" ,", ","), (" .", "."), (" ?", "?"), (" 's", "'s"), (" n't", "n't"), (" ;", ";"), (" :", ":")):
        text = text.replace(before, after)
    return text.replace("`` ", '"').replace(" ''", '"').replace("( ", "(").replace(" )", ")")


def groups(path: Path, held_out: float, source: str = "groups") -> Source:
    """Hand-written groups: `q` ask for the same, each of `t` for something else. Held out by the hash of the first."""
    out = Source([], [])
    for row in rows(path):
        asked = [written(q) for q in row["q"]]
        same = [Pair(a, b, 1, source, "same") for a, b in itertools.combinations(asked, 2)]
        traps = [Pair(q, written(text), 0, source, kind) for kind, text in row["t"] for q in asked]
        (out.held_out if share(asked[0]) < held_out else out.train).append(same + traps)
    return out


def intents(path: Path, held_out: float, neighbours: dict[str, list[str]]) -> Source:
    """Near texts of different intents; the same intent is not always the same answer. No text is in both parts."""
    by_text = {r["text"]: r["intent"] for r in rows(path)}
    out = Source([], [])
    for text, near in sorted(neighbours.items()):
        apart = share(text) < held_out
        others = [
            other
            for other in near
            if by_text[other] != by_text[text] and "oos" not in (by_text[other], by_text[text]) and (share(other) < held_out) == apart
        ]
        if others:
            (out.held_out if apart else out.train).append([Pair(text, o, 0, "clinc", "intent") for o in others[:3]])
    return out


def sample(unit: list[Pair], most: int, dice: random.Random) -> list[Pair]:
    """At most so many of a unit; of right and wrong pairs alike, if it has both."""
    if len(unit) <= most:
        return list(unit)
    right, wrong = ([p for p in unit if p.label == label] for label in (1, 0))
    dice.shuffle(right)
    dice.shuffle(wrong)
    few = min(len(right), most // 2)
    return right[: max(few, most - len(wrong))] + wrong[: most - few]
