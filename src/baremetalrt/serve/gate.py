"""Who may ask the server: by which name, from which page, with which key."""

from dataclasses import dataclass
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request

from baremetalrt.core.owner import THIS_USER, Owner
from baremetalrt.serve.keys import ApiKey, KeyRing

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """Where the server listens, and who may ask. Where there are `api_keys`, or keys in the store, one of
    them is asked for.

    `origins`: pages that may use the server from a browser, as `https://page.example`; "*" is every
    page. `host_names`: names of this machine, besides those of the loopback address.
    """

    host: str = "127.0.0.1"
    api_keys: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    host_names: tuple[str, ...] = ()

    @property
    def is_loopback(self) -> bool:
        return self.host in _LOOPBACK


class Gate:
    """Lets requests in, or says why not, before anything of them is read."""

    def __init__(self, config: GateConfig) -> None:
        self._config = config
        self._keys = KeyRing(config.api_keys)
        self._host_names = {name.lower() for name in config.host_names} | _LOOPBACK
        self._origins = {origin.lower().rstrip("/") for origin in config.origins}

    def check(self, request: Request, *, needs_key: bool) -> None:
        """Raises `HTTPException` for who may not ask."""
        self._check_host(request)
        self._check_origin(request)
        if request.method == "POST":
            _check_content_type(request)
        if needs_key:
            self._check_key(request)

    def key(self, request: Request) -> ApiKey | None:
        """The key that a request has, where one is asked for; None where none is."""
        return self._keys.find(_given_key(request)) if self._keys.asks else None

    @staticmethod
    def owner(key: ApiKey | None) -> Owner:
        """Whose texts they are: who has one key sees nothing of who has another."""
        return THIS_USER if key is None else Owner(f"key:{key.digest}")

    def _check_host(self, request: Request) -> None:
        # A page in a browser can point a name of its own at 127.0.0.1; its name gives it away.
        if not self._config.is_loopback:
            return
        host = request.headers.get("host", "").rsplit("@")[-1].lower()
        name = host if host.endswith("]") else host.rsplit(":", 1)[0]
        if name not in self._host_names and host not in self._host_names:
            raise HTTPException(
                403,
                f"requests for the host {name!r} are not answered here "
                f"(if it is a name of this machine, start the server with --allow-host {name})",
            )

    def _check_origin(self, request: Request) -> None:
        # Browsers say which page asks. Without this, any page could have this machine compute.
        origin = request.headers.get("origin")
        if origin is None or "*" in self._origins or origin.lower() in self._origins:
            return
        own = origin.lower().partition("://")[2]
        if own and own == request.headers.get("host", "").lower():
            return
        raise HTTPException(
            403,
            f"pages of {origin} may not use this server "
            f"(if they are to, start it with --allow-origin {origin})",
        )

    def _check_key(self, request: Request) -> None:
        # Hashes are compared: how long that takes tells nothing of a key.
        if self._keys.asks and self._keys.find(_given_key(request)) is None:
            raise HTTPException(401, "wrong or missing API key")


def _check_content_type(request: Request) -> None:
    # What a page may send without asking first, forms and plain text, is never JSON.
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise HTTPException(
            415, f"a body of type {kind} is not read (send it as Content-Type: application/json)"
        )


def _given_key(request: Request) -> bytes:
    """The key that a request names; nothing for none. Anthropic's clients have a header of their own."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return given.strip().encode()
    return request.headers.get("x-api-key", "").strip().encode()
