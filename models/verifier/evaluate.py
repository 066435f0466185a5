"""Measures weights on what was held out, and on labelled files that were not trained on."""

from __future__ import annotations

import argparse
import json
import random
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

import data
import export
import measure
import model as models
from edits import edited
from encode import Encoder, batches, joined, stack
from pairs import Pair, Source, labelled
from parallel import Workers
from talks import talks

HERE = Path(__file__).parent
SEED = 11


def held_out(sources: dict[str, Source]) -> dict[str, list[Pair]]:
    """By source; what is generated comes from held-out texts with held-out words and is the same for the same texts."""
    found = {name: [pair for unit in source.held_out for pair in unit] for name, source in sources.items() if source.held_out}
    right = [pair for name in ("groups", "qqp") for pair in found.get(name, []) if pair.label]
    if right:
        found["edits"] = edited(right, 1500, random.Random(SEED), held_out=True)
    if "groups" in found:
        found["talks"] = talks(sources["groups"].held_out, 600, random.Random(SEED))
    return found


def files(folder: Path, names: list[str]) -> dict[str, list[Pair]]:
    paths = {name: folder / f"{name}.jsonl" for name in names}
    return {name: labelled(path, name) for name, path in paths.items() if path.exists()}


def scores(model: models.Verifier, encoder: Encoder, pairs: list[Pair], exact: bool = False) -> np.ndarray:
    """Logits; exact ones are computed in f32 throughout."""
    first, second = encoder.tokens([p.a for p in pairs]), encoder.tokens([p.b for p in pairs])
    items = [joined(a, b) for a, b in zip(first, second)]
    out = np.zeros(len(items))

    @torch.no_grad()
    def one(batch: list[int]) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=not exact):
            out[batch] = model(*stack([items[i] for i in batch])).numpy()

    list(Workers(2).each(one, batches([len(ids) for ids, _ in items], 2048)))
    return out


def similarities(base: models.Verifier, encoder: Encoder, pairs: list[Pair]) -> np.ndarray:
    """What there is without a verifier: the cosine of the embeddings of the base model."""
    texts = sorted({text for pair in pairs for text in (pair.a, pair.b)})
    place = {text: i for i, text in enumerate(texts)}
    vectors = data.embed(texts, base, encoder)
    a, b = ([place[text] for text in side] for side in zip(*((pair.a, pair.b) for pair in pairs)))
    return (vectors[a] * vectors[b]).sum(-1).numpy()


def measured(score: Callable[[list[Pair]], np.ndarray], sets: dict[str, list[Pair]], most: int | None = None) -> dict[str, dict]:
    """Of each set, and of each kind in a set together with all that is right in it, the measures."""
    found: dict[str, dict] = {}
    for name, pairs in sets.items():
        if most is not None and len(pairs) > most:
            pairs = random.Random(SEED).sample(pairs, most)
        if len({pair.label for pair in pairs}) < 2:
            continue
        logits, labels = score(pairs), np.array([pair.label for pair in pairs])
        found[name] = measure.all_of(labels, logits)
        kinds = sorted({pair.kind for pair in pairs if not pair.label})
        for kind in kinds if len(kinds) > 1 else []:
            rows = np.array([bool(pair.label) or pair.kind == kind for pair in pairs])
            found[f"{name}/{kind}"] = measure.all_of(labels[rows], logits[rows])
    return found


def show(results: dict[str, dict]) -> None:
    print("| set | right / wrong | AUC | recall at 95 % precision | right served at 1 % of wrong |\n|---|---|---|---|---|")
    for name, r in results.items():
        print(f"| {name} | {r['right']} / {r['wrong']} | {r['auc']:.4f} | {r['recall_at_95']:.3f} | {r['served_at_1']:.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    parser.add_argument(
        "--weights", type=Path, help="float weights of train.py or the file of export.py; without, the similarity is measured"
    )
    parser.add_argument("--shared", type=Path, required=True, help="folder with the public sets")
    parser.add_argument("--own", type=Path, default=HERE / "data", help="folder with the hand-written groups")
    parser.add_argument("--config", type=Path, default=HERE / "config.toml")
    parser.add_argument("--never-trained", default="", help="labelled files of the folder to measure as well, with commas between")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    mix = tomllib.loads(args.config.read_text())["mix"]
    encoder = Encoder(args.base)
    base = models.load(args.base).eval()
    sources = data.read({name: own for name, own in mix.items() if name not in ("near", "clinc")}, args.shared, None, encoder)
    sources |= {name: data.own_groups(args.own, name, mix[name]["held_out"]) for name in data.OWN}
    sets = held_out(sources) | files(args.shared, [name for name in args.never_trained.split(",") if name])
    model = export.load(args.base, args.weights) if args.weights else base
    results = measured(partial(scores if args.weights else similarities, model, encoder), sets)
    show(results)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
