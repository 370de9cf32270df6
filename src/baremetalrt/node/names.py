"""Names of lists, for whoever takes them from a user."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from baremetalrt.core.errors import IntegrityError
from baremetalrt.index.known import add_name as add_name
from baremetalrt.index.known import all_lists, names_like, source_of
from baremetalrt.index.known import found_by as found_by
from baremetalrt.index.known import remove_name as remove_name
from baremetalrt.index.lists import ListedModel as ListedModel
from baremetalrt.index.lists import search

if TYPE_CHECKING:
    from baremetalrt.swarm.metainfo import Metainfo


def listed(words: Sequence[str] = ()) -> Iterator[tuple[str, ListedModel]]:
    """Models of all lists of which these words are said, and whose lists they are; all without any."""
    return search(words, all_lists())


def meant_by(name: str) -> str:
    """What is fetched when a name is pulled: what a list says of it, or else the name itself."""
    return source_of(name) or name


def require_content(expected: str | None, metainfo: "Metainfo") -> None:
    """Raises `IntegrityError` where a torrent is not of the bytes that a list names."""
    if expected is None or metainfo.infohash_v2 is None or metainfo.content_id == expected:
        return
    raise IntegrityError(
        f"{metainfo.name} is not the model that the list means: it has other bytes",
        code="index.content",
        source=metainfo.id,
        hint="the list is wrong, or somebody changed where it points; ask its publisher",
    )


def hint_for(name: str) -> str | None:
    """What may be meant by a name that nothing has."""
    if source_of(name) is not None:
        return f"`bmrt pull {name}` fetches it"
    found = names_like(name)
    return (
        f"is one of these meant: {', '.join(found)}? `bmrt index search` lists more"
        if found
        else None
    )
