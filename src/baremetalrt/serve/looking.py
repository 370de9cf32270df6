"""Which models a server offers, for programs that are to work with it."""

import json
import urllib.error
import urllib.request
from typing import Final

from baremetalrt.core.errors import UsageError
from baremetalrt.core.ids import folded
from baremetalrt.serve.agents import ServedModel

_DEADLINE_S: Final = 10.0
_MAX_BYTES: Final = 1 << 20
_UNAUTHORIZED: Final = 401


def served_model(url: str, model: str | None, key: str | None) -> ServedModel:
    """The model that is meant, or the first one, and how long its texts may be, if it is loaded.

    Raises:
        UsageError: no server answers there, it asks for another key, or has no such model.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(f"{url}/v1/models", headers=headers)
    # This machine is meant, or one beside it: no proxy knows the way.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_DEADLINE_S) as answer:
            listed = json.loads(answer.read(_MAX_BYTES))
        contexts = {str(card["id"]): card.get("context_length") for card in listed["data"]}
    except urllib.error.HTTPError as error:
        error.close()
        is_key = error.code == _UNAUTHORIZED
        raise UsageError(
            f"the server at {url} {'asks for a key' if is_key else f'answers {error.code}'}",
            code="agent.refused",
            hint="give it by --api-key, or in BMRT_API_KEY" if is_key else None,
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"no server answers at {url}",
            code="agent.no-server",
            hint="start one beside: `bmrt serve`; or say where it is, by --url",
        ) from error
    names = list(contexts)
    found = [name for name in names if model is None or folded(name) == folded(model)]
    if found:
        context = contexts[found[0]]
        return ServedModel(url, found[0], key, context if isinstance(context, int) else None)
    raise UsageError(
        f"the server at {url} has no model" + (f" {model!r}" if model else " for who asks"),
        code="model.not-found",
        parameter="model",
        hint=f"it has: {', '.join(names)}"
        if names
        else "`bmrt keys ls` says which models a key is for",
    )
