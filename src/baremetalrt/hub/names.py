"""Names of models on a hub: `hf:OWNER/REPO[@REVISION][:QUANT]`. Pure."""

import re
from dataclasses import dataclass
from typing import Final

from baremetalrt.core.errors import UsageError

_PREFIXES: Final = ("hf:", "hf.co/", "huggingface.co/", "https://hf.co/", "https://huggingface.co/")
_PART: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_NAME: Final = re.compile(
    rf"(?P<repo>{_PART}/{_PART})(?:@(?P<revision>[A-Za-z0-9][\w./-]{{0,99}}))?(?::(?P<quant>[\w.-]{{1,99}}))?"
)
# As browsers show a file.
_PAGE: Final = re.compile(
    rf"(?P<repo>{_PART}/{_PART})/(?:blob|resolve)/(?P<revision>[^/?#]+)/(?P<quant>[^?#]+)\.gguf(?:\?.*)?"
)


@dataclass(frozen=True)
class HubName:
    """`repo` is `OWNER/REPO`; `quant` says which of its files, by a part of its name."""

    repo: str
    quant: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf:{self.repo}{revision}" + (f":{self.quant}" if self.quant else "")


def is_hub_name(text: str) -> bool:
    """Whether it is meant as the name of a model on a hub."""
    return text.strip().lower().startswith(_PREFIXES)


def parse_hub_name(text: str) -> HubName:
    """What a name means; raises `UsageError` if it is none."""
    prefix = max((p for p in _PREFIXES if text.strip().lower().startswith(p)), key=len, default="")
    rest = text.strip()[len(prefix) :].strip("/")
    found = _PAGE.fullmatch(rest) or _NAME.fullmatch(rest)
    if not prefix or found is None or ".." in found["repo"]:
        raise UsageError(
            f"{text[:100]!r} names no model on a hub",
            code="hub.name",
            parameter="source",
            hint="hf:OWNER/REPO, or hf:OWNER/REPO:Q4_K_M for one of its files",
        )
    return HubName(found["repo"], found["quant"], found["revision"])
