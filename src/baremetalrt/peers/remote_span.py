"""What a peer hosts, as who asks it to compute sees it."""

from dataclasses import dataclass

from baremetalrt.core.spans import BlockSpan


@dataclass(frozen=True)
class RemoteSpan:
    """A span that a peer hosts. `address` is `HOST:PORT`; `id` is what its certificate must show.

    `token_s` is what the peer says of its speed: seconds for a token in these blocks, None if it does
    not say.
    """

    id: str
    address: str
    model: str
    blocks: BlockSpan
    num_blocks: int
    token_s: float | None = None
