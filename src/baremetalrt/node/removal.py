"""Models that are removed, and blocks that are evicted to make room."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from baremetalrt.blocks.prefix_folder import HeldTexts, empty, held_in
from baremetalrt.core.errors import IntegrityError, UsageError
from baremetalrt.core.files import disk_errors
from baremetalrt.core.places import models_folder, prefixes_folder
from baremetalrt.core.settings import settings_path
from baremetalrt.node.naming import require_one
from baremetalrt.swarm import catalog
from baremetalrt.weights.gguf import GGUFFile
from baremetalrt.weights.store import ambiguous, models_called, stored_models


@dataclass(frozen=True)
class Removed:
    """A model that is gone, and the bytes that it took."""

    name: str
    freed_bytes: int


def remove_model(name: str) -> Removed:
    """Removes a model from the store, or a torrent with what it fetched; never a file in place.

    Raises:
        UsageError: there is none, or there are several; it is the embedded default, or a process has it
            in use.
    """
    try:
        entry = catalog.find(name)
    except IntegrityError as error:
        if error.code != "catalog.damaged":
            raise
        return Removed(name, catalog.remove_damaged(name.lower()))
    if entry is not None:
        require_one(name, entry)
        with entry.locked():
            return Removed(entry.record.name, entry.remove())
    there = Path(name).absolute()
    found = [m for m in stored_models() if m.path.absolute() == there] or models_called(name)
    if len(found) > 1:
        raise ambiguous(name, [str(model.path) for model in found])
    for model in found:
        if model.is_default:
            raise UsageError(
                f"{model.name} is the embedded default, which came with its package",
                code="model.default",
                hint="remove it with the tool that installed it",
            )
        freed = 0
        for path in GGUFFile.open(model.path).paths:
            freed += path.stat().st_size
            path.unlink()
        return Removed(model.name, freed)
    raise UsageError(
        f"no model {name!r} in the store",
        code="model.not-found",
        hint=f"`bmrt ls` lists what is here; files outside of {models_folder()} are not ours to remove",
    )


@dataclass(frozen=True, kw_only=True)
class Evicted:
    """What went, or would go, so that a budget is kept. `blocks` by the names of models."""

    used_bytes: int
    freed_bytes: int
    budget_bytes: int
    blocks: Mapping[str, list[int]]

    @property
    def left_bytes(self) -> int:
        return self.used_bytes - self.freed_bytes


def evict_to_fit(budget_bytes: int | None, *, dry_run: bool) -> Evicted:
    """Evicts the blocks that are worth least, down to a budget, or else that of the settings.

    Raises:
        UsageError: no budget is set.
        CapacityError: the file system cannot give parts of files back.
    """
    from baremetalrt.swarm.config import load_swarm_config
    from baremetalrt.swarm.eviction import collect, plan_collection

    if budget_bytes is None:
        budget_bytes = load_swarm_config().disk_budget
        if not budget_bytes:
            raise UsageError(
                "no disk budget is set",
                code="gc.budget",
                hint="name one with --budget 20GiB, or in "
                f'{settings_path()}: disk_budget = "20 GiB"',
            )
    chosen = plan_collection(budget_bytes, now=time.time())
    names = {entry.id: entry.record.name for entry in catalog.entries()}
    if not dry_run:
        collect(chosen)
    return Evicted(
        used_bytes=chosen.used_bytes,
        freed_bytes=chosen.freed_bytes,
        budget_bytes=budget_bytes,
        blocks={names[id_]: sorted(blocks) for id_, blocks in chosen.by_torrent().items()},
    )


def forget_texts(*, dry_run: bool) -> HeldTexts:
    """Removes the keys and values of texts from the disk; says what there was. Raises `CapacityError`."""
    with disk_errors(prefixes_folder()):
        return held_in(prefixes_folder()) if dry_run else empty(prefixes_folder())
