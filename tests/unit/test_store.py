"""Which file a user means."""

from pathlib import Path

import pytest

from baremetalrt.core import places
from baremetalrt.core.errors import UsageError
from baremetalrt.weights import store


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store."""
    monkeypatch.setenv(places.HOME_VARIABLE, str(tmp_path))
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"GGUF")
    return path


def test_home_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`BMRT_HOME` goes before the system's folder for data, and may begin with `~`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BMRT_HOME", "~/elsewhere")
    assert places.home() == tmp_path / "elsewhere"
    assert places.models_folder() == tmp_path / "elsewhere" / "models"
    monkeypatch.delenv("BMRT_HOME")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert places.home() == tmp_path / "data" / "baremetalrt"
    monkeypatch.delenv("XDG_DATA_HOME")
    assert places.home() == tmp_path / ".local" / "share" / "baremetalrt"


def test_without_a_name_the_default_is_meant(models: Path) -> None:
    """The embedded model is found without its package being run."""
    found = store.find_model(None)
    assert found == store.default_model() and found.is_default
    assert found.name == store.DEFAULT_MODEL and found.path.is_file()


def test_a_missing_default_says_how_to_get_it(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not installed is an error with a hint, and the store works without."""
    monkeypatch.setattr(store, "_DEFAULT_PACKAGE", "no_such_package")
    with pytest.raises(UsageError) as caught:
        store.find_model(None)
    assert caught.value.code == "model.not-found" and caught.value.hint
    assert store.stored_models() == []


def test_names_are_files_without_folder_and_suffix(models: Path) -> None:
    """In any case of letters, in folders too, with or without the suffix."""
    path = put(models / "family" / "Tiny-1B.Q4_0.gguf")
    for reference in ("Tiny-1B.Q4_0", "tiny-1b.q4_0", "TINY-1B.Q4_0.GGUF"):
        found = store.find_model(reference)
        assert (found.name, found.path, found.is_default) == ("Tiny-1B.Q4_0", path, False)


def test_the_default_has_a_name_too(models: Path) -> None:
    """It is listed last, and found by name."""
    put(models / "zebra.gguf")
    assert [m.name for m in store.stored_models()] == ["zebra", store.DEFAULT_MODEL]
    assert store.find_model(store.DEFAULT_MODEL.lower()).is_default


def test_a_split_model_is_one_model(models: Path) -> None:
    """It is named without its numbers, and opened by its first part."""
    for number in (1, 2, 3):
        put(models / f"big-{number:05d}-of-00003.gguf")
    assert [m.name for m in store.stored_models() if not m.is_default] == ["big"]
    assert store.find_model("big").path.name == "big-00001-of-00003.gguf"


def test_a_path_goes_before_a_name(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies where the user points is what the user means."""
    put(models / "model.gguf")
    here = put(tmp_path / "here" / "model.gguf")
    monkeypatch.chdir(here.parent)
    assert store.find_model("model.gguf").path == Path("model.gguf")
    assert store.find_model(str(here)).path == here
    assert store.find_model("model").path == models / "model.gguf"


def test_nothing_found_is_a_usage_error(models: Path) -> None:
    """A folder is no model, nor is a name that nobody has."""
    for reference in ("nobody", str(models), "nobody.gguf"):
        with pytest.raises(UsageError) as caught:
            store.find_model(reference)
        assert (caught.value.code, caught.value.parameter) == ("model.not-found", "model")


def test_a_prompt_is_not_taken_for_a_model(models: Path) -> None:
    """A single argument names a model if it ends like one or is one."""
    put(models / "tiny.gguf")
    assert store.looks_like_model("TINY") and store.looks_like_model("missing.gguf")
    assert not store.looks_like_model("tell me of tiny models")


def test_names_may_look_like_anything(models: Path) -> None:
    """`-of-` in a name makes no part of it; a name no system would take is simply not there."""
    put(models / "best-of-breed.gguf")
    assert store.find_model("best-of-breed").path.name == "best-of-breed.gguf"
    with pytest.raises(UsageError):
        store.find_model("n" * 5000)
