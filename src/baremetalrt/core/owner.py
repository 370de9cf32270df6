"""Whose something is: who asked for it, and is told of it."""

from typing import Final, NamedTuple


class Owner(NamedTuple):
    """Whose text it is. Texts of different owners share nothing, and none is told of another's; all may
    begin with what is `PUBLIC`.

    `principal`: who is counted as one, a peer id or a key; "" is the user of this machine. `scope`
    divides what a principal has: a server that computes for many clients keeps them apart by it.
    """

    principal: str = ""
    scope: str = ""


THIS_USER: Final = Owner()
# What the owner of a server says that everybody may know. No peer and no key has this name.
PUBLIC: Final = Owner("public")
