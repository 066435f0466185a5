"""Sanity checks without any data but a few lines made here: `python -m check BASE`."""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import evaluate
import export
import measure
import model as models
from edits import KINDS, edited
from encode import MAX_TOKENS, Encoder, joined, other_way, stack
from noise import noisy
from pairs import Pair, components, groups, split
from prompts import written
from talks import talks

GROUP = {
    "d": "x",
    "q": ["How do I open it on 3 May?", "opening it on the third of May", "what opens it, May 3"],
    "t": [["antonym", "How do I close it on 3 May?"]],
}


def prompts_have_one_form() -> None:
    user, reply = {"role": "user", "content": " hi "}, {"role": "assistant", "content": "yes?"}
    assert written("hi ") == "hi "
    assert written([{"role": "system", "content": "be kind"}, user]) == "hi"
    assert written([user, reply, user]) == "user: hi\nassistant: yes?\nuser: hi"


def both_orders_read_the_same(encoder: Encoder) -> None:
    dice = random.Random(1)
    words = [ids[0] for ids in encoder.tokens("a b c d e f".split())]
    for _ in range(500):
        a, b = ([dice.choice(words) for _ in range(dice.choice((0, 1, 2, 3, 200, 300, 700)))] for _ in range(2))
        ids, first = joined(a, b)
        assert (ids, first) == joined(b, a)
        assert len(ids) == min(MAX_TOKENS, len(a) + len(b) + 3)
        longer, shorter = max((len(a), a), (len(b), b))[1], min((len(a), a), (len(b), b))[1]
        assert (
            longer[len(longer) - (first - 2) :] == ids[1 : first - 1] and shorter[len(shorter) - (len(ids) - first - 1) :] == ids[first:-1]
        )
        assert other_way(*other_way(ids, first)) == (ids, first)


def nothing_is_on_both_sides() -> None:
    pairs = [Pair(f"q{i}", f"q{i + i % 3}", i % 2, "x", "x") for i in range(3000)]
    source = split(components(pairs), 0.2)
    train, held_out = ({text for unit in part for pair in unit for text in (pair.a, pair.b)} for part in source)
    assert not train & held_out and len(held_out) > 200


def groups_give_all_pairs() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "g.jsonl"
        path.write_text(json.dumps(GROUP) + "\n" + '{"half a li')
        (unit,) = sum(groups(path, 0.5), [])
    assert [pair.label for pair in unit] == [1, 1, 1, 0, 0, 0]


def generated_pairs_are_balanced() -> None:
    right = [
        Pair(f"Is it safe to fly from Oslo to Rome in {m} with {i} kg?", f"flying Oslo to Rome in {m} with {i} kg, safe?", 1, "x", "x")
        for m in ("march", "june")
        for i in range(3, 40)
    ]
    for held_out in (False, True):
        found = edited(right, 200, random.Random(3), held_out)
        for kind in {pair.kind for pair in found}:
            labels = [pair.label for pair in found if pair.kind == kind]
            assert abs(2 * sum(labels) - len(labels)) <= 1, kind
    unit = [Pair("open it", "unlock it", 1, "x", "x"), Pair("open it", "close it", 0, "x", "x")]
    labels = [pair.label for pair in talks([unit], 400, random.Random(3))]
    assert 190 <= sum(labels) <= 210
    dice = random.Random(4)
    edits = KINDS["direction"]
    assert edits[0]("trains from Rome to Oslo", dice, False) == "trains from Oslo to Rome"
    assert edits[1]("trains from Rome to Oslo", dice, False) == "trains to Oslo from Rome"
    assert all(text[:1] and "7" in text for text in (noisy("pay 7 bills today", dice) for _ in range(500)))


def measures_are_right() -> None:
    labels, scores = np.array([1, 0, 1, 0, 0]), np.array([3.0, 2.0, 2.0, 1.0, 0.0])
    assert measure.auc(labels, scores) == 5.5 / 6
    assert measure.served(labels, scores, 0.01) == 0.5
    assert measure.recall_at(labels, np.array([3.0, 2.0, 2.5, 1.0, 0.0]), 0.95) == 1.0


def eight_bits_are_enough(base: Path, encoder: Encoder) -> None:
    torch.manual_seed(0)
    model = models.load(base).eval()
    tensors = models.to_bert(model.state_dict())
    small = export.dequantised(export.quantised(tensors))
    other = models.Verifier(model.config)
    other.load_state_dict(models.from_bert(small, list(other.state_dict())))
    pairs = [Pair(f"how do I cook {i} eggs", f"cooking {i} eggs", 1, "x", "x") for i in range(40)]
    before, after = (evaluate.scores(m, encoder, pairs, exact=True) for m in (model, other.eval()))
    assert np.abs(before - after).max() < 0.05, np.abs(before - after).max()
    item = joined(*encoder.tokens(["a pair alone", "and with padding"]))
    with torch.no_grad():
        alone, padded = model(*stack([item]))[0], model(*stack([item, joined(*encoder.tokens(["long " * 50, "x"]))]))[0]
    assert abs(alone - padded) < 1e-5


def main() -> None:
    base = Path(sys.argv[1])
    encoder = Encoder(base)
    prompts_have_one_form()
    both_orders_read_the_same(encoder)
    nothing_is_on_both_sides()
    groups_give_all_pairs()
    generated_pairs_are_balanced()
    measures_are_right()
    eight_bits_are_enough(base, encoder)
    print("all is well")


if __name__ == "__main__":
    main()
