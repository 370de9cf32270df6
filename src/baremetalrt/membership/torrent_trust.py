"""What a member shows in the torrents of a private swarm, and whom it believes there.

libtorrent knows certificates and a root, and no list of who was put out. So each list brings a new root,
under which those who stay are certified; it takes the place of the authority in torrents from then on.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from baremetalrt.core.errors import IntegrityError
from baremetalrt.core.files import disk_errors, write_durably
from baremetalrt.membership.certificates import Authority, certificate_pem, key_pem, new_authority
from baremetalrt.membership.expelled import ExpelledList
from baremetalrt.membership.key_files import load_key

# This member's certificate, and the root that signed it.
_FILE: Final = "torrents.pem"


@dataclass(frozen=True)
class TorrentTrust:
    """The files in the folder of a membership that are about its torrents."""

    folder: Path
    authority_pem: bytes
    expelled: ExpelledList

    @property
    def certificate_path(self) -> Path:
        """The certificate to show, in PEM; nobody was put out yet where it is that of the member."""
        path = self.folder / _FILE
        return path if path.exists() else self.folder / "member.pem"

    def stamp(self) -> tuple[int, ...]:
        """Changes whenever a certificate is renewed, or somebody was put out."""
        paths = (self.folder / name for name in ("member.pem", _FILE, "expelled.bin"))
        return tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in paths)

    @property
    def root_pem(self) -> bytes:
        """The root that others are to be certified under.

        Raises:
            IntegrityError: the file is damaged.
        """
        pair = self._pair()
        return certificate_pem(pair[1]) if pair else self.authority_pem

    @property
    def is_stale(self) -> bool:
        """Whether this member's certificate is of an older root than the newest one."""
        newest = self.expelled.current().torrent_root
        pair = self._pair()
        return bool(newest) and (pair is None or _der(pair[1]) != newest)

    def keep(self, certificate: x509.Certificate) -> None:
        """Goes over to the newest root, under which this certificate is.

        Raises:
            IntegrityError: it is not.
            CapacityError: there is no room on the disk.
        """
        try:
            root = x509.load_der_x509_certificate(self.expelled.current().torrent_root)
            certificate.verify_directly_issued_by(root)
        # What parsing and `verify` raise has no common base.
        except Exception as error:
            raise IntegrityError(
                "a certificate for torrents is of another root",
                source=str(self.folder / _FILE),
                code="swarm.renewal",
            ) from error
        with disk_errors():
            write_durably(self.folder / _FILE, certificate_pem(certificate) + certificate_pem(root))

    # the creator's

    def new_root(self, name: str, number: int, now: datetime) -> Authority:
        """A root for the list of that number; its key is kept before anybody hears of it."""
        root = new_authority(name, now)
        with disk_errors():
            write_durably(self._key_path(number), key_pem(root.key))
        return root

    def root(self) -> Authority | None:
        """The newest root; None while nobody was put out.

        Raises:
            IntegrityError: its key is not here.
        """
        newest = self.expelled.current()
        if not newest.torrent_root:
            return None
        certificate = x509.load_der_x509_certificate(newest.torrent_root)
        return Authority(certificate, load_key(self._key_path(newest.number)))

    def forget_older_roots(self) -> None:
        """Removes the keys of roots that nobody is certified under any more."""
        newest = self._key_path(self.expelled.current().number)
        with disk_errors():
            for path in self.folder.glob("torrents-*.key"):
                if path != newest:
                    path.unlink(missing_ok=True)

    def _key_path(self, number: int) -> Path:
        return self.folder / f"torrents-{number}.key"

    def _pair(self) -> list[x509.Certificate] | None:
        path = self.folder / _FILE
        try:
            pair = x509.load_pem_x509_certificates(path.read_bytes())
            if len(pair) != 2:
                raise ValueError("a part is missing")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise IntegrityError(
                f"the certificate for torrents is damaged: {error}",
                source=str(path),
                code="swarm.damaged",
                hint=f"remove {path}; the swarm's creator gives another",
            ) from error
        return pair


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)
