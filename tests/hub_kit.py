"""A hub of files on this machine, which speaks the few calls that its client library makes."""

import hashlib
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from commands import BMRT, environment

COMMIT = "c0ffee" * 6 + "beef"


@dataclass
class Hub:
    """`files` by repository and path. What `sends` less than all of a file, breaks off there."""

    files: dict[str, dict[str, bytes]]
    url: str = ""
    sends: dict[str, int] = field(default_factory=dict)
    lies: dict[str, bytes] = field(default_factory=dict)
    elsewhere: str | None = None
    stalls_s: float = 0.0
    status: int | None = None
    asked: list[str] = field(default_factory=list)
    sent_bytes: int = 0


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def _answer(self, *, has_body: bool) -> None:
        hub, path = self.hub, self.path.partition("?")[0]
        hub.asked.append(f"{self.command} {path}")
        time.sleep(hub.stalls_s)
        if hub.status is not None:
            self._send(hub.status, {}, b"", has_body)
            return
        if path.startswith("/api/models/"):
            repo = "/".join(path.removeprefix("/api/models/").split("/")[:2])
            if repo not in hub.files:
                self._send(404, {"X-Error-Code": "RepoNotFound"}, b"", has_body)
                return
            self._send(200, {}, json.dumps(_described(repo, hub.files[repo])).encode(), has_body)
            return
        owner, name, _, _, file = path.lstrip("/").split("/", 4)
        content = hub.files.get(f"{owner}/{name}", {}).get(file)
        if content is None:
            self._send(404, {"X-Error-Code": "EntryNotFound"}, b"", has_body)
            return
        headers = {
            "X-Repo-Commit": COMMIT,
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Linked-Size": str(len(content)),
            "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
            "Accept-Ranges": "bytes",
        }
        if hub.elsewhere and has_body:
            self._send(302, headers | {"Location": f"{hub.elsewhere}{path}"}, b"", has_body)
            return
        self._send_file(file, hub.lies.get(file, content), headers, has_body)

    def _send_file(
        self, name: str, content: bytes, headers: dict[str, str], has_body: bool
    ) -> None:
        start, end = 0, len(content)
        asked = self.headers.get("Range")
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), min(end, int(last) + 1) if last else end
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        part = content[start:end]
        limit = self.hub.sends.get(name)
        cut = part if limit is None else part[: max(0, limit - start)]
        self.send_response(206 if asked else 200)
        for header, value in (headers | {"Content-Length": str(len(part))}).items():
            self.send_header(header, value)
        self.end_headers()
        if has_body:
            self.wfile.write(cut)
            self.hub.sent_bytes += len(cut)
            if len(cut) < len(part):
                self.close_connection = True

    def _send(self, status: int, headers: dict[str, str], body: bytes, has_body: bool) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if has_body:
            self.wfile.write(body)


def _described(repo: str, files: dict[str, bytes]) -> dict[str, Any]:
    siblings = [
        {
            "rfilename": name,
            "size": len(content),
            "blobId": hashlib.sha1(content).hexdigest(),
            "lfs": {
                "sha256": hashlib.sha256(content).hexdigest(),
                "size": len(content),
                "pointerSize": 130,
            },
        }
        for name, content in files.items()
    ]
    return {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings, "tags": []}


@contextmanager
def running(files: dict[str, dict[str, bytes]]) -> Iterator[Hub]:
    """Answers at `url` until the block ends."""
    hub = Hub(files)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def hub_command(hub: Hub, home: Path, *arguments: str, **more: str) -> Any:
    """A command to its end, for which that is the hub. Nobody nearby is asked unless the home says so."""
    variables = {"HF_ENDPOINT": hub.url, "HF_HUB_DOWNLOAD_TIMEOUT": "2", "HF_HUB_ETAG_TIMEOUT": "2"}
    settings = home / "config.toml"
    if not settings.exists():
        settings.write_text("[swarm]\nlocal_discovery = false\n")
    return subprocess.run(
        [*BMRT, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment(home) | variables | more,
        timeout=240,
    )
