"""A model file: where its blocks lie, whole, cut short, or in several parts."""

from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from baremetalrt.blocks.steps import Slice
from baremetalrt.core.errors import IntegrityError, UsageError
from baremetalrt.core.spans import BlockSpan, ByteRange
from baremetalrt.weights.gguf import GGUFFile
from tiny_models import TinyModel, write, write_header, write_talking, write_tensors
from tiny_spans import open_span

MODEL = TinyModel("llama", num_blocks=4)
PARTS = 3


def write_split(folder: Path) -> list[Path]:
    """The model in three parts, as `gguf-split` names them."""
    tensors = 3 + 9 * MODEL.num_blocks
    writer = gguf.GGUFWriter(
        folder / "split.gguf", MODEL.architecture, split_max_tensors=-(-tensors // PARTS)
    )
    write_header(MODEL, writer)
    writer.add_tokenizer_model("no_vocab")
    write_tensors(MODEL, writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    parts = sorted(folder.glob("split-*.gguf"))
    assert len(parts) == PARTS
    return parts


def logits(path: Path) -> NDArray[np.float32]:
    span = open_span(path)
    tokens = [(7 * i) % MODEL.vocabulary_size for i in range(40)]
    sequence = span.open(tokens, len(tokens))
    rows = span.forward([Slice(sequence, tokens)], "all").copy()
    span.close()
    return rows


def covered(ranges: tuple[ByteRange, ...]) -> set[tuple[int, int]]:
    return {(r.file, byte) for r in ranges for byte in range(r.start, r.end)}


def test_byte_ranges_of_a_block_are_its_tensors(tmp_path: Path) -> None:
    """Exactly those bytes, where the `gguf` package finds them; no two blocks share any."""
    path = write(MODEL, tmp_path / "model.gguf")
    file, reader = GGUFFile.open(path), gguf.GGUFReader(path)
    taken: set[tuple[int, int]] = set()
    for block in file.blocks:
        expected = {
            (0, t.data_offset + i)
            for t in reader.tensors
            if t.name.startswith(f"blk.{block.index}.")
            for i in range(int(t.n_bytes))
        }
        ours = covered(block.byte_ranges)
        assert ours == expected and len(ours) == block.num_bytes
        assert not ours & taken
        taken |= ours
    assert taken == covered(file.byte_ranges(BlockSpan(0, MODEL.num_blocks)))
    assert set(file.outer_tensors) == {"token_embd.weight", "output_norm.weight", "output.weight"}


def test_a_file_opens_before_its_blocks_arrive(tmp_path: Path) -> None:
    """`missing` names the blocks that are not there yet; those that are can be computed."""
    path = write(MODEL, tmp_path / "model.gguf")
    whole = path.read_bytes()
    third = GGUFFile.open(path).blocks[2].byte_ranges
    path.write_bytes(whole[: third[0].start])
    file = GGUFFile.open(path)
    assert [bool(file.missing(b.byte_ranges)) for b in file.blocks] == [False, False, True, True]
    assert file.num_bytes <= len(whole)
    open_span(path, blocks=BlockSpan(0, 2)).close()
    with pytest.raises(IntegrityError) as caught:
        open_span(path, blocks=BlockSpan(1, 3))
    assert (caught.value.code, caught.value.source) == ("gguf.truncated", str(path))
    # One byte short is short.
    path.write_bytes(whole[: third[-1].end - 1])
    assert file.missing(third) == third[-1:]
    path.write_bytes(whole)
    assert not any(file.missing(b.byte_ranges) for b in file.blocks)


def test_a_header_cut_short_is_an_integrity_error(tmp_path: Path) -> None:
    """The path is blamed, wherever in the header the file ends."""
    path = write(MODEL, tmp_path / "model.gguf")
    whole = path.read_bytes()
    header = GGUFFile.open(path).data_offsets[0]
    for length in (4, 20, header // 2, header - 64):
        path.write_bytes(whole[:length])
        with pytest.raises(IntegrityError) as caught:
            GGUFFile.open(path)
        assert caught.value.source == str(path)


def test_three_parts_give_the_logits_of_one_file(tmp_path: Path) -> None:
    """A split model is the same model, and its blocks know which part they are in."""
    first = write_split(tmp_path)[0]
    file = GGUFFile.open(first)
    assert {r.file for b in file.blocks for r in b.byte_ranges} == {0, 1, 2}
    assert len(file.paths) == PARTS and not file.missing(
        file.byte_ranges(BlockSpan(0, MODEL.num_blocks))
    )
    expected = logits(write(MODEL, tmp_path / "model.gguf"))
    np.testing.assert_array_equal(logits(first), expected)


def test_a_split_model_is_named_by_its_first_part(tmp_path: Path) -> None:
    """Another part, or a part under another name, says what to do; a lost part is not found."""
    parts = write_split(tmp_path)
    with pytest.raises(UsageError, match="not the first"):
        GGUFFile.open(parts[1])
    odd = parts[0].rename(tmp_path / "odd.gguf")
    with pytest.raises(UsageError, match="not named like one"):
        GGUFFile.open(odd)
    odd.rename(parts[0])
    parts[2].unlink()
    with pytest.raises(UsageError, match=parts[2].name):
        GGUFFile.open(parts[0])


def test_parts_of_different_models_do_not_mix(tmp_path: Path) -> None:
    """A part that holds what another one holds, or claims another number, is refused."""
    parts = write_split(tmp_path)
    parts[2].write_bytes(parts[1].read_bytes())
    with pytest.raises(IntegrityError, match="is not part 3 of 3"):
        GGUFFile.open(parts[0])


def test_long_arrays_are_given_back_and_read_again(tmp_path: Path) -> None:
    """A vocabulary takes tens of megabytes, and libllama has one of its own; all else stays at hand."""
    path = write_talking(tmp_path / "model.gguf")
    file, twin = GGUFFile.open(path), GGUFFile.open(path)
    file.give_back_arrays()
    assert file.keys() == twin.keys() and file.version == twin.version
    keys = twin.keys()
    for key in keys:
        assert file.array_length(key) == twin.array_length(key)
        assert file.get(key) == twin.get(key)
    assert file.get("nobody.knows") is None
    path.rename(tmp_path / "elsewhere.gguf")
    assert file.text("tokenizer.chat_template") == twin.text("tokenizer.chat_template")
    with pytest.raises(UsageError):
        file.get("tokenizer.ggml.tokens")
