"""Gives disk space back block by block. What is gone is claimed no longer, and comes back when needed."""

from collections.abc import Set
from dataclasses import dataclass

from baremetalrt.core.errors import BareMetalError
from baremetalrt.core.files import disk_errors
from baremetalrt.core.spans import merge
from baremetalrt.swarm import catalog
from baremetalrt.swarm.cache_policy import CachedBlock, choose_evictions, decayed
from baremetalrt.swarm.catalog import Entry
from baremetalrt.swarm.metainfo import Metainfo
from baremetalrt.swarm.piece_checker import signatures
from baremetalrt.swarm.stored_torrent import StoredTorrent
from baremetalrt.weights.gguf import GGUFFile
from baremetalrt.weights.store import give_back


@dataclass(frozen=True)
class Collection:
    """What has to go so that a budget is kept."""

    used_bytes: int
    evictions: tuple[CachedBlock, ...]

    @property
    def freed_bytes(self) -> int:
        return sum(block.num_bytes for block in self.evictions)

    def by_torrent(self) -> dict[str, list[int]]:
        """The blocks that go, by the id of their torrent."""
        blocks: dict[str, list[int]] = {}
        for block in self.evictions:
            blocks.setdefault(block.torrent, []).append(block.block)
        return blocks


def plan_collection(budget_bytes: int, *, now: float, held: Set[str] = frozenset()) -> Collection:
    """Chooses blocks to evict until what was fetched takes no more than the budget.

    Files in place are left alone, and torrents that a process has in use, but for those `held`: the
    caller's own, by their ids.
    """
    found = catalog.entries()
    used = sum(entry.allocated_bytes() for entry in found)
    if used <= budget_bytes:
        return Collection(used, ())
    free = [entry for entry in found if entry.id in held or not entry.is_busy]
    blocks = [block for entry in free for block in _blocks(entry, now)]
    chosen = choose_evictions(blocks, used_bytes=used, budget_bytes=budget_bytes)
    return Collection(used, tuple(chosen))


def collect(collection: Collection) -> None:
    """Evicts what was chosen; raises like `evict`."""
    catalog.sweep()
    for entry in catalog.entries():
        blocks = collection.by_torrent().get(entry.id)
        if blocks:
            evict(entry, blocks)


def evict(entry: Entry, blocks: list[int]) -> None:
    """Punches the blocks out of the files of a torrent. A later run fetches them again.

    In this order a crash leaves nothing that claims more than there is: first the claim goes, then the
    bytes.

    Raises:
        UsageError: a process has the torrent in use.
        CapacityError: the file system cannot give parts of files back.
    """
    with entry.locked():
        stored, file = _open(entry)
        record, metainfo, paths = entry.record, stored.metainfo, entry.model_paths
        pieces = _exclusive_pieces(metainfo, file, blocks)
        have = stored.claimed
        record.wanted = sorted(
            set(range(len(file.blocks)) if record.wanted is None else record.wanted) - set(blocks)
        )
        record.is_complete = False
        record.num_have = len(have - pieces)
        with disk_errors():
            stored.forget_pieces(have - pieces)
            entry.save()
            for r in metainfo.pieces.byte_ranges(pieces):
                give_back(paths[r.file], r.start, r.end)
            record.signatures = signatures(paths)
            entry.save()


def _blocks(entry: Entry, now: float) -> list[CachedBlock]:
    """The blocks of a torrent that can be evicted, with what each is worth."""
    record = entry.record
    if record.is_in_place:
        return []
    try:
        stored, file = _open(entry)
    except BareMetalError:
        return []  # not even the header is here, or something is damaged: for `rm` to decide
    metainfo, have = stored.metainfo, stored.claimed
    uses = entry.uses()
    found = []
    for block in file.blocks:
        pieces = _exclusive_pieces(metainfo, file, [block.index]) & have
        known = [record.num_sources[p] for p in pieces if p < len(record.num_sources)]
        used = uses.blocks[block.index] if block.index < len(uses.blocks) else 0.0
        found.append(
            CachedBlock(
                torrent=entry.id,
                block=block.index,
                num_bytes=sum(len(r) for r in metainfo.pieces.byte_ranges(pieces)),
                uses=decayed(used, now - uses.at),
                num_sources=min(known) if known else None,
            )
        )
    return found


def _open(entry: Entry) -> tuple[StoredTorrent, GGUFFile]:
    return StoredTorrent.open(entry), GGUFFile.open(entry.model_paths[0])


def _exclusive_pieces(metainfo: Metainfo, file: GGUFFile, blocks: list[int]) -> frozenset[int]:
    """Pieces that hold bytes of these blocks, and of nothing else that may stay."""
    gone = merge(r for i in blocks for r in file.blocks[i].byte_ranges)
    others = [b for b in file.blocks if b.index not in set(blocks)]
    kept = metainfo.pieces.pieces(
        merge(
            [
                *(r for b in others for r in b.byte_ranges),
                *(t.byte_range for t in file.outer_tensors.values()),
                *file.header_ranges,
            ]
        )
    )
    return metainfo.pieces.pieces(gone) - kept
