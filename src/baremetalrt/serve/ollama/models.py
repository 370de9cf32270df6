"""`/api/tags`, `/api/show` and `/api/ps`: what is served, in Ollama's words."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from baremetalrt.core.errors import BareMetalError
from baremetalrt.node.listing import describe_file
from baremetalrt.serve.openai import reasoning

# The release whose API this is: clients ask for what came with it.
VERSION: Final = "0.13.0"
_NEVER: Final = "9999-12-31T23:59:59Z"


def tag(name: str, path: Path) -> dict[str, Any]:
    """A model in a list, as far as its file says what it is."""
    about = _describe(path)
    modified = datetime.fromtimestamp(about.get("modified", 0.0), UTC)
    return {
        "name": name,
        "model": name,
        "modified_at": modified.isoformat().replace("+00:00", "Z"),
        "size": about.get("bytes", 0),
        "digest": "",
        "details": details(about),
    }


def running(name: str, path: Path, context: int) -> dict[str, Any]:
    """A model that is in memory."""
    one = tag(name, path)
    del one["modified_at"]
    return one | {"expires_at": _NEVER, "size_vram": 0, "context_length": context}


def show(name: str, path: Path, template: str | None = None) -> dict[str, Any]:
    """All that clients want to know of a model before they ask it; `template`, if not its file's own."""
    about = _describe(path)
    source = template or about.get("template") or ""
    capabilities = ["completion"]
    if "tools" in source:
        capabilities.append("tools")
    if reasoning.marks_of(source):
        capabilities.append("thinking")
    family = str(about.get("architecture") or "")
    info = {
        "general.architecture": family,
        # what editors call it
        "general.basename": name,
        "general.parameter_count": about.get("parameters", 0),
        f"{family}.context_length": about.get("context", 0),
        f"{family}.embedding_length": about.get("width", 0),
        f"{family}.block_count": len(about.get("blocks", ())),
    }
    return {
        "modelfile": f"FROM {name}",
        "parameters": "",
        "template": source,
        "license": about.get("license") or "",
        "details": details(about),
        "model_info": info,
        "capabilities": capabilities,
        "modified_at": tag(name, path)["modified_at"],
    }


def details(about: dict[str, Any]) -> dict[str, Any]:
    """What kind of model it is."""
    family = str(about.get("architecture") or "")
    types: dict[str, dict[str, int]] = about.get("types", {})
    largest = max(types, key=lambda name: types[name]["bytes"], default="").upper()
    return {
        "parent_model": "",
        "format": "gguf",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": _short(about.get("parameters", 0)),
        "quantization_level": largest,
    }


def _describe(path: Path) -> dict[str, Any]:
    try:
        return describe_file(path) | {"modified": path.stat().st_mtime}
    except (BareMetalError, OSError):
        # One that was taken away meanwhile is in the list all the same.
        return {}


def _short(count: int) -> str:
    """`135M`, `7.2B`."""
    if count >= 1e9:
        return f"{count / 1e9:.1f}B"
    return f"{count / 1e6:.0f}M"
