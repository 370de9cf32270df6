"""What peers are told about whose text it is."""

from baremetalrt.core.owner import THIS_USER, Owner
from baremetalrt.peers.chain import scope_of
from baremetalrt.peers.wire import SCOPE_BYTES

OWNERS = (Owner("key:1"), Owner("key:2"), Owner("key:1", "2"), Owner("", "key:1"))


def test_scopes_tell_owners_apart_and_do_not_name_them() -> None:
    """The user of this machine has none; the others have one each, that says nothing."""
    scopes = [scope_of(owner) for owner in OWNERS]
    assert scope_of(THIS_USER) == b"" and len(set(scopes)) == len(OWNERS)
    assert all(len(scope) == SCOPE_BYTES for scope in scopes)
    assert scopes == [scope_of(owner) for owner in OWNERS]
