"""Models of a hub, and of other programs on this machine, as torrents like any other."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from baremetalrt.core.errors import UsageError
from baremetalrt.core.places import models_folder
from baremetalrt.devices.memory import available_bytes
from baremetalrt.hub.choosing import HubFile, HubModel, choose, models_among
from baremetalrt.hub.client import Repository, fetch, look_up
from baremetalrt.hub.names import HubName, parse_hub_name
from baremetalrt.hub.others import ForeignModel, models_of
from baremetalrt.node.events import Chosen, Fetching, Hashing, OnEvent
from baremetalrt.swarm import catalog
from baremetalrt.swarm.options import SwarmOptions
from baremetalrt.swarm.publishing import PublishOptions, publish_file
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


def pull_from_hub(text: str, on_event: OnEvent, *, swarm: SwarmOptions) -> HubPulled:
    """Fetches what a name on a hub means; from then on others fetch it from here, or from there.

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
    folder = _folder(name)
    paths = [
        fetch(repository, file, folder, _progress(model, i, on_event))
        for i, file in enumerate(model.files)
    ]
    return HubPulled(
        model.name, paths[0], _published(paths[0], _seeds(repository, model), on_event)
    )


def _folder(name: HubName) -> Path:
    return models_folder() / name.repo


def _seeds(repository: Repository, model: HubModel) -> tuple[str, ...]:
    """Where a torrent of one file is to be had besides; of several, their names would have to fit."""
    return tuple(repository.address(file) for file in model.files[:1] if len(model.files) == 1)


def _published(path: Path, web_seeds: tuple[str, ...], on_event: OnEvent) -> StoredTorrent:
    for entry in catalog.entries():
        if path.absolute() in entry.model_paths:
            return StoredTorrent.open(entry)
    on_event(Hashing(path.name))
    return publish_file(path, PublishOptions(web_seeds=web_seeds))


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
    files = [
        HubModel(path.stem, (HubFile(path.name, path.stat().st_size),))
        for path in models_in(_folder(name))
    ]
    if not files:
        raise UsageError(
            f"{name} is not here yet",
            code="model.not-found",
            parameter="model",
            hint=f"`bmrt pull {name}` fetches it",
        )
    model = choose(files, name.quant, available_bytes(), str(name))
    path = next(path for path in models_in(_folder(name)) if path.stem == model.name)
    return StoredModel(path.stem, path, is_default=False)


def take_over(models: list[ForeignModel], on_event: OnEvent) -> Iterator[HubPulled]:
    """Makes torrents of files of other programs, where they lie."""
    for model in models:
        torrent = _published(model.path.resolve(), (), on_event)
        yield HubPulled(model.name, model.path, torrent)


def foreign_models(program: str, names: tuple[str, ...]) -> list[ForeignModel]:
    """Models of another program, all or those of some names; raises `UsageError` if there are none."""
    return models_of(program, names)
