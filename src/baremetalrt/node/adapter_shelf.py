"""Which adapters a user means, read once and checked against the model that they are to run with."""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from baremetalrt.blocks.loaded_adapters import AdapterSet, WeightedAdapter
from baremetalrt.core.errors import BareMetalError, UsageError
from baremetalrt.core.units import GIB
from baremetalrt.node.model import Model
from baremetalrt.session.route import Route
from baremetalrt.weights.adapters import store
from baremetalrt.weights.adapters.adapter import Adapter, check_fits, check_scale
from baremetalrt.weights.adapters.card import CARD_NAME
from baremetalrt.weights.adapters.gguf_lora import read_gguf_lora
from baremetalrt.weights.adapters.peft import PICKLED, read_peft, refuse_pickled
from baremetalrt.weights.adapters.peft_config import CONFIG_NAME
from baremetalrt.weights.adapters.store import StoredAdapter
from baremetalrt.weights.content import content_id, known_content_id
from baremetalrt.weights.gguf import GGUFFile

# Adapters that were read and may be asked for again, in numbers and in memory.
_MAX_KEPT: Final = 16
_MAX_KEPT_BYTES: Final = GIB
_MAX_MEMBERS: Final = 8


@dataclass(frozen=True)
class AdapterChoice:
    """A name or a path, and how much of it."""

    reference: str
    scale: float = 1.0


def parse_choice(text: str, *, allow_paths: bool = False) -> AdapterChoice:
    """`NAME` or `NAME=0.7`; raises `UsageError` if the weight is none."""
    if "=" not in text or (allow_paths and os.path.exists(os.path.expanduser(text))):
        return AdapterChoice(text)
    name, _, weight = text.rpartition("=")
    try:
        return AdapterChoice(name, check_scale(float(weight)))
    except ValueError as error:
        raise UsageError(
            f"{weight!r} is not a weight of an adapter",
            code="adapter.scale",
            parameter="adapter",
            hint="for example --adapter pirate=0.7",
        ) from error


def parse_names(text: str) -> tuple[AdapterChoice, ...]:
    """`a+b=0.5`, as it stands behind the name of a model."""
    return tuple(parse_choice(part) for part in text.split("+"))


def label(choices: Iterable[AdapterChoice]) -> str:
    """The other way round."""
    return "+".join(c.reference + ("" if c.scale == 1.0 else f"={c.scale:g}") for c in choices)


def read_adapter(path: Path, base: GGUFFile) -> Adapter:
    """A GGUF LoRA, or a PEFT folder, that is not in the store; raises like their readers."""
    if path.suffix.lower() in PICKLED:
        refuse_pickled(path)
    if path.is_dir():
        if StoredAdapter(path).is_complete:
            return store.load(StoredAdapter(path))
        refuse_pickled(path)
        return read_peft(path, base)
    if path.suffix.lower() == ".safetensors":
        raise UsageError(
            f"{path.name} says nothing of rank and alpha",
            code="adapter.type",
            parameter="adapter",
            hint=f"name its folder, which has the {CONFIG_NAME}",
        )
    return read_gguf_lora(path)


def check_base(adapter: Adapter, file: GGUFFile) -> None:
    """Whether an adapter belongs to this model: by its base's content, then by shapes.

    Hashes the model if the adapter names a base and nobody has hashed the model before.

    Raises:
        UsageError: it belongs to another model, or does not fit.
    """
    check_fits(adapter, file)
    if adapter.base_content_id is None:
        return
    found = content_id(file)
    if adapter.base_content_id != found:
        named = f" ({adapter.base_name})" if adapter.base_name else ""
        raise UsageError(
            f"the adapter {adapter.name} belongs to the model {adapter.base_content_id[:12]}{named}, "
            f"{file.path.name} is {found[:12]}",
            code="adapter.base",
            parameter="adapter",
            hint="use it with its own base; every quantization is a model of its own",
        )


class AdapterShelf:
    """Reads adapters, and remembers those that were read. Safe to use from several threads."""

    def __init__(self) -> None:
        self._read: OrderedDict[StoredAdapter, _Kept] = OrderedDict()
        self._routes: set[Route] = set()
        self._headers: dict[Path, GGUFFile] = {}
        self._lock = threading.Lock()

    def adapt(
        self, model: Model, choices: Sequence[AdapterChoice], *, allow_paths: bool = False
    ) -> Model:
        """The same model with these adapters; blocks. Clients of a server name no paths.

        Raises:
            UsageError: no such adapter, or one that belongs to another model.
            IntegrityError: an adapter is damaged or hostile.
        """
        if len(choices) > _MAX_MEMBERS:
            raise UsageError(
                f"{len(choices)} adapters at once, at most {_MAX_MEMBERS} are taken",
                code="adapter.count",
                parameter="adapter",
            )
        model.route.require_adapters()
        file = self._header(model)
        self._drop_changed(model.route)
        members = []
        for choice in choices:
            adapter = self.find(choice.reference, file, allow_paths=allow_paths)
            check_base(adapter, file)
            members.append(WeightedAdapter(adapter, choice.scale))
        return model.with_adapters(AdapterSet(tuple(members)), label(choices))

    def names_for(self, model: Model) -> list[str]:
        """The adapters of the store that belong to a model, as far as known without hashing it."""
        if not model.route.takes_adapters:
            return []
        file = self._header(model)
        known = known_content_id(file)
        names = []
        for stored in store.stored_adapters():
            try:
                card = stored.card()
            except BareMetalError:
                continue
            same_base = card.base_content_id is None or known in (None, card.base_content_id)
            if card.architecture == file.architecture and same_base:
                names.append(stored.name)
        return names

    def _header(self, model: Model) -> GGUFFile:
        with self._lock:
            file = self._headers.get(model.path)
            if file is None:
                file = self._headers[model.path] = GGUFFile.open(model.path)
        return file

    def find(self, reference: str, base: GGUFFile, *, allow_paths: bool) -> Adapter:
        """The adapter of that name, not checked against the base yet; raises like `adapt`."""
        if allow_paths:
            path = Path(os.path.expanduser(reference))
            if os.path.exists(path):  # which, unlike `path.exists`, never raises
                return read_adapter(path, base)
        return self._load(store.find_adapter(reference))

    def _load(self, stored: StoredAdapter) -> Adapter:
        signature = _signature(stored)
        with self._lock:
            kept = self._read.get(stored)
            if kept is None or kept.signature != signature:
                kept = self._read[stored] = _Kept(signature, store.load(stored))
            self._read.move_to_end(stored)
            while len(self._read) > 1 and (
                len(self._read) > _MAX_KEPT
                or sum(k.adapter.num_bytes for k in self._read.values()) > _MAX_KEPT_BYTES
            ):
                self._read.popitem(last=False)
        return kept.adapter

    def _drop_changed(self, route: Route) -> None:
        """Gives back what was loaded of adapters that are no longer in the store as they were."""
        with self._lock:
            self._routes.add(route)
            for stored, kept in list(self._read.items()):
                if _signature(stored) != kept.signature:
                    del self._read[stored]
                    for route in self._routes:
                        route.unload_adapter(kept.adapter.digest)


@dataclass(frozen=True)
class _Kept:
    """An adapter, and what the system said of its files when it was read."""

    signature: tuple[int, ...]
    adapter: Adapter


def _signature(stored: StoredAdapter) -> tuple[int, ...]:
    """Changes with the files; empty when they are gone."""
    try:
        found = [path.stat() for path in (stored.gguf_path, stored.folder / CARD_NAME)]
    except OSError:
        return ()
    return tuple(n for s in found for n in (s.st_size, s.st_mtime_ns, s.st_ino))
