"""Models of a hub, and of other programs on this machine, as torrents like any other.

What a machine nearby offers comes from there: the hub says which file is meant, and its hash is checked.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from baremetalrt.core.errors import UsageError
from baremetalrt.core.places import models_folder
from baremetalrt.devices.memory import available_bytes
from baremetalrt.hub.choosing import HubFile, HubModel, choose, models_among
from baremetalrt.hub.client import Repository, fetch, look_up
from baremetalrt.hub.names import HubName, parse_hub_name
from baremetalrt.hub.others import ForeignModel, models_of
from baremetalrt.node.events import Chosen, Fetching, Hashing, OnEvent
from baremetalrt.node.nearby import Offers, fetch_nearby, nobody
from baremetalrt.swarm import catalog
from baremetalrt.swarm.options import SwarmOptions
from baremetalrt.swarm.publishing import (
    HubOrigin,
    PublishOptions,
    publish_file,
    remember_origin,
)
from baremetalrt.swarm.stored_torrent import StoredTorrent
from baremetalrt.weights.store import StoredModel, models_in

# How often it is said how far a file has come, in seconds.
_SAID_EVERY_S = 0.2


@dataclass(frozen=True)
class HubPulled:
    """A model that is here now, and the torrent by which others get it from here."""

    name: str
    path: Path
    torrent: StoredTorrent


def pull_from_hub(
    text: str, on_event: OnEvent, *, swarm: SwarmOptions, offers: Offers = nobody
) -> HubPulled:
    """Fetches what a name on a hub means; from then on others fetch it from here, or from there.

    `offers` says who has it nearby: they are asked before the hub.

    Raises:
        UsageError: there is no such model, or several are meant, or nobody may be asked (`offline`).
        CapacityError: the hub does not answer, or there is no room on the disk.
        IntegrityError: what came is not what the hub says that it is, or no model.
    """
    name = parse_hub_name(text)
    if swarm.config().offline:
        raise UsageError(
            f"{name} is not fetched: this machine asks nobody beyond its network",
            code="hub.offline",
            hint="`offline` in config.toml and --offline say so",
        )
    repository = look_up(name)
    model = choose(models_among(repository.files), name.quant, available_bytes(), str(name))
    on_event(Chosen(model.name, model.size))
    origin = _origin(name, model)
    if origin is not None:
        found = _here(origin, model.size)
        found = found or fetch_nearby(origin, model.name, model.size, offers, swarm, on_event)
        if found is not None:
            return HubPulled(model.name, found.entry.model_paths[0], found)
    folder = _folder(name)
    paths = [
        fetch(repository, file, folder, _progress(model, i, on_event))
        for i, file in enumerate(model.files)
    ]
    torrent = _published(paths[0], _seeds(repository, model), origin, on_event)
    return HubPulled(model.name, paths[0], torrent)


def _origin(name: HubName, model: HubModel) -> HubOrigin | None:
    """What of a hub a model is; None for one in parts, and where the hub says no hash."""
    file = model.files[0]
    if len(model.files) > 1 or file.sha256 is None:
        return None
    return HubOrigin(f"{name.repo}/{file.path}", file.sha256)


def _here(origin: HubOrigin, size: int) -> StoredTorrent | None:
    """The same file, if it is here already, wherever it came from."""
    for entry in catalog.entries():
        is_same = (entry.record.sha256, entry.record.num_bytes) == (origin.sha256, size)
        if is_same and entry.is_whole and remember_origin(entry, origin):
            return StoredTorrent.open(entry)
    return None


def _folder(name: HubName) -> Path:
    return models_folder() / name.repo


def _seeds(repository: Repository, model: HubModel) -> tuple[str, ...]:
    """Where a torrent of one file is to be had besides; of several, their names would have to fit."""
    return tuple(repository.address(file) for file in model.files[:1] if len(model.files) == 1)


def _published(
    path: Path, web_seeds: tuple[str, ...], origin: HubOrigin | None, on_event: OnEvent
) -> StoredTorrent:
    for entry in catalog.entries():
        # One that a newer file has taken the place of is no torrent of this one.
        if path.absolute() in entry.model_paths and entry.is_whole:
            if origin is not None:
                remember_origin(entry, origin)
            return StoredTorrent.open(entry)
    on_event(Hashing(path.name))
    return publish_file(path, PublishOptions(web_seeds=web_seeds), origin=origin)


def _progress(model: HubModel, number: int, on_event: OnEvent) -> Callable[[int], None]:
    """Says how far the model has come while one of its files does."""
    before = sum(file.size for file in model.files[:number])
    began_at, began_with, said_at = time.monotonic(), None, 0.0

    def on_bytes(num_bytes: int) -> None:
        nonlocal began_with, said_at
        now = time.monotonic()
        began_with = num_bytes if began_with is None else began_with
        if now - said_at < _SAID_EVERY_S:
            return
        said_at = now
        rate = (num_bytes - began_with) / max(now - began_at, 0.001)
        left = model.size - before - num_bytes
        on_event(
            Fetching(
                name=model.name,
                wanted_bytes=model.size,
                have_bytes=before + num_bytes,
                download_rate=int(rate),
                upload_rate=0,
                num_peers=1,
                left_s=left / rate if rate else None,
                blocks_here=None,
                is_complete=False,
                last_piece_at=None,
            )
        )

    return on_bytes


def find_pulled(text: str) -> StoredModel:
    """The model of a hub that was fetched before; raises `UsageError` unless it is one."""
    name = parse_hub_name(text)
    here = {path.stem: path for path in models_in(_folder(name))} | _torrents_of(name)
    files = [
        HubModel(stem, (HubFile(path.name, path.stat().st_size),)) for stem, path in here.items()
    ]
    if not files:
        raise UsageError(
            f"{name} is not here yet",
            code="model.not-found",
            parameter="model",
            hint=f"`bmrt pull {name}` fetches it",
        )
    model = choose(files, name.quant, available_bytes(), str(name))
    return StoredModel(model.name, here[model.name], is_default=False)


def _torrents_of(name: HubName) -> dict[str, Path]:
    """Files of a repository that are here as torrents, the newest of each name."""
    return {
        PurePosixPath(file).stem: entry.model_paths[0]
        for entry in sorted(catalog.entries(), key=lambda one: one.record.added_at)
        for file in entry.record.hub_files
        if file.startswith(f"{name.repo}/") and entry.is_whole
    }


def take_over(models: list[ForeignModel], on_event: OnEvent) -> Iterator[HubPulled]:
    """Makes torrents of files of other programs, where they lie."""
    for model in models:
        torrent = _published(model.path.resolve(), (), None, on_event)
        yield HubPulled(model.name, model.path, torrent)


def foreign_models(program: str, names: tuple[str, ...]) -> list[ForeignModel]:
    """Models of another program, all or those of some names; raises `UsageError` if there are none."""
    return models_of(program, names)
