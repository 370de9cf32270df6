"""The spans that peers host now, under one name for one content."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from baremetalrt.hosting.known_models import names_here
from baremetalrt.hosting.options import RouteOptions
from baremetalrt.hosting.plans import peer_reports
from baremetalrt.swarm.options import SwarmOptions


async def span_reports(route: RouteOptions, swarm: SwarmOptions) -> list[dict[str, Any]]:
    """A row for each span that a peer hosts, in the order of models and blocks.

    `name` is what `bmrt ls` here calls the content, if it is here; `called`, what that peer calls it.
    """
    peers = await peer_reports(route, swarm)
    return name_spans(peers, await asyncio.to_thread(names_here))


def name_spans(
    peers: Iterable[Mapping[str, Any]], here: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """The spans of these peers, with one name for each content. `here`: what it is called here."""
    rows = [{"peer": one["id"]} | span for one in peers for span in one["spans"]]
    called: dict[str, Counter[str]] = {}
    for row in rows:
        called.setdefault(row["model"], Counter())[row["name"]] += 1
    names = {model: _name(here.get(model, ()), said) for model, said in called.items()}
    named = [row | {"name": names[row["model"]], "called": row["name"]} for row in rows]
    return sorted(named, key=lambda r: (r["name"], r["model"], r["start"], r["end"], r["peer"]))


def _name(here: Sequence[str], said: Counter[str]) -> str:
    """What a content is called: as here, best if peers do so, too; or else as most of them do."""
    if here:
        return max(here, key=lambda name: said[name])
    return min(said, key=lambda name: (-said[name], name))


def missing_blocks(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Blocks that nobody has, as ranges, of every content that anybody hosts some of."""
    there: dict[tuple[str, str], set[int]] = {}
    total: dict[tuple[str, str], Counter[int]] = {}
    for row in rows:
        key = row["name"], row["model"]
        there.setdefault(key, set()).update(range(row["start"], row["end"]))
        total.setdefault(key, Counter())[row["num_blocks"]] += 1
    missing = {}
    for (name, model), counts in total.items():
        # One peer that miscounts does not make blocks that nobody else knows of.
        num_blocks = min(counts, key=lambda n: (-counts[n], n))
        gaps = [b for b in range(num_blocks) if b not in there[name, model]]
        starts = [b for b in gaps if b - 1 not in gaps]
        ends = [b + 1 for b in gaps if b + 1 not in gaps]
        if gaps:
            label = name if [n for n, _ in total].count(name) == 1 else f"{name} ({model[:8]})"
            missing[label] = ", ".join(f"{a}:{b}" for a, b in zip(starts, ends, strict=True))
    return missing
