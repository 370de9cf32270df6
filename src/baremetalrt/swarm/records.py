"""What is written down of a torrent beside what libtorrent does."""

from pathlib import Path

import msgspec


class FileSignature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the system says of a file; writes by anybody else than us change it."""

    num_bytes: int
    modified_ns: int
    changed_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> "FileSignature | None":
        """The signature of a file as it is now; None if it is not there."""
        try:
            status = path.stat()
        except OSError:
            return None
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


class Record(msgspec.Struct, kw_only=True):
    """What we remember of a torrent beside what libtorrent does.

    `paths` are the files of the model: relative to the folder, or absolute when they are somebody
    else's, which are read and never written. `is_complete` says that every piece was verified and is
    on disk. `wanted` lists the blocks to fetch without being asked, None for all of them. `num_sources`
    says, per piece, how many peers had it when last seen. `audited` is where the search for rot goes on.
    `choice` is the path of the model in a torrent of several, and `title` what that torrent is called.
    `own_urls` are trackers and mirrors that the user of this machine named, wherever they are.
    `hub_files`: which files of a hub it stands for, as `OWNER/REPO/PATH`. `sha256`: what the hub says of
    such a file, once what is here was compared with it.
    """

    name: str
    infohash_v1: str | None
    infohash_v2: str | None
    num_bytes: int
    paths: list[str]
    is_in_place: bool = False
    is_complete: bool = False
    swarm: str | None = None
    added_at: float = 0.0
    wanted: list[int] | None = None
    num_sources: list[int] = []
    num_have: int = 0
    signatures: list[FileSignature | None] = []
    audited: int = 0
    choice: str | None = None
    title: str | None = None
    own_urls: list[str] = []
    hub_files: list[str] = []
    sha256: str | None = None

    @property
    def is_unchecked(self) -> bool:
        """Whether it was fetched in place of a file of a hub, and not compared with that yet."""
        return bool(self.hub_files) and self.sha256 is None
