"""Who was put out of a swarm: a list that only its authority can make, and that only grows newer."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from baremetalrt.core.errors import IntegrityError, UsageError
from baremetalrt.membership.authority import (
    Membership,
    create_swarm,
    find_membership,
    keep_membership,
    load_authority,
    member_key,
)
from baremetalrt.membership.certificates import (
    certificate_pem,
    issue,
    key_pem,
    new_authority,
    new_key,
    peer_id,
    why_not_a_member,
)
from baremetalrt.membership.expelling import expel
from baremetalrt.membership.expulsions import (
    MAX_EXPELLED,
    MAX_SIGNED_BYTES,
    read_expulsions,
    sign_expulsions,
)
from baremetalrt.membership.renewing import Renewals, keep_renewed
from baremetalrt.membership.roster import members_of, note_certified, the_peer

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
AUTHORITY = new_authority("home", NOW)
ROOT = new_authority("home", NOW)
ONE, OTHER = "ab" * 20, "cd" * 20


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BMRT_HOME", str(tmp_path))


def joined(creator: Membership, name: str = "friends") -> Membership:
    """Another member of a swarm, which has it under another name in the same home."""
    authority = load_authority(creator)
    key = new_key()
    files = {
        "authority.pem": certificate_pem(authority.certificate),
        "member.pem": certificate_pem(issue(authority, key.public_key(), NOW)),
        "member.key": key_pem(key),
    }
    return keep_membership(name, files)


@given(st.sets(st.binary(min_size=20, max_size=20), max_size=20), st.integers(1, 2**40))
def test_a_list_is_read_as_it_was_signed(peers: set[bytes], number: int) -> None:
    ids = {one.hex() for one in peers}
    signed = sign_expulsions(AUTHORITY, number, ids, ROOT.certificate)
    read = read_expulsions(signed.signed, AUTHORITY.certificate)
    assert read == signed and read.peers == ids and read.number == number
    assert x509.load_der_x509_certificate(read.torrent_root) == ROOT.certificate


@given(st.integers(0, 2**20), st.integers(1, 255))
def test_a_list_that_was_changed_is_none(where: int, change: int) -> None:
    """By a byte, by its end, or made by another authority of that name."""
    signed = sign_expulsions(AUTHORITY, 3, [ONE], ROOT.certificate).signed
    changed = bytearray(signed)
    # Signatures are of different lengths.
    where %= len(signed)
    changed[where] ^= change
    for wrong in (bytes(changed), signed[:where], signed + b"\0"):
        with pytest.raises(ValueError, match="a list"):
            read_expulsions(wrong, AUTHORITY.certificate)
    with pytest.raises(ValueError, match="did not sign"):
        read_expulsions(signed, new_authority("home", NOW).certificate)


def test_what_was_signed_for_another_purpose_is_no_list() -> None:
    """Nor is it one of another swarm, nor one without end."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    fingerprint = AUTHORITY.certificate.fingerprint(hashes.SHA256())
    for content in (
        ["another purpose", fingerprint, 1, b"", b""],
        ["baremetalrt expelled 1", b"x" * 32, 1, b"", b""],
        ["baremetalrt expelled 1", fingerprint, 1, b"odd", b""],
        ["baremetalrt expelled 1", fingerprint, 0, b"", b""],
    ):
        packed = msgspec.msgpack.encode(content)
        signature = AUTHORITY.key.sign(packed, ec.ECDSA(hashes.SHA256()))
        with pytest.raises(ValueError, match="a list"):
            read_expulsions(msgspec.msgpack.encode([packed, signature]), AUTHORITY.certificate)
    with pytest.raises(ValueError, match="too long"):
        read_expulsions(b"\0" * (MAX_SIGNED_BYTES + 1), AUTHORITY.certificate)
    many = (f"{i:040x}" for i in range(MAX_EXPELLED))
    longest = sign_expulsions(AUTHORITY, 2**53, many, ROOT.certificate)
    assert len(read_expulsions(longest.signed, AUTHORITY.certificate).peers) == MAX_EXPELLED


def test_the_newest_list_counts() -> None:
    """Whichever process kept it, and in whatever order lists arrive."""
    creator = create_swarm("home", now=NOW)
    first = expel(creator, ONE, now=NOW)
    second = expel(creator, OTHER, now=NOW)
    member = joined(creator)
    here, elsewhere = member.expelled, member.expelled
    assert ONE not in here and not here.current().number
    assert elsewhere.accept(second.signed) and not elsewhere.accept(first.signed)
    assert ONE in here and OTHER in here and here.current().number == 2
    with pytest.raises(ValueError, match="did not sign"):
        here.accept(sign_expulsions(ROOT, 9, [], ROOT.certificate).signed)
    # Again is nothing new.
    assert expel(creator, OTHER, now=NOW).number == 2


def test_who_was_put_out_stays_out_though_the_file_is_damaged() -> None:
    """A process that knows goes on knowing; one that begins then says what to do."""
    creator = create_swarm("home", now=NOW)
    expel(creator, ONE, now=NOW)
    known = creator.expelled
    assert ONE in known
    (creator.folder / "expelled.bin").write_bytes(b"nothing")
    assert ONE in known
    with pytest.raises(IntegrityError) as caught:
        assert ONE in creator.expelled
    assert caught.value.code == "swarm.damaged"


def test_only_the_creator_puts_out_and_never_itself() -> None:
    creator = create_swarm("home", now=NOW)
    member = joined(creator)
    for membership, peer, code in (
        (member, ONE, "swarm.not-creator"),
        (creator, creator.id, "expel.self"),
        (creator, "ab", "expel.id"),
    ):
        with pytest.raises(UsageError) as caught:
            expel(membership, peer, now=NOW)
        assert caught.value.code == code
    member.require_valid(NOW)
    member.expelled.accept(expel(creator, member.id, now=NOW).signed)
    with pytest.raises(UsageError) as caught:
        member.require_valid(NOW)
    assert caught.value.code == "swarm.expelled"


def test_certificates_are_renewed_for_who_stays() -> None:
    """Those for torrents under the root of the newest list, in which the older ones are worth nothing."""
    creator = create_swarm("home", now=NOW)
    member = joined(creator)
    late = NOW + 15 * DAY
    renewals = Renewals(creator, clock=lambda: late)
    assert not member.is_due(NOW + 9 * DAY) and member.is_due(late)
    renewed = keep_renewed(member, *renewals.certificates(member_key(member).public_key()), late)
    assert renewed.expires_at == late + 30 * DAY and not renewed.is_due(late)
    assert renewed.torrents.certificate_path == renewed.certificate_path
    assert renewed.torrents.root_pem == renewed.authority_pem

    stamp = renewed.torrents.stamp()
    renewed.expelled.accept(expel(creator, ONE, now=NOW).signed)
    assert renewed.is_due(late) and renewed.torrents.stamp() != stamp
    again = keep_renewed(renewed, *renewals.certificates(member_key(member).public_key()), late)
    assert not again.is_due(late)
    ours = find_membership("home", now=NOW)
    roots = {ours.torrents.root_pem, again.torrents.root_pem}
    assert len(roots) == 1 and again.authority_pem not in roots
    root = x509.load_pem_x509_certificate(roots.pop())
    shown = x509.load_pem_x509_certificate(again.torrents.certificate_path.read_bytes())
    old = x509.load_pem_x509_certificate(again.certificate_path.read_bytes())
    assert why_not_a_member(shown, root, late) is None
    assert why_not_a_member(old, root, late) == "its certificate is not from the swarm's authority"
    assert {one.id for one in members_of(creator)} == {member.id}
    assert len(list(creator.folder.glob("torrents-*.key"))) == 1


def test_a_certificate_that_proves_less_is_not_kept() -> None:
    """For another key, of another authority, of an older root, ending sooner, or none at all."""
    creator = create_swarm("home", now=NOW)
    member = joined(creator)
    authority, key = load_authority(creator), member_key(member).public_key()

    def der(certificate: x509.Certificate) -> bytes:
        return certificate.public_bytes(serialization.Encoding.DER)

    good = der(issue(authority, key, NOW + DAY))
    before = member.certificate_path.read_bytes()
    for wrong in (
        (b"", b""),
        (b"nothing", b""),
        (der(issue(authority, new_key().public_key(), NOW + DAY)), b""),
        (der(issue(ROOT, key, NOW + DAY)), b""),
        (der(issue(authority, key, NOW - DAY)), b""),
        (good, der(issue(ROOT, key, NOW + DAY))),
        (good, der(issue(authority, new_key().public_key(), NOW + DAY))),
    ):
        with pytest.raises(IntegrityError) as caught:
            keep_renewed(member, *wrong, NOW + DAY)
        assert caught.value.code == "swarm.renewal"
        assert member.certificate_path.read_bytes() == before
    assert keep_renewed(member, good, b"", NOW + DAY).expires_at == NOW + 31 * DAY


def test_members_are_noted_down() -> None:
    """By when they came, with until when they are certified; a beginning of an id finds one."""
    creator = create_swarm("home", now=NOW)
    key = new_key().public_key()
    note_certified(creator, ONE, NOW, NOW + DAY)
    note_certified(creator, peer_id(key), NOW + DAY, NOW + 2 * DAY)
    note_certified(creator, ONE, NOW + 3 * DAY, NOW + 4 * DAY)
    found = members_of(creator)
    assert [one.id for one in found] == [ONE, peer_id(key)]
    assert found[0].joined_at == NOW.timestamp()
    assert found[0].expires_at == (NOW + 4 * DAY).timestamp()
    assert the_peer(ONE[:6], [ONE, OTHER]) == ONE and the_peer(OTHER, []) == OTHER
    assert the_peer("ab", [ONE]) == "ab"
    with pytest.raises(UsageError, match="several"):
        the_peer("ababab", [ONE, "abababcd" + "0" * 32])
