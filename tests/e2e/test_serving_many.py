"""A server for many: models of the store on demand, keys with limits, TLS."""

import json
import re
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import openai
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from ollama import Client
from openai import OpenAI
from test_resident_models import loaded

from baremetalrt.weights.store import DEFAULT_MODEL
from commands import BMRT, ServerProcess, bmrt, environment

LIMITS = ("--context", "256", "--threads", "1")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, talking_model: Path) -> Path:
    """A store with two models."""
    home = tmp_path_factory.mktemp("home")
    (home / "models").mkdir()
    for name in ("small", "other"):
        (home / "models" / f"{name}.gguf").symlink_to(talking_model)
    return home


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[ServerProcess]:
    """Without any model named, and with keys."""
    for name, arguments in KEYS.items():
        said = bmrt("keys", "add", name, *arguments, "--json", home=home)
        SECRETS[name] = json.loads(said.stdout)["key"]
    with ServerProcess(*LIMITS, "--keep-alive", "1h", home=home) as process:
        yield process


KEYS = {
    "all": (),
    "one-model": ("--model", "small"),
    "one-request": ("--parallel", "1"),
    "few-tokens": ("--tokens-per-hour", "20"),
}
SECRETS: dict[str, str] = {}


def client(server: ServerProcess, name: str) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key=SECRETS[name], max_retries=0, timeout=120)


def ask(one: OpenAI, model: str, max_tokens: int = 2) -> str:
    answer = one.completions.create(model=model, prompt="The sea", max_tokens=max_tokens)
    assert not model or answer.model == model
    return answer.choices[0].text


def test_what_is_in_the_store_is_there_on_demand(server: ServerProcess, home: Path) -> None:
    """Listed without being loaded, loaded when asked for; a model that comes later is there, too."""
    with client(server, "all") as one:
        assert {card.id for card in one.models.list().data} == {DEFAULT_MODEL, "small", "other"}
        assert loaded(home) == [DEFAULT_MODEL]
        ask(one, "small")
        assert set(loaded(home)) == {DEFAULT_MODEL, "small"}
        (home / "models" / "late.gguf").symlink_to((home / "models" / "small.gguf").resolve())
        ask(one, "late")
        (home / "models" / "late.gguf").unlink()
        with pytest.raises(openai.NotFoundError, match="other"):
            ask(one, "none")


def test_a_model_goes_when_a_client_says_so(server: ServerProcess, home: Path) -> None:
    """As `ollama stop` does."""
    headers = {"Authorization": f"Bearer {SECRETS['all']}"}
    ollama = Client(host=server.url, headers=headers)
    names = {model.model for model in ollama.list().models}
    assert {"small", "other", DEFAULT_MODEL} <= names
    ollama.generate("other", "The", options={"num_predict": 1})
    assert "other" in loaded(home)
    ollama.generate("other", keep_alive=0)
    deadline = time.monotonic() + 30
    while "other" in loaded(home):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert DEFAULT_MODEL in loaded(home)


def test_a_key_is_for_its_models(server: ServerProcess) -> None:
    with client(server, "one-model") as one:
        assert [card.id for card in one.models.list().data] == ["small"]
        ask(one, "small")
        ask(one, "")
        for call in (
            lambda: ask(one, "other"),
            lambda: one.models.retrieve("other"),
            lambda: ask(one, DEFAULT_MODEL),
        ):
            with pytest.raises(openai.NotFoundError) as refused:
                call()
            assert "served: small" in refused.value.message


def test_a_key_has_its_requests_at_once(server: ServerProcess) -> None:
    with client(server, "one-request") as one:
        stream = one.completions.create(
            model="small", prompt="x", max_tokens=200, stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
        with pytest.raises(openai.RateLimitError, match="not answered yet"):
            ask(one, "small")
        stream.close()
        deadline = time.monotonic() + 30
        while True:
            try:
                ask(one, "small")
                break
            except openai.RateLimitError:
                assert time.monotonic() < deadline
                time.sleep(0.1)


def test_a_key_has_its_tokens_of_an_hour(server: ServerProcess) -> None:
    with client(server, "few-tokens") as one:
        ask(one, "small", 19)
        with pytest.raises(openai.RateLimitError, match="20 tokens"):
            ask(one, "small", 1)


def test_keys_come_and_go_while_the_server_runs(server: ServerProcess, home: Path) -> None:
    made = json.loads(bmrt("keys", "add", "guest", "--json", home=home).stdout)
    SECRETS["guest"] = made["key"]
    with client(server, "guest") as one:
        ask(one, "small")
        listed = bmrt("keys", "ls", home=home)
        assert "guest" in listed.stdout and made["key"] not in listed.stdout
        assert bmrt("keys", "rm", "guest", home=home).returncode == 0
        with pytest.raises(openai.AuthenticationError):
            ask(one, "small")
    again = bmrt("keys", "rm", "guest", home=home)
    assert again.returncode == 2 and "no key 'guest'" in again.stderr


def test_nobody_gets_in_without_a_key(server: ServerProcess) -> None:
    for headers in ({}, {"Authorization": "Bearer bmrt-x"}, {"x-api-key": ""}):
        request = urllib.request.Request(f"{server.url}/v1/models", headers=headers)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request)
        assert refused.value.code == 401


def _self_signed(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


def _over_tls(home: Path, model: Path, tls: str, authority: Path | None) -> Any:
    """The list of models, asked by name and over TLS that is checked."""
    process = subprocess.Popen(
        [*BMRT, "serve", str(model), "--port", "0", *LIMITS, "--tls", tls],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(home),
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if trusted := re.search(r"have to trust (.*)$", line):
                authority = Path(trusted[1])
            if found := re.search(r"listening on https://127.0.0.1:(\d+)", line):
                break
        else:
            raise AssertionError("it did not start")
        context = ssl.create_default_context(cafile=authority)
        url = f"https://localhost:{found[1]}/v1/models"
        with urllib.request.urlopen(url, context=context, timeout=60) as answer:
            listed = json.load(answer)
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(url, context=ssl.create_default_context(), timeout=60)
        return listed
    finally:
        process.terminate()
        process.wait(60)
        if process.stderr:
            process.stderr.close()


def test_tls_with_a_certificate_of_ones_own(tmp_path: Path, talking_model: Path) -> None:
    path = _self_signed(tmp_path)
    listed = _over_tls(tmp_path, talking_model, str(path), path)
    assert [card["id"] for card in listed["data"]] == [talking_model.stem]


def test_tls_with_the_authority_of_a_swarm(tmp_path: Path, talking_model: Path) -> None:
    assert bmrt("swarm", "create", "home", home=tmp_path).returncode == 0
    listed = _over_tls(tmp_path, talking_model, "swarm", None)
    assert [card["id"] for card in listed["data"]] == [talking_model.stem]


@pytest.mark.parametrize("content", [None, "", "-----BEGIN CERTIFICATE-----\nx\n"])
def test_what_is_no_certificate_is_named(
    content: str | None, tmp_path: Path, talking_model: Path
) -> None:
    path = tmp_path / "bad.pem"
    if content is not None:
        path.write_text(content)
    said = bmrt("serve", str(talking_model), "--tls", str(path), home=tmp_path)
    assert said.returncode == 2 and "no certificate to serve with" in said.stderr


def test_a_swarm_of_others_signs_nothing(tmp_path: Path, talking_model: Path) -> None:
    said = bmrt("serve", str(talking_model), "--tls", "swarm", home=tmp_path)
    assert said.returncode == 2 and "swarm" in said.stderr
