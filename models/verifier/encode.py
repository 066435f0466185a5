"""Texts to what the verifier reads: `[CLS] first [SEP] second [SEP]`, the first being the longer one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

CLS, SEP = 101, 102
MAX_TOKENS = 512


class Encoder:
    def __init__(self, folder: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()

    def tokens(self, texts: list[str]) -> list[list[int]]:
        return [e.ids for e in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def order(a: list[int], b: list[int]) -> tuple[list[int], list[int]]:
    """The same for both orders of a pair: the longer one first, of two of one length that with the higher ids."""
    return (a, b) if (len(a), a) >= (len(b), b) else (b, a)


def cut(a: list[int], b: list[int]) -> tuple[list[int], list[int]]:
    """Both to what fits, of each its end; a short one leaves its room to the other."""
    room = MAX_TOKENS - 3
    if len(a) + len(b) > room:
        half = room // 2
        most_a = max(half, room - len(b))
        a, b = a[-most_a:], b[-(room - min(len(a), most_a)) :]
    return a, b


def joined(a: list[int], b: list[int]) -> tuple[list[int], int]:
    """The ids, and how many of them are of the first text."""
    a, b = cut(*order(a, b))
    return [CLS, *a, SEP, *b, SEP], len(a) + 2


def other_way(ids: list[int], first: int) -> tuple[list[int], int]:
    """The pair in the other order."""
    return [CLS, *ids[first:], *ids[1:first]], len(ids) - first + 1


def stack(items: list[tuple[list[int], int]]) -> tuple[Tensor, Tensor]:
    length = max(len(ids) for ids, _ in items)
    ids, types = np.zeros((len(items), length), np.int64), np.zeros((len(items), length), np.int64)
    for row, (own, first) in enumerate(items):
        ids[row, : len(own)] = own
        types[row, first : len(own)] = 1
    return torch.from_numpy(ids), torch.from_numpy(types)


def batches(lengths: list[int], tokens: int, dice: random.Random | None = None, window: int = 64) -> Iterator[list[int]]:
    """Positions in batches of about so many tokens and of like lengths; with dice, in random order."""
    places = list(range(len(lengths)))
    if dice:
        dice.shuffle(places)
    per_window = max(1, window * tokens // (1 + sum(lengths) // max(1, len(lengths)))) if dice else len(places)
    for start in range(0, len(places), max(1, per_window)):
        some = sorted(places[start : start + per_window], key=lambda i: lengths[i])
        found, batch = [], []
        for i in some:
            if batch and (len(batch) + 1) * lengths[i] > tokens:
                found.append(batch)
                batch = []
            batch.append(i)
        found.append(batch)
        if dice:
            dice.shuffle(found)
        yield from found
