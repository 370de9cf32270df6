"""The list of who was put out of a swarm, as this machine keeps it."""

import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509

from baremetalrt.core.errors import IntegrityError
from baremetalrt.core.files import disk_errors, locked, write_durably
from baremetalrt.membership.expulsions import NOBODY, Expulsions, read_expulsions

_log = logging.getLogger("baremetalrt.swarm")
_FILE: Final = "expelled.bin"


@dataclass(frozen=True)
class _Read:
    """What was read of the file, and what the file was then."""

    stamp: tuple[int, int, int]
    found: Expulsions


class ExpelledList:
    """Who is no member any more. What other processes change is seen by the next question."""

    def __init__(self, folder: Path, authority_pem: bytes) -> None:
        self._path = folder / _FILE
        self._authority = x509.load_pem_x509_certificate(authority_pem)
        self._read: _Read | None = None
        self._lock = threading.Lock()

    def current(self) -> Expulsions:
        """The newest list that is known here.

        Raises:
            IntegrityError: what is on disk was not signed by the authority.
        """
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return NOBODY
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if self._read is None or self._read.stamp != stamp:
            try:
                found = read_expulsions(self._path.read_bytes(), self._authority)
            except (OSError, ValueError) as error:
                if self._read is not None:
                    # Who was put out stays out, whatever becomes of the file.
                    return self._read.found
                raise IntegrityError(
                    f"the list of who was put out is damaged: {error}",
                    source=str(self._path),
                    code="swarm.damaged",
                    hint=f"remove {self._path}: other members have the list, and pass it on",
                ) from error
            self._read = _Read(stamp, found)
        return self._read.found

    def __contains__(self, peer: str) -> bool:
        return peer in self.current().peers

    def accept(self, signed: bytes) -> bool:
        """Keeps a list that a member passed on, if it is newer. Whether it is.

        Raises:
            ValueError: the authority did not sign it.
            CapacityError: there is no room on the disk.
        """
        found = read_expulsions(signed, self._authority)
        with self._lock:
            if found.number <= self.current().number:
                return False
            with disk_errors(), locked(self._path.with_name(".expelled.lock")):
                if found.number <= self.current().number:
                    return False
                write_durably(self._path, signed)
        _log.info("the list of who was put out has changed: %d are on it", len(found.peers))
        return True
