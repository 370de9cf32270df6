"""Private swarms as their members use them: `bmrt swarm`, and torrents that let only members in."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Self

import libtorrent as lt
import pytest

from baremetalrt.membership.authority import (
    Membership,
    create_swarm,
    find_membership,
    load_authority,
    utc_now,
)
from baremetalrt.membership.certificates import certificate_pem, issue, key_pem, new_key
from commands import BMRT, bmrt, environment


class Inviting:
    """`bmrt swarm invite`, from its line to its end."""

    def __init__(self, home: Path, *arguments: str, name: str = "home") -> None:
        given = () if "--address" in arguments else ("--address", "127.0.0.1:0")
        self.process = subprocess.Popen(
            [*BMRT, "swarm", "invite", name, "--json", *given, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(home),
        )
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        assert said, self.process.communicate()[1]
        self.answer: dict[str, Any] = json.loads(said)
        self.line: str = self.answer["invitation"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def end(self) -> tuple[int, str, str]:
        """Exit status, and what it said after the line."""
        out, err = self.process.communicate(timeout=120)
        return self.process.returncode, out, err


def swarms(home: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads(bmrt("swarm", "ls", "--json", home=home).stdout)}


@pytest.fixture
def creator(tmp_path: Path) -> Path:
    """The home of whoever created the swarm."""
    home = tmp_path / "creator"
    done = bmrt("swarm", "create", "home", "--json", home=home)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["creator"]
    return home


def test_an_invitation_lets_one_machine_in(creator: Path, tmp_path: Path) -> None:
    """From a pasted line to a membership under the same authority; then the inviter is done."""
    joiner = tmp_path / "joiner"
    with Inviting(creator) as inviting:
        joined = bmrt("swarm", "join", inviting.line, home=joiner)
        assert joined.returncode == 0 and joined.stdout == "", joined.stderr
        assert joined.stderr.startswith("joined home; valid until ")
        status, _, said = inviting.end()
    assert status == 0 and "joined home" in said and "used up" in said
    here, there = swarms(joiner)["home"], swarms(creator)["home"]
    assert here["fingerprint"] == there["fingerprint"]
    assert there["creator"] and not here["creator"]
    assert not (Path(here["folder"]) / "authority.key").exists()
    keys = [(Path(row["folder"]) / "member.key").read_bytes() for row in (here, there)]
    assert keys[0] != keys[1]


def test_the_line_is_all_that_is_printed(creator: Path) -> None:
    """One line on standard output, ready for a pipe; everything for people beside it."""
    process = subprocess.Popen(
        [*BMRT, "swarm", "invite", "home", "--address", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(creator),
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert first.startswith("bmrt-invite:") and len(first.split()) == 1 and out == ""
    assert process.returncode == 130 and "Ctrl-C" in err and "Traceback" not in err


def test_several_machines_join_with_one_line(creator: Path, tmp_path: Path) -> None:
    """As many as it was made for; the next one is told why not, and so is the inviter."""
    with Inviting(creator, "--uses", "2", "--expires", "1m") as inviting:
        port = inviting.answer["addresses"][0].rpartition(":")[2]
        for i in range(2):
            done = bmrt("swarm", "join", "-", home=tmp_path / str(i), stdin=inviting.line + "\n")
            assert done.returncode == 0, done.stderr
        assert inviting.end()[0] == 0
    # Another invitation on the same port: the first line reaches an inviter again, and is known.
    with Inviting(creator, "--address", f"127.0.0.1:{port}") as second:
        late = bmrt("swarm", "join", inviting.line, "--json", home=tmp_path / "late")
        assert late.returncode == 2
        assert json.loads(late.stdout)["error"]["code"] == "invitation.used"
        error, hint = late.stderr.splitlines()
        assert error.startswith("error: ") and hint.startswith("hint: ")
        second.process.send_signal(signal.SIGINT)
        assert "(invitation.used)" in second.end()[2]
    assert swarms(tmp_path / "late") == {}


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_invitation_ends_with_its_inviter(creator: Path, tmp_path: Path, stop: int) -> None:
    """Stopped, it is withdrawn: a line that went to the wrong person is worth nothing."""
    with Inviting(creator) as first:
        first.process.send_signal(stop)
        status, _, said = first.end()
        assert status == 130 and "Traceback" not in said
    with Inviting(creator, "--address", first.answer["addresses"][0]):
        late = bmrt("swarm", "join", first.line, "--json", home=tmp_path / "late")
        assert json.loads(late.stdout)["error"]["code"] == "invitation.used"


@pytest.mark.skipif(os.name == "nt", reason="no such signals")
def test_in_the_background_an_inviter_still_ends(creator: Path) -> None:
    """A shell lets its background jobs ignore Ctrl-C; asked to end, they must."""
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        inviting = Inviting(creator)
    finally:
        signal.signal(signal.SIGINT, ignored)
    with inviting:
        inviting.process.send_signal(signal.SIGTERM)
        assert inviting.end()[0] == 130


def test_an_invitation_that_nobody_used_expires(creator: Path, tmp_path: Path) -> None:
    """Both sides are told so."""
    with Inviting(creator, "--expires", "1s") as inviting:
        status, out, said = inviting.end()
        assert status == 2 and "error: the invitation has expired" in said
        assert json.loads(out)["error"]["code"] == "invitation.expired"
    late = bmrt("swarm", "join", inviting.line, home=tmp_path / "late")
    assert late.returncode == 2 and "expired" in late.stderr


def test_joining_again_renews(creator: Path, tmp_path: Path) -> None:
    """A later certificate for the same key: whoever knew this member still does."""
    joiner = tmp_path / "joiner"
    for _ in range(2):
        with Inviting(creator) as inviting:
            done = bmrt("swarm", "join", inviting.line, "--json", home=joiner)
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        folder = Path(answer["folder"])
        state = {f: (folder / f).read_bytes() for f in ("member.pem", "member.key")}
        if not answer["renewed"]:
            before = answer, state
    assert answer["renewed"]
    assert state["member.key"] == before[1]["member.key"]
    assert state["member.pem"] != before[1]["member.pem"]
    expiry = [datetime.fromisoformat(a["expires_at"]) for a in (before[0], answer)]
    assert expiry[0] <= expiry[1]


def test_two_swarms_of_the_same_name(creator: Path, tmp_path: Path) -> None:
    """The second gets another name on this machine; it is said before the invitation is used."""
    bmrt("swarm", "create", "home", home=tmp_path / "other")
    joiner = tmp_path / "joiner"
    with Inviting(creator) as inviting:
        assert bmrt("swarm", "join", inviting.line, home=joiner).returncode == 0
    with Inviting(tmp_path / "other") as inviting:
        taken = bmrt("swarm", "join", inviting.line, home=joiner)
        assert taken.returncode == 2 and "--as" in taken.stderr
        assert bmrt("swarm", "join", inviting.line, "--as", "theirs", home=joiner).returncode == 0
    found = swarms(joiner)
    assert set(found) == {"home", "theirs"} and found["theirs"]["authority_name"] == "home"
    assert found["home"]["fingerprint"] != found["theirs"]["fingerprint"]


def test_mistakes_are_told_in_two_lines(creator: Path, tmp_path: Path) -> None:
    """What went wrong, and what to do; nothing on standard output."""
    with Inviting(creator) as inviting:
        joiner = tmp_path / "joiner"
        assert bmrt("swarm", "join", inviting.line, home=joiner).returncode == 0
    for home, arguments in (
        (creator, ("create", "home")),
        (creator, ("create", "../home")),
        (creator, ("leave", "home")),
        (creator, ("leave", "nowhere")),
        (creator, ("join", "nonsense")),
        (joiner, ("invite", "home")),
        (creator, ("invite", "home", "--address", "nonsense")),
        (creator, ("invite", "home", "--address", "127.0.0.1:1", "--port", "99999")),
    ):
        done = bmrt("swarm", *arguments, home=home)
        assert done.returncode == 2 and done.stdout == "", arguments
        assert "Traceback" not in done.stderr
        if "--port" not in arguments:
            error, hint = done.stderr.splitlines()
            assert error.startswith("error: ") and hint.startswith("hint: "), arguments
    assert set(swarms(creator)) == {"home"}


def test_leaving(creator: Path, tmp_path: Path) -> None:
    """Keys are gone, the list is empty, and a table says what is there in between."""
    table = bmrt("swarm", "ls", home=creator).stdout.splitlines()
    assert table[0].split() == ["NAME", "ROLE", "EXPIRES", "AUTHORITY"]
    assert table[1].split()[:2] == ["home", "creator"]
    done = bmrt("swarm", "leave", "home", "--yes", "--json", home=creator)
    assert json.loads(done.stdout) == {"left": "home"}
    assert swarms(creator) == {} and list((creator / "swarms").iterdir()) == []


# --- what the certificates are for -----------------------------------------------------------------


class Shown(NamedTuple):
    """What a peer shows to libtorrent."""

    certificate: str
    key: str
    dh_parameters: str

    @classmethod
    def of(cls, membership: Membership) -> Self:
        paths = (membership.certificate_path, membership.key_path, membership.dh_path)
        return cls(*(path.read_text() for path in paths))


class Peer:
    """One libtorrent session on the loopback address, with what it reported."""

    def __init__(self, params: lt.add_torrent_params, shown: Shown | None) -> None:
        self.session = lt.session(
            {
                "listen_interfaces": "127.0.0.1:0,127.0.0.1:0s",
                "alert_mask": int(lt.alert_category.all),
                "alert_queue_size": 10_000,
                **dict.fromkeys(
                    ("enable_dht", "enable_lsd", "enable_upnp", "enable_natpmp"), False
                ),
                # Over uTP, who is refused learns only that the stream ended.
                **dict.fromkeys(("enable_incoming_utp", "enable_outgoing_utp"), False),
            }
        )
        params.flags = lt.torrent_flags.paused
        self.torrent = self.session.add_torrent(params)
        if shown is not None:
            self.torrent.set_ssl_certificate_buffer(*shown)
        self.torrent.resume()
        self._said: list[str] = []

    def said(self) -> str:
        """Errors, and how connections ended."""
        ends = (lt.peer_error_alert, lt.peer_disconnected_alert, lt.torrent_error_alert)
        self._said += [a.message() for a in self.session.pop_alerts() if isinstance(a, ends)]
        return "\n".join(self._said)


def eventually(fact: Callable[[], bool], timeout_s: float = 60.0) -> bool:
    end = time.monotonic() + timeout_s
    while not fact():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


CONTENT = os.urandom(100_000)


def torrent(folder: Path, authority_pem: bytes | None) -> lt.torrent_info:
    folder.mkdir()
    (folder / "model.gguf").write_bytes(CONTENT)
    made = lt.create_torrent([lt.create_file_entry("model.gguf", len(CONTENT))], 16 * 1024)
    if authority_pem is not None:
        made.set_root_cert(authority_pem.decode())
    lt.set_piece_hashes(made, str(folder))
    return lt.torrent_info(made.generate())


def transfer(
    tmp_path: Path,
    swarm: Membership,
    shown: Shown | None,
    *,
    by_magnet: bool = False,
    knows_authority: bool = True,
    to_plain_port: bool = False,
) -> tuple[Peer, Peer, Callable[[], bool]]:
    """A seed of the swarm's creator, somebody who calls it, and whether they got the file."""
    info = torrent(tmp_path / "seed", None if by_magnet else swarm.authority_pem)
    params = lt.add_torrent_params()
    params.ti, params.save_path = info, str(tmp_path / "seed")
    if by_magnet:
        params.root_certificate = swarm.authority_pem.decode()
    seed = Peer(params, Shown.of(swarm))
    wanted = lt.add_torrent_params()
    if by_magnet:
        wanted = lt.parse_magnet_uri(lt.make_magnet_uri(info))
        if knows_authority:
            wanted.root_certificate = swarm.authority_pem.decode()
    else:
        wanted.ti = lt.torrent_info(info)
    (tmp_path / "leech").mkdir()
    wanted.save_path = str(tmp_path / "leech")
    leech = Peer(wanted, shown)
    assert eventually(lambda: seed.torrent.status().is_seeding)
    downloading = (lt.torrent_status.downloading, lt.torrent_status.downloading_metadata)
    assert eventually(lambda: leech.torrent.status().state in downloading)
    port = seed.session.listen_port() if to_plain_port else seed.session.ssl_listen_port()
    leech.torrent.connect_peer(("127.0.0.1", port))

    def has_file() -> bool:
        path = tmp_path / "leech" / "model.gguf"
        return leech.torrent.status().is_seeding and path.read_bytes() == CONTENT

    return seed, leech, has_file


@pytest.fixture
def swarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Membership:
    monkeypatch.setenv("BMRT_HOME", str(tmp_path / "creator"))
    return create_swarm("home")


@pytest.mark.parametrize("by_magnet", [False, True])
def test_members_exchange_a_torrent(
    creator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_magnet: bool
) -> None:
    """With what `create` and `join` left on disk, and without an error on either side."""
    with Inviting(creator) as inviting:
        assert bmrt("swarm", "join", inviting.line, home=tmp_path / "joiner").returncode == 0
    monkeypatch.setenv("BMRT_HOME", str(creator))
    created = find_membership("home")
    monkeypatch.setenv("BMRT_HOME", str(tmp_path / "joiner"))
    shown = Shown.of(find_membership("home"))
    seed, leech, has_file = transfer(tmp_path, created, shown, by_magnet=by_magnet)
    assert eventually(has_file), (seed.said(), leech.said())
    assert "ERROR" not in seed.said() + leech.said()


def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shown:
    """A creator of a swarm of the same name."""
    monkeypatch.setenv("BMRT_HOME", str(tmp_path / "stranger"))
    return Shown.of(create_swarm("home"))


def expired(swarm: Membership) -> Shown:
    key = new_key()
    certificate = issue(load_authority(swarm), key.public_key(), utc_now() - timedelta(days=366))
    pems = certificate_pem(certificate).decode(), key_pem(key).decode()
    return Shown(*pems, swarm.dh_path.read_text())


@pytest.mark.parametrize("by_magnet", [False, True])
@pytest.mark.parametrize(
    ("who", "seed_says", "leech_says"),
    [
        ("stranger", "certificate verify failed", "alert unknown ca"),
        ("expired", "certificate verify failed", "alert certificate expired"),
        ("nobody", "peer did not return a certificate", "alert certificate required"),
    ],
)
def test_others_are_refused(
    swarm: Membership,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    who: str,
    seed_says: str,
    leech_says: str,
    by_magnet: bool,
) -> None:
    """Another authority's member, a former member, nobody's member; and both sides say why."""
    shown = {
        "stranger": lambda: stranger(tmp_path, monkeypatch),
        "expired": lambda: expired(swarm),
        "nobody": lambda: None,
    }[who]()
    seed, leech, has_file = transfer(tmp_path, swarm, shown, by_magnet=by_magnet)
    assert eventually(lambda: seed_says in seed.said()), seed.said()
    assert eventually(lambda: leech_says in leech.said()), leech.said()
    assert not has_file() and leech.torrent.status().total_payload_download == 0


@pytest.mark.parametrize("to_plain_port", [False, True])
def test_a_torrent_client_without_the_authority_gets_nothing(
    swarm: Membership, tmp_path: Path, to_plain_port: bool
) -> None:
    """Not even the list of files, on neither port, though it knows the info-hash."""
    seed, leech, has_file = transfer(
        tmp_path, swarm, None, by_magnet=True, knows_authority=False, to_plain_port=to_plain_port
    )
    why = "SSL connection required" if to_plain_port else "ssl_handshake"
    assert eventually(lambda: why in seed.said()), seed.said()
    assert not has_file() and not leech.torrent.status().has_metadata
