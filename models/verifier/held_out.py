"""Writes the held-out pairs of each source, as `reprise eval` reads them."""

from __future__ import annotations

import argparse
import json
import tomllib
from pathlib import Path

import data
from encode import Encoder
from pairs import Pair

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--shared", type=Path, required=True, help="folder with the public sets")
    parser.add_argument("--own", type=Path, default=HERE / "data", help="folder with the hand-written groups")
    parser.add_argument("--config", type=Path, default=HERE / "config.toml")
    parser.add_argument("--out", type=Path, required=True, help="folder for one file per source")
    args = parser.parse_args()
    mix = tomllib.loads(args.config.read_text())["mix"]
    found: dict[str, list[Pair]] = {}
    for name, source in data.read(mix, args.shared, None, Encoder(args.base)).items():
        found[name] = [pair for unit in source.held_out for pair in unit]
    # Conversations are left out: here they are one text already.
    groups = data.own_groups(args.own, "groups", mix["groups"]["held_out"])
    found["groups"] = [pair for unit in groups.held_out for pair in unit]
    args.out.mkdir(parents=True, exist_ok=True)
    for name, pairs in found.items():
        rows = [{"a": p.a, "b": p.b, "label": p.label, "source": f"{name}/{p.kind.split('/')[-1]}"} for p in pairs]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (args.out / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        print(f"{name}: {len(rows)} pairs, {sum(row['label'] for row in rows)} right")


if __name__ == "__main__":
    main()
