"""Programs that work with a server of ours, and what they have to be told of it. Pure.

Source: the documentation of each program.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from baremetalrt.core.errors import UsageError

# Programs ask for a key, whether or not the server does.
_NO_KEY: Final = "none"
_KEY_VARIABLE: Final = "BMRT_API_KEY"
# Programs that know of no limit ask for tens of thousands of tokens, and a small model may give them.
_MAX_ANSWER: Final = 4096


@dataclass(frozen=True)
class ServedModel:
    """Where a model is asked. `url` is that of the server, without a path.

    `context`: how many tokens a text may have, where the server says it.
    """

    url: str
    model: str
    key: str | None = None
    context: int | None = None

    @property
    def base_url(self) -> str:
        """What programs take that speak OpenAI's dialect."""
        return f"{self.url}/v1"

    @property
    def any_key(self) -> str:
        return self.key or _NO_KEY


@dataclass(frozen=True)
class Start:
    """How a program is started: its words, and variables of its environment."""

    words: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)


def _codex(served: ServedModel) -> Start:
    provider = {"name": "BareMetalRT", "base_url": served.base_url, "wire_api": "responses"}
    variables = {}
    if served.key:
        provider["env_key"] = _KEY_VARIABLE
        variables[_KEY_VARIABLE] = served.key
    table = ", ".join(f"{name} = {json.dumps(value)}" for name, value in provider.items())
    settings: tuple[str, ...] = ("model_provider=bmrt", f"model_providers.bmrt={{ {table} }}")
    if served.context:
        settings += (f"model_context_window={served.context}",)
    words = [word for one in settings for word in ("-c", one)]
    return Start(("codex", *words, "-m", served.model), variables)


def _claude(served: ServedModel) -> Start:
    models = ("ANTHROPIC_MODEL", "ANTHROPIC_DEFAULT_HAIKU_MODEL", "ANTHROPIC_SMALL_FAST_MODEL")
    return Start(
        ("claude",),
        {
            "ANTHROPIC_BASE_URL": served.url,
            "ANTHROPIC_AUTH_TOKEN": served.any_key,
            **dict.fromkeys(models, served.model),
            # Nothing leaves the machines that are trusted.
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        },
    )


def _opencode(served: ServedModel) -> Start:
    model: dict[str, object] = {"name": served.model}
    if served.context:
        answer = min(_MAX_ANSWER, served.context // 4)
        model["limit"] = {"context": served.context, "output": answer}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "BareMetalRT",
        "options": {"baseURL": served.base_url, "apiKey": served.any_key},
        "models": {served.model: model},
    }
    settings = {"provider": {"bmrt": provider}, "model": f"bmrt/{served.model}"}
    return Start(("opencode",), {"OPENCODE_CONFIG_CONTENT": json.dumps(settings)})


def _aider(served: ServedModel) -> Start:
    variables = {"OPENAI_API_BASE": served.base_url, "OPENAI_API_KEY": served.any_key}
    return Start(("aider", "--model", f"openai/{served.model}"), variables)


def _goose(served: ServedModel) -> Start:
    variables = {
        "GOOSE_PROVIDER": "openai",
        "GOOSE_MODEL": served.model,
        "OPENAI_HOST": served.url,
        "OPENAI_API_KEY": served.any_key,
    }
    return Start(("goose",), variables)


def _qwen(served: ServedModel) -> Start:
    variables = {
        "OPENAI_BASE_URL": served.base_url,
        "OPENAI_API_KEY": served.any_key,
        "OPENAI_MODEL": served.model,
    }
    return Start(("qwen",), variables)


def _ollama(served: ServedModel) -> Start:
    return Start(("ollama", "run", served.model), {"OLLAMA_HOST": served.url})


AGENTS: Final[dict[str, Callable[[ServedModel], Start]]] = {
    "codex": _codex,
    "claude": _claude,
    "opencode": _opencode,
    "aider": _aider,
    "goose": _goose,
    "qwen": _qwen,
    "ollama": _ollama,
}


def start_of(name: str, served: ServedModel) -> Start:
    """How a program is started that is to work with a model; raises `UsageError`."""
    if name not in AGENTS:
        raise UsageError(
            f"no program {name!r} is known here",
            code="agent.unknown",
            parameter="program",
            hint=f"known: {', '.join(AGENTS)}; others that speak OpenAI's dialect take the base URL "
            f"{served.base_url}",
        )
    return AGENTS[name](served)
