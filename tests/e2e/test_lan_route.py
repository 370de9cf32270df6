"""A model over machines of a LAN that find each other; a cable that is pulled in the middle of a word.

The machines are network namespaces, their links as slow as a household's.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from baremetalrt.weights.store import default_model
from commands import bmrt
from namespaces import Host, Lan, NotPermitted
from peers_kit import founder, member

SPANS = ("0:15", "15:30", "15:30")
RATE = "50mbit"
QUESTION = ("Count from one to fifty in words.", "-t", "0", "-n", "48")
ON_ONE_THREAD = ("--threads", "1", "--context", "1024")
SETTINGS: dict[str, object] = {"offline": True, "listen": "0.0.0.0", "local_discovery": True}


@pytest.fixture
def lan() -> Iterator[Lan]:
    """A machine for every span, and one that asks."""
    try:
        made = Lan(len(SPANS) + 1)
    except NotPermitted as reason:
        pytest.skip(f"no network namespaces here: {reason}")
    with made:
        for host in made.hosts:
            host.limit(RATE)
        yield made


def test_a_pulled_cable_changes_no_token_and_nothing_leaves_the_lan(
    lan: Lan, tmp_path: Path
) -> None:
    """Nobody is named; the machine that is lost says nothing, and the answer is that of one machine."""
    *hosts, asking = lan.hosts
    home = founder(tmp_path / "asking", **SETTINGS)
    by_id: dict[str, Host] = {}
    with ExitStack() as stack:
        for i, (host, blocks) in enumerate(zip(hosts, SPANS, strict=True)):
            share = ("serve", str(default_model().path), "--port", "0", "--no-torrents", "--share")
            running = host.start(
                *(*share, "--share-blocks", blocks, *ON_ONE_THREAD),
                home=member(tmp_path / f"host-{i}", home, **SETTINGS),
            )
            stack.enter_context(running)
            by_id[running.wait_for(r"peer ([0-9a-f]{40}) at")[1]] = host
            running.wait_for(r"listening on")
        asked = ("run", *QUESTION, *ON_ONE_THREAD)
        alone = bmrt(*asked, home=home).stdout
        lan.sent_beyond()
        # Which of the two that have the second half is in use, it does not say; one after the other is.
        for victim in hosts[1:]:
            with asking.start(*asked, "--route", "lan", home=home) as answer:
                begun = answer.begin()
                lan.unplug(victim)
                assert begun + answer.finish() == alone
            if "go on at" in answer.said:
                break
        else:
            pytest.fail("no machine that was unplugged had been in use")
        assert not lan.sent_beyond()
