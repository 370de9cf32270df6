"""A server that the system starts: units of systemd, and agents of launchd."""

import os
import plistlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from baremetalrt.core.errors import UsageError
from baremetalrt.core.files import disk_errors, write_durably
from baremetalrt.core.places import HOME_VARIABLE, home

_NAME: Final = "bmrt"
_LABEL: Final = "baremetalrt.serve"
_DEADLINE_S: Final = 60.0
_RESTART_S: Final = 5


@dataclass(frozen=True)
class Service:
    """A file that says how the server is started, and the commands that have the system read it."""

    path: Path
    text: bytes
    start: tuple[tuple[str, ...], ...]
    stop: tuple[tuple[str, ...], ...]

    @property
    def is_installed(self) -> bool:
        return self.path.is_file()


def service_of(arguments: Sequence[str]) -> Service:
    """The service of this user that runs `bmrt serve` with these arguments.

    Raises:
        UsageError: this system has neither systemd nor launchd.
    """
    words = [sys.executable, "-m", "baremetalrt", "serve", *arguments]
    for word in words:
        if not word.isprintable():
            raise UsageError(f"{word!r} cannot be in a unit", code="service.argument")
    if sys.platform == "darwin":
        return _launchd(words)
    if sys.platform.startswith("linux"):
        return _systemd(words)
    raise UsageError(
        "services are known for systemd and launchd alone",
        code="service.system",
        hint="have the system start `bmrt serve` by its own means",
    )


def _systemd(words: Sequence[str]) -> Service:
    settings = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    text = f"""[Unit]
Description=BareMetalRT: models of this machine, over HTTP
After=network.target

[Service]
ExecStart={" ".join(map(_quoted, words))}
Environment={_quoted(f"{HOME_VARIABLE}={home()}")}
Restart=on-failure
RestartSec={_RESTART_S}

[Install]
WantedBy=default.target
"""
    control = ("systemctl", "--user")
    return Service(
        Path(settings) / "systemd" / "user" / f"{_NAME}.service",
        text.encode(),
        start=((*control, "daemon-reload"), (*control, "enable", "--now", _NAME)),
        stop=((*control, "disable", "--now", _NAME), (*control, "daemon-reload")),
    )


def _quoted(word: str) -> str:
    """A word as systemd reads it: `%` and `$` mean something there."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


def _launchd(words: Sequence[str]) -> Service:
    path = Path.home() / "Library" / "LaunchAgents" / f"{_LABEL}.plist"
    log = str(home() / "serve.log")
    text = plistlib.dumps(
        {
            "Label": _LABEL,
            "ProgramArguments": list(words),
            "EnvironmentVariables": {HOME_VARIABLE: str(home())},
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "StandardErrorPath": log,
        }
    )
    # It is there on POSIX alone, as launchd is.
    user = f"gui/{os.getuid()}"
    return Service(
        path,
        text,
        start=(("launchctl", "bootstrap", user, str(path)),),
        stop=(("launchctl", "bootout", f"{user}/{_LABEL}"),),
    )


def install(service: Service) -> str | None:
    """Writes it and has the system start it; why the system did not, or None.

    Raises:
        UsageError: there is one already.
        CapacityError: the disk is full or forbidden.
    """
    if service.is_installed and service.path.read_bytes() != service.text:
        raise UsageError(
            f"there is another service at {service.path}",
            code="service.exists",
            hint="`bmrt service uninstall` removes it",
        )
    with disk_errors():
        service.path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(service.path, service.text)
    return _run(service.start)


def uninstall(service: Service) -> str | None:
    """Has the system end it, and removes it; why the system did not, or None.

    Raises:
        UsageError: there is none.
    """
    if not service.is_installed:
        raise UsageError("no service is installed", code="service.not-found")
    problem = _run(service.stop[:1])
    with disk_errors():
        service.path.unlink()
    return problem or _run(service.stop[1:])


def _run(commands: Sequence[Sequence[str]]) -> str | None:
    for words in commands:
        if shutil.which(words[0]) is None:
            return f"{words[0]} is not on this machine"
        try:
            done = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_DEADLINE_S,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()
            return f"{' '.join(words)}: {said[-1] if said else done.returncode}"
    return None
