"""`adapter.json`: what this program knows of an adapter beside its numbers."""

from pathlib import Path
from typing import Final

import msgspec

from baremetalrt import __version__
from baremetalrt.core.errors import IntegrityError
from baremetalrt.core.files import read_regular
from baremetalrt.core.units import KIB
from baremetalrt.weights.adapters.adapter import Adapter

CARD_NAME: Final = "adapter.json"
NOT_PRIVATE: Final = "not differentially private"
UNKNOWN_PRIVACY: Final = "unknown"
_FORMAT: Final = 1
_MAX_CARD_BYTES: Final = 64 * KIB


class DifferentialPrivacy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one document can change of the adapter, at most (arXiv 1607.00133)."""

    epsilon: float
    delta: float


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """What an adapter is, and which model it belongs to.

    `base_content_id` is the v2 root of the base file; None where the maker did not say.
    """

    name: str
    architecture: str
    rank: int
    alpha: float
    num_matrices: int
    base_content_id: str | None = None
    base_name: str | None = None
    privacy: DifferentialPrivacy | str = UNKNOWN_PRIVACY
    created_by: str = f"bmrt {__version__}"
    format: int = _FORMAT


def card_of(adapter: Adapter, *, privacy: DifferentialPrivacy | str = UNKNOWN_PRIVACY) -> Card:
    """The card of an adapter that has none yet."""
    return Card(
        name=adapter.name,
        architecture=adapter.architecture,
        rank=adapter.rank,
        alpha=adapter.alpha,
        num_matrices=len(adapter.matrices),
        base_content_id=adapter.base_content_id,
        base_name=adapter.base_name,
        privacy=privacy,
    )


def read_card(path: Path) -> Card:
    """Reads a card.

    Raises:
        IntegrityError: it is damaged, or of a later release.
    """
    try:
        card = msgspec.json.decode(read_regular(path, _MAX_CARD_BYTES), type=Card)
    except (OSError, msgspec.DecodeError, RecursionError) as error:
        raise IntegrityError(
            f"the card of the adapter {path.parent.name} cannot be read: {error}",
            code="adapter.card",
            source=str(path),
            hint=f"`bmrt adapters rm {path.parent.name}` removes it; import it again",
        ) from error
    if card.format > _FORMAT:
        raise IntegrityError(
            f"the adapter {path.parent.name} was made by a later release ({card.created_by})",
            code="adapter.card",
            source=str(path),
            hint="use that release, or import its adapter.gguf again",
        )
    return card


def encode_card(card: Card) -> bytes:
    """The card as it is written, with line breaks."""
    return msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n"
