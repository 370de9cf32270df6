"""Lists that are signed: what is believed of them, and what is refused in words."""

import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from baremetalrt.core.errors import BareMetalError, IntegrityError, UsageError
from baremetalrt.index.followed import accept, find_followed, follow, followed_lists, unfollow
from baremetalrt.index.known import add_name, all_lists, source_of
from baremetalrt.index.links import is_list_link, list_link, parse_list_link
from baremetalrt.index.lists import ListedModel
from baremetalrt.index.published import PublishedList, create_list, find_published, published_lists
from baremetalrt.index.signed import MAX_LIST_BYTES, SignedList, read_signed, sign_list
from baremetalrt.node.published_lists import create, infohash_in, item_of

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
KEY = Ed25519PrivateKey.generate()
MODELS = (ListedModel(name="tiny", sizes={"1b": "hf:a/b"}, description='a "small" one'),)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BMRT_HOME", str(tmp_path))


def signed(
    *, models: tuple[ListedModel, ...] = MODELS, after: int = 0, key: Ed25519PrivateKey = KEY
) -> SignedList:
    return sign_list(key, "anna", models, after=after, now=NOW)


def test_what_is_signed_is_read_until_it_expires() -> None:
    made = signed()
    read = read_signed(made.raw, "x", NOW + timedelta(days=60))
    assert read == made and read.models == MODELS and read.is_due(NOW + timedelta(days=60))
    assert not made.is_due(NOW + timedelta(days=30))
    assert signed(after=made.number).number == made.number + 1
    with pytest.raises(IntegrityError, match="expired on 2027-02-26") as raised:
        read_signed(made.raw, "x", NOW + timedelta(days=92))
    assert raised.value.code == "index.expired"
    with pytest.raises(IntegrityError, match="which is to come") as raised:
        read_signed(made.raw, "x", NOW - timedelta(days=3))
    assert raised.value.code == "index.not-yet"


@given(st.integers(min_value=0), st.integers(0, 255), st.booleans())
def test_any_byte_that_is_changed_is_noticed(where: int, value: int, cuts: bool) -> None:
    raw = signed().raw
    where %= len(raw)
    changed = raw[:where] if cuts else raw[:where] + bytes([value]) + raw[where + 1 :]
    if changed == raw:
        return
    # Hexadecimal digits have two forms, and lines may end in blanks: they mean the same.
    with contextlib.suppress(IntegrityError):
        read = read_signed(changed, "x", NOW)
        assert read.models == MODELS and read.key == signed().key


def test_what_is_no_list_is_refused() -> None:
    huge = tuple(
        ListedModel(name=f"m{i}", sizes={"a": "hf:a/b"}, description="x" * 3000) for i in range(400)
    )
    with pytest.raises(IntegrityError, match="larger than") as raised:
        signed(models=huge)
    assert raised.value.code == "index.huge"
    for raw in (
        b"",
        b"bmrt-list 1",
        b"x" * (MAX_LIST_BYTES + 1),
        b"bmrt-list 1\n\n\n",
        b"\xff\n" * 9,
    ):
        with pytest.raises(IntegrityError):
            read_signed(raw, "x", NOW)
    made = signed()
    with pytest.raises(IntegrityError, match="no name"):
        sign_list(KEY, "\u0430nna", MODELS, after=0, now=NOW)
    # Whoever signs with a key of their own is another publisher.
    followed = follow(made.key, "anna")
    other = signed(key=Ed25519PrivateKey.generate())
    with pytest.raises(IntegrityError, match="another publisher"):
        accept(followed, other.raw, "x", NOW)


def test_an_older_list_is_not_passed_off_for_a_newer_one() -> None:
    old, new = signed(), signed(after=signed().number, models=())
    followed = follow(old.key, "anna")
    assert accept(followed, new.raw, "x", NOW) is not None
    followed = follow(old.key, "whatever")
    assert followed.alias == "anna" and accept(followed, new.raw, "x", NOW) is None
    with pytest.raises(IntegrityError, match="older") as raised:
        accept(followed, old.raw, "x", NOW)
    assert raised.value.code == "index.replayed"
    (kept,) = followed_lists()
    assert kept.read(NOW) == new
    unfollow(kept)
    assert followed_lists() == [] and find_followed(old.key) is None


def test_names_of_lists_do_not_pass_for_each_other() -> None:
    follow("1" * 64, "anna")
    for alias in ("anna", "a-nna", "bundled", "own", "0wn", "bund1ed"):
        with pytest.raises(UsageError, match="is the name of another"):
            follow("2" * 64, alias)
    for alias in ("../x", "a/b", "", "\u0430", "A"):
        with pytest.raises(UsageError, match="cannot be the name"):
            follow("2" * 64, alias)
    create_list("ben", datetime.now(UTC))
    with pytest.raises(UsageError, match="is the name of another"):
        follow("2" * 64, "ben")
    with pytest.raises(UsageError, match="is the name of another"):
        create("anna")


def test_a_list_is_published_and_its_names_are_known() -> None:
    made = create_list("Anna", datetime.now(UTC))
    assert [one.name for one in published_lists()] == ["anna"]
    assert (made.folder / "key.pem").stat().st_mode & 0o077 == 0
    add_name("tiny:1b", "hf:a/b", to=made, content="1" * 64)
    assert source_of("tiny") == source_of("anna/tiny:1b") == "hf:a/b"
    current = made.current(datetime.now(UTC))
    (model,) = current.models
    assert model.contents == {"1b": "1" * 64}
    # It is signed anew in time, expired or not, under a greater number.
    for days in (50, 300):
        later = datetime.now(UTC) + timedelta(days=days)
        again = made.current(later)
        assert again.number > current.number and again.expires_at > later
        assert again.models == current.models
    with pytest.raises(UsageError, match="already"):
        create_list("anna", NOW)
    for name in ("own", "Bundled", "", "a/b", "\u0430"):
        with pytest.raises(UsageError):
            create_list(name, NOW)
    with pytest.raises(UsageError, match="publishes no list"):
        find_published("ben")


@pytest.mark.parametrize("damage", ["key.pem", "list.bmrt-list"])
def test_a_damaged_list_does_not_keep_others_from_being_known(damage: str) -> None:
    made: PublishedList = create_list("anna", datetime.now(UTC))
    add_name("tiny", "hf:a/b", to=made)
    (made.folder / damage).write_bytes(b"x")
    assert source_of("qwen3") is not None and len(all_lists()) >= 2
    with pytest.raises(BareMetalError):
        add_name("other", "hf:a/b", to=made)


def test_links() -> None:
    key = "ab" * 32
    link = list_link(key, "anna", "1" * 40)
    assert is_list_link(link) and parse_list_link(link) == (key, "magnet:?xt=urn:btih:" + "1" * 40)
    assert parse_list_link(list_link(key.upper(), "anna", None)) == (key, None)
    for bad in (
        "magnet:?xs=urn:btpk:12",
        "magnet:?xt=urn:btih:" + "1" * 40,
        "x",
        f"{link}&xs=urn:btpk:{key}",
    ):
        with pytest.raises(UsageError, match="no link"):
            parse_list_link(bad)


@given(st.binary(max_size=60))
def test_what_an_item_of_the_dht_says(noise: bytes) -> None:
    assert infohash_in(item_of("1f" * 20)) == "1f" * 20
    assert infohash_in(b"d2:ih20:" + b"x" * 20 + b"3:salti1ee") == (b"x" * 20).hex()
    found = infohash_in(noise)
    assert found is None or len(found) == 40
