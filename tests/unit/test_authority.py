"""Private swarms on disk: who can read what, what survives, what certificates say."""

import base64
import os
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from baremetalrt.core.addresses import parse_address
from baremetalrt.core.errors import IntegrityError, UsageError
from baremetalrt.membership import authority
from baremetalrt.membership.authority import (
    Membership,
    create_swarm,
    find_membership,
    keep_membership,
    leave,
    load_authority,
    member_key,
    memberships,
    swarm_names,
)
from baremetalrt.membership.certificates import (
    certificate_pem,
    issue,
    key_pem,
    new_authority,
    new_key,
    why_not_a_member,
)
from baremetalrt.membership.invitations import (
    check_token,
    invite,
    parse_invitation,
    use_token,
    uses_left,
    withdraw,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BMRT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def joined(name: str, *, now: datetime = NOW) -> Membership:
    """A membership in a swarm that somebody else created."""
    other, key = new_authority(name, now), new_key()
    files = {
        "authority.pem": certificate_pem(other.certificate),
        "member.pem": certificate_pem(issue(other, key.public_key(), now)),
        "member.key": key_pem(key),
    }
    return keep_membership(name, files)


@pytest.mark.skipif(os.name == "nt", reason="no modes")
def test_nobody_else_can_read_a_swarms_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even for a moment, and under any umask: files begin with the modes they keep."""
    modes = []
    real_open = os.open

    def watched(path: os.PathLike[str], flags: int, mode: int = 0o777) -> int:
        descriptor = real_open(path, flags, mode)
        if flags & os.O_CREAT:
            modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return descriptor

    monkeypatch.setattr(os, "open", watched)
    umask = os.umask(0)
    try:
        membership = create_swarm("home", now=NOW)
    finally:
        os.umask(umask)
    assert modes and set(modes) == {0o600}
    assert stat.S_IMODE(membership.folder.stat().st_mode) == 0o700
    assert {p.name for p in membership.folder.iterdir()} == {
        *("authority.pem", "authority.key", "member.pem", "member.key", "dh.pem")
    }
    assert {stat.S_IMODE(p.stat().st_mode) for p in membership.folder.iterdir()} == {0o600}


def test_the_authority_signs_members_and_nothing_above_them() -> None:
    """P-256, ten years, no authorities below it."""
    ca = certificate(create_swarm("home", now=NOW).authority_path)
    assert isinstance(ca.public_key(), ec.EllipticCurvePublicKey)
    constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical and constraints.value.ca and constraints.value.path_length == 0
    usage = ca.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_cert_sign and not usage.digital_signature
    assert 3650 * DAY < ca.not_valid_after_utc - NOW < 3660 * DAY


def test_a_member_serves_all_torrents_of_the_swarm_for_a_month() -> None:
    """The name `*` is libtorrent's for all torrents; either end of a connection shows it.

    It is the common name: among the alternative ones, gRPC would take it for a host and complain.
    """
    membership = create_swarm("home", now=NOW)
    cert = certificate(membership.certificate_path)
    names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (common,) = cert.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert common.value == "*" and "home" in names.get_values_for_type(x509.DNSName)
    assert not any("*" in name for name in names.get_values_for_type(x509.DNSName))
    assert set(cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == {
        ExtendedKeyUsageOID.CLIENT_AUTH,
        ExtendedKeyUsageOID.SERVER_AUTH,
    }
    assert not cert.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert membership.expires_at == cert.not_valid_after_utc == NOW + 30 * DAY
    again = issue(load_authority(membership), member_key(membership).public_key(), NOW)
    assert again.serial_number != cert.serial_number


@pytest.mark.parametrize(
    ("when", "as_inviter", "why_not"),
    [
        (timedelta(0), False, None),
        (29 * DAY, True, "member's"),
        (31 * DAY, False, "its certificate expired"),
        (4000 * DAY, False, "expired"),
        (-2 * DAY, False, "not valid yet"),
    ],
)
def test_a_certificate_proves_membership_in_its_time(
    when: timedelta, as_inviter: bool, why_not: str | None
) -> None:
    """Neither before nor after, and a member's never that its holder is the creator."""
    ca = new_authority("home", NOW)
    cert = issue(ca, new_key().public_key(), NOW)
    found = why_not_a_member(cert, ca.certificate, NOW + when, as_inviter=as_inviter)
    assert found is None if why_not is None else why_not in (found or "")


def test_another_authority_of_the_same_name_proves_nothing() -> None:
    """Names are free to take; keys are not."""
    ca, other = new_authority("home", NOW), new_authority("home", NOW)
    cert = issue(other, new_key().public_key(), NOW, is_inviter=True)
    assert why_not_a_member(cert, ca.certificate, NOW) is not None
    # What a member signs with its own key is no authority's, though the chain would hold.
    assert why_not_a_member(cert, cert, NOW) is not None


def test_the_parameters_for_libtorrent_are_the_published_ones(home: Path) -> None:
    """RFC 7919: p = 2^2048 - 2^1984 + ([2^1918 * e] + 560316) * 2^64 - 1, and 2 generates."""
    term, euler, k = 1 << (1918 + 64), 0, 0
    while term:
        euler, k = euler + term, k + 1
        term //= k
    prime = 2**2048 - 2**1984 + ((euler >> 64) + 560316) * 2**64 - 1
    lines = create_swarm("home", now=NOW).dh_path.read_text().splitlines()
    der = base64.b64decode("".join(lines[1:-1]))
    assert der == bytes.fromhex("308201080282010100") + prime.to_bytes(256, "big") + b"\x02\x01\x02"


@pytest.mark.parametrize(
    "name", ["", "Home", "-a", "a" * 41, "a/b", "..", "a\n", "ä", ".hidden", "a.b"]
)
def test_names_are_slugs(name: str) -> None:
    """A name is a folder and stands in certificates: nothing in it needs a second look."""
    with pytest.raises(UsageError) as caught:
        create_swarm(name, now=NOW)
    assert caught.value.code == "swarm.name"
    with pytest.raises(UsageError) as caught:
        find_membership(name)
    assert caught.value.code == "swarm.unknown"


def test_creating_a_swarm_twice_leaves_the_first_as_it_was() -> None:
    """Its authority is all that its members have."""
    first = create_swarm("home", now=NOW)
    with pytest.raises(UsageError) as caught:
        create_swarm("home", now=NOW)
    assert caught.value.code == "swarm.exists"
    assert find_membership("home", now=NOW) == first


def test_what_was_interrupted_leaves_nothing(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """A swarm is there with all its files, or not at all."""
    written: list[Path] = []
    real = authority.write_durably

    def breaking(path: Path, data: bytes) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        real(path, data)
        written.append(path)

    monkeypatch.setattr(authority, "write_durably", breaking)
    with pytest.raises(KeyboardInterrupt):
        create_swarm("home", now=NOW)
    assert written and swarm_names() == [] and list((home / "swarms").iterdir()) == []


def test_memberships_are_found_by_name() -> None:
    """Those created here, and those joined."""
    created, member = create_swarm("home", now=NOW), joined("friends")
    assert memberships(now=NOW) == [member, created]
    assert find_membership("home", now=NOW).is_creator
    assert not find_membership("friends", now=NOW).is_creator
    with pytest.raises(UsageError) as caught:
        load_authority(member)
    assert caught.value.code == "swarm.not-creator"


@pytest.mark.parametrize("file", ["authority.pem", "member.pem", "member.key", "dh.pem"])
def test_damaged_files_are_no_membership(file: str) -> None:
    """They are named, and the other swarms stay usable."""
    create_swarm("intact", now=NOW)
    folder = create_swarm("home", now=NOW).folder
    if file == "dh.pem":
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(b"-----BEGIN NOTHING-----\n")
    with pytest.raises(IntegrityError) as caught:
        find_membership("home", now=NOW)
    assert caught.value.code == "swarm.damaged" and caught.value.source == str(folder)
    assert [m.name for m in memberships(now=NOW)] == ["intact"]
    assert swarm_names() == ["home", "intact"]


def test_the_files_of_two_members_do_not_mix() -> None:
    """A certificate without its key would be refused by every peer: better here, and once."""
    home, other = create_swarm("home", now=NOW), create_swarm("other", now=NOW)
    home.key_path.write_bytes(other.key_path.read_bytes())
    with pytest.raises(IntegrityError, match="different members"):
        find_membership("home", now=NOW)


def test_a_creators_own_certificate_renews_itself() -> None:
    """In its last twenty days, for the same key."""
    first = create_swarm("home", now=NOW)
    assert find_membership("home", now=NOW + 9 * DAY) == first
    renewed = find_membership("home", now=NOW + 11 * DAY)
    assert renewed.expires_at == NOW + (11 + 30) * DAY
    assert renewed == find_membership("home", now=NOW + 11 * DAY)
    assert member_key(renewed).public_key() == certificate(renewed.certificate_path).public_key()
    ca = certificate(renewed.authority_path)
    cert = certificate(renewed.certificate_path)
    assert why_not_a_member(cert, ca, NOW + 40 * DAY, as_inviter=True) is None


def test_a_joiners_certificate_does_not() -> None:
    """Only the authority can; without it, an expired certificate says what to do."""
    member = joined("friends")
    late = NOW + 31 * DAY
    assert find_membership("friends", now=late) == member
    member.require_valid(NOW)
    with pytest.raises(UsageError) as caught:
        member.require_valid(late)
    assert caught.value.code == "swarm.expired"


def test_leaving_removes_the_keys() -> None:
    """A creator is asked twice: the authority cannot be brought back."""
    folder = joined("friends").folder
    leave("friends")
    assert not folder.exists() and list(folder.parent.iterdir()) == []
    create_swarm("home", now=NOW)
    with pytest.raises(UsageError) as caught:
        leave("home")
    assert caught.value.code == "swarm.creator" and "--yes" in (caught.value.hint or "")
    assert swarm_names() == ["home"]
    leave("home", even_as_creator=True)
    assert swarm_names() == []
    with pytest.raises(UsageError) as caught:
        leave("home")
    assert caught.value.code == "swarm.unknown"


def test_an_invitation_is_one_short_line() -> None:
    """It survives being wrapped on its way, and says all that is needed."""
    membership = create_swarm("home", now=NOW)
    addresses = ["192.168.1.20:7000", "[fd00::20]:7000"]
    made = invite(membership, addresses, expires_at=NOW + HOUR, num_uses=1, now=NOW)
    line = made.line()
    assert line.split() == [line] and len(line) < 200
    assert parse_invitation(f"  {line[:50]}\n  {line[50:]}\n") == made
    assert made.fingerprint == membership.fingerprint
    assert [parse_address(a) for a in made.addresses] == [
        ("192.168.1.20", 7000),
        ("fd00::20", 7000),
    ]


def test_the_inviter_keeps_no_secret_of_an_invitation() -> None:
    """Who reads its disk cannot join with what is there."""
    membership = create_swarm("home", now=NOW)
    made = invite(membership, ["a:1"], expires_at=NOW + HOUR, num_uses=1, now=NOW)
    for path in membership.folder.iterdir():
        data = path.read_bytes()
        assert made.token not in data and made.token.hex().encode() not in data
        assert base64.urlsafe_b64encode(made.token).rstrip(b"=") not in data
    check_token(membership, made.token, NOW)


@pytest.mark.parametrize(
    ("after", "uses", "code"),
    [(HOUR, 0, "invitation.expired"), (timedelta(0), 1, "invitation.used")],
)
def test_an_invitation_ends(after: timedelta, uses: int, code: str) -> None:
    """By time or by use, and says which."""
    membership = create_swarm("home", now=NOW)
    made = invite(membership, ["a:1"], expires_at=NOW + HOUR, num_uses=1, now=NOW)
    for _ in range(uses):
        assert use_token(membership, made.token, NOW) == 0
    with pytest.raises(UsageError) as caught:
        use_token(membership, made.token, NOW + after)
    assert caught.value.code == code


def test_a_withdrawn_invitation_is_worthless() -> None:
    """And the others are not."""
    membership = create_swarm("home", now=NOW)
    one, two = (
        invite(membership, ["a:1"], expires_at=NOW + HOUR, num_uses=5, now=NOW) for _ in range(2)
    )
    withdraw(membership, one.token, NOW)
    with pytest.raises(UsageError):
        check_token(membership, one.token, NOW)
    assert uses_left(membership, two.token) == 5


def test_uses_are_counted_once_however_many_call() -> None:
    """Several processes may invite into one swarm: none overwrites what another counted."""
    membership = create_swarm("home", now=NOW)
    made = invite(membership, ["a:1"], expires_at=NOW + HOUR, num_uses=5, now=NOW)
    outcomes: list[str] = []

    def call() -> None:
        for _ in range(4):
            try:
                use_token(membership, made.token, NOW)
                outcomes.append("in")
            except UsageError as error:
                outcomes.append(error.code)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("in") == 5 and outcomes.count("invitation.used") == 11
    assert uses_left(membership, made.token) == 0


def test_old_records_are_dropped() -> None:
    """A list that nobody clears must not grow forever."""
    membership = create_swarm("home", now=NOW)
    made = invite(membership, ["a:1"], expires_at=NOW + HOUR, num_uses=1, now=NOW)
    later = NOW + 10 * DAY
    invite(membership, ["a:1"], expires_at=later + HOUR, num_uses=1, now=later)
    with pytest.raises(UsageError) as caught:
        check_token(membership, made.token, later)
    assert caught.value.code == "invitation.unknown"


@pytest.mark.parametrize(
    "text", ["", "host", "host:", ":7", "host:65536", "fd00::1:7", "a b:1", "a:+1"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    """With an example of one that is."""
    with pytest.raises(UsageError) as caught:
        parse_address(text)
    assert caught.value.code == "address.malformed" and caught.value.hint
