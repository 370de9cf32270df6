"""What a machine hosts that was told nothing."""

from baremetalrt.core.spans import BlockSpan
from baremetalrt.placement.span_choice import HostedBlocks, weakest_model


def hosted(start: int, end: int, tokens_per_s: float = 1.0) -> HostedBlocks:
    return HostedBlocks(BlockSpan(start, end), tokens_per_s)


def test_the_weakest_model_lacks_blocks_or_else_is_slow() -> None:
    whole, slow, broken = [hosted(0, 4, 9.0)], [hosted(0, 4)], [hosted(0, 3, 9.0)]
    assert weakest_model({}) is None
    assert weakest_model({"whole": (4, whole), "slow": (4, slow)}) == "slow"
    models = {"whole": (4, whole), "slow": (4, slow), "broken": (4, broken)}
    assert weakest_model(models) == "broken"
