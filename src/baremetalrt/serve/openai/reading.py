"""From the body of a request to its fields: other servers' names for ours, and what nobody knows.

A field that is not known is left out and named to the client, as programs send fields of servers that
they were written for; one that differs in a letter from a known one is taken for a mistake.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import msgspec

from baremetalrt.core.errors import UsageError
from baremetalrt.core.text_input import decode_bom

T = TypeVar("T", bound=msgspec.Struct)
# Names of llama.cpp's server, vLLM and Ollama.
_OTHER_NAMES: Final = {
    "repeat_penalty": "repetition_penalty",
    "n_predict": "max_tokens",
    "n_probs": "top_logprobs",
    "guided_grammar": "grammar",
    "max_new_tokens": "max_tokens",
}
# No program has more of its own.
_MAX_UNKNOWN: Final = 64
_MAX_NAMED: Final = 20
# Of shorter names, one letter is much.
_SHORTEST_WORD: Final = 4
_MAX_NAME_CHARS: Final = 60


_log = logging.getLogger("baremetalrt")
_MAX_TOLD: Final = 100


class FieldReader:
    """Reads the requests of one server; `is_strict` refuses fields that nobody knows."""

    def __init__(self, *, is_strict: bool) -> None:
        self._is_strict = is_strict
        self._told: set[str] = set()

    def reading(self, kind: type[T]) -> Callable[[bytes], tuple[T, str]]:
        """Reads bodies, and says as a header does which fields are ignored; the log says each once."""

        def read_body(body: bytes) -> tuple[T, str]:
            found = read(body, kind, is_strict=self._is_strict)
            return found.request, self._tell(found.ignored)

        return read_body

    def _tell(self, ignored: tuple[str, ...]) -> str:
        # They are a stranger's text.
        names = [name for name in ignored if name.isidentifier() and name.isascii()]
        for name in names:
            if name not in self._told and len(self._told) < _MAX_TOLD:
                self._told.add(name)
                _log.warning("requests have the field %s, which is ignored", name)
        return ", ".join(names)


@dataclass(frozen=True)
class Read(Generic[T]):
    """A request, and the names of the fields that it had besides."""

    request: T
    ignored: tuple[str, ...]


def read(body: bytes, kind: type[T], *, is_strict: bool = False) -> Read[T]:
    """A request from its JSON.

    Raises:
        UsageError: not JSON, a field of the wrong type, out of bounds, or meant to be another; with
            `is_strict`, one that is not known.
    """
    # Programs that write files with a BOM send bodies with one.
    decoded = decode_bom(body)
    text = body if decoded is None else decoded
    try:
        fields = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        try:
            if "surrogate" not in str(error):
                raise
            fields = _with_whole_characters(text)
        except (ValueError, RecursionError):
            raise UsageError(f"the body is not JSON: {error}", code="request.not-json") from error
    if not isinstance(fields, dict):
        raise UsageError("the body is not a JSON object", code="request.invalid")
    known = kind.__struct_fields__
    fields = _renamed(fields)
    ignored = tuple(name for name in fields if name not in known)
    if len(ignored) > _MAX_UNKNOWN:
        raise UsageError(f"{len(ignored)} of the fields are not known here", code="request.invalid")
    for name in ignored:
        _require_no_mistake(name, known, is_strict=is_strict)
        del fields[name]
    try:
        request = msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        message = str(error)
        raise UsageError(message, code="request.invalid", parameter=_parameter(message)) from error
    except RecursionError as error:
        raise UsageError("the body is nested too deeply", code="request.invalid") from error
    return Read(request, tuple(name[:_MAX_NAME_CHARS] for name in ignored[:_MAX_NAMED]))


def _with_whole_characters(text: bytes | str) -> Any:
    """JSON in which halves of characters are escaped, as programs do that cut texts: they are replaced.

    Raises:
        ValueError, RecursionError: there is more wrong with it.
    """
    loose = json.loads(text, parse_constant=_no_json)
    whole = json.dumps(loose, ensure_ascii=False).encode("utf-8", "replace")
    return msgspec.json.decode(whole)


def _no_json(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _renamed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields by our names; what is given under both counts as ours says."""
    renamed = dict(fields)
    for theirs, ours in _OTHER_NAMES.items():
        if theirs in renamed:
            value = renamed.pop(theirs)
            renamed.setdefault(ours, value)
    schema = renamed.pop("guided_json", None)
    if schema is not None:
        named = {"name": "guided_json", "schema": schema}
        renamed.setdefault("response_format", {"type": "json_schema", "json_schema": named})
    return renamed


def _require_no_mistake(name: str, known: tuple[str, ...], *, is_strict: bool) -> None:
    meant = next((one for one in known if _is_near(name, one)), None)
    if meant is None and not is_strict:
        return
    raise UsageError(
        f"there is no field {name[:_MAX_NAME_CHARS]!r}",
        code="request.invalid",
        parameter=name[:_MAX_NAME_CHARS],
        hint=f"is {meant} meant?" if meant else "the server was started with --strict",
    )


def _is_near(a: str, b: str) -> bool:
    """Whether one letter was left out, put in, changed, or exchanged with its neighbour, in a word."""
    if abs(len(a) - len(b)) > 1 or len(b) < _SHORTEST_WORD:
        return False
    start = next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )
    rest, other = a[start:], b[start:]
    swapped = rest[1:2] + rest[:1] + rest[2:]
    return rest[1:] == other or rest == other[1:] or rest[1:] == other[1:] or swapped == other


def _parameter(message: str) -> str | None:
    """The field that msgspec blames: in backquotes, or a path behind ` - at `$.`."""
    _, separator, path = message.rpartition("`$.")
    if separator:
        return path.rstrip("`")
    parts = message.split("`")
    return parts[-2] if len(parts) >= 3 else None
