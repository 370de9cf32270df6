"""A beginning of conversations that everybody may know: computed once, for whoever begins with it."""

from collections.abc import Callable
from itertools import takewhile
from typing import Final

from baremetalrt.core.owner import PUBLIC
from baremetalrt.session.chat_template import ChatTemplate, Message
from baremetalrt.session.route import Route, RoutePlace
from baremetalrt.session.tokenizer import Tokenizer

# How a first message may begin: what all of these leave as it is, comes before any.
_MESSAGES: Final = ("a", "Z z", "0", "\n", " ", "«", "")


def beginning_of(template: ChatTemplate, tokenizer: Tokenizer, system: str) -> list[int]:
    """The tokens with which every conversation begins that has this system text.

    Only the template and the text are in them: nothing that anybody says. Raises like
    `ChatTemplate.render`.
    """
    return beginning_after({"role": "system", "content": system}, template.render, tokenizer)


def beginning_after(
    told: Message, render: Callable[[list[Message]], str], tokenizer: Tokenizer
) -> list[int]:
    """The same for a system message, as `render` renders it."""
    texts = [render([told, {"role": "user", "content": one}]) for one in _MESSAGES]
    columns = zip(*map(tokenizer.encode_chat, texts), strict=False)
    return [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]


async def compute(route: Route, tokens: list[int]) -> RoutePlace:
    """Computes a public text and keeps it, so that no other text pushes it out.

    It is there before anybody asks, and as long: neither what is reported of it nor how long it takes
    tells whether others asked.

    Raises:
        CapacityError: it does not fit into the cache.
    """
    place = await route.open(tokens, len(tokens), None, PUBLIC)
    done = place.length
    while done < len(tokens):
        chunk = tokens[done : done + route.chunk_tokens]
        await route.forward(place, chunk, "none")
        done += len(chunk)
    return place
