"""Deletes what was learned, and says what that cannot reach."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from baremetalrt.core.errors import UsageError
from baremetalrt.core.files import disk_errors
from baremetalrt.core.places import learned_folder, torrents_folder
from baremetalrt.learning.corpora import adapter_folder, corpus_folder, leftovers
from baremetalrt.learning.holding import held
from baremetalrt.weights.adapters.store import StoredAdapter


@dataclass(frozen=True, kw_only=True)
class Forgetting:
    """What there is to delete. `torrents`: names and info-hashes under which the adapter was shared."""

    name: str
    folders: tuple[Path, ...]
    num_bytes: int
    has_adapter: bool
    torrents: tuple[tuple[str, str], ...]

    @property
    def beyond_reach(self) -> str:
        """What deleting does not undo."""
        if not self.has_adapter:
            return "no adapter was made of it, so nothing else holds it"
        if self.torrents:
            return (
                "the adapter was shared: copies that others fetched, exports, and models it was merged "
                "into still hold what it learned, and may repeat parts of it word for word"
            )
        return (
            "exports of the adapter, and models it was merged into, still hold what it learned, and so "
            "does every copy that was handed on"
        )


def plan_forgetting(name: str) -> Forgetting:
    """What `forget` would delete.

    Raises:
        UsageError: there is nothing of that name, or it is being learned now.
    """
    adapter = adapter_folder(name)
    folders = tuple(
        path for path in (corpus_folder(name), adapter, *leftovers(name)) if os.path.lexists(path)
    )
    if not folders:
        raise UsageError(
            f"nothing was learned as {name!r}",
            code="learn.not-found",
            parameter="name",
            hint=f"what was learned is in {learned_folder()}",
        )
    # Said before anybody is asked whether to delete it.
    with held(name):
        pass
    return Forgetting(
        name=name,
        folders=folders,
        num_bytes=sum(map(_num_bytes, folders)),
        has_adapter=os.path.lexists(adapter),
        torrents=_torrents_of(adapter),
    )


def forget(plan: Forgetting) -> None:
    """Deletes the folders, and the torrents that seeded what was in them.

    Raises:
        UsageError: it is being learned now, or a torrent is in use.
        CapacityError: something cannot be deleted.
    """
    from baremetalrt.node.adapter_torrents import forget_torrents

    with held(plan.name):
        if plan.torrents:
            forget_torrents(StoredAdapter(adapter_folder(plan.name)))
        with disk_errors():
            for folder in filter(os.path.lexists, plan.folders):
                # A link's target is not ours to delete.
                if folder.is_symlink() or not folder.is_dir():
                    folder.unlink()
                else:
                    shutil.rmtree(folder)


def _torrents_of(adapter: Path) -> tuple[tuple[str, str], ...]:
    if not torrents_folder().is_dir() or not adapter.exists():
        return ()
    # Here and not above: most machines share no adapter, and libtorrent takes a while to load.
    from baremetalrt.node.adapter_torrents import torrents_of

    return tuple((e.record.name, e.id) for e in torrents_of(StoredAdapter(adapter)))


def _num_bytes(folder: Path) -> int:
    if folder.is_symlink() or not folder.is_dir():
        return 0
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
