"""Keys of clients: kept as hashes, told apart, and limited."""

import json
import os
from pathlib import Path

import pytest

from baremetalrt.core.errors import CapacityError, IntegrityError, UsageError
from baremetalrt.core.places import keys_file
from baremetalrt.serve.allowance import Allowances
from baremetalrt.serve.keys import ApiKey, KeyRing, add_key, remove_key, stored_keys


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BMRT_HOME", str(tmp_path))


def test_a_key_is_kept_as_its_hash() -> None:
    key, secret = add_key("laptop", models=("small",), max_active=2, tokens_per_hour=100)
    assert stored_keys() == [key] and len(secret) > 40
    written = keys_file().read_text()
    assert secret not in written and secret.removeprefix("bmrt-") not in written
    assert keys_file().stat().st_mode & 0o077 == 0
    assert key.allows("Small") and not key.allows("large")


def test_names_are_given_once() -> None:
    add_key("laptop")
    with pytest.raises(UsageError, match="already"):
        add_key("Laptop")
    for name in ("", " ", "x" * 65, "a\nb", "\x1b[2J"):
        with pytest.raises(UsageError):
            add_key(name)
    with pytest.raises(UsageError, match="no key 'desk'"):
        remove_key("desk")
    remove_key("LAPTOP")
    assert stored_keys() == []


def test_a_ring_sees_what_changes() -> None:
    """Added and removed keys count at once; who asked for keys once, never stops asking."""
    ring = KeyRing()
    assert not ring.asks
    _, secret = add_key("laptop")
    assert ring.asks
    found = ring.find(secret.encode())
    assert found is not None and found.name == "laptop"
    assert ring.find(b"") is None and ring.find(found.digest.encode()) is None
    remove_key("laptop")
    assert ring.asks and ring.find(secret.encode()) is None


def test_keys_of_a_command_have_no_limits() -> None:
    ring = KeyRing(("a", "b"))
    found = ring.find(b"b")
    assert ring.asks and found is not None and found.allows("anything")
    assert found.max_active is None and ring.find(b"c") is None


@pytest.mark.parametrize("content", [b"", b"{}", b"[{}]", b"\x00", b'[{"name": 1, "digest": 2}]'])
def test_a_damaged_file_lets_nobody_in(content: bytes) -> None:
    keys_file().parent.mkdir(parents=True, exist_ok=True)
    _, secret = add_key("laptop")
    ring = KeyRing()
    keys_file().write_bytes(content)
    os.utime(keys_file(), (1, 1))
    with pytest.raises(IntegrityError):
        ring.find(secret.encode())
    assert ring.find(secret.encode()) is None and ring.asks
    with pytest.raises(IntegrityError):
        add_key("another")
    assert keys_file().read_bytes() == content


def test_what_is_written_says_what_it_says() -> None:
    add_key("b")
    add_key("a", models=("x", "y"))
    assert [one["name"] for one in json.loads(keys_file().read_text())] == ["a", "b"]


def _key(**limits: int) -> ApiKey:
    return ApiKey(name="k", digest="d", **limits)  # type: ignore[arg-type]


def test_requests_at_once() -> None:
    allowances, key = Allowances(), _key(max_active=2)
    with allowances.request(key), allowances.request(key):
        with pytest.raises(CapacityError, match="2 requests"), allowances.request(key):
            pass
        with allowances.request(ApiKey(name="other", digest="o", max_active=1)):
            pass
    with allowances.request(key):
        pass


def test_tokens_within_an_hour() -> None:
    """What was had an hour ago does not count any more."""
    now = [0.0]
    allowances, key = Allowances(lambda: now[0]), _key(tokens_per_hour=100)
    for minute in range(10):
        now[0] = 60.0 * minute
        with allowances.request(key):
            allowances.spend(key, 10)
    assert allowances.spent(key) == 100
    with pytest.raises(CapacityError, match="100 tokens"), allowances.request(key):
        pass
    now[0] = 3600.0 + 125
    assert allowances.spent(key) == 70
    with allowances.request(key):
        allowances.spend(key, 500)
    now[0] += 60
    with pytest.raises(CapacityError), allowances.request(key):
        pass
    allowances.spend(_key(), 5)
    assert allowances.spent(ApiKey(name="none", digest="none")) == 0
