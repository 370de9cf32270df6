"""The fastest way over what peers host: of a whole model, or of blocks that were lost."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from baremetalrt.blocks.architectures import read_model
from baremetalrt.core.errors import CapacityError
from baremetalrt.core.spans import BlockSpan
from baremetalrt.hosting.neighbour import Neighbour
from baremetalrt.hosting.neighbours import HERE, links_between, profiles_of
from baremetalrt.node.model_profile import profile_model
from baremetalrt.peers.remote_span import RemoteSpan
from baremetalrt.placement.covering import cover
from baremetalrt.placement.planning import PlacedSpan, Placement, choose_route
from baremetalrt.placement.profiles import Demand
from baremetalrt.weights.gguf import GGUFFile

# The context that predictions are made for: longer texts take a little longer on every route.
TYPICAL_CONTEXT: Final = 1024


def hosted_route(file: GGUFFile, model: str, known: Sequence[Neighbour]) -> Placement | None:
    """The fastest route over what peers host now, as far as their figures tell."""
    measured = [one for one in known if one.byte_s is not None]
    return choose_route(
        profile_model(file),
        profiles_of(measured),
        _servable(file, model, measured),
        links_between(measured),
        caller=HERE,
        demand=Demand(TYPICAL_CONTEXT),
    )


def _fitting(file: GGUFFile, spans: Iterable[RemoteSpan]) -> list[RemoteSpan]:
    """Those that the model has, whatever peers say of it."""
    _, h = read_model(file)
    return [span for span in spans if span.num_blocks == h.num_blocks]


def route_over(file: GGUFFile, model: str, known: Sequence[Neighbour]) -> list[RemoteSpan]:
    """The fastest route of all; raises `CapacityError` where the peers do not host all blocks."""
    route = hosted_route(file, model, known)
    if route is not None:
        return remote_spans(file, route.route, known, model)
    spans = {s.blocks for one in known for s in _fitting(file, one.spans_of(model))}
    listed = ", ".join(map(str, sorted(spans))) or "none"
    raise CapacityError(
        f"the peers do not host all of the {len(file.blocks)} blocks: {listed}",
        code="route.incomplete",
        hint="`bmrt serve --share MODEL --share-blocks A:B` on another machine hosts the rest",
    )


def remote_spans(
    file: GGUFFile, route: Sequence[PlacedSpan], known: Sequence[Neighbour], model: str
) -> list[RemoteSpan]:
    """What is placed, as it is asked for."""
    by_id = {one.id: one for one in known}
    return [
        next(
            replace(span, blocks=placed.blocks)
            for span in _fitting(file, by_id[placed.device].spans_of(model))
            if placed.blocks.is_within(span.blocks)
        )
        for placed in route
    ]


def _servable(
    file: GGUFFile, model: str, known: Sequence[Neighbour]
) -> list[tuple[str, BlockSpan]]:
    """What each peer can compute: what it hosts, and its parts that begin or end where others do."""
    hosted = {(one.id, s.blocks) for one in known for s in _fitting(file, one.spans_of(model))}
    cuts = sorted({cut for _, blocks in hosted for cut in (blocks.start, blocks.end)})
    spans = [BlockSpan(start, end) for start, end in itertools.combinations(cuts, 2)]
    return [(id_, part) for id_, blocks in hosted for part in spans if part.is_within(blocks)]


def cover_lost(
    file: GGUFFile, lost: RemoteSpan, others: Sequence[Neighbour], avoid: frozenset[str]
) -> Sequence[RemoteSpan]:
    """The fastest of those, alone or together, that host what was lost; none if blocks are missing."""
    able = [one for one in others if one.id not in avoid and one.byte_s is not None]
    spans = [(one.id, s.blocks) for one in able for s in _fitting(file, one.spans_of(lost.model))]
    placed = cover(
        profile_model(file),
        profiles_of(able),
        spans,
        links_between(able).default,
        lost.blocks,
        demand=Demand(TYPICAL_CONTEXT),
    )
    return remote_spans(file, placed or (), able, lost.model)
