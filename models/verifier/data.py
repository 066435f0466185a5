"""All sources of pairs, by name, and the rounds that the configuration mixes from them."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from edits import edited
from encode import CLS, SEP, Encoder, batches, stack
from model import Verifier, mean
from noise import noisy
from parallel import Workers
from pairs import Pair, Source, components, groups, intents, labelled, rows, sample, split
from talks import talks

FILES = {"qqp": "qqp_gptcache.jsonl", "paws": "paws_wiki_dev.jsonl", "mrpc": "mrpc.jsonl", "clinc": "intent_clinc150.jsonl"}
GENERATED = ("near", "apart", "edits", "talks")
NEIGHBOURS = 8
MINED = 12_000
"""Components of qqp among which near questions are looked for."""
NEAR = (0.5, 0.85)
"""Similarities between which two questions that nobody called duplicates are likely to be none."""


def read(mix: dict, shared: Path, base: Verifier | None, encoder: Encoder) -> dict[str, Source]:
    """The public sets of the mix whose files are there. Without a base model none is mined for near questions."""
    sources = {}
    for name, settings in mix.items():
        path = shared / FILES.get(name, name)
        if name not in FILES:
            continue
        if not path.exists():
            print(f"{name}: {path.name} is not there; left out")
        elif name == "clinc":
            if base is not None:
                texts = sorted({r["text"] for r in rows(path)})
                sources[name] = intents(
                    path, settings["held_out"], {a: [b for b, _ in near] for a, near in neighbours(texts, base, encoder)}
                )
        else:
            sources[name] = split(components(labelled(path, name)), settings["held_out"])
    if "near" in mix and "qqp" in sources and base is not None:
        sources["near"] = Source(near_questions(sources["qqp"].train, base, encoder), [])
    return sources


OWN = {"groups": "*.jsonl", "conversations": "talks/*.jsonl"}
"""The hand-written groups of prompts and of conversations, in the folder of the project's own texts."""


def own_groups(folder: Path, name: str, held_out: float) -> Source:
    parts = [groups(path, held_out, name) for path in sorted(folder.glob(OWN[name])) if path.exists()]
    return Source([u for part in parts for u in part.train], [u for part in parts for u in part.held_out])


class Stream:
    """Passes over units in random order, without end."""

    def __init__(self, units: list[list[Pair]], most: int) -> None:
        self.units, self.most, self.queue = units, most, []

    def renew(self, units: list[list[Pair]], dice: random.Random) -> None:
        """Those units from now on; the ones that are new take their place in the pass under way."""
        known = {(unit[0].a, unit[0].b) for unit in self.units}
        for unit in units:
            if (unit[0].a, unit[0].b) not in known:
                self.queue.insert(dice.randint(0, len(self.queue)), unit)
        self.units = units

    def take(self, count: int, dice: random.Random) -> list[Pair]:
        out: list[Pair] = []
        while len(out) < count:
            if not self.queue:
                self.queue = list(self.units)
                dice.shuffle(self.queue)
            out += sample(self.queue.pop(), self.most, dice)
        return out[:count]


class Mixture:
    def __init__(self, config: dict, mix: dict, sources: dict[str, Source], own: Path | None) -> None:
        self.config, self.mix, self.sources, self.own = config, mix, sources, own
        self.streams = {name: Stream(source.train, mix[name].get("most", 1)) for name, source in sources.items()}

    def renew(self, dice: random.Random) -> None:
        for name in OWN if self.own is not None else ():
            if name in self.mix:
                self.sources[name] = own_groups(self.own, name, self.mix[name]["held_out"])
                stream = self.streams.setdefault(name, Stream([], self.mix[name]["most"]))
                stream.renew(self.sources[name].train, dice)

    def round(self, dice: random.Random) -> tuple[list[Pair], dict[str, int]]:
        """Pairs of one round, with harmless changes, and how many are of each source."""
        self.renew(dice)
        counts = self.counts()
        pairs: list[Pair] = []
        for name, count in counts.items():
            pairs += self.generated(name, count, dice) if name in ("apart", "edits", "talks") else self.streams[name].take(count, dice)

        def change(text: str) -> str:
            """Of a conversation, the last turn."""
            if dice.random() >= self.config["noisy"]:
                return text
            before, turn, last = text.rpartition("\nuser: ")
            return before + turn + noisy(last, dice)

        return [pair._replace(a=change(pair.a), b=change(pair.b)) for pair in pairs], counts

    def counts(self) -> dict[str, int]:
        """At most half a pass over what is hand-written, so that little of it is not learnt by heart; the others fill up."""
        there = {
            name: own["share"]
            for name, own in self.mix.items()
            if name in GENERATED[1:] or (name in self.sources and self.sources[name].train)
        }
        total = self.config["round_pairs"]
        counts = {name: int(total * share / sum(there.values())) for name, share in there.items()}
        for own in (name for name in OWN if name in counts):
            most = sum(min(len(unit), self.mix[own]["most"]) for unit in self.sources[own].train) // 2
            spare = counts[own] - most
            if spare > 0:
                rest = total - counts[own]
                counts = {name: most if name == own else count + spare * count // rest for name, count in counts.items()}
        if not self.texts():
            counts = {name: count for name, count in counts.items() if name not in GENERATED[1:]}
        return counts

    def texts(self) -> list[list[Pair]]:
        """Units from which pairs are generated: of people's own prompts, not of sentences."""
        return [unit for name in ("groups", "qqp") if name in self.sources for unit in self.sources[name].train]

    def generated(self, name: str, count: int, dice: random.Random) -> list[Pair]:
        units = self.texts()
        if name == "talks":
            return talks(self.sources["groups"].train if "groups" in self.sources else units, count, dice)
        if name == "apart":
            drawn = [(dice.choice(dice.choice(units)), dice.choice(dice.choice(units))) for _ in range(count)]
            return [Pair(one.a, other.b, 0, "apart", "apart") for one, other in drawn if one.a != other.a]
        right = [pair for unit in units for pair in unit if pair.label]
        sentences = [pair for unit in self.sources["paws"].train for pair in unit if pair.label] if "paws" in self.sources else []
        return edited(dice.choices(right, k=2 * count) + dice.choices(sentences or right, k=count // 2), count, dice, held_out=False)


def near_questions(units: list[list[Pair]], base: Verifier, encoder: Encoder) -> list[list[Pair]]:
    component = {text: index for index, unit in enumerate(units[:MINED]) for pair in unit for text in (pair.a, pair.b)}
    found = []
    for text, near in neighbours(sorted(component), base, encoder):
        others = [other for other, score in near if component[other] != component[text] and NEAR[0] < score < NEAR[1]]
        found += [[Pair(text, other, 0, "near", "near")] for other in others[:2]]
    return found


def neighbours(texts: list[str], base: Verifier, encoder: Encoder) -> list[tuple[str, list[tuple[str, float]]]]:
    """For each text the nearest others by the embedding of the base model, with their similarities."""
    vectors = embed(texts, base, encoder)
    found = []
    for start in range(0, len(texts), 512):
        scores = vectors[start : start + 512] @ vectors.T
        best = scores.topk(NEIGHBOURS + 1)
        for row, (values, places) in enumerate(zip(best.values.tolist(), best.indices.tolist())):
            near = [(texts[i], score) for i, score in zip(places, values) if i != start + row]
            found.append((texts[start + row], near[:NEIGHBOURS]))
    return found


def embed(texts: list[str], base: Verifier, encoder: Encoder) -> torch.Tensor:
    """Unit vectors of the base model, of shape [texts, hidden]."""
    tokens = [([CLS, *ids[:254], SEP], 512) for ids in encoder.tokens(texts)]
    vectors = torch.zeros(len(texts), base.config["hidden_size"])

    @torch.no_grad()
    def one(batch: list[int]) -> None:
        ids, types = stack([tokens[i] for i in batch])
        with torch.autocast("cpu", torch.bfloat16):
            x = base.encoded(ids, types)
        vectors[batch] = torch.nn.functional.normalize(mean(x.float(), ids != 0), dim=-1)

    list(Workers(2).each(one, batches([len(ids) for ids, _ in tokens], 2048)))
    return vectors
