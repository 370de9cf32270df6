"""Private swarms on disk: the authority of those created here, the membership in all of them.

One folder for each below `home()/swarms`. Every member has `authority.pem`, its own `member.pem` and
`member.key`, `dh.pem`, and `expelled.bin` once somebody was put out; `authority.key`, `invitations.json`
and `members.json` are the creator's alone.
"""

import logging
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from baremetalrt.core.errors import BareMetalError, CapacityError, IntegrityError, UsageError
from baremetalrt.core.files import disk_errors, sync_folder, write_durably
from baremetalrt.core.places import home, swarms_folder
from baremetalrt.membership.certificates import (
    Authority,
    certificate_pem,
    common_name,
    is_swarm_name,
    issue,
    key_pem,
    new_authority,
    new_key,
    peer_id,
)
from baremetalrt.membership.expelled import ExpelledList
from baremetalrt.membership.key_files import load_key
from baremetalrt.membership.torrent_trust import TorrentTrust

_log = logging.getLogger("baremetalrt.swarm")

# Of thirty days: ten pass before anybody is asked, and twenty are left in which the creator answers.
RENEW_BEFORE: Final = timedelta(days=20)
# libtorrent wants Diffie-Hellman parameters, and reports an error for each torrent without them,
# though connections under our keys do not use them. Source: RFC 7919, appendix A.1, ffdhe2048.
_DH_PARAMETERS: Final = b"""-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==
-----END DH PARAMETERS-----
"""


@dataclass(frozen=True)
class Membership:
    """A private swarm that this machine belongs to, and the files that prove it.

    `name` is the swarm's name here; `authority_name` the one its creator gave it, which stands in
    every certificate. `fingerprint` is the SHA-256 of the authority's certificate. `valid_from` and
    `expires_at` are those of this member's own certificate (UTC).
    """

    name: str
    folder: Path
    authority_name: str
    authority_pem: bytes
    fingerprint: bytes
    expires_at: datetime
    is_creator: bool
    valid_from: datetime

    @property
    def id(self) -> str:
        """Who this machine is to the other members."""
        return peer_id(member_key(self).public_key())

    @property
    def expelled(self) -> ExpelledList:
        """Who is no member any more, as far as it is known here."""
        return ExpelledList(self.folder, self.authority_pem)

    @property
    def torrents(self) -> TorrentTrust:
        """What is shown and believed in the torrents of the swarm."""
        return TorrentTrust(self.folder, self.authority_pem, self.expelled)

    @property
    def authority_path(self) -> Path:
        return self.folder / "authority.pem"

    @property
    def certificate_path(self) -> Path:
        return self.folder / "member.pem"

    @property
    def key_path(self) -> Path:
        return self.folder / "member.key"

    @property
    def dh_path(self) -> Path:
        return self.folder / "dh.pem"

    def is_due(self, now: datetime) -> bool:
        """Whether its certificates are to be renewed."""
        return self.expires_at - now <= RENEW_BEFORE or self.torrents.is_stale

    def require_valid(self, now: datetime) -> None:
        """Nothing, while the others let this member in.

        Raises:
            UsageError: this member's certificate has expired, it was put out, or a clock is wrong.
        """
        if now < self.valid_from:
            raise UsageError(
                f"the certificate for the swarm {self.name} is valid from {self.valid_from:%Y-%m-%d} on, "
                f"and the clock of this machine says {now:%Y-%m-%d %H:%M} UTC",
                code="swarm.clock",
                hint="set the clock of this machine; if it is right, that of the swarm's creator was not",
            )
        if self.id in self.expelled:
            raise UsageError(
                f"this machine was put out of the swarm {self.name}",
                code="swarm.expelled",
                hint=f"`bmrt swarm leave {self.name}`, and `bmrt swarm join` with a new invitation, "
                "if its creator gives one",
            )
        if now > self.expires_at:
            raise UsageError(
                f"the certificate for the swarm {self.name} expired on {self.expires_at:%Y-%m-%d}",
                code="swarm.expired",
                hint="`bmrt swarm join` with a new invitation from its creator renews it; if this is not "
                f"{now:%Y-%m-%d}, set the clock of this machine",
            )


def utc_now() -> datetime:
    """The clock of this machine, for the edges, where no time is passed in."""
    return datetime.now(UTC)


def create_swarm(name: str, *, now: datetime | None = None) -> Membership:
    """Makes a private swarm: its authority, and its creator's own certificate.

    Raises:
        UsageError: no swarm can have that name, or one has it already.
    """
    now = now or utc_now()
    authority = new_authority(check_name(name), now)
    key = new_key()
    certificate = issue(authority, key.public_key(), now, is_inviter=True)
    files = {
        "authority.pem": certificate_pem(authority.certificate),
        "authority.key": key_pem(authority.key),
        "member.pem": certificate_pem(certificate),
        "member.key": key_pem(key),
    }
    return keep_membership(name, files)


def swarm_names() -> list[str]:
    """The private swarms that have a folder here, whether or not what is in it holds."""
    try:
        found = [path for path in swarms_folder().iterdir() if is_swarm_name(path.name)]
    except FileNotFoundError:
        return []
    return sorted(path.name for path in found if path.is_dir())


def memberships(*, now: datetime | None = None) -> list[Membership]:
    """The private swarms this machine belongs to, by name; damaged ones are left out, and logged."""
    found = []
    for name in swarm_names():
        try:
            found.append(find_membership(name, now=now))
        except BareMetalError as error:
            _log.warning("left out: %s", error.message)
    return found


def find_membership(name: str, *, now: datetime | None = None) -> Membership:
    """The private swarm with that name here. A creator's own certificate is renewed in time.

    Raises:
        UsageError: there is none.
        IntegrityError: what is on disk does not fit together.
    """
    membership = _load(_folder(name))
    now = now or utc_now()
    if not membership.is_creator or not membership.is_due(now):
        return membership
    try:
        return renew_own(membership, now)
    except CapacityError as error:
        _log.warning("not renewed: %s", error.message)
        return membership


def memberships_for(name: str | None) -> list[Membership]:
    """What a client of one private swarm has to show; nothing for a public torrent."""
    return [find_membership(name)] if name else []


def the_membership(name: str | None) -> Membership:
    """The swarm of that name, or the only one there is.

    Raises:
        UsageError: there is none, or it is not clear which.
    """
    if name is not None:
        found = find_membership(name)
    else:
        known = memberships()
        if not known:
            raise UsageError(
                "this machine is in no private swarm",
                code="swarm.needed",
                parameter="swarm",
                hint="`bmrt swarm create home` makes one, and `bmrt swarm invite home` asks others in",
            )
        if len(known) > 1:
            raise UsageError(
                "this machine is in several private swarms",
                code="swarm.needed",
                parameter="swarm",
                hint="name one with --swarm: " + ", ".join(m.name for m in known),
            )
        found = known[0]
    found.require_valid(utc_now())
    return found


def leave(name: str, *, even_as_creator: bool = False) -> None:
    """Forgets a private swarm: its certificates and keys are removed from this machine.

    Raises:
        UsageError: there is none, or it was created here and `even_as_creator` is not set.
    """
    folder = _folder(name)
    if (folder / "authority.key").exists() and not even_as_creator:
        raise UsageError(
            f"{name} was created here: without its authority nobody can be invited, or renewed",
            code="swarm.creator",
            hint=f"`bmrt swarm leave {name} --yes` destroys it all the same",
        )
    with disk_errors():
        # Renamed first, so that a crash does not leave half a swarm.
        gone = folder.rename(folder.with_name(f".{name}.{secrets.token_hex(4)}"))
        shutil.rmtree(gone)


def check_name(name: str) -> str:
    """The name, if a swarm can have it.

    Raises:
        UsageError: it cannot.
    """
    if not is_swarm_name(name):
        raise UsageError(
            f"a swarm cannot be named {name!r}",
            code="swarm.name",
            parameter="name",
            hint="small letters, digits and hyphens, at most 40: for example `home`",
        )
    return name


def load_authority(membership: Membership) -> Authority:
    """The authority itself, which only the creator has.

    Raises:
        UsageError: this machine did not create the swarm.
    """
    if not membership.is_creator:
        raise UsageError(
            f"only the creator of {membership.name} can say who its members are",
            code="swarm.not-creator",
            hint="ask whoever invited this machine",
        )
    certificate = x509.load_pem_x509_certificate(membership.authority_pem)
    return Authority(certificate, load_key(membership.folder / "authority.key"))


def member_key(membership: Membership) -> ec.EllipticCurvePrivateKey:
    """This member's own key, which stays the same when its certificate is renewed."""
    return load_key(membership.key_path)


def renew_own(membership: Membership, now: datetime) -> Membership:
    """New certificates for the creator itself, which needs to ask nobody.

    Raises:
        CapacityError: there is no room on the disk.
    """
    authority, key = load_authority(membership), member_key(membership).public_key()
    root = membership.torrents.root()
    torrents = issue(root, key, now) if root else None
    return renew(membership, issue(authority, key, now, is_inviter=True), torrents)


def renew(
    membership: Membership, certificate: x509.Certificate, torrents: x509.Certificate | None = None
) -> Membership:
    """Puts new certificates for the same key in place of this member's; `torrents`: that for torrents.

    Raises:
        IntegrityError: the one for torrents is of an older root.
        CapacityError: there is no room on the disk.
    """
    if torrents is not None:
        membership.torrents.keep(torrents)
    with disk_errors():
        write_durably(membership.certificate_path, certificate_pem(certificate))
    return _load(membership.folder)


def keep_membership(name: str, files: Mapping[str, bytes]) -> Membership:
    """Writes the files of a new membership, all of them or none.

    Raises:
        UsageError: a swarm with that name is here already.
    """
    folder = swarms_folder() / name
    unfinished = folder.with_name(f".{name}.{secrets.token_hex(4)}")
    try:
        with disk_errors():
            home().mkdir(parents=True, exist_ok=True)
            swarms_folder().mkdir(mode=0o700, exist_ok=True)
            unfinished.mkdir(mode=0o700)
            for file_name, data in {**files, "dh.pem": _DH_PARAMETERS}.items():
                write_durably(unfinished / file_name, data)
        try:
            if folder.exists():
                raise FileExistsError
            # Whoever comes second fails: a folder with something in it is not replaced.
            unfinished.rename(folder)
        except OSError as error:
            raise UsageError(
                f"there is a swarm named {name} here already",
                code="swarm.exists",
                parameter="name",
                hint="`bmrt swarm ls` lists them; choose another name",
            ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    with disk_errors():
        sync_folder(folder.parent)
    return _load(folder)


def _folder(name: str) -> Path:
    folder = swarms_folder() / name
    if not is_swarm_name(name) or not folder.is_dir():
        raise UsageError(
            f"there is no private swarm {name!r} here",
            code="swarm.unknown",
            parameter="name",
            hint="`bmrt swarm ls` lists those that are; an invitation brings one more",
        )
    return folder


def _load(folder: Path) -> Membership:
    try:
        authority_pem = (folder / "authority.pem").read_bytes()
        authority = x509.load_pem_x509_certificate(authority_pem)
        certificate = x509.load_pem_x509_certificate((folder / "member.pem").read_bytes())
        certificate.verify_directly_issued_by(authority)
        authority_name = common_name(authority)
        if load_key(folder / "member.key").public_key() != certificate.public_key():
            raise ValueError("key and certificate belong to different members")
        if not (folder / "dh.pem").exists():
            raise ValueError("dh.pem is missing")
    # What parsing and `verify` raise has no common base.
    except Exception as error:
        raise IntegrityError(
            f"the files of the swarm {folder.name} are damaged: {error or type(error).__name__}",
            source=str(folder),
            code="swarm.damaged",
            hint=f"bring back {folder} from a copy; or `bmrt swarm leave {folder.name}`, and join anew",
        ) from error
    return Membership(
        name=folder.name,
        folder=folder,
        authority_name=authority_name,
        authority_pem=authority_pem,
        fingerprint=authority.fingerprint(hashes.SHA256()),
        expires_at=certificate.not_valid_after_utc,
        is_creator=(folder / "authority.key").exists(),
        valid_from=certificate.not_valid_before_utc,
    )
