"""Which hosted spans stand in for one that was lost."""

from collections.abc import Iterable, Sequence
from math import inf

from baremetalrt.core.spans import BlockSpan
from baremetalrt.placement.planning import PlacedSpan, placed_span
from baremetalrt.placement.profiles import Demand, DeviceProfile, Link, ModelProfile, Sizes


def cover(
    model: ModelProfile,
    devices: Sequence[DeviceProfile],
    hosted: Iterable[tuple[str, BlockSpan]],
    link: Link,
    blocks: BlockSpan,
    *,
    demand: Demand,
) -> tuple[PlacedSpan, ...] | None:
    """The parts of hosted spans that compute `blocks` fastest, in order; None where blocks are missing.

    A device may come more than once: it holds its blocks already. `link` is that between any two.
    """
    sizes = Sizes(model, demand)
    by_id = {device.id: device for device in devices}
    hop_s = link.seconds(model.row_bytes)
    # Sorted: what is equally fast must not depend on who answered first.
    within = sorted(
        (id_, BlockSpan(max(span.start, blocks.start), min(span.end, blocks.end)))
        for id_, span in hosted
        if span.start < blocks.end and blocks.start < span.end
    )
    cuts = sorted({cut for _, span in within for cut in (span.start, span.end)} | {blocks.start})
    # By where they end: the fastest way there from `blocks.start`, which is reached at no cost.
    best: dict[int, tuple[float, tuple[PlacedSpan, ...]]] = {blocks.start: (0.0, ())}
    for end in cuts[1:]:
        for id_, span in within:
            for start in (cut for cut in cuts if span.start <= cut < end <= span.end):
                if start not in best:
                    continue
                so_far, spans = best[start]
                placed = placed_span(by_id[id_], sizes, BlockSpan(start, end))
                seconds = so_far + placed.span_s + (hop_s if spans else 0.0)
                if seconds < best.get(end, (inf, ()))[0]:
                    best[end] = seconds, (*spans, placed)
    return best[blocks.end][1] if blocks.end in best else None
