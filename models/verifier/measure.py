"""Measures of a score: higher means that one answer serves both."""

from __future__ import annotations

import numpy as np


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Chance that a right pair scores above a wrong one; ties count half."""
    order = np.argsort(scores, kind="stable")
    ranks = np.empty(len(scores))
    ranks[order] = np.arange(1, len(scores) + 1)
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.bincount(inverse, ranks) / counts)[inverse]
    right = int(labels.sum())
    wrong = len(labels) - right
    if right == 0 or wrong == 0:
        return float("nan")
    return float((ranks[labels == 1].sum() - right * (right + 1) / 2) / (right * wrong))


def served(labels: np.ndarray, scores: np.ndarray, most_wrong: float) -> float:
    """Share of right pairs above the lowest threshold that at most that share of wrong pairs reaches."""
    wrong = np.sort(scores[labels == 0])[::-1]
    allowed = int(np.floor(most_wrong * len(wrong)))
    threshold = wrong[allowed] if allowed < len(wrong) else -np.inf
    return float((scores[labels == 1] > threshold).mean()) if labels.any() else float("nan")


def recall_at(labels: np.ndarray, scores: np.ndarray, precision: float) -> float:
    """Highest recall at which that precision holds."""
    order = np.argsort(-scores, kind="stable")
    hits = labels[order].cumsum()
    good = hits / np.arange(1, len(hits) + 1) >= precision
    return float(hits[good].max() / labels.sum()) if good.any() else 0.0


def all_of(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    return {
        "right": int(labels.sum()),
        "wrong": int(len(labels) - labels.sum()),
        "auc": auc(labels, scores),
        "recall_at_95": recall_at(labels, scores, 0.95),
        "served_at_1": served(labels, scores, 0.01),
    }
