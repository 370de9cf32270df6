"""Names of lists, for whoever takes them from a user."""

from collections.abc import Iterator, Sequence

from baremetalrt.index.known import add_name as add_name
from baremetalrt.index.known import all_lists, names_like, source_of
from baremetalrt.index.known import remove_name as remove_name
from baremetalrt.index.lists import ListedModel as ListedModel
from baremetalrt.index.lists import search


def listed(words: Sequence[str] = ()) -> Iterator[tuple[str, ListedModel]]:
    """Models of all lists of which these words are said, and whose lists they are; all without any."""
    return search(words, all_lists())


def meant_by(name: str) -> str:
    """What is fetched when a name is pulled: what a list says of it, or else the name itself."""
    return source_of(name) or name


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
