"""`config.toml` in the home folder: the only reader of it.

Each section belongs to one frozen dataclass, which stands beside the code that it configures; its
defaults hold where the file says nothing. Options of the command line override both.
"""

import difflib
import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar, get_type_hints

import msgspec

from baremetalrt.core.errors import UsageError
from baremetalrt.core.files import read_regular
from baremetalrt.core.places import home
from baremetalrt.core.text_input import decode_bom
from baremetalrt.core.units import MIB, parse_bytes

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Settings = TypeVar("Settings", bound=DataclassInstance)

_MAX_BYTES: Final = MIB
_SECTIONS: Final = ("swarm", "share", "cache")
_IN_WORDS: Final = "in words"
# A size in bytes, or bytes per second: a number, or words like "50 GiB".
Bytes = Annotated[int, msgspec.Meta(ge=0, extra={_IN_WORDS: True})]
Count = Annotated[int, msgspec.Meta(ge=0)]
_BLAMED: Final = re.compile(r"(.*?)(?: - at `\$\.?(.*)`)?", re.DOTALL)


def settings_path() -> Path:
    return home() / "config.toml"


def load_settings(section: str, kind: "type[Settings]") -> "Settings":
    """What the file says in one section.

    Raises:
        UsageError: a section or a key is unknown, or a value is of the wrong kind.
    """
    return parse_settings(section, kind, _read(section))


def parse_settings(section: str, kind: "type[Settings]", table: Mapping[str, Any]) -> "Settings":
    """Settings from the keys and values of a section; raises like `load_settings`."""
    fields = get_type_hints(kind, include_extras=True)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in fields:
            raise _bad(f"has an unknown key {key!r} in [{section}]", _nearest(key, fields))
        is_in_words = isinstance(value, str) and _takes_words(fields[key])
        values[key] = parse_bytes(value) if is_in_words else value
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        what, where = _blamed(str(error))
        raise _bad(f"{where}: {what}" if where else what) from error


def _read(section: str) -> dict[str, Any]:
    """One section of the file; nothing where it is not there."""
    try:
        data = read_regular(settings_path(), _MAX_BYTES)
        decoded = decode_bom(data)
        tables = tomllib.loads(data.decode() if decoded is None else decoded)
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _bad(f"cannot be read: {error}") from error
    for key, table in tables.items():
        if key not in _SECTIONS:
            raise _bad(f"has an unknown section [{key}]", _nearest(key, _SECTIONS))
        if not isinstance(table, dict):
            raise _bad(f"{key} is not a section", f"settings are under [{key}]")
    found: dict[str, Any] = tables.get(section, {})
    return found


def _takes_words(hint: Any) -> bool:
    notes = getattr(hint, "__metadata__", ())
    return any((getattr(note, "extra", None) or {}).get(_IN_WORDS) for note in notes)


def _blamed(message: str) -> tuple[str, str]:
    """What msgspec says, and the key that it says it of."""
    found = _BLAMED.fullmatch(message)
    assert found is not None
    return found[1], found[2] or ""


def _nearest(key: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"


def _bad(what: str, hint: str | None = None) -> UsageError:
    return UsageError(f"{settings_path()} {what}", code="config.invalid", hint=hint)
