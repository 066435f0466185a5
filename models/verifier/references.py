"""Pairs of the project's own texts with their logits, for the engine's test, and the loss by 8-bit weights."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np

import data
import evaluate
import export
import measure
from encode import Encoder
from pairs import Pair
from talks import talks

HELD_OUT, SEED, COUNT = 0.08, 5, 300
LONG = "I have been trying to sort this out since last week and nobody could tell me anything useful so far. "
ODD = [("", ""), ("", "?"), ("a", "a"), ("a", "b"), ("héllo wörld", "hello world"), ("日本の首都は?", "日本の首都はどこ?"), ("x" * 150, "x" * 150 + "y"),
       ("12.5 km -> miles", "12,5 km → miles"), ("SELECT * FROM t WHERE a > 1;", "SELECT * FROM t WHERE a < 1;"),
       (LONG * 40 + "How do I reset my password?", LONG * 30 + "How can I change my password?"),
       (LONG * 40 + "How do I reset my password?", "How do I reset my password?")]  # fmt: skip


def write(base: Path, exported: Path, weights: Path, own: Path, out: Path) -> None:
    """In full precision from the dequantised weights. Rows: a, b, logit, and the label for the curious."""
    dice, encoder = random.Random(SEED), Encoder(base)
    units = data.own_groups(own, "groups", HELD_OUT).held_out
    pairs = [pair for unit in units for pair in unit]
    chosen = dice.sample(pairs, min(COUNT, len(pairs))) + talks(units, 40, dice) + [Pair(a, b, -1, "odd", "odd") for a, b in ODD]
    chosen += [pair._replace(a=pair.b, b=pair.a) for pair in chosen[:20]]
    small, full = export.load(base, exported), export.load(base, weights)
    logits = evaluate.scores(small, encoder, chosen, exact=True)
    rows = [{"a": p.a, "b": p.b, "label": p.label, "logit": round(float(x), 5)} for p, x in zip(chosen, logits)]
    out.write_text("[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n", encoding="utf-8")
    labels = np.array([pair.label for pair in pairs])
    before, after = (measure.auc(labels, evaluate.scores(model, encoder, pairs, exact=True)) for model in (full, small))
    print(f"{out.name}: {len(rows)} pairs; AUC on {len(pairs)} held-out pairs: float {before:.4f}, 8 bits {after:.4f}")
    assert abs(before - after) <= 0.002
