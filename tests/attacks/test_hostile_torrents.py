"""Torrents and magnet links made to harm: each is refused, or becomes something harmless."""

import hashlib
import json
import random
import socket
import struct
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import libtorrent as lt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_gguf import good_model

from baremetalrt.core.errors import BareMetalError, IntegrityError, UsageError, outcome
from baremetalrt.core.ids import is_infohash
from baremetalrt.core.magnet_links import parse_magnet_link
from baremetalrt.core.units import KIB, MIB
from baremetalrt.swarm.magnets import bare_torrent_file, magnet_params
from baremetalrt.swarm.metainfo import MAX_TORRENT_BYTES, Metainfo, read_metainfo
from raw_torrents import FileEntry, Info, info_hybrid, info_v1, info_v2, torrent
from swarm_kit import LOOPBACK, OddPeer, Seeder, make_home, run_pull

SHORT_EXAMPLES = 300
MAX_MESSAGE_CHARS = 500
DEVICES = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10))}

NAMES = [
    b"../../../etc/passwd.gguf",
    b"..\\..\\windows\\system32\\x.gguf",
    b"/etc/cron.d/x.gguf",
    b"\\\\server\\share\\x.gguf",
    b"C:\\x.gguf",
    b"C:x.gguf",
    b"",
    b".",
    b"..",
    b"...",
    b".gguf",
    b"..gguf",
    b"....gguf",
    b".hidden.gguf",
    b"-rf.gguf",
    b"--help.gguf",
    b" .gguf",
    b"x .gguf",
    b"x. .gguf",
    b"~.gguf",
    b"~root.gguf",
    b"$HOME.gguf",
    b"`id`.gguf",
    b"a\0b.gguf",
    b"x.gguf\0.txt",
    b"a\nb\r.gguf",
    b"\x1b[2J\x1b]0;owned\x07.gguf",
    b"x:stream.gguf",
    b'x|y<z>?*".gguf',
    b"\xff\xfe\xfd.gguf",
    b"\xed\xa0\x80.gguf",
    "\u202egpj.gguf".encode(),
    "\u200b\u200d.gguf".encode(),
    "e\u0301 \u2126 \uff0e\uff0e\uff0fx.gguf".encode(),
    "\U0001f4a3.gguf".encode(),
    b"x" * 255 + b".gguf",
    b"x" * 5000 + b".gguf",
    b"." * 5000 + b".gguf",
    "ß".encode() * 3000 + b".gguf",
]


def assert_clear(error: BareMetalError) -> None:
    """One line, that a terminal can take, and an exit status that says whose fault it is."""
    assert outcome(error).exit_status in (2, 3)
    for line in (error.message, error.hint or ""):
        assert len(line) <= MAX_MESSAGE_CHARS and line.isprintable()
    assert error.code and error.message


def assert_safe_name(name: str) -> None:
    """A file name on any system: one component, plain characters, no device, not hidden, not long."""
    assert 0 < len(name.encode()) <= 255
    assert all(unicodedata.category(c)[0] in "LMN" or c in "._+-" for c in name)
    assert unicodedata.is_normalized("NFC", name) and unicodedata.category(name[0])[0] != "M"
    assert not name.startswith((".", "-")) and not name.endswith(".")
    assert name.partition(".")[0].lower() not in DEVICES


def assert_harmless(metainfo: Metainfo) -> None:
    """What was accepted keeps within itself, whatever it says."""
    assert_safe_name(metainfo.name)
    names = [file.name for file in metainfo.files]
    assert names and len({name.casefold() for name in names}) == len(names)
    for name in names:
        assert_safe_name(name)
        assert name.endswith(".gguf")
    assert len(metainfo.id) == 40 and is_infohash(metainfo.id)
    assert 0 < metainfo.pieces.num_pieces <= 1 << 16
    assert len(metainfo.files) <= metainfo.num_files <= 4096
    end = 0
    for file in sorted(metainfo.files, key=lambda file: file.part.start):
        assert 0 <= file.index < metainfo.num_files
        assert file.part.num_bytes > 0 and file.part.start >= end
        end = file.part.start + file.part.num_bytes
    assert end <= metainfo.pieces.total_bytes
    assert metainfo.magnet.startswith("magnet:?") and metainfo.magnet.isprintable()


def attempt(raw: bytes) -> Metainfo | BareMetalError:
    """What comes of reading this: something harmless, or a clear error."""
    try:
        metainfo = read_metainfo(raw, source="a stranger")
    except BareMetalError as error:
        assert_clear(error)
        return error
    assert_harmless(metainfo)
    return metainfo


def refused(raw: bytes) -> BareMetalError:
    error = attempt(raw)
    assert isinstance(error, BareMetalError), f"accepted as {error.files}"
    return error


def accepted(raw: bytes) -> Metainfo:
    metainfo = attempt(raw)
    assert isinstance(metainfo, Metainfo), metainfo.message
    return metainfo


SHAPES: dict[str, Callable[[bytes], Info]] = {
    "v1": lambda name: info_v1(name, 50_000),
    "v2": lambda name: info_v2(name, [([name], 50_000)]),
    "hybrid": lambda name: info_v2(name, [([name], 50_000)]) | info_v1(name, 50_000),
    "folder-v1": lambda name: info_v1(name, [([b"model.gguf"], 50_000)]),
    "folder-v2": lambda name: info_v2(name, [([b"model.gguf"], 50_000)]),
    "in-folder-v1": lambda name: info_v1(b"models", [([name], 50_000), ([b"x"], 5)]),
    "in-folder-hybrid": lambda name: info_hybrid(b"models", [([name], 50_000), ([b"zz"], 5)]),
    "below-v1": lambda name: info_v1(b"models", [([name, b"model.gguf"], 50_000)]),
    "below-v2": lambda name: info_v2(b"models", [([name, b"model.gguf"], 50_000)]),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_torrents_that_the_cases_begin_with_are_accepted(shape: str) -> None:
    """Otherwise the cases below would show nothing."""
    metainfo = accepted(torrent(SHAPES[shape](b"good-model.gguf")))
    assert metainfo.num_bytes == 50_000


@pytest.mark.parametrize("shape", SHAPES)
def test_no_name_reaches_the_disk(shape: str) -> None:
    """Names of torrents, folders and files: refused, or replaced by safe ones of our own."""
    for name in NAMES:
        attempt(torrent(SHAPES[shape](name)))


@pytest.mark.parametrize("name", ["CON", "nul", "Aux.x", "com1", "LPT9.tar"])
def test_devices_of_other_systems_are_no_names(name: str) -> None:
    """On Windows `CON.gguf` is the console, in whatever folder it is."""
    attempt(torrent(info_v1(f"{name}.gguf".encode(), 50_000)))


def test_alternative_names_of_old_clients_change_nothing() -> None:
    """`name.utf-8` and `path.utf-8` go before the plain ones in libtorrent."""
    info = info_v1(b"models", [([b"good.gguf"], 50_000)])
    info[b"name.utf-8"] = b"../../evil"
    info[b"files"][0][b"path.utf-8"] = [b"..", b"..", b"evil.gguf"]
    assert "/" not in accepted(torrent(info)).name


@pytest.mark.parametrize("names", [(b"a.gguf", b"a.gguf"), (b"a.gguf", b"A.GGUF")])
def test_two_files_of_one_name_are_refused(names: tuple[bytes, bytes]) -> None:
    """They would be one file on some systems; also where they differ in the case of letters alone."""
    error = refused(torrent(info_v1(b"models", [([name], 5) for name in names])))
    assert isinstance(error, IntegrityError) and "two files" in error.message


def test_two_files_of_one_name_are_refused_in_folders_too() -> None:
    files = [([b"A", b"readme"], 5), ([b"a", b"README"], 5), ([b"m.gguf"], 5)]
    error = refused(torrent(info_v1(b"models", files)))
    assert isinstance(error, IntegrityError) and "two files" in error.message


@pytest.mark.parametrize("target", [[b"etc", b"passwd"], [b"..", b"x"], [b"/etc/passwd"]])
def test_symbolic_links_are_refused(target: list[bytes]) -> None:
    """As the model, and beside it; a link could be followed when the model is written."""
    link = {b"attr": b"l", b"length": 0, b"path": [b"link.gguf"], b"symlink path": target}
    info = info_v1(b"models", [([b"model.gguf"], 50_000)])
    info[b"files"].append(link)
    error = refused(torrent(info))
    assert isinstance(error, IntegrityError) and "link" in error.message
    tree = info_v2(b"models", [([b"model.gguf"], 50_000)])
    tree[b"file tree"][b"link.gguf"] = {b"": {b"attr": b"l", b"symlink path": target}}
    error = refused(torrent(tree))
    assert isinstance(error, IntegrityError)


def test_padding_is_no_model() -> None:
    """A pad file is not on disk, whatever it is called."""
    info = info_v1(b"models", [([b"model.gguf"], 50_000), ([b"x"], 5)])
    info[b"files"][0][b"attr"] = b"p"
    assert refused(torrent(info)).code == "torrent.no-model"


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ([([b"readme.txt"], 5)], "torrent.no-model"),
        ([([b"gguf"], 5)], "torrent.no-model"),
        ([([b"model.gguf"], 0), ([b"x"], 5)], "torrent.no-model"),
        ([([b"a.gguf"], 5), ([b"b.gguf"], 5)], "torrent.several-models"),
        ([([b"m-00001-of-00002.gguf"], 5), ([b"n.gguf"], 5)], "torrent.several-models"),
        (
            [([b"m-00001-of-00002.gguf"], 5), ([b"n-00002-of-00002.gguf"], 5)],
            "torrent.several-models",
        ),
        (
            [([b"m-00001-of-00003.gguf"], 5), ([b"m-00003-of-00003.gguf"], 5)],
            "torrent.several-models",
        ),
        (
            [([b"a", b"m-00001-of-00002.gguf"], 5), ([b"b", b"m-00001-of-00002.gguf"], 5)],
            "torrent.several-models",
        ),
    ],
)
def test_torrents_of_something_else_are_refused(files: list[FileEntry], code: str) -> None:
    """No model, several, or parts that do not make one."""
    assert refused(torrent(info_v1(b"models", files))).code == code


# Counts and lengths near the ends of their types

HUGE = [
    -(1 << 63),
    -(1 << 31),
    -1,
    0,
    1,
    (1 << 31) - 1,
    1 << 31,
    1 << 32,
    1 << 44,
    1 << 48,
    1 << 62,
]
HUGE += [(1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, 10**40]


@pytest.mark.parametrize("number", HUGE)
def test_absurd_lengths_are_refused(number: int) -> None:
    """Of files, of pieces, of a file among others; each as v1, as v2 and as both."""
    for shape in SHAPES.values():
        for key in (b"length", b"piece length", b"meta version"):
            info = shape(b"model.gguf")
            attempt(torrent(_with_every(info, key, number)))


def _with_every(values: Any, key: bytes, number: int) -> Any:
    """`values` with this number under every `key`, as bencode that no encoder would write."""
    if isinstance(values, dict):
        return {
            k: _Raw(b"i%de" % number) if k == key else _with_every(v, key, number)
            for k, v in values.items()
        }
    if isinstance(values, list):
        return [_with_every(v, key, number) for v in values]
    return values


class _Raw(bytes):
    """Bytes that stand in a torrent as they are."""


def bencode(value: Any) -> bytes:
    """As libtorrent's, and `_Raw` as it is."""
    if isinstance(value, _Raw):
        return value
    if isinstance(value, bytes):
        return b"%d:%s" % (len(value), value)
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, list):
        return b"l" + b"".join(map(bencode, value)) + b"e"
    return b"d" + b"".join(bencode(k) + bencode(value[k]) for k in sorted(value)) + b"e"


def test_too_many_pieces_are_refused() -> None:
    """As many hashes as pieces, so that only the number is wrong; one fewer is accepted."""
    most = 1 << 16
    accepted(torrent(info_v1(b"model.gguf", most * 16 * KIB)))
    refused(torrent(info_v1(b"model.gguf", most * 16 * KIB + 1)))
    accepted(torrent(info_v2(b"m.gguf", [([b"m.gguf"], most * 16 * KIB)])))
    refused(torrent(info_v2(b"m.gguf", [([b"m.gguf"], most * 16 * KIB + 1)])))


@pytest.mark.parametrize("piece_bytes", [KIB, 8 * KIB, 16 * KIB - 1, 512 * MIB, 1 << 30])
def test_pieces_of_absurd_size_are_refused(piece_bytes: int) -> None:
    """Below a block of the protocol they cost more than they carry; a huge one is never verified."""
    refused(torrent(info_v1(b"model.gguf", 50_000, piece_bytes)))
    refused(torrent(info_v2(b"m.gguf", [([b"m.gguf"], 50_000)], piece_bytes)))


def test_too_many_files_are_refused() -> None:
    """Each would be a name to check and a place in every table."""
    files: list[FileEntry] = [([b"model.gguf"], 5)]
    files += [([b"%05d" % i], 1) for i in range(4095)]
    accepted(torrent(info_v1(b"models", files)))
    refused(torrent(info_v1(b"models", [*files, ([b"one more"], 1)])))


def test_a_torrent_file_has_a_greatest_length() -> None:
    """Reading stops there, before anything is made of it."""
    good = torrent(info_v1(b"model.gguf", 50_000), comment=b"x" * (MAX_TORRENT_BYTES - KIB))
    accepted(good)
    too_long = torrent(info_v1(b"model.gguf", 50_000), comment=b"x" * MAX_TORRENT_BYTES)
    assert "larger" in refused(too_long).message


@pytest.mark.parametrize("bad", [b"\x80", b"http://mirror.lan/\xff", b"\xed\xa0\x80", b"a\0b"])
def test_addresses_that_are_no_text_are_refused_or_left_out(bad: bytes) -> None:
    """Of trackers and mirrors, in every place where a torrent may have them; and certificates."""
    info = info_v1(b"model.gguf", 50_000)
    for outer in (
        {"announce": bad},
        {"announce-list": [[bad], [b"http://tracker.lan/announce", bad]]},
        {"url-list": bad},
        {"url-list": [b"http://mirror.lan/", bad]},
        {"nodes": [[bad, 5]]},
        {"comment": bad, "created by": bad, "encoding": bad},
    ):
        attempt(torrent(info, **outer))
    attempt(torrent(info | {b"ssl-cert": bad}))
    attempt(torrent(info | {b"collections": [bad], b"source": bad}))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"d",
        b"de",
        b"le",
        b"i5e",
        b"4:spam",
        b"d4:infoe",
        b"d4:infodee",
        b"d4:infolee",
        b"d4:infoi5ee",
        b"d4:info4:spame",
        b"d4:info999999999999999999999:xe",
        b"d4:infod4:name-5:xee",
        b"d4:infodi5ei6eee",
        b"l" * 100_000,
        b"d1:a" * 100_000,
        b"l" * 100_000 + b"e" * 100_000,
        b"i" + b"9" * 1_000_000 + b"e",
        b"9" * 1_000_000,
        bytes(65536),
        b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        b"GGUF" + bytes(4096),
    ],
)
def test_what_is_no_torrent_is_refused(raw: bytes) -> None:
    """Other files, nothing, and bencode that nests or counts without end."""
    assert isinstance(refused(raw), IntegrityError)


def _large_torrent() -> bytes:
    files = [([b"model-%05d-of-00003.gguf" % n], 50_000 * n) for n in (1, 2, 3)]
    outer = {"url-list": [b"http://mirror.lan/"], "announce": b"http://tracker.lan/announce"}
    return torrent(info_hybrid(b"model", [*files, ([b"readme"], 50)]), **outer)


VALID = [torrent(SHAPES[shape](b"good-model.gguf")) for shape in SHAPES] + [_large_torrent()]


def test_a_torrent_cut_anywhere_is_refused() -> None:
    """At every byte of it."""
    for raw in (VALID[0], _large_torrent()):
        accepted(raw)
        for end in range(len(raw)):
            refused(raw[:end])


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A valid torrent with a few of: bytes changed, inserted, cut out, numbers overwritten."""
    data = bytearray(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["byte", "insert", "delete", "number", "swap"]))
        if kind == "byte":
            data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=16) | st.sampled_from(NAMES))
        elif kind == "delete":
            del data[at : at + draw(st.integers(1, 64))]
        elif kind == "number":
            data[at:at] = b"%d" % draw(st.sampled_from(HUGE))
        else:
            other = draw(st.sampled_from(VALID))
            start = draw(st.integers(0, len(other)))
            size = draw(st.integers(1, 128))
            data[at : at + size] = other[start : start + size]
    return bytes(data)


@settings(max_examples=SHORT_EXAMPLES)
@given(damaged())
def test_damaged_torrents_are_refused_or_harmless(raw: bytes) -> None:
    attempt(raw)


VALUES = st.recursive(
    st.sampled_from(NAMES)
    | st.sampled_from([_Raw(b"i%de" % number) for number in HUGE])
    | st.integers(-10, 1 << 20)
    | st.binary(max_size=64),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([b"", b"length", b"path", b"attr", b"x"]), inner)
    ),
    max_leaves=6,
)


@st.composite
def rearranged(draw: st.DrawFn) -> bytes:
    """A valid torrent in which some values are others: well formed, and wrong."""
    whole: dict[bytes, Any] = lt.bdecode(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(1, 3))):
        at: Any = whole
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(at[key], (dict, list)) and draw(st.integers(0, 3)):
                at = at[key]
                continue
            if draw(st.integers(0, 4)):
                at[key] = draw(VALUES)
            else:
                del at[key]
            break
    return bencode(whole)


@settings(max_examples=SHORT_EXAMPLES)
@given(rearranged())
def test_rearranged_torrents_are_refused_or_harmless(raw: bytes) -> None:
    attempt(raw)


@pytest.mark.slow
@settings(max_examples=100 * SHORT_EXAMPLES, deadline=None)
@given(damaged() | rearranged())
def test_many_torrents_are_refused_or_harmless(raw: bytes) -> None:
    attempt(raw)


# Magnet links

HASH = "0123456789abcdef0123456789abcdef01234567"
LINKS = [
    "magnet:",
    "magnet:?",
    "magnet:?xt",
    "magnet:?xt=",
    "magnet:?xt=urn:btih:",
    "magnet:?xt=urn:btih:zz",
    f"magnet:?xt=urn:btih:{HASH}00",
    f"magnet:?xt=urn:btih:{HASH[:-1]}g",
    "magnet:?xt=urn:btmh:1220",
    "magnet:?xt=urn:btmh:1114" + HASH,
    "magnet:?xt=urn:btmh:1220" + "0" * 63,
    "magnet:?xt=urn:sha1:" + HASH,
    "magnet:?dn=no+hash",
    "magnet:?%",
    "magnet:?xt=%zz",
    "magnet:?xt=urn:btih:" + "%" * 40,
    "magnet:" + "?" * 10_000,
    "magnet:?" + "&" * 100_000,
    "MAGNET:?XT=",
    "",
    "x",
    "zz" * 20,
    "0" * 39,
    "/etc/passwd",
    "../" * 20,
    "\0" * 40,
    "magnet:?xt=urn:btih:\udcff\udcfe",
    "\U0001f4a3" * 40,
    "magnet:?xt=urn:btih:" + "0" * (MAX_TORRENT_BYTES + 1),
]


@pytest.mark.parametrize("link", LINKS)
def test_what_is_no_magnet_link_is_refused(link: str) -> None:
    """With a hint of what one looks like, and nothing of the link that a terminal would obey."""
    with pytest.raises(UsageError) as caught:
        parse_magnet_link(link)
    assert_clear(caught.value)
    assert caught.value.code == "magnet.invalid" and caught.value.hint


@pytest.mark.parametrize(
    "more",
    [
        "dn=../../../etc/passwd",
        "dn=" + "x" * 100_000,
        "dn=%00%1b%5b2J%e2%80%ae",
        "dn=a&dn=b&dn=c",
        "tr=" + "x" * 100_000,
        "&".join(f"tr=http://tracker{n}.lan/announce" for n in range(1000)),
        "tr=file:///etc/passwd&ws=file:///etc/passwd",
        "x.pe=1.1.1.1:99999&x.pe=:&x.pe=[::1]&x.pe=host",
        "so=0-99999999999999",
        "so=-1,5-2,x",
        "so=" + ",".join(str(n) for n in range(10_000)),
        "xl=-1&xl=99999999999999999999999",
        "xt=urn:btih:" + "f" * 40,
        "xt.1=urn:btih:" + "f" * 40,
        "tr=%80&tr=http://tracker.lan/%ff",
        "ws=%80&ws=http://mirror.lan/%ff",
        "dn=%80%ff",
        "&&&===%%%",
    ],
)
def test_magnet_links_with_more_in_them_are_read_or_refused(more: str) -> None:
    """What else a link says is at most a wish; the hash is what counts."""
    with suppress(UsageError):
        link = parse_magnet_link(f"magnet:?xt=urn:btih:{HASH}&{more}")
        assert link.infohash_v1 == HASH
        assert not magnet_params(link).info_hashes.v1.is_all_zeros()
        assert max(map(len, (link.trackers, link.web_seeds, link.peers))) <= 100
        info = lt.load_torrent_buffer(VALID[0]).ti
        assert info is not None
        attempt(bare_torrent_file(info.info_section(), link))


def test_a_hash_alone_is_a_link() -> None:
    """Forty digits are v1, sixty-four v2."""
    assert parse_magnet_link(HASH).infohashes == (HASH,)
    assert parse_magnet_link(HASH.upper()).infohash_v1 == HASH
    assert parse_magnet_link("ab" * 32).infohash_v2 == "ab" * 32


@settings(max_examples=SHORT_EXAMPLES)
@given(
    st.text(max_size=60)
    | st.text(alphabet="magnet:?xt=urn:bihm%&.1220afz", max_size=120).map("magnet:?xt=urn:".__add__)
)
def test_any_text_is_a_link_or_a_mistake(text: str) -> None:
    """Nothing else comes of it, whatever somebody pastes."""
    try:
        link = parse_magnet_link(text)
    except UsageError as error:
        assert_clear(error)
    else:
        hashes = magnet_params(link).info_hashes
        assert hashes.has_v1() or hashes.has_v2()


def test_what_a_magnet_link_adds_does_not_change_the_torrent() -> None:
    """The file that is made of what peers sent has the info section byte for byte."""
    raw = VALID[2]
    info = lt.load_torrent_buffer(raw).ti
    assert info is not None
    link = f"{accepted(raw).magnet}&tr=http://tracker.lan/4:infoe&ws=http://mirror.lan/&dn=x"
    made = accepted(bare_torrent_file(info.info_section(), parse_magnet_link(link)))
    original = accepted(raw)
    assert (made.infohash_v1, made.infohash_v2) == (original.infohash_v1, original.infohash_v2)
    assert made.files == original.files
    assert made.trackers == ("http://tracker.lan/4:infoe",)


# At the command line


def is_harmless_text(text: str) -> bool:
    """Whether a terminal shows these lines and does nothing else."""
    return all(unicodedata.category(c)[0] != "C" for c in text.replace("\n", ""))


class Sandbox:
    """A folder with a home, a working folder and files beside them, all of which are looked at after."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = make_home(folder / "home")
        self.cwd = folder / "cwd"
        self.cwd.mkdir()
        (folder / "treasure").write_bytes(b"untouched")
        self._before = self._listing()

    def _listing(self) -> dict[str, bytes | None]:
        """Everything outside of the home."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes() if path.is_file() else None
            for path in self.folder.rglob("*")
            if not path.is_relative_to(self.home)
        }

    def fails(
        self, source: str | Path, *arguments: str, peers: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """The error of a pull, which is clear and has left nothing anywhere else."""
        done = run_pull(source, *arguments, home=self.home, cwd=self.cwd, peers=peers)
        assert done.returncode in (2, 3), done.stderr
        assert done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr
        assert is_harmless_text(done.stderr)
        assert self._listing() == self._before
        error: dict[str, Any] = json.loads(done.stdout)["error"]
        return error

    def succeeds(self, source: str | Path, *, peers: tuple[str, ...]) -> dict[str, Any]:
        done = run_pull(source, home=self.home, cwd=self.cwd, peers=peers)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stderr and is_harmless_text(done.stderr)
        assert self._listing() == self._before
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def torrent(self, raw: bytes) -> Path:
        path = self.home / "hostile.torrent"
        path.write_bytes(raw)
        return path


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


def test_pulling_a_hostile_torrent_is_a_clear_mistake(sandbox: Sandbox) -> None:
    """One line and a status; the torrent is not remembered."""
    cases = {
        b"": "torrent.invalid",
        VALID[0][:-20]: "torrent.invalid",
        torrent(info_v1(b"..", 5)): "torrent.invalid",
        torrent(info_v1(b"m", [([b"\x1b[2J\x07.gguf"], 5)] * 2)): "torrent.invalid",
        torrent(info_v1(b"\x1b]0;owned\x07", [([b"x"], 5)])): "torrent.no-model",
        b"d4:infod4:name" + b"9" * 100_000 + b":xee": "torrent.invalid",
    }
    for raw, code in cases.items():
        assert sandbox.fails(sandbox.torrent(raw))["code"] == code
    assert not (sandbox.home / "torrents").exists()


def test_pulling_what_is_no_torrent_is_a_clear_mistake(sandbox: Sandbox) -> None:
    """Links that are none, files that are not there, names that nothing has, folders."""
    cases = {
        "magnet:?xt=urn:btih:zz": "magnet.invalid",
        "no-such-model": "model.not-found",
        "../treasure": "model.not-found",
        "no-such-file.torrent": "torrent.unreadable",
        "\x1b[2J\udcff.torrent": "torrent.unreadable",
        "": "model.not-found",
    }
    (sandbox.home / "folder.torrent").mkdir()
    cases[str(sandbox.home / "folder.torrent")] = "torrent.unreadable"
    for source, code in cases.items():
        assert sandbox.fails(source)["code"] == code, source
    assert not (sandbox.home / "torrents").exists()


def published(path: Path, info: Info, content: bytes) -> bytes:
    """A torrent whose hashes are right, of `content` at `path`, under the names that `info` says."""
    size = info[b"piece length"]
    info[b"pieces"] = b"".join(
        hashlib.sha1(content[at : at + size]).digest() for at in range(0, len(content), size)
    )
    path.write_bytes(content)
    return torrent(info)


@pytest.mark.parametrize(
    "names",
    [
        (b"../../../treasure.gguf", None),
        (b"../../..", [b"..", b"..", b"treasure.gguf"]),
        (b"/tmp/treasure", [b"/", b"treasure.gguf"]),
    ],
)
def test_a_model_with_a_hostile_name_stays_at_home(
    names: tuple[bytes, list[bytes] | None],
    sandbox: Sandbox,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """It is fetched, by file and by magnet link, and lies where every other would."""
    name, path = names
    data = good_model().to_bytes()
    there = tmp_path_factory.mktemp("seed") / "model"
    raw = published(there, info_v1(name, [(path, len(data))] if path else len(data)), data)
    with Seeder(raw, there) as seed:
        found = sandbox.succeeds(sandbox.torrent(raw), peers=(seed.peer,))
        assert Path(found["path"]).is_relative_to(sandbox.home)
        assert Path(found["path"]).read_bytes() == data
        again = Sandbox(sandbox.folder / "again")
        assert again.succeeds(found["infohash_v1"], peers=(seed.peer,))["complete"] is True


def test_files_beside_the_model_are_not_fetched(
    sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Neither under their own names nor under others, though a piece holds bytes of both."""
    data = good_model().to_bytes()
    beside = random.Random(0).randbytes(200_000)
    folder = tmp_path_factory.mktemp("seed")
    (folder / "autorun.inf").write_bytes(beside)
    (folder / "model.gguf").write_bytes(data)
    info = info_v1(b"m", [([b"autorun.inf"], len(beside)), ([b"model.gguf"], len(data))])
    raw = published(folder / "all", info, beside + data)
    with Seeder(raw, folder) as seed:
        found = sandbox.succeeds(sandbox.torrent(raw), peers=(seed.peer,))
    assert Path(found["path"]).read_bytes() == data
    inside = [path.name for path in (sandbox.home / "torrents").rglob("*")]
    assert "autorun.inf" not in inside
    assert found["downloaded_bytes"] < len(data) + len(beside)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"#!/bin/sh\necho owned\n" * 3000, "gguf.magic"),
        (bytes(60_000), "gguf.magic"),
        (good_model().to_bytes()[:-5000], "gguf.truncated"),
        (good_model().to_bytes()[:3000], "gguf.header"),
        (b"GGUF" + b"\xff" * 60_000, "gguf.header"),
    ],
    ids=["script", "zeros", "tensors-outside", "header-outside", "absurd-header"],
)
def test_what_is_no_model_is_refused_once_its_beginning_is_here(
    content: bytes, code: str, sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Its pieces are right and its name ends well; the header decides."""
    there = tmp_path_factory.mktemp("seed") / "model"
    raw = published(there, info_v1(b"model.gguf", len(content)), content)
    with Seeder(raw, there) as seed:
        error = sandbox.fails(sandbox.torrent(raw), peers=(seed.peer,))
    assert error["code"] == code


def test_a_peer_cannot_answer_a_link_with_a_hostile_torrent(
    sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What it sends has the hash that was asked for, and is checked like a file."""
    there = tmp_path_factory.mktemp("seed") / "model"
    raw = published(there, info_v1(b"m", [([b"x\x1b[2J.gguf"], 500)] * 2), bytes(1000))
    infohash = lt.load_torrent_buffer(raw).ti.info_hashes().v1
    with Seeder(raw, there.parent / "nothing") as seed:
        assert sandbox.fails(str(infohash), peers=(seed.peer,))["code"] == "torrent.invalid"


def test_a_torrent_cannot_make_this_machine_press_buttons(
    sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Mirrors and trackers with a question to a device on the local network are not asked."""
    asked: list[bytes] = []

    def device(connection: socket.socket) -> None:
        asked.append(connection.recv(4096))
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    data = good_model().to_bytes()
    there = tmp_path_factory.mktemp("seed") / "model"
    raw = published(there, info_v1(b"model.gguf", len(data)), data)
    make_home(sandbox.home, offline=False, local_hosts=[LOOPBACK])
    with OddPeer(device) as router, Seeder(raw, there, upload_limit=50_000) as seed:
        values: dict[bytes, Any] = lt.bdecode(raw)
        values[b"url-list"] = [f"http://{router.peer}/apply.cgi?reboot=1".encode()]
        values[b"announce"] = f"http://{router.peer}/apply.cgi".encode()
        sandbox.succeeds(sandbox.torrent(lt.bencode(values)), peers=(seed.peer,))
    assert asked == []


def answers(status: bytes, body: bytes) -> Callable[[socket.socket], None]:
    """A web server with one answer to everything."""

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        head = b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
        connection.sendall(head + body)
        connection.recv(1)

    return serve


def introduces_itself(infohash: bytes, name: bytes) -> Callable[[socket.socket], None]:
    """A peer that says what it is called, and then something too long."""

    def serve(connection: socket.socket) -> None:
        connection.recv(68)
        extensions = b"\0\0\0\0\0\x10\0\0"
        peer_id = b"-XX0001-" + name[:12].ljust(12, b"x")
        connection.sendall(b"\x13BitTorrent protocol" + extensions + infohash + peer_id)
        hello = lt.bencode({b"m": {}, b"v": name})
        connection.sendall(struct.pack(">IBB", len(hello) + 2, 20, 0) + hello)
        connection.sendall(struct.pack(">I", 0x7FFFFFFF) + bytes(100))
        connection.recv(65536)

    return serve


@pytest.mark.parametrize(
    "text", [b"\xff\xfe\x80", b"\x1b]0;owned\x07\x1b[2J", "\u202eowned".encode()]
)
def test_strangers_cannot_write_to_the_terminal(
    text: bytes, sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What a tracker, a mirror and a peer say of themselves is shown as plain text, or not at all."""
    data = good_model().to_bytes()
    there = tmp_path_factory.mktemp("seed") / "model"
    raw = published(there, info_v1(b"model.gguf", len(data)), data)
    info = lt.load_torrent_buffer(raw).ti
    assert info is not None
    make_home(sandbox.home, offline=False, local_hosts=[LOOPBACK])
    refusal = lt.bencode({b"failure reason": text})
    with (
        OddPeer(answers(b"200 OK", refusal)) as tracker,
        OddPeer(answers(b"404 " + text, b"")) as mirror,
        OddPeer(introduces_itself(info.info_hashes().v1.to_bytes(), text)) as peer,
        Seeder(raw, there, upload_limit=50_000) as seed,
    ):
        values: dict[bytes, Any] = lt.bdecode(raw)
        values[b"announce"] = f"http://{tracker.peer}/announce".encode()
        values[b"url-list"] = [f"http://{mirror.peer}/model.gguf".encode()]
        found = sandbox.succeeds(sandbox.torrent(lt.bencode(values)), peers=(peer.peer, seed.peer))
        assert all(odd.was_called.is_set() for odd in (tracker, mirror, peer))
    assert Path(found["path"]).read_bytes() == data
