"""Writes the weights as the engine reads them: 8-bit matrices with a scale for each row, the rest in f32.

A matrix `NAME` of shape [out, in] (or [words, hidden]) is stored as I8 under its own name, and `NAME.scale`, F32 of
shape [out], beside it: the weight is their product. Gains, biases, positions and types are F32.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import model as models

MATRICES = ("word_embeddings.weight", "query.weight", "key.weight", "value.weight", "dense.weight", "score.weight")
MOST_BYTES = 25_000_000


def quantised(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    out = {}
    for name, value in tensors.items():
        if name.endswith(MATRICES):
            scale = value.abs().amax(1).clamp(min=1e-12) / 127
            out[name] = (value / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
            out[f"{name}.scale"] = scale
        else:
            out[name] = value.float()
    return {name: value.contiguous() for name, value in out.items()}


def dequantised(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: value.float() * tensors[f"{name}.scale"][:, None] if value.dtype == torch.int8 else value
        for name, value in tensors.items()
        if not name.endswith(".scale")
    }


def load(base: Path, weights: Path) -> models.Verifier:
    """From float weights or from the exported file."""
    model = models.Verifier(json.loads((base / "config.json").read_text()))
    model.load_state_dict(models.from_bert(dequantised(load_file(weights)), list(model.state_dict())))
    return model.eval()


def main() -> None:
    import references

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--weights", type=Path, required=True, help="float weights of train.py")
    parser.add_argument("--own", type=Path, required=True, help="folder with the hand-written groups, for the reference pairs")
    parser.add_argument("--out", type=Path, required=True, help="folder for verifier.safetensors and reference.json")
    parser.add_argument("--version", required=True)
    parser.add_argument("--data-statement", default="models/verifier/README.md#data-statement")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "verifier.safetensors"
    metadata = {
        "format": "reprise-verifier",
        "version": args.version,
        "base": "sentence-transformers/all-MiniLM-L6-v2",
        "base_sha256": hashlib.sha256((args.base / "model.safetensors").read_bytes()).hexdigest(),
        "max_tokens": "512",
        "input": "[CLS] first [SEP] second [SEP]; first = more tokens, then higher ids; ends kept; see README",
        "head": "gelu(dense([cls; mean; |mean_first - mean_second|; mean_first * mean_second])) -> score",
        "data_statement": args.data_statement,
    }
    save_file(quantised(load_file(args.weights)), path, metadata)
    size = path.stat().st_size
    assert size <= MOST_BYTES, size
    with safe_open(path, "np") as file:
        assert file.metadata() == metadata and file.get_tensor("verifier.dense.weight").dtype == np.int8
    print(f"{path.name}: {size} bytes, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")
    references.write(args.base, path, args.weights, args.own, args.out / "reference.json")


if __name__ == "__main__":
    main()
