"""Renders chat templates in a process of its own, with little memory, little time and no way out.

A template is a program that came with a downloaded file. Jinja's sandbox keeps it from Python's
internals; being a separate process with limits keeps it from looping or growing without end, and, where
the system knows how, from files, network and other processes. Run by path, so that it imports nothing
else but Jinja. One JSON object per line in and out.
"""

import json
import sys
import time
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from baremetalrt.core.sandbox import confine

_MEMORY_LIMIT_BYTES = 512 * 1024 * 1024
_CPU_LIMIT_S = 60
_MAX_OUTPUT_CHARS = 16 * 1024 * 1024


class _Refused(Exception):
    """The template itself said no, by `raise_exception`."""


class _Generation(Extension):
    """`{% generation %}` marks the model's own words for training; here it is plain text."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> NoReturn:
    raise _Refused(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes for HTML; templates expect what `transformers` gives them.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _render(environment: ImmutableSandboxedEnvironment, request: dict[str, Any]) -> dict[str, str]:
    try:
        text = environment.from_string(request["template"]).render(**request["variables"])
    except _Refused as error:
        return {"refused": str(error)}
    except MemoryError:
        return {"error": "it needs too much memory"}
    except RecursionError:
        return {"error": "it is nested too deeply"}
    except (TemplateError, ValueError, TypeError, LookupError, ArithmeticError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    except (AttributeError, AssertionError, SyntaxError, OSError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    if len(text) > _MAX_OUTPUT_CHARS:
        return {"error": f"it renders more than {_MAX_OUTPUT_CHARS} characters"}
    return {"text": text}


def _limit_resources() -> None:
    """Before each template: what others used of the processor's time is not taken from it."""
    try:
        import resource
    except ImportError:  # Windows: the caller's deadline remains
        return
    _, hard_s = resource.getrlimit(resource.RLIMIT_CPU)
    until_s = int(time.process_time()) + _CPU_LIMIT_S
    resource.setrlimit(resource.RLIMIT_CPU, (until_s, hard_s))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_LIMIT_BYTES, _MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def main() -> None:
    environment = _environment()
    confine()
    for line in sys.stdin.buffer:
        _limit_resources()
        reply = _render(environment, json.loads(line))
        sys.stdout.buffer.write(json.dumps(reply).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
