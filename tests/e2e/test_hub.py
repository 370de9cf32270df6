"""Models by their names on a hub, and those of other programs: real processes, a hub of our own."""

import hashlib
import json
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ollama import Client, ResponseError

from commands import ServerProcess, bmrt
from hub_kit import COMMIT, Hub, hub_command, running

REPO = "Some-Owner/tiny-GGUF"


@pytest.fixture(scope="module")
def model(talking_model: Path) -> bytes:
    return talking_model.read_bytes()


@pytest.fixture
def hub(model: bytes) -> Iterator[Hub]:
    other = model + b"\0" * (20 << 20)
    files = {"tiny-Q4_K_M.gguf": model, "tiny-Q8_0.gguf": other, "mmproj-tiny.gguf": b"GGUF" * 9}
    with running({REPO: files | {"README.md": b"x"}, "Some-Owner/none": {"a.bin": b"x"}}) as hub:
        yield hub


def test_a_model_is_pulled_seeded_and_run(hub: Hub, model: bytes, tmp_path: Path) -> None:
    """The usual quantization is taken and said; the torrent has the hub as a web seed."""
    done = hub_command(hub, tmp_path, "pull", f"hf:{REPO}", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["name"] == "tiny-Q4_K_M" and "tiny-Q4_K_M" in done.stderr
    assert Path(said["path"]).read_bytes() == model
    address = f"{hub.url}/{REPO}/resolve/{COMMIT}/tiny-Q4_K_M.gguf"
    assert f"&ws={address}" in urllib.parse.unquote(said["magnet"])
    answer = ("-t", "0", "-n", "4", "hello")
    run = hub_command(hub, tmp_path, "run", f"hf:{REPO}", *answer)
    assert (
        run.returncode == 0
        and run.stdout == bmrt("run", "tiny-Q4_K_M", *answer, home=tmp_path).stdout
    )
    sent = hub.sent_bytes
    again = hub_command(hub, tmp_path, "pull", f"hf:{REPO}:Q4_K_M")
    assert again.returncode == 0 and hub.sent_bytes == sent
    # The torrent is a model's like any other, and the hub gives its bytes where no peer does.
    torrent = tmp_path / "tiny.torrent"
    torrent.write_bytes(Path(said["torrent"]).read_bytes())
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.toml").write_text('[swarm]\nlocal_hosts = ["127.0.0.1"]\n')
    fetched = hub_command(hub, other, "pull", str(torrent), "--json")
    assert fetched.returncode == 0, fetched.stderr
    assert Path(json.loads(fetched.stdout)["path"]).read_bytes() == model


def test_a_name_of_a_list_is_enough(hub: Hub, tmp_path: Path) -> None:
    """Pulled by it, and run by it from then on."""
    before = hub_command(hub, tmp_path, "run", "tiny-one", "-n", "1", "x")
    assert before.returncode == 2
    added = bmrt("index", "add", "tiny-one:small", f"hf:{REPO}:Q4_K_M", home=tmp_path)
    assert added.returncode == 0, added.stderr
    hinted = hub_command(hub, tmp_path, "run", "tiny-one", "x")
    assert hinted.returncode == 2 and "bmrt pull" in hinted.stderr
    done = hub_command(hub, tmp_path, "pull", "tiny-one")
    assert done.returncode == 0 and f"hf:{REPO}:Q4_K_M" in done.stderr
    assert hub_command(hub, tmp_path, "run", "tiny-one:small", "-n", "1", "x").returncode == 0
    # Keys are for it by that name, too.
    made = json.loads(
        bmrt(
            "keys", "add", "k", "--model", "tiny-one", "--model", "later", "--json", home=tmp_path
        ).stdout
    )
    assert made["models"] == ["tiny-Q4_K_M", "later"]
    # One word alone is the model, and the prompt comes from elsewhere.
    piped = hub_command(hub, tmp_path, "run", "tiny-one", "-n", "1")
    assert piped.returncode == 2 and "the prompt is empty" in piped.stderr
    listed = bmrt("index", "search", "tiny", home=tmp_path)
    assert "tiny-one" in listed.stdout and "qwen" not in listed.stdout
    mistaken = bmrt("run", "tiny-0ne", "x", home=tmp_path)
    assert mistaken.returncode == 2 and "tiny-one" in mistaken.stderr


def test_a_quantization_is_named(hub: Hub, model: bytes, tmp_path: Path) -> None:
    done = hub_command(hub, tmp_path, "pull", f"https://huggingface.co/{REPO}:q8_0", "--json")
    assert json.loads(done.stdout)["name"] == "tiny-Q8_0"
    assert hub_command(hub, tmp_path, "run", f"hf:{REPO}:Q8_0", "-n", "1", "x").returncode == 0


def test_what_was_fetched_goes_on(hub: Hub, tmp_path: Path) -> None:
    """A hub that breaks off loses nothing but the last few megabytes."""
    hub.sends["tiny-Q8_0.gguf"] = 15 << 20
    done = hub_command(hub, tmp_path, "pull", f"hf:{REPO}:Q8_0")
    assert done.returncode == 4 and "try again" in done.stderr and not done.stdout
    assert len(done.stderr.strip().splitlines()) < 6
    hub.sends.clear()
    before = hub.sent_bytes
    done = hub_command(hub, tmp_path, "pull", f"hf:{REPO}:Q8_0")
    assert done.returncode == 0, done.stderr
    assert hub.sent_bytes - before < (15 << 20)
    assert not list((tmp_path / "models").rglob("*.part"))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("hf:Some-Owner/nothing", "the hub has no"),
        (f"hf:{REPO}:Q9", "tiny-Q8_0"),
        ("hf:Some-Owner/none", "no GGUF files"),
        ("hf:Some-Owner", "names no model"),
        ("hf:../etc/passwd", "names no model"),
        ("hf:a/b/../../c", "names no model"),
    ],
)
def test_what_is_not_there_is_said(source: str, said: str, hub: Hub, tmp_path: Path) -> None:
    done = hub_command(hub, tmp_path, "pull", source)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_a_hub_that_lies_about_a_file(hub: Hub, model: bytes, tmp_path: Path) -> None:
    hub.lies["tiny-Q4_K_M.gguf"] = b"GGUF" + bytes(reversed(model[4:]))
    done = hub_command(hub, tmp_path, "pull", f"hf:{REPO}:Q4_K_M")
    assert done.returncode == 3 and "not what the hub says" in done.stderr
    assert not list((tmp_path / "models").rglob("*.gguf"))


@pytest.mark.parametrize("status", [500, 403, 429])
def test_a_hub_that_refuses(status: int, hub: Hub, tmp_path: Path) -> None:
    hub.status = status
    done = hub_command(hub, tmp_path, "pull", f"hf:{REPO}")
    assert done.returncode in (2, 4) and "Traceback" not in done.stderr and done.stderr


def test_a_hub_that_does_not_answer(hub: Hub, tmp_path: Path) -> None:
    done = hub_command(hub, tmp_path, "pull", f"hf:{REPO}", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 4 and "does not answer" in done.stderr


def test_nobody_is_asked_offline(hub: Hub, tmp_path: Path) -> None:
    done = hub_command(hub, tmp_path, "pull", f"hf:{REPO}", "--offline")
    assert done.returncode == 2 and "asks nobody" in done.stderr and not hub.asked


def test_files_may_lie_elsewhere(hub: Hub, model: bytes, tmp_path: Path) -> None:
    """As the real one's do; what comes is checked, whoever sends it."""
    with running({REPO: dict(hub.files[REPO])}) as elsewhere:
        hub.elsewhere = elsewhere.url
        done = hub_command(hub, tmp_path, "pull", f"hf:{REPO}:Q4_K_M", "--json")
        assert done.returncode == 0, done.stderr
        elsewhere.lies["tiny-Q8_0.gguf"] = hub.files[REPO]["tiny-Q8_0.gguf"][:-1] + b"\1"
        done = hub_command(hub, tmp_path, "pull", f"hf:{REPO}:Q8_0")
        assert done.returncode == 3


def test_it_is_not_asked_for_what_was_not_fetched(hub: Hub, tmp_path: Path) -> None:
    done = hub_command(hub, tmp_path, "run", f"hf:{REPO}", "hello")
    assert done.returncode == 2 and f"bmrt pull hf:{REPO}" in done.stderr and not hub.asked


def _ollama(home: Path, model: bytes, name: str = "library/tiny/latest") -> Path:
    digest = hashlib.sha256(model).hexdigest()
    folder = home / ".ollama" / "models"
    manifest = folder / "manifests" / "registry.ollama.ai" / name
    manifest.parent.mkdir(parents=True, exist_ok=True)
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}"}
    other = {"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:0"}
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": [other, layer]}))
    blob = folder / "blobs" / f"sha256-{digest}"
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(model)
    return blob


def test_models_of_ollama_are_taken_over(model: bytes, tmp_path: Path) -> None:
    """Where they lie: nothing is copied, and what is no model is left alone."""
    blob = _ollama(tmp_path, model)
    _ollama(tmp_path, b"no model", "someone/other/7b")
    (tmp_path / ".ollama/models/manifests/registry.ollama.ai/library/tiny/broken").write_text("{")
    listed = json.loads(bmrt("import", "ollama", "--list", "--json", home=tmp_path).stdout)
    assert listed == [{"name": "tiny:latest", "path": str(blob)}]
    done = bmrt("import", "ollama", "tiny", "--json", home=tmp_path)
    assert done.returncode == 0, done.stderr
    (made,) = json.loads(done.stdout)
    assert made["magnet"].startswith("magnet:?") and blob.read_bytes() == model
    run = bmrt("run", made["name"], "-n", "2", "hello", home=tmp_path)
    assert run.returncode == 0, run.stderr
    missing = bmrt("import", "ollama", "larger", home=tmp_path)
    assert missing.returncode == 2 and "tiny:latest" in missing.stderr


def test_models_of_lmstudio_are_taken_over(model: bytes, tmp_path: Path) -> None:
    assert bmrt("import", "lmstudio", home=tmp_path).returncode == 2
    folder = tmp_path / ".lmstudio" / "models" / "owner" / "repo"
    folder.mkdir(parents=True)
    (folder / "tiny.gguf").write_bytes(model)
    (folder / "mmproj-tiny.gguf").write_bytes(b"GGUF")
    (folder / "broken.gguf").write_bytes(b"nothing")
    done = bmrt("import", "lmstudio", "--json", home=tmp_path)
    (made,) = json.loads(done.stdout)
    assert made["as"] == "owner/repo/tiny"


def test_a_client_of_ollama_pulls_a_model(hub: Hub, tmp_path: Path, monkeypatch: Any) -> None:
    """And asks it then, of a server that runs."""
    for name, value in (("HF_ENDPOINT", hub.url), ("HF_HUB_DOWNLOAD_TIMEOUT", "2")):
        monkeypatch.setenv(name, value)
    limited = json.loads(
        bmrt("keys", "add", "limited", "--model", "x", "--json", home=tmp_path).stdout
    )
    whole = json.loads(bmrt("keys", "add", "whole", "--json", home=tmp_path).stdout)
    with ServerProcess("--context", "256", home=tmp_path) as server:
        headers = {"Authorization": f"Bearer {whole['key']}"}
        client = Client(host=server.url, headers=headers, timeout=120)
        said = [line.status for line in client.pull(f"hf:{REPO}:Q8_0", stream=True)]
        assert said[0] == "pulling manifest" and said[-1] == "success"
        assert any("pulling tiny-Q8_0" in (status or "") for status in said)
        answer = client.generate("tiny-Q8_0", "Hi", options={"num_predict": 2})
        assert answer.eval_count == 2
        # By the name that it was pulled by, too.
        again = client.generate(f"hf:{REPO}:Q8_0", "Hi", options={"num_predict": 2})
        assert again.model == "tiny-Q8_0"
        with pytest.raises(ResponseError, match="no GGUF files"):
            list(client.pull("hf:Some-Owner/none", stream=True))
        with pytest.raises(ResponseError, match="no name that can be pulled"):
            client.pull("unheard-of")
        other = Client(
            host=server.url, headers={"Authorization": f"Bearer {limited['key']}"}, timeout=120
        )
        with pytest.raises(ResponseError, match="fetches no models"):
            other.pull(f"hf:{REPO}")
