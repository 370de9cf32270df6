"""A model that is still arriving: its header first, then each block as its bytes are verified."""

import asyncio
from collections.abc import Sequence
from typing import Final

from baremetalrt.core.errors import IntegrityError
from baremetalrt.core.spans import ByteRange
from baremetalrt.core.units import KIB
from baremetalrt.swarm.torrent import Torrent
from baremetalrt.weights.gguf import HEADER_LIMIT_BYTES, GGUFFile

_FIRST_BYTES: Final = 256 * KIB


async def wait_for_header(torrent: Torrent) -> GGUFFile:
    """The header of the model, as soon as enough of each part is there.

    How long a header is, only reading it tells: the beginning that is asked for doubles until it holds
    one.

    Raises:
        IntegrityError: the file is not GGUF, or its tensors lie outside of the file.
        CapacityError: what arrives cannot be written.
    """
    metainfo, record = torrent.metainfo, torrent.entry.record()
    paths = torrent.entry.model_paths(record)
    longest = min(HEADER_LIMIT_BYTES, max(f.part.num_bytes for f in metainfo.files))
    size = _FIRST_BYTES
    while True:
        await torrent.wait_for(
            ByteRange(i, 0, min(size, f.part.num_bytes)) for i, f in enumerate(metainfo.files)
        )
        try:
            file = await asyncio.to_thread(GGUFFile.open, paths[0], limit_bytes=size)
        except IntegrityError as error:
            if error.code != "gguf.header" or size >= longest:
                raise
            size *= 2
            continue
        if file.missing(t.byte_range for t in file.tensors.values()):
            raise IntegrityError(
                f"{metainfo.name}: its header describes tensors that lie outside of the file",
                code="gguf.truncated",
                source=metainfo.id,
                hint="whoever published it published an incomplete file",
            )
        return file


def header_ranges(file: GGUFFile) -> tuple[ByteRange, ...]:
    """The headers of all parts."""
    return tuple(ByteRange(i, 0, end) for i, end in enumerate(file.data_offsets))


def block_map(torrent: Torrent, file: GGUFFile) -> Sequence[bool]:
    """For every block, whether it is here."""
    return [torrent.has(block.byte_ranges) for block in file.blocks]
