"""What this machine shows in the torrents of private swarms, and whom it believes there.

Certificates are renewed, and roots replaced, while torrents run, by whichever process hears of it.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence

import libtorrent as lt

from baremetalrt.core.errors import UsageError
from baremetalrt.membership.authority import Membership, find_membership, utc_now
from baremetalrt.swarm.alerts import key_of
from baremetalrt.swarm.catalog import Record
from baremetalrt.swarm.metainfo import Metainfo


class MemberCertificates:
    """The memberships that a client of torrents has, by their names here."""

    def __init__(self, memberships: Sequence[Membership]) -> None:
        self._memberships = {m.name: m for m in memberships}
        self._stamps = {m.name: m.torrents.stamp() for m in memberships}
        # Under which root the peers of a torrent have to be.
        self._roots: dict[str, bytes] = {}
        # Set, once, when those of a swarm have changed.
        self._changes: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def __bool__(self) -> bool:
        return bool(self._memberships)

    def membership_for(self, metainfo: Metainfo, record: Record) -> Membership | None:
        """Of the swarm that a torrent belongs to; None for a public one.

        Raises:
            UsageError: this machine is not in it, or the client was not told so.
        """
        if not metainfo.needs_certificate:
            return None
        swarm = self._memberships.get(record.swarm or "")
        if swarm is None:
            raise UsageError(
                f"{record.name} belongs to the private swarm {record.swarm or '?'}",
                code="swarm.unknown",
                hint="`bmrt swarm join` with an invitation from one of its members",
            )
        return swarm

    async def believe(self, params: lt.add_torrent_params, swarm: Membership) -> bytes:
        """Has the peers of a torrent that is to be added be under the newest root, which it returns.

        That goes before the root in the torrent, under which those who were put out are, too.
        """
        root_pem = await asyncio.to_thread(lambda: swarm.torrents.root_pem)
        params.root_certificate = root_pem.decode()
        return root_pem

    def show(self, handle: lt.torrent_handle, swarm: Membership, root_pem: bytes) -> None:
        """Shows this member's certificate to the peers of a torrent.

        Raises:
            UsageError: it is a member no longer.
        """
        swarm.require_valid(utc_now())
        self._roots[key_of(handle)] = root_pem
        handle.set_ssl_certificate(
            str(swarm.torrents.certificate_path), str(swarm.key_path), str(swarm.dh_path), ""
        )

    async def show_again(self, handle: lt.torrent_handle, swarm: Membership) -> bool:
        """Shows a renewed certificate; not where the root is another, for which it has to begin anew."""
        root_pem = await asyncio.to_thread(lambda: swarm.torrents.root_pem)
        if self._roots.get(key_of(handle)) != root_pem:
            return False
        self.show(handle, swarm, root_pem)
        return True

    def forget(self, handle: lt.torrent_handle) -> None:
        """The torrent is gone."""
        self._roots.pop(key_of(handle), None)

    async def changed(self) -> list[Membership]:
        """The memberships whose files have changed since they were last asked for, as they are now."""
        found = []
        for name, swarm in list(self._memberships.items()):
            stamp = swarm.torrents.stamp()
            if self._stamps[name] != stamp:
                self._stamps[name] = stamp
                now = await asyncio.to_thread(find_membership, name)
                self._memberships[name] = now
                self._changes.pop(name, asyncio.Event()).set()
                found.append(now)
        return found

    def change_of(self, swarm: Membership | None) -> asyncio.Event:
        """What is set once the certificates of a swarm have changed."""
        return self._changes[swarm.name if swarm else ""]

    def newest(self, swarm: Membership) -> Membership:
        """The membership as it is now."""
        return self._memberships[swarm.name]
