"""Lists that are published by one machine and followed by another: processes on the loopback address."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import libtorrent as lt
import pytest

from baremetalrt.index.known import add_name
from baremetalrt.index.published import find_published
from baremetalrt.weights.store import default_model
from commands import ServerProcess, bmrt, wait_until
from peers_kit import PeerProcess, at_home, founder, member
from swarm_kit import LOOPBACK, Seeder, make_home, publish_model, write_model


@pytest.fixture
def entrance() -> Iterator[dict[str, object]]:
    """Settings of machines whose DHT begins with a node that is nobody's."""
    node = lt.session(
        {
            "listen_interfaces": f"{LOOPBACK}:0",
            "dht_bootstrap_nodes": "",
            "dht_restrict_routing_ips": False,
            # All of its callers are at one address.
            "dht_block_ratelimit": 1000,
            **dict.fromkeys(("enable_lsd", "enable_upnp", "enable_natpmp"), False),
        }
    )
    yield {"offline": False, "dht": True, "dht_bootstrap": [f"{LOOPBACK}:{node.listen_port()}"]}
    del node


def published(home: Path, name: str) -> str:
    """A new list with one model; its link, without the torrent that it is now."""
    made = bmrt("index", "create", name, "--json", home=home)
    assert made.returncode == 0, made.stderr
    add(home, name, "tiny:1m", "hf:some/tiny")
    return str(json.loads(made.stdout)["link"]).partition("&xt=")[0]


def add(home: Path, name: str, model: str, source: str) -> None:
    added = bmrt("index", "add", model, source, "--to", name, home=home)
    assert added.returncode == 0, added.stderr


def names(home: Path, *words: str) -> list[tuple[str, str]]:
    """What the lists of a machine have: whose, and the names."""
    found = json.loads(bmrt("index", "search", *words, "--json", home=home).stdout)
    return [(one["list"], one["name"]) for one in found]


def test_a_list_is_followed_over_the_dht_and_news_arrive(
    tmp_path: Path, entrance: dict[str, object]
) -> None:
    """By its key alone (BEP 46); `bmrt serve` publishes what is added, and looks for it."""
    publisher = make_home(tmp_path / "publisher", **entrance)
    reader = make_home(tmp_path / "reader", **entrance)
    link = published(publisher, "anna")
    path = publisher / "lists" / "published" / "anna" / "list.bmrt-list"
    later = make_home(tmp_path / "later", **entrance)
    assert bmrt("index", "follow", str(path), home=later).returncode == 0
    with ServerProcess(home=publisher):
        followed = bmrt("index", "follow", link, "--json", home=reader)
        assert followed.returncode == 0, followed.stderr
        assert json.loads(followed.stdout)["models"] == 1
        assert names(reader, "tiny") == [("anna", "tiny")]
        shown = bmrt("pull", "tiny:9b", home=reader)
        assert shown.returncode != 0 and "there are: 1m" in shown.stderr
        add(publisher, "anna", "other", "hf:some/other")

        def has_news() -> bool:
            bmrt("index", "follow", link, home=reader)
            return names(reader, "other") == [("anna", "other")]

        wait_until(has_news)
        with ServerProcess(home=later):
            wait_until(lambda: names(later, "other") == [("anna", "other")])


def test_a_list_goes_from_member_to_member(tmp_path: Path) -> None:
    """Without a DHT: members of a private swarm give on what they publish, and what they follow."""
    first = founder(tmp_path / "first")
    second = member(tmp_path / "second", first)
    third = member(tmp_path / "third", first)
    link = published(first, "anna")
    with PeerProcess(default_model().path, "0:1", first) as peer:
        peer.wait_until_it_listens()
        followed = bmrt("index", "follow", link, "--via", peer.address, home=second)
        assert followed.returncode == 0, followed.stderr
    with PeerProcess(default_model().path, "0:1", second) as peer:
        peer.wait_until_it_listens()
        followed = bmrt("index", "follow", link, "--via", peer.address, "--as", "a", home=third)
        assert followed.returncode == 0, followed.stderr
    assert names(third, "tiny") == [("a", "tiny")]


def test_a_list_is_handed_over_as_a_file(tmp_path: Path) -> None:
    """A ship has no network; whoever changes the file is found out, and so is an old one."""
    publisher, reader = make_home(tmp_path / "publisher"), make_home(tmp_path / "reader")
    published(publisher, "anna")
    path = publisher / "lists" / "published" / "anna" / "list.bmrt-list"
    old = shutil.copyfile(path, tmp_path / "old")
    add(publisher, "anna", "other", "hf:some/other")
    forged = tmp_path / "forged"
    forged.write_bytes(path.read_bytes().replace(b"hf:some/tiny", b"hf:evil/tiny"))
    for file, code, said in (
        (forged, 1, "not as its publisher signed it"),
        (path, 0, "2 models"),
        (old, 1, "is older than the list that is here"),
        (tmp_path / "nothing", 1, "neither a list nor the link of one"),
    ):
        found = bmrt("index", "follow", str(file), home=reader)
        assert (found.returncode != 0) == (code != 0) and said in found.stderr
        assert "Traceback" not in found.stderr
    listed = json.loads(bmrt("index", "lists", "--json", home=reader).stdout)
    assert [one["name"] for one in listed["followed"]] == ["anna"]
    assert bmrt("index", "unfollow", "anna", home=reader).returncode == 0
    assert names(reader, "tiny") == []


def test_what_a_list_says_of_the_bytes_is_held(tmp_path: Path) -> None:
    """A link that leads to another model is refused before anything of it is fetched."""
    model = write_model(tmp_path)
    publisher, reader = make_home(tmp_path / "publisher"), make_home(tmp_path / "reader")
    published(publisher, "anna")
    metainfo = publish_model(model)
    with at_home(publisher):
        for name, content in (("right", metainfo.content_id), ("wrong", "1" * 64)):
            add_name(name, metainfo.magnet, to=find_published("anna"), content=content)
    path = publisher / "lists" / "published" / "anna" / "list.bmrt-list"
    assert bmrt("index", "follow", str(path), home=reader).returncode == 0
    with Seeder(metainfo.raw, model) as seed:
        refused = bmrt("pull", "wrong", "--peer", seed.peer, home=reader)
        assert refused.returncode != 0 and "it has other bytes" in refused.stderr
        assert seed.uploaded_bytes == 0
        taken = bmrt("pull", "right", "--peer", seed.peer, home=reader)
        assert taken.returncode == 0, taken.stderr
        assert "as the list anna has it" in taken.stderr
