"""Trains the verifier; see README.md. Can be stopped and started again with the same arguments: it goes on."""

from __future__ import annotations

import argparse
import math
import random
import time
import tomllib
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import data
import evaluate
import model as models
from encode import Encoder, batches, joined, other_way, stack
from export import dequantised
from parallel import Workers

HERE = Path(__file__).parent
SAVE_SECONDS = 180


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--shared", type=Path, required=True, help="folder with the public sets")
    parser.add_argument("--own", type=Path, default=HERE / "data", help="folder with the hand-written groups")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint and the result")
    parser.add_argument("--config", type=Path, default=HERE / "config.toml")
    parser.add_argument("--without", default="", help="sources to leave out, with commas between")
    parser.add_argument("--steps", type=int, help="length of the run; reproducible")
    parser.add_argument("--minutes", type=float, help="length of the run by the clock, in place of --steps")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--init", type=Path, help="weights to start from in place of the base: of an earlier run, or exported")
    args = parser.parse_args()
    if (args.steps is None) == (args.minutes is None):
        parser.error("one of --steps and --minutes")
    config = tomllib.loads(args.config.read_text())
    torch.manual_seed(config["seed"])
    args.out.mkdir(parents=True, exist_ok=True)

    encoder = Encoder(args.base)
    mix = {name: settings for name, settings in config["mix"].items() if name not in args.without.split(",")}
    sources = data.read(mix, args.shared, models.load(args.base).eval(), encoder)
    mixture = data.Mixture(config, mix, sources, args.own)
    mixture.renew(random.Random(config["seed"]))
    for name, source in sources.items():
        count = [sum(map(len, part)) for part in source]
        print(f"{name:8} {len(source.train):6} units, {count[0]:6} pairs; held out {count[1]}", flush=True)
    Run(config, args, encoder, mixture).run()


class Run:
    def __init__(self, config: dict, args: argparse.Namespace, encoder: Encoder, mixture: data.Mixture) -> None:
        self.config, self.args, self.encoder, self.mixture = config, args, encoder, mixture
        self.model = models.load(args.base)
        if args.init:
            self.model.load_state_dict(models.from_bert(dequantised(models.load_file(args.init)), list(self.model.state_dict())))
        self.average = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.words.weight.requires_grad = not config["freeze_words"]
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.copy = models.Verifier(self.model.config).to(torch.bfloat16)
        self.copy.words.weight.requires_grad = not config["freeze_words"]
        self.copied = [parameter for parameter in self.copy.parameters() if parameter.requires_grad]
        self.workers = Workers(args.threads)
        self.optimizer = torch.optim.AdamW(self.groups(), betas=(0.9, 0.98), weight_decay=config["weight_decay"], fused=True)
        self.step = self.round = self.pairs = 0
        self.elapsed = 0.0

    def groups(self) -> list[dict]:
        """Each layer learns slower than the one above it; gains and biases are not decayed."""
        rate, layers = self.config["learning_rate"], len(self.model.layers)
        groups = []
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:
                continue
            part = name.split(".")
            depth = int(part[1]) if part[0] == "layers" else -1
            own = (
                self.config["head_learning_rate"]
                if part[0] in ("dense", "score")
                else rate * self.config["layer_decay"] ** (layers - 1 - depth)
            )
            group = {"params": [parameter], "lr": own, "peak": own}
            groups.append(group if parameter.ndim > 1 else group | {"weight_decay": 0.0})
        return groups

    @property
    def progress(self) -> float:
        """From 0 to 1 over the whole run."""
        return min(1.0, self.step / self.args.steps if self.args.steps else self.elapsed / (60 * self.args.minutes))

    def run(self) -> None:
        checkpoint = self.args.out / "checkpoint.pt"
        if checkpoint.exists():
            self.restore(torch.load(checkpoint))
            print(f"goes on at step {self.step}, {self.progress:.0%}")
        self.copy.load_state_dict(self.model.state_dict())
        started = time.time() - self.elapsed
        saved = reported = time.time()
        while self.progress < 1:
            dice = random.Random(self.config["seed"] * 1000 + self.round)
            pairs, counts = self.mixture.round(dice)
            losses, begun, self.round = [], time.time(), self.round + 1
            items = self.items(pairs, dice)
            parts = list(batches([len(ids) for ids, *_ in items], self.config["part_tokens"], dice))
            dice.shuffle(parts)
            for start in range(0, len(parts), self.config["parts"]):
                batch = [[items[i] for i in part] for part in parts[start : start + self.config["parts"]]]
                losses.append(self.train(batch))
                self.pairs += sum(map(len, batch))
                self.elapsed = time.time() - started
                if self.progress >= 1:
                    break
            speed = len(items) / (time.time() - begun)
            print(
                f"{self.progress:6.1%} round {self.round} step {self.step} pairs {self.pairs} loss {np.mean(losses):.4f} {speed:.0f} pairs/s {counts}",
                flush=True,
            )
            if time.time() - saved > SAVE_SECONDS:
                self.save(checkpoint)
                saved = time.time()
            if time.time() - reported > 60 * self.config["report_minutes"] and self.progress < 1:
                self.report(most=1500)
                reported = time.time()
        self.save(checkpoint)
        self.report()

    def items(self, pairs: list, dice: random.Random) -> list[tuple[list[int], int, float]]:
        first = self.encoder.tokens([pair.a for pair in pairs])
        second = self.encoder.tokens([pair.b for pair in pairs])
        items = []
        for pair, a, b in zip(pairs, first, second):
            ids, length = joined(a, b)
            if dice.random() < self.config["swapped"]:
                ids, length = other_way(ids, length)
            smoothing = self.mixture.mix[pair.source]["smoothing"]
            items.append((ids, length, pair.label * (1 - smoothing) + smoothing / 2))
        return items

    def train(self, batch: list[list[tuple[list[int], int, float]]]) -> float:
        """One step, from the gradients of its parts, each of pairs of like lengths."""
        self.step += 1
        warm, progress = self.config["warm_up"], self.progress
        scale = min(1.0, (progress + 1e-4) / warm) * 0.5 * (1 + math.cos(math.pi * max(0.0, progress - warm) / (1 - warm)))
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * scale
        count = sum(map(len, batch))

        def gradients(numbered: tuple[int, list]) -> tuple[float, tuple]:
            number, part = numbered
            dice = torch.Generator().manual_seed((self.config["seed"] * 1_000_003 + self.step) * 64 + number)
            ids, types = stack([(ids, length) for ids, length, _ in part])
            logits = self.copy(ids, types, models.dropout(self.config["dropout"], dice))
            labels = torch.tensor([label for *_, label in part])
            loss = F.binary_cross_entropy_with_logits(logits, labels, reduction="sum") / count
            return float(loss.detach()), torch.autograd.grad(loss, self.copied)

        for parameter in self.trained:
            parameter.grad = None
        total = 0.0
        for loss, found in self.workers.each(gradients, enumerate(batch)):
            total += loss
            for parameter, gradient in zip(self.trained, found):
                parameter.grad = gradient.float() if parameter.grad is None else parameter.grad.add_(gradient)
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.refresh()
        if self.step % 10 == 0:
            keep = min(self.config["average"] ** 10, self.step / (self.step + 100))
            for name, value in self.model.state_dict().items():
                self.average[name].lerp_(value, 1 - keep)
        return total

    @torch.no_grad()
    def refresh(self) -> None:
        """The working copy in bfloat16 from the weights."""
        for copied, trained in zip(self.copied, self.trained):
            copied.copy_(trained)

    def save(self, path: Path) -> None:
        state = {name: getattr(self, name) for name in ("step", "round", "pairs", "elapsed", "average")}
        state |= {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(state, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)
        save_file({k: v.contiguous() for k, v in models.to_bert(self.average).items()}, self.args.out / "verifier-f32.safetensors")

    def restore(self, state: dict) -> None:
        self.model.load_state_dict(state.pop("model"))
        self.optimizer.load_state_dict(state.pop("optimizer"))
        for name, value in state.items():
            setattr(self, name, value)

    def report(self, most: int | None = None) -> None:
        averaged = models.Verifier(self.model.config)
        averaged.load_state_dict(self.average)
        score = partial(evaluate.scores, averaged.eval(), self.encoder)
        evaluate.show(evaluate.measured(score, evaluate.held_out(self.mixture.sources), most))


if __name__ == "__main__":
    main()
