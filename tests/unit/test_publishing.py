"""A model as a torrent: the same bytes, the same torrent; every hash computed here once more."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import libtorrent as lt
import numpy as np
import pytest

from baremetalrt.core.errors import IntegrityError
from baremetalrt.core.magnet_links import parse_magnet_link
from baremetalrt.core.units import KIB
from baremetalrt.swarm.metainfo import Metainfo, read_metainfo
from baremetalrt.swarm.publishing import PublishOptions, publish
from baremetalrt.weights.gguf import GGUFFile
from tiny_models import TinyModel, write, write_header, write_tensors

PIECE_BYTES = 256 * KIB
LEAF_BYTES = 16 * KIB
# A few pieces, the last of them short.
MODEL = TinyModel("llama", num_blocks=3, width=128, feed_forward_width=320)
PLAIN = PublishOptions()
AUTHORITY = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write(MODEL, tmp_path_factory.mktemp("published") / "my model.gguf")
    assert path.stat().st_size > 2 * PIECE_BYTES and path.stat().st_size % PIECE_BYTES
    return path


def published(path: Path, options: PublishOptions = PLAIN) -> Metainfo:
    return publish(GGUFFile.open(path), options)


def hashes(metainfo: Metainfo) -> tuple[str | None, str | None]:
    return metainfo.infohash_v1, metainfo.infohash_v2


def decoded(metainfo: Metainfo) -> dict[bytes, Any]:
    values: dict[bytes, Any] = lt.bdecode(metainfo.raw)
    return values


# Source: BEP 52. Leaves are 16 KiB; what is missing to a power of two is zeros.


def parents(layer: list[bytes]) -> list[bytes]:
    pairs = zip(layer[::2], layer[1::2], strict=True)
    return [hashlib.sha256(a + b).digest() for a, b in pairs]


def merkle(data: bytes, piece_bytes: int = PIECE_BYTES) -> tuple[bytes, bytes]:
    """The root of a file's tree, and its piece layer: empty for a file of one piece."""
    leaves = [
        hashlib.sha256(data[at : at + LEAF_BYTES]).digest()
        for at in range(0, len(data), LEAF_BYTES)
    ]
    num_pieces = -(-len(data) // piece_bytes)
    width = 1 << (len(leaves) - 1).bit_length()
    layer = leaves + [bytes(32)] * (width - len(leaves))
    found = b""
    for _ in range((piece_bytes // LEAF_BYTES).bit_length() - 1):
        if len(layer) > 1:
            layer = parents(layer)
    if num_pieces > 1:
        found = b"".join(layer[:num_pieces])
    while len(layer) > 1:
        layer = parents(layer)
    return layer[0], found


def sha1_pieces(data: bytes) -> bytes:
    return b"".join(
        hashlib.sha1(data[at : at + PIECE_BYTES]).digest()
        for at in range(0, len(data), PIECE_BYTES)
    )


def test_the_torrent_of_a_model_is_these_keys_and_these_hashes(model: Path) -> None:
    """One file, hybrid, every hash as hashlib computes it: no date, no program, no local name."""
    metainfo, data = published(model), model.read_bytes()
    root, layer = merkle(data)
    info = {
        b"name": b"llama-F32.gguf",
        b"length": len(data),
        b"piece length": PIECE_BYTES,
        b"pieces": sha1_pieces(data),
        b"meta version": 2,
        b"file tree": {b"llama-F32.gguf": {b"": {b"length": len(data), b"pieces root": root}}},
    }
    assert decoded(metainfo) == {b"info": info, b"piece layers": {root: layer}}
    section = lt.bencode(info)
    assert metainfo.infohash_v1 == hashlib.sha1(section).hexdigest()
    assert metainfo.infohash_v2 == hashlib.sha256(section).hexdigest()
    assert metainfo.id == hashlib.sha256(section).hexdigest()[:40]


def test_the_last_piece_is_padded_as_the_standard_has_it(tmp_path: Path) -> None:
    """A file that ends within a leaf, of which the tree is not full: 9 leaves and a bit of a tenth."""
    path = tmp_path / "model.gguf"
    path.write_bytes(write(TinyModel("llama"), tmp_path / "whole.gguf").read_bytes())
    os.truncate(path, 9 * LEAF_BYTES + 17 + PIECE_BYTES)
    data = path.read_bytes()
    root, layer = merkle(data)
    info = decoded(published(path))
    assert info[b"piece layers"] == {root: layer} and len(layer) == 64
    assert info[b"info"][b"pieces"] == sha1_pieces(data)


def test_the_same_bytes_are_the_same_torrent_everywhere(model: Path, tmp_path: Path) -> None:
    """Under another name, in another folder, of another age, through a link: strangers meet."""
    original = published(model)
    folder = tmp_path / "a folder" / "of someone else"
    folder.mkdir(parents=True)
    copy, link = folder / "downloaded (1).GGUF", folder / "link.gguf"
    copy.write_bytes(model.read_bytes())
    os.utime(copy, (0, 0))
    link.symlink_to(model)
    assert published(copy).raw == published(link).raw == original.raw


def test_one_byte_makes_another_torrent(model: Path, tmp_path: Path) -> None:
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    other = tmp_path / "other.gguf"
    other.write_bytes(data)
    ours, theirs = hashes(published(model)), hashes(published(other))
    assert ours[0] != theirs[0] and ours[1] != theirs[1]


def test_trackers_and_mirrors_leave_the_hashes_as_they_are(model: Path) -> None:
    """They are in the file and in the magnet link, and whoever adds some still meets the others."""
    trackers = ("http://tracker.lan/announce", "udp://tracker.lan:6969")
    mirrors = ("http://mirror.lan/a%20model.gguf", "http://mirror.lan/b.gguf")
    listed = published(model, PublishOptions(trackers=trackers, web_seeds=mirrors))
    assert hashes(listed) == hashes(published(model))
    assert listed.trackers == trackers and set(listed.web_seeds) == set(mirrors)
    linked = parse_magnet_link(listed.magnet)
    assert linked.trackers == trackers and set(linked.web_seeds) == set(mirrors)


def test_private_torrents_are_others(model: Path) -> None:
    """A private one never meets the public one; neither does the one of a private swarm."""
    public = published(model)
    private = published(model, PublishOptions(private=True))
    guarded = published(model, PublishOptions(authority_pem=AUTHORITY))
    assert len({public.infohash_v1, private.infohash_v1, guarded.infohash_v1}) == 3
    assert len({public.infohash_v2, private.infohash_v2, guarded.infohash_v2}) == 3
    assert (public.is_private, private.is_private, guarded.is_private) == (False, True, False)
    assert [m.needs_certificate for m in (public, private, guarded)] == [False, False, True]
    assert hashes(private) == hashes(published(model, PublishOptions(private=True)))


def test_a_magnet_link_says_both_hashes_and_the_name(model: Path) -> None:
    metainfo = published(model)
    link = parse_magnet_link(metainfo.magnet)
    assert link.infohashes == (metainfo.infohash_v2, metainfo.infohash_v1)
    assert metainfo.name == "llama-F32" and "&dn=llama-F32" in metainfo.magnet


def test_the_torrent_reads_back_as_it_was_published(model: Path) -> None:
    """One file under our name, from the first byte; as many pieces as it takes."""
    metainfo = published(model)
    (file,) = metainfo.files
    assert (file.name, file.part.start) == ("llama-F32.gguf", 0)
    assert file.part.num_bytes == metainfo.num_bytes == model.stat().st_size
    assert metainfo.pieces.num_pieces == -(-metainfo.num_bytes // PIECE_BYTES)
    again = read_metainfo(metainfo.raw, source="test")
    assert again == metainfo


# Split models


def write_split(folder: Path, stem: str) -> list[Path]:
    """The model in three parts."""
    folder.mkdir()
    writer = gguf.GGUFWriter(folder / f"{stem}.gguf", MODEL.architecture, split_max_tensors=10)
    write_header(MODEL, writer)
    write_tensors(MODEL, writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    parts = sorted(folder.glob("*.gguf"))
    assert len(parts) == 3
    return parts


def test_a_split_model_is_one_torrent_of_numbered_parts(tmp_path: Path) -> None:
    """In a folder called after the content; every part begins with a piece, after zeros; v2 per part."""
    parts = write_split(tmp_path / "one", "my-model")
    metainfo = published(parts[0])
    names = [f"llama-F32-{n:05d}-of-00003.gguf" for n in (1, 2, 3)]
    assert metainfo.name == "llama-F32" and [f.name for f in metainfo.files] == names
    assert [f.part.num_bytes for f in metainfo.files] == [p.stat().st_size for p in parts]
    assert all(f.part.start % PIECE_BYTES == 0 for f in metainfo.files)
    info = decoded(metainfo)[b"info"]
    stream = b""
    for part in parts:
        stream += bytes(-len(stream) % PIECE_BYTES) + part.read_bytes()
    padded_to_the_end = stream + bytes(-len(stream) % PIECE_BYTES)
    assert info[b"pieces"] in (sha1_pieces(stream), sha1_pieces(padded_to_the_end))
    layers = decoded(metainfo)[b"piece layers"]
    for name, part in zip(names, parts, strict=True):
        root, layer = merkle(part.read_bytes())
        assert info[b"file tree"][name.encode()][b""][b"pieces root"] == root
        assert layers.get(root, b"") == layer


def test_a_split_model_under_another_stem_is_the_same_torrent(tmp_path: Path) -> None:
    one, two = (write_split(tmp_path / stem, stem) for stem in ("mine", "theirs-Q4"))
    assert published(one[0]).raw == published(two[0]).raw


# What it is called


def named(folder: Path, **metadata: str) -> str:
    """What a model with this metadata is called."""
    path = folder / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in metadata.items():
        writer.add_string(f"general.{key}", value)
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return published(path).name


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("SmolLM2 135M Instruct", "SmolLM2-135M-Instruct-F16"),
        ("Tiny-F16", "Tiny-F16"),
        ("Ünïcode / model", "Ünïcode-model-F16"),
        ("../../etc/passwd", "etc-passwd-F16"),
        ("/", "llama-F16"),
        ("...", "llama-F16"),
        ("\n\x1b[2J", "2J-F16"),
        (" .. \u202efdp.", "fdp-F16"),
    ],
)
def test_a_model_is_called_after_its_metadata(title: str, name: str, tmp_path: Path) -> None:
    """By its title and quantization, in characters that are safe in every file system."""
    assert named(tmp_path, name=title) == name


def test_a_long_title_leaves_room_for_the_quantization(tmp_path: Path) -> None:
    """Otherwise all sizes of a model would be called the same here, and not as in their torrents."""
    name = named(tmp_path, name="x" * 500)
    assert name.endswith("x-F16") and len(name) < 128
    metainfo = published(tmp_path / "model.gguf")
    assert decoded(metainfo)[b"info"][b"name"] == f"{name}.gguf".encode()


def test_a_model_without_a_title_has_its_base_name(tmp_path: Path) -> None:
    assert named(tmp_path, basename="SmolLM2") == "SmolLM2-F16"


def write_adapter(path: Path) -> Path:
    """A LoRA of rank 4 on the queries of a block."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    writer.add_name("Pirate")
    rng = np.random.default_rng(0)
    for name, shape in (("lora_a", (4, 64)), ("lora_b", (64, 4))):
        values = rng.standard_normal(shape).astype(np.float32)
        writer.add_tensor(f"blk.0.attn_q.weight.{name}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_adapters_are_published_like_models(tmp_path: Path) -> None:
    """And say by their name what they are, so that nobody takes one for a model."""
    path = write_adapter(tmp_path / "adapter.gguf")
    metainfo = published(path)
    assert metainfo.name == "Pirate-LoRA-F32"
    root, layer = merkle(path.read_bytes())
    assert layer == b"" and metainfo.pieces.num_pieces == 1
    tree = decoded(metainfo)[b"info"][b"file tree"]
    assert tree[b"Pirate-LoRA-F32.gguf"][b""][b"pieces root"] == root


# What is not published


def test_a_truncated_file_is_refused(model: Path, tmp_path: Path) -> None:
    """A half-finished download must not travel as the model."""
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(model.read_bytes()[:-1])
    with pytest.raises(IntegrityError) as caught:
        published(cut)
    assert caught.value.code == "gguf.truncated" and caught.value.hint


def test_a_split_model_that_lacks_bytes_is_refused(tmp_path: Path) -> None:
    parts = write_split(tmp_path / "one", "model")
    os.truncate(parts[2], parts[2].stat().st_size - 40)
    with pytest.raises(IntegrityError) as caught:
        published(parts[0])
    assert caught.value.code == "gguf.truncated"


@pytest.mark.parametrize("change", ["longer", "rewritten", "replaced"])
def test_a_file_that_changes_while_it_is_hashed_is_refused(
    change: str, model: Path, tmp_path: Path
) -> None:
    """Half of the hashes would be of one file and half of another."""
    path = tmp_path / "model.gguf"
    path.write_bytes(model.read_bytes())

    def write_to_it(fraction: float) -> None:
        if fraction < 1:
            return
        if change == "longer":
            with path.open("ab") as file:
                file.write(b"x")
        elif change == "rewritten":
            path.write_bytes(path.read_bytes()[:-1] + b"x")
        else:
            copy = path.with_suffix(".new")
            copy.write_bytes(path.read_bytes()[:-1] + b"x")
            copy.replace(path)

    with pytest.raises(IntegrityError) as caught:
        publish(GGUFFile.open(path), PLAIN, write_to_it)
    assert caught.value.code == "file.changed"


def test_progress_ends_with_one(model: Path) -> None:
    """A fraction per piece, never less than before."""
    seen: list[float] = []
    publish(GGUFFile.open(model), replace(PLAIN, private=True), seen.append)
    assert seen == sorted(seen) and seen[-1] == 1 and len(seen) >= 3


def test_publishing_writes_nothing_beside_the_file(model: Path) -> None:
    """The folder may be read-only, or somebody's collection."""
    before = {p.name: p.stat().st_mtime_ns for p in (model, *model.parent.iterdir())}
    folder = model.parent.stat().st_mtime_ns
    published(model)
    assert {p.name: p.stat().st_mtime_ns for p in (model, *model.parent.iterdir())} == before
    assert model.parent.stat().st_mtime_ns == folder
