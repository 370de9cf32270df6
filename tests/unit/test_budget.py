"""How much memory there is, and who may take how much of it."""

import subprocess
import sys
from pathlib import Path

import pytest

from baremetalrt.blocks.cache_types import CacheTypes
from baremetalrt.core.spans import BlockSpan
from baremetalrt.core.units import GIB, MIB
from baremetalrt.devices import memory
from baremetalrt.devices.budget import MemoryLedger, Purpose
from baremetalrt.devices.memory import Resident
from baremetalrt.native.allocator import return_freed
from baremetalrt.node.model_profile import profile_model
from baremetalrt.node.node import Node
from baremetalrt.node.options import ModelOptions
from baremetalrt.placement.profiles import Demand, Sizes
from baremetalrt.weights.gguf import GGUFFile
from tiny_models import TinyModel, write


def group(folder: Path, **files: int | str) -> Path:
    """A control group, as the system shows it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n")
    return folder


def left(root: Path, own: str) -> list[int]:
    path = root / "own"
    path.write_text(own)
    return list(memory._left_in_groups(root / "cgroup", path))


def test_file_pages_are_not_used_memory(tmp_path: Path) -> None:
    """The system drops them for whoever asks; shared memory, which counts as such, it cannot."""
    group(
        tmp_path / "cgroup",
        memory__max=4 * GIB,
        memory__current=3 * GIB,
        memory__stat=f"anon 100\nfile {2 * GIB}\nshmem {MIB}\n",
    )
    assert left(tmp_path, "0::/\n") == [2 * GIB + GIB - MIB]


def test_every_group_around_a_process_limits_it(tmp_path: Path) -> None:
    """The tightest of them counts, wherever it is; one without a limit says nothing."""
    root = tmp_path / "cgroup"
    group(root, memory__max="max", memory__current=0)
    group(root / "outer", memory__max=2 * GIB, memory__current=GIB)
    group(root / "outer/inner", memory__max="max", memory__current=GIB)
    assert left(tmp_path, "0::/outer/inner\n") == [GIB]
    group(root / "outer/inner", memory__max=GIB, memory__current=GIB - MIB)
    assert min(left(tmp_path, "0::/outer/inner\n")) == MIB


def test_groups_of_the_first_version_count_too(tmp_path: Path) -> None:
    group(
        tmp_path / "cgroup/memory/docker/x",
        memory__limit_in_bytes=GIB,
        memory__usage_in_bytes=GIB - MIB,
        memory__stat=f"total_cache {3 * MIB}\ntotal_shmem {MIB}\n",
    )
    assert left(tmp_path, "9:cpu:/\n8:memory:/docker/x\n") == [3 * MIB]


@pytest.mark.parametrize("own", ["", "nonsense", "0::", "8:memory:/gone\n0::/gone\n"])
def test_a_machine_without_groups_has_what_it_has(tmp_path: Path, own: str) -> None:
    assert left(tmp_path, own) == []
    assert 0 < memory.available_bytes() <= memory.total_bytes()


def test_what_is_promised_counts_as_taken_until_it_is_filled() -> None:
    """A cache fills slowly; two models that load one after the other do not both count on its room."""
    ledger = MemoryLedger(lambda: 10 * GIB)
    assert ledger.room_for(Purpose.WHOLE_MODEL) == 10 * GIB
    unfilled = [4 * GIB]
    promise = ledger.promise(lambda: unfilled[0])
    assert ledger.free() == 6 * GIB
    unfilled[0] = GIB
    assert ledger.free() == 9 * GIB
    promise.withdraw()
    assert ledger.free() == 10 * GIB
    ledger.promise(lambda: 11 * GIB)
    assert ledger.free() == ledger.room_for(Purpose.SHARING) == 0


def test_every_purpose_has_a_share_and_none_more_than_there_is() -> None:
    ledger = MemoryLedger(lambda: 8 * GIB)
    assert all(0 < ledger.room_for(purpose) <= 8 * GIB for purpose in Purpose)
    assert ledger.room_for(Purpose.READ_AHEAD, 4 * GIB) == 2 * GIB


def test_rows_that_are_kept_for_a_replay_are_counted(tmp_path: Path) -> None:
    """A span that passes rows on needs room for them besides its cache; the last one has none to pass."""
    file = GGUFFile.open(write(TinyModel("llama", num_blocks=3), tmp_path / "tiny.gguf"))
    ledger = MemoryLedger(lambda: 10 * GIB)
    node = Node(ModelOptions(num_threads=1), ledger=ledger)
    # It is still growing to its size, which counts.
    node.templates.close()
    free = ledger.free()
    try:
        promised = []
        for blocks in (BlockSpan(1, 2), BlockSpan(2, 3)):
            before = ledger.free()
            span, _ = node.host(file, blocks, 512)
            held = span.cache.unfilled_bytes + span.weights.mapped_bytes
            promised.append(before - ledger.free() - held)
            node.drop(span)
        assert ledger.free() == free
        profile = profile_model(file)
        assert promised == [profile.row_bytes * span.cache.num_cells, 0]
        short, long = (Sizes(profile, Demand(context)) for context in (256, 512))
        for blocks, rows in ((BlockSpan(1, 2), 256), (BlockSpan(2, 3), 0)):
            more = long.held_bytes(blocks) - short.held_bytes(blocks)
            assert more == 256 * profile.cell_bytes + rows * profile.row_bytes
    finally:
        node.close()


def test_a_limit_counts_what_this_process_holds() -> None:
    """Its own memory as it is now, the pages of its program as they were, and what was promised."""
    held = [Resident(own_bytes=100 * MIB, file_bytes=30 * MIB)]
    ledger = MemoryLedger(lambda: 10 * GIB, lambda: held[0])
    ledger.limit(GIB)
    assert ledger.free() == GIB - 130 * MIB
    # Weights that were mapped meanwhile are promised whole, in memory or not.
    held[0] = Resident(own_bytes=150 * MIB, file_bytes=400 * MIB)
    promise = ledger.promise(lambda: 500 * MIB)
    assert ledger.free() == GIB - 180 * MIB - 500 * MIB
    promise.withdraw()
    held[0] = Resident(own_bytes=2 * GIB, file_bytes=0)
    assert ledger.free() == 0
    assert MemoryLedger(lambda: 5, lambda: held[0]).free() == 5


def test_what_processes_hold_is_what_ps_says() -> None:
    # What other tests have freed would do for the block: nothing would grow.
    return_freed()
    before = memory.resident()
    block = bytearray(64 * MIB)
    block[::4096] = b"x" * len(block[::4096])
    grown = memory.resident().own_bytes - before.own_bytes
    assert 60 * MIB < grown < 80 * MIB
    with subprocess.Popen(
        [sys.executable, "-c", "b = bytearray(50 << 20); print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None and child.stdout.readline() == b"\n"
        with_child = memory.resident().own_bytes - before.own_bytes
        assert with_child > grown + 30 * MIB
        child.communicate(b"\n")


def test_what_is_hosted_is_kept_as_everybody_keeps_it(tmp_path: Path) -> None:
    """A peer that takes over computes the same numbers: in half precision, without a disk store."""
    file = GGUFFile.open(write(TinyModel("llama", head_size=32), tmp_path / "tiny.gguf"))
    types = CacheTypes(keys="q8_0", values="q4_0")
    node = Node(ModelOptions(num_threads=1, cache_types=types, keeps_prefixes=True))
    try:
        span, _ = node.host(file, BlockSpan(0, 1), 512)
        assert span.cache.types == CacheTypes() and span.prefixes is None
    finally:
        node.close()
