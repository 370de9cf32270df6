"""What SIGHUP means to a server: that settings are to be read again, or that its terminal is gone."""

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Self


class Hangup(Enum):
    """What is to be done at a SIGHUP."""

    RELOAD = auto()
    END = auto()


@dataclass(frozen=True)
class Beginnings:
    """How a server was started: on a terminal or without one, and by `nohup`, which survives it."""

    on_terminal: bool
    ignores_hangups: bool

    @classmethod
    def now(cls) -> Self:
        ignores = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        return cls(has_terminal(), ignores)

    def meaning(self, *, has_terminal: bool) -> Hangup:
        """Of a SIGHUP that comes now.

        The system sends one when the terminal closes, and takes it away first; otherwise somebody asks.
        """
        is_gone = self.on_terminal and not has_terminal
        return Hangup.END if is_gone and not self.ignores_hangups else Hangup.RELOAD


def has_terminal() -> bool:
    """Whether this process has a terminal that can close."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def watch_hangups(begun: Beginnings, reload: Callable[[], None]) -> None:
    """From now on, `reload` is called when it is asked for; a server whose terminal closes ends."""
    loop = asyncio.get_running_loop()

    def on_hangup() -> None:
        if begun.meaning(has_terminal=has_terminal()) is Hangup.RELOAD:
            reload()
            return
        loop.remove_signal_handler(signal.SIGHUP)
        # It may come twice: from the shell, and from the system when the shell ends.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.raise_signal(signal.SIGTERM)

    loop.add_signal_handler(signal.SIGHUP, on_hangup)
