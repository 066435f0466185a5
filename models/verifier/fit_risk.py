"""Fits the risk model on scored pairs and writes `risk.json`: the chance that one answer does not serve both prompts.

The scored pairs come from `reprise eval FILES --pairs SCORED` on held-out pairs (`held_out.py`). Each source has the weight given;
the features are those of `src/cache/decide/risk.rs`. Prints what five folds give.

`bounds` says for a wrong rate the highest risk that may be served for it: of wrong pairs that no guard vetoes, at most that share
of all wrong pairs is at or below it, by the upper end of a one-sided 95 % interval over pairs scored by folds that had not seen
them. A wrong pair stands for a request whose nearest remembered prompt has a wrong answer for it; so over all requests, of which
some have a right one near or none, the share of wrong hits is lower still.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import measure
import numpy as np

WEIGHTS = {"groups": 0.45, "qqp": 0.40, "paws": 0.15}
# What is near to a prompt in traffic is seldom a sentence made to trap by word order alone, as in paws.
TRAFFIC = {"groups": 0.5, "qqp": 0.45, "paws": 0.05}
RATES = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5]
Z = 1.645
RIDGE = 1e-3
FOLDS, SEED = 5, 3


def features(row: dict, verifier: bool) -> list[float]:
    s, likeness, lengths = row["similarity"], row["likeness"], row["lengths"]
    veto = float(bool(row["guards"]))
    if verifier:
        logit = row["logit"]
        return [1.0, s, logit, logit * abs(logit) / 4, s * logit, likeness, lengths, veto]
    return [1.0, s, s * s, s * likeness, likeness, likeness * likeness, lengths, veto]


def fit(x: np.ndarray, wrong: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted logistic regression by Newton's method, with a small ridge."""
    beta = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-x @ beta))
        gradient = x.T @ (weight * (p - wrong)) + RIDGE * beta
        hessian = (x * (weight * p * (1 - p))[:, None]).T @ x + RIDGE * np.eye(x.shape[1])
        step = np.linalg.solve(hessian, gradient)
        beta -= step
        if np.abs(step).max() < 1e-9:
            break
    return beta


def bounds(risk: np.ndarray, wrong: np.ndarray, vetoed: np.ndarray, sources: np.ndarray) -> list[list[float]]:
    """Pairs of a wrong rate and the highest risk that may be served for it."""
    share = np.zeros(len(risk))
    for name, part in TRAFFIC.items():
        own = (sources == name) & (wrong == 1)
        share[own] = part / max(1, own.sum())
    # As many equally weighted pairs would have the variance of these.
    count = share.sum() ** 2 / (share**2).sum()
    order = np.argsort(risk, kind="stable")
    served = np.cumsum((share * ~vetoed)[order])
    middle = (served + Z * Z / (2 * count)) / (1 + Z * Z / count)
    half = Z / (1 + Z * Z / count) * np.sqrt(served * (1 - served) / count + Z * Z / (4 * count * count))
    upper = middle + half
    found = []
    for rate in RATES:
        within = np.nonzero(upper <= rate)[0]
        found.append([rate, round(float(risk[order][within[-1]]), 6) if len(within) else 0.0])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scored", type=Path, nargs="+", help="files of `reprise eval --pairs`")
    parser.add_argument("--weights", type=Path, required=True, help="verifier.safetensors")
    parser.add_argument("--out", type=Path, required=True, help="risk.json")
    args = parser.parse_args()
    rows = [json.loads(line) for path in args.scored for line in path.open(encoding="utf-8")]
    rows = [row for row in rows if row["source"].split("/")[0] in WEIGHTS]
    sources = np.array([row["source"].split("/")[0] for row in rows])
    wrong = np.array([1.0 - row["label"] for row in rows])
    weight = np.zeros(len(rows))
    for name, share in WEIGHTS.items():
        own = sources == name
        weight[own] = share * len(rows) / max(1, own.sum())
    folds = np.random.default_rng(SEED).integers(0, FOLDS, len(rows))
    vetoed = np.array([bool(row["guards"]) for row in rows])
    models: dict[str, list] = {}
    for name, verifier in (("with_verifier", True), ("without", False)):
        x = np.array([features(row, verifier) for row in rows])
        risk = np.zeros(len(rows))
        for fold in range(FOLDS):
            rest = folds != fold
            risk[~rest] = 1 / (1 + np.exp(-x[~rest] @ fit(x[rest], wrong[rest], weight[rest])))
        for source in WEIGHTS:
            own = sources == source
            labels = (1 - wrong[own]).astype(int)
            area, one = measure.auc(labels, -risk[own]), measure.served(labels, -risk[own], 0.01)
            print(f"{name:14} {source:8} auc {area:.4f}, served at 1 % wrong {one:.3f}")
        for low, high in ((0, 0.01), (0.01, 0.03), (0.03, 0.1), (0.1, 0.3), (0.3, 1.01)):
            here = (risk >= low) & (risk < high)
            if here.any():
                said, seen = np.average(risk[here], weights=weight[here]), np.average(wrong[here], weights=weight[here])
                print(f"  said {low:.2f} to {high:.2f}: {here.sum()} pairs, mean {said:.3f}, wrong {seen:.3f}")
        models[f"{name}_bounds"] = bounds(risk, wrong, vetoed, sources)
        for rate, most in models[f"{name}_bounds"]:
            served = (risk <= most) & ~vetoed & (wrong == 0)
            right = [f"{source} {served[(sources == source) & (wrong == 0)].mean():.3f}" for source in WEIGHTS]
            print(f"  bound {rate}: risk up to {most}, right served: {', '.join(right)}")
        models[name] = [round(float(value), 6) for value in fit(x, wrong, weight)]
    digest = hashlib.sha256(args.weights.read_bytes()).hexdigest()
    args.out.write_text(json.dumps({"verifier": digest, **models}, indent=1) + "\n")


if __name__ == "__main__":
    main()
