"""Answers as JSON, whatever a model wrote in them."""

import json
from typing import Any

import msgspec
from starlette.responses import JSONResponse


def to_json(content: Any) -> bytes:
    """UTF-8; halves of characters that are none, which JSON can escape and models write, are replaced."""
    try:
        return msgspec.json.encode(content)
    except UnicodeEncodeError:
        # A tenth as fast; hardly ever needed.
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "replace")


class JsonResponse(JSONResponse):
    """Starlette's, with `to_json`: an answer that cannot be sent would be an error of the server."""

    def render(self, content: Any) -> bytes:
        return to_json(content)
