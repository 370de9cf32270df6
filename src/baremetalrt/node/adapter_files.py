"""Adapters from files and to files: imported, exported, merged into a model; and those of the store."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from baremetalrt.core.errors import BareMetalError, UsageError
from baremetalrt.node.adapter_shelf import AdapterShelf, check_base, parse_choice, read_adapter
from baremetalrt.node.naming import find_whole_model
from baremetalrt.weights.adapters import store
from baremetalrt.weights.adapters.adapter import Adapter, is_tied
from baremetalrt.weights.adapters.card import Card, DifferentialPrivacy
from baremetalrt.weights.adapters.merge import Merged, merge
from baremetalrt.weights.adapters.merge_types import MergeType as MergeType
from baremetalrt.weights.adapters.store import StoredAdapter
from baremetalrt.weights.content import content_id
from baremetalrt.weights.gguf import EMBEDDING, HEAD, GGUFFile


@dataclass(frozen=True, kw_only=True)
class Imported:
    """An adapter that is in the store now. `left_out`: why it is not kept in the form of PEFT, too."""

    name: str
    folder: Path
    rank: int
    base_name: str
    left_out: str | None


def import_adapter(path: Path, name: str | None, base: str | None) -> Imported:
    """Puts a GGUF LoRA or a PEFT folder into the store, as an adapter of the model `base`.

    Raises:
        UsageError: there is no such adapter or model, or they do not belong together.
        IntegrityError: the adapter is damaged or hostile.
    """
    from baremetalrt.weights.adapters.peft import write_peft
    from baremetalrt.weights.adapters.safetensors_folder import has_weights

    if not path.exists():
        raise UsageError(f"no adapter at {path}", code="adapter.not-found", parameter="path")
    model = find_whole_model(base)
    file = GGUFFile.open(model.path)
    title = path.name if path.is_dir() else path.stem
    called = store.check_name(name or title.replace(" ", "-"))
    read = read_adapter(path, file)
    check_base(read, file)
    adapter = replace(read, name=called, base_content_id=content_id(file), base_name=model.name)
    left_out: list[str] = []

    def beside(folder: Path) -> None:
        if not has_weights(path):
            return
        # Written anew: what others put into their files does not come along.
        try:
            write_peft(adapter, folder, file)
        except UsageError as error:
            left_out.append(error.message)

    stored = store.add(adapter, beside=beside)
    return Imported(
        name=stored.name,
        folder=stored.folder,
        rank=adapter.rank,
        base_name=model.name,
        left_out=left_out[0] if left_out else None,
    )


def export_adapter(name: str, target: Path, form: str | None, base: str | None) -> None:
    """Writes an adapter to a GGUF file for llama.cpp, or to a PEFT folder for transformers.

    `form` is `gguf` or `peft`; without one, what `target` looks like.

    Raises:
        UsageError: there is none, it has no such form, or `target` exists.
    """
    from baremetalrt.weights.adapters.peft import write_peft

    stored = store.find_adapter(name)
    adapter = store.load(stored)
    if target.exists():
        raise UsageError(f"{target} exists already", code="file.exists", parameter="target")
    form = form or ("gguf" if target.suffix.lower() == ".gguf" else "peft")
    if form == "gguf" and adapter.is_dora:
        raise UsageError(
            f"{stored.name} is DoRA, which other programs do not read from GGUF",
            code="adapter.unsupported",
            hint="--format peft, or `bmrt adapters merge` it into a model of its own",
        )
    if form == "gguf":
        _refuse_tied(adapter, base)
        target.touch(mode=0o600)
        shutil.copyfile(stored.gguf_path, target)
    else:
        file = GGUFFile.open(find_whole_model(base or adapter.base_name).path)
        check_base(adapter, file)
        write_peft(adapter, target, file)
        store.make_private(target)


def _refuse_tied(adapter: Adapter, base: str | None) -> None:
    """llama.cpp ends the process on an adapted embedding that is also the head."""
    if not adapter.matrices.keys() & {EMBEDDING, HEAD}:
        return
    try:
        file = GGUFFile.open(find_whole_model(base or adapter.base_name).path)
    except UsageError:
        return  # the base is not here to be asked
    if is_tied(file):
        raise UsageError(
            f"{adapter.name} adapts the embedding or the head of a model that has one matrix for both, "
            "which other programs do not read from GGUF",
            code="adapter.unsupported",
            hint="--format peft",
        )


def merge_adapters(
    names: Sequence[str],
    base: str | None,
    target: Path,
    type_: MergeType = "auto",
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> Merged:
    """Writes a new model, `base` with adapters added to its weights.

    `names` are those of the store, files or PEFT folders, each perhaps with `=WEIGHT`; `type_` is what
    adapted matrices become.

    Raises:
        UsageError, IntegrityError, CapacityError: see `AdapterShelf.find`, `check_base`, `merge`.
    """
    choices = [parse_choice(name, allow_paths=True) for name in names]
    file = GGUFFile.open(find_whole_model(base).path)
    shelf = AdapterShelf()
    parts = []
    for choice in choices:
        adapter = shelf.find(choice.reference, file, allow_paths=True)
        check_base(adapter, file)
        parts.append((adapter, choice.scale))
    return merge(file, parts, target, type_=type_, on_progress=on_progress)


# those of the store


def list_adapters() -> list[dict[str, Any]]:
    """A row for each adapter; of a damaged one, its error."""
    rows = []
    for stored in store.stored_adapters():
        row: dict[str, Any] = {"name": stored.name, "bytes": stored.num_bytes, "error": None}
        try:
            rows.append(row | _describe(stored.card()))
        except BareMetalError as error:
            rows.append(row | {"error": error.message})
    return rows


def describe_adapter(name: str) -> dict[str, Any]:
    """What is known of an adapter: its base, its rank, what it adapts, how private it is.

    Raises:
        UsageError: there is none.
        IntegrityError: it is damaged.
    """
    stored = store.find_adapter(name)
    adapter = store.load(stored)
    return {"name": stored.name, **_describe(stored.card())} | {
        "method": "DoRA" if adapter.is_dora else "LoRA",
        "targets": sorted({name.split(".")[-2] for name in adapter.matrices}),
        "folder": str(stored.folder),
        "bytes": stored.num_bytes,
    }


def remove_adapters(names: Sequence[str]) -> list[tuple[str, int]]:
    """Removes adapters, and stops sharing them: their names, and the bytes that each took.

    Raises:
        UsageError: there is none of a name, or a process is seeding it.
    """
    from baremetalrt.node.adapter_torrents import forget_torrents

    found = [store.find_adapter(name) for name in names]
    for one in found:
        forget_torrents(one)
    return [(one.name, store.remove(one)) for one in found]


def shareable(name: str) -> tuple[StoredAdapter, str]:
    """An adapter that may travel, and what it tells about what it was trained on.

    Raises:
        UsageError: there is none, or it does not say which model it belongs to.
    """
    stored = store.find_adapter(name)
    card = stored.card()
    if card.base_content_id is None:
        raise UsageError(
            f"the adapter {stored.name} does not say which model it belongs to",
            code="adapter.base-unknown",
            hint=f"import it with its base: `bmrt adapters import {stored.gguf_path} --base MODEL`",
        )
    return stored, _privacy(card.privacy)


def _privacy(privacy: DifferentialPrivacy | str) -> str:
    if isinstance(privacy, str):
        return f"{privacy}; what it was trained on can be found out in part"
    return f"differentially private, epsilon {privacy.epsilon:g}, delta {privacy.delta:g}"


def _describe(card: Card) -> dict[str, Any]:
    """A card as JSON, without its version."""
    about: dict[str, Any] = msgspec.to_builtins(card)
    about.pop("format")
    about.pop("name")
    return about
