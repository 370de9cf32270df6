"""What models of torrents are called here, and which of them a name means."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetalrt.core.errors import UsageError
from baremetalrt.core.ids import folded
from baremetalrt.node.naming import resolve
from baremetalrt.node.removal import remove_model
from baremetalrt.swarm import catalog
from baremetalrt.swarm.catalog import Entry, Record
from baremetalrt.swarm.metainfo import Metainfo, read_metainfo
from baremetalrt.swarm.model_choice import TorrentModel, choose_model, models_of
from baremetalrt.swarm.obtaining import add_torrent
from baremetalrt.swarm.torrent_names import slug
from raw_torrents import info_v1, torrent


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BMRT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def named(name: str, size: int = 50_000) -> Metainfo:
    return read_metainfo(torrent(info_v1(name.encode(), size)), source="test")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("模型", "模型"),
        ("Модель-Q4_0", "Модель-Q4_0"),
        ("מודל", "מודל"),
        ("मॉडल", "मॉडल"),
        ("Cafe\u0301", "Café"),
        ("日本語 モデル／8B", "日本語-モデル-8B"),
        ("a\u202egpj.模", "a-gpj.模"),
        ("模\u200b型\u2066x", "模-型-x"),
        ("\u0301模", "模"),
        ("\u3164\u115f", ""),
        ("模\ufe0f\U000e0101", "模"),
        ("..\\模/..", "模"),
        ("COM¹.模", "_COM¹.模"),
        ("con", "_con"),
        ("😀", ""),
        ("模\n\x1b[2J型", "模-2J型"),
    ],
)
def test_a_name_keeps_its_letters_and_nothing_else(text: str, name: str) -> None:
    """No separator of any system, nothing that hides or turns the writing round, no device."""
    assert slug(text) == name


@given(st.text(max_size=300))
def test_every_name_is_safe_and_stays_what_it_is(text: str) -> None:
    name = slug(text)
    assert slug(name) == name and len(name.encode()) <= 201
    assert not set(name) & set('/\\:*?"<>|') and name.isprintable()
    assert name.strip("-.") == name


def test_letters_are_compared_as_people_do() -> None:
    assert folded("CAFÉ") == folded("cafe\u0301") and folded("Straße") == folded("STRASSE")


# Two of one name


def test_two_names_beyond_ascii_are_two_names() -> None:
    """Each torrent is found by its own, in any case and either way of writing accents."""
    first, second = (add_torrent(named(f"{name}.gguf")).entry for name in ("模型", "Größe"))
    assert (first.record.name, second.record.name) == ("模型", "Größe")
    assert first.model_paths[0].name == "模型.gguf"
    for reference, entry in (("模型", first), ("模型.gguf", first), ("GRO\u0308SSE", second)):
        found = catalog.find(reference)
        assert found is not None and found.id == entry.id


def twins() -> tuple[Entry, Entry]:
    a, b = (add_torrent(named("model.gguf", size)).entry for size in (50_000, 60_000))
    return a, b


def test_a_name_of_two_torrents_is_an_error_that_lists_them() -> None:
    """Nothing is removed, run or chosen; the beginning of a hash says which is meant."""
    entries = twins()
    for act in (catalog.find, resolve, remove_model):
        with pytest.raises(UsageError) as caught:
            act("model")
        assert caught.value.code == "model.ambiguous"
        assert all(entry.id[:12] in caught.value.message for entry in entries)
    assert len(catalog.ids()) == 2
    assert remove_model(entries[0].id[:12]).name == "model"
    found = catalog.find("model")
    assert found is not None and found.id == entries[1].id


def test_a_torrent_and_a_file_of_one_name_are_an_error_too(home: Path) -> None:
    """A torrent that seeds that very file is no other model."""
    entry = add_torrent(named("model.gguf")).entry
    stored = home / "models" / "model.gguf"
    stored.parent.mkdir()
    stored.write_bytes(b"GGUF")
    for act in (resolve, remove_model):
        with pytest.raises(UsageError) as caught:
            act("model")
        assert str(stored) in caught.value.message and entry.id[:12] in caught.value.message
    entry.record.paths, entry.record.is_in_place = [str(stored)], True
    entry.save()
    assert resolve("model") is not None
    assert remove_model("model").freed_bytes == 0 and stored.exists()


def test_two_files_of_one_name_in_the_store_are_an_error(home: Path) -> None:
    paths = [home / "models" / folder / "model.gguf" for folder in "ab"]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"GGUF")
    for act in (resolve, remove_model):
        with pytest.raises(UsageError) as caught:
            act("model")
        assert all(str(path) in caught.value.message for path in paths)
    assert all(path.exists() for path in paths)


# Several in one torrent


def model(path: str, index: int = 0) -> TorrentModel:
    return TorrentModel(path, (index,), 1000)


MODELS = [
    model("Tiny-8B-Q4_K_M.gguf", 0),
    model("Tiny-8B-Q4_K_S.gguf", 1),
    model("more/Tiny-8B-F16.gguf", 2),
    model("mmproj-Tiny-8B-F16.gguf", 3),
    model("tiny.Q8_0.gguf", 4),
]


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        ("Q4_K_M", 0),
        ("q4_k_s", 1),
        ("F16", 2),
        ("more/Tiny-8B-F16.gguf", 2),
        ("tiny-8b-f16", 2),
        ("mmproj-tiny-8b-f16.gguf", 3),
        ("mmproj", 3),
        ("Q8_0", 4),
    ],
)
def test_a_model_is_chosen_by_its_file_or_a_part_of_its_name(wanted: str, index: int) -> None:
    """In any case; what looks at pictures is meant only where nothing else can be."""
    assert choose_model(MODELS, wanted, "tiny").indices == (index,)


@pytest.mark.parametrize("wanted", [None, "Q4", "8B", "Q5_K_M", "", "gguf", "*"])
def test_what_is_not_clear_is_an_error_that_lists(wanted: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        choose_model(MODELS, wanted, "tiny")
    if wanted != "Q4":
        assert all(m.name in caught.value.message for m in MODELS[:2])
    assert "--file" in (caught.value.hint or "")


def test_parts_are_one_model_among_others() -> None:
    files = [(f"m-Q8-0000{n}-of-00002.gguf", n, 10) for n in (2, 1)] + [("m-Q4.gguf", 3, 5)]
    parts, whole = models_of(files)
    assert (parts.name, parts.indices, parts.num_bytes) == ("m-Q8", (1, 2), 20)
    assert choose_model([parts, whole], "Q4", "m") == whole


def test_each_model_of_a_torrent_is_one_by_itself() -> None:
    """Of its own name, content and files; and the torrent says with which choice it was read."""
    files = [([b"m-Q8.gguf"], 50_000), ([b"m-Q4.gguf"], 40_000)]
    raw = torrent(info_v1(b"quants", files))
    with pytest.raises(UsageError, match=r"m-Q8.*m-Q4"):
        read_metainfo(raw, source="test")
    q8, q4 = (read_metainfo(raw, source="test", choice=c) for c in ("Q8", "m-Q4.gguf"))
    assert (q8.name, q4.name, q4.title, q4.num_bytes) == ("m-Q8", "m-Q4", "quants", 40_000)
    assert q8.content_id != q4.content_id and q4.files[0].index == 1
    assert "x.file=m-Q4.gguf" in q4.magnet


def test_the_model_that_is_here_is_found_by_the_name_of_its_torrent() -> None:
    """With what was chosen behind a colon or without; another of the same torrent is an error."""
    files = [([b"m-Q8.gguf"], 50_000), ([b"m-Q4.gguf"], 40_000)]
    raw = torrent(info_v1(b"quants", files))
    entry = add_torrent(read_metainfo(raw, source="test", choice="Q4")).entry
    for reference in ("m-Q4", "quants", "quants:Q4", f"{entry.id[:10]}:m-q4.gguf"):
        found = catalog.find(reference)
        assert found is not None and found.record.choice == "m-Q4.gguf", reference
    with pytest.raises(UsageError) as caught:
        catalog.find("quants:Q8")
    assert caught.value.code == "torrent.other-model"
    with pytest.raises(UsageError) as caught:
        add_torrent(read_metainfo(raw, source="test", choice="Q8"))
    assert caught.value.code == "torrent.other-model"
    assert isinstance(Entry.open(entry.folder).record, Record)
