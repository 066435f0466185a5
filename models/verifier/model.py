"""The verifier: BERT over a pair of prompts, and a small head that says whether one answer serves both."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

HEAD = 128
Drop = Callable[[Tensor], Tensor]


def kept(x: Tensor) -> Tensor:
    return x


def dropout(share: float, dice: torch.Generator) -> Drop:
    """Drops a share of the channels of each pair, the same for all its tokens: far cheaper than for each token anew."""

    def drop(x: Tensor) -> Tensor:
        mask = torch.rand(x.shape[0], x.shape[-1], generator=dice) >= share
        mask = mask.to(x.dtype) / (1 - share)
        return x * (mask[:, None, :] if x.ndim == 3 else mask)

    return drop


class Layer(nn.Module):
    def __init__(self, hidden: int, inner: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.attended = nn.Linear(hidden, hidden)
        self.attended_norm = nn.LayerNorm(hidden, eps)
        self.inner = nn.Linear(hidden, inner)
        self.outer = nn.Linear(inner, hidden)
        self.outer_norm = nn.LayerNorm(hidden, eps)

    def forward(self, x: Tensor, mask: Tensor, drop: Drop) -> Tensor:
        batch, length, hidden = x.shape
        size = hidden // self.heads
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, size).permute(2, 0, 3, 1, 4)
        # Twice as fast on these CPUs as scaled_dot_product_attention, whose backward pass is slow there.
        scores = (q @ k.transpose(-1, -2)) * size**-0.5 + mask
        attended = scores.softmax(-1).to(v.dtype) @ v
        attended = self.attended(attended.transpose(1, 2).reshape(batch, length, hidden))
        x = self.attended_norm(x + drop(attended))
        outer = self.outer(F.gelu(self.inner(x)))
        return self.outer_norm(x + drop(outer))


class Verifier(nn.Module):
    """Ids and token types of shape [pairs, tokens], 0 where there is no token -> logits of shape [pairs]."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        hidden, eps = config["hidden_size"], config["layer_norm_eps"]
        self.config = config
        self.words = nn.Embedding(config["vocab_size"], hidden)
        self.positions = nn.Embedding(config["max_position_embeddings"], hidden)
        self.types = nn.Embedding(config["type_vocab_size"], hidden)
        self.norm = nn.LayerNorm(hidden, eps)
        heads, inner = config["num_attention_heads"], config["intermediate_size"]
        self.layers = nn.ModuleList(Layer(hidden, inner, heads, eps) for _ in range(config["num_hidden_layers"]))
        self.dense = nn.Linear(4 * hidden, HEAD)
        self.score = nn.Linear(HEAD, 1)

    def encoded(self, ids: Tensor, types: Tensor, drop: Drop = kept) -> Tensor:
        """Of shape [pairs, tokens, hidden]: what the last layer gives."""
        mask = torch.zeros(ids.shape).masked_fill(ids == 0, -1e4)[:, None, None, :].to(self.norm.weight.dtype)
        x = self.words(ids) + self.positions(torch.arange(ids.shape[1])) + self.types(types)
        x = drop(self.norm(x))
        for layer in self.layers:
            x = layer(x, mask, drop)
        return x

    def forward(self, ids: Tensor, types: Tensor, drop: Drop = kept) -> Tensor:
        present = ids != 0
        x = self.encoded(ids, types, drop).float()
        first, second = mean(x, present & (types == 0)), mean(x, types == 1)
        features = torch.cat([x[:, 0], mean(x, present), (first - second).abs(), first * second], -1)
        features = drop(features).to(self.dense.weight.dtype)
        return self.score(F.gelu(self.dense(features))).squeeze(-1).float()


def mean(x: Tensor, which: Tensor) -> Tensor:
    weights = which[:, :, None].to(x.dtype)
    return (x * weights).sum(1) / weights.sum(1).clamp(min=1)


NAMES = {
    "words": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "types": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
    "attended": "attention.output.dense",
    "attended_norm": "attention.output.LayerNorm",
    "inner": "intermediate.dense",
    "outer": "output.dense",
    "outer_norm": "output.LayerNorm",
    "dense": "verifier.dense",
    "score": "verifier.score",
}


def to_bert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as BERT has them; query, key and value apart."""
    out = {}
    for name, value in state.items():
        *place, module, kind = name.split(".")
        prefix = f"encoder.layer.{place[1]}." if place else ""
        if module == "qkv":
            for part, own in zip(("query", "key", "value"), value.chunk(3)):
                out[f"{prefix}attention.self.{part}.{kind}"] = own
        else:
            out[f"{prefix}{NAMES[module]}.{kind}"] = value
    return out


def from_bert(tensors: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """The state with those names, as far as the tensors have it."""
    state = {}
    for name in names:
        *place, module, kind = name.split(".")
        prefix = f"encoder.layer.{place[1]}." if place else ""
        if module == "qkv":
            parts = [tensors.get(f"{prefix}attention.self.{part}.{kind}") for part in ("query", "key", "value")]
            value = torch.cat(parts) if all(part is not None for part in parts) else None
        else:
            value = tensors.get(f"{prefix}{NAMES[module]}.{kind}")
        if value is not None:
            state[name] = value
    return state


def load(folder: Path) -> Verifier:
    """From a folder with `config.json` and `model.safetensors`; a head that is not there is random."""
    model = Verifier(json.loads((folder / "config.json").read_text()))
    tensors = load_file(folder / "model.safetensors")
    state = from_bert(tensors, list(model.state_dict()))
    missing, _ = model.load_state_dict(state, strict=False)
    assert all(name.startswith(("dense.", "score.")) for name in missing), missing
    return model
