"""What `bmrt ps` says of what is in the memory of a process."""

from baremetalrt.blocks.span import Span
from baremetalrt.node.model import Model, Use
from baremetalrt.node.presence import LoadedModel


def loaded_span(span: Span, use: Use, name: str) -> LoadedModel:
    """Of blocks in this process, of a model called `name`."""
    weights, cache = span.weights, span.cache
    return LoadedModel(
        name=name,
        blocks=f"{span.blocks} of {span.hyperparameters.num_blocks}",
        device=span.device.name.lower(),
        context=span.context_limit,
        weight_bytes=weights.mapped_bytes + weights.copied_bytes,
        window_bytes=weights.slots_bytes,
        streamed_bytes=weights.streamed_bytes,
        cache_bytes=cache.num_bytes - cache.unfilled_bytes,
        cache_limit_bytes=cache.num_bytes,
        since=use.since,
        used=use.last,
    )


def loaded_whole(model: Model, device: str) -> LoadedModel:
    """Of a model in a process of the library's, which says nothing of its cache."""
    return LoadedModel(
        name=model.name,
        blocks=f"0:{model.num_blocks} of {model.num_blocks}",
        device=device.lower(),
        context=model.context_limit,
        weight_bytes=model.path.stat().st_size,
        window_bytes=0,
        streamed_bytes=0,
        cache_bytes=0,
        cache_limit_bytes=0,
        since=model.use.since,
        used=model.use.last,
    )
