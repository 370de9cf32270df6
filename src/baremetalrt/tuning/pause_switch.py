"""When a run steps aside: asked to by a switch, or because the machine is on battery."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import psutil

SWITCH: Final = "pause"
_LOOK_EVERY_S: Final = 1.0


class PauseSwitch:
    """A file called `pause` in the folder of a run is the switch: nothing is computed beside it."""

    def __init__(self, folder: Path, *, on_battery: bool) -> None:
        self._switch = folder / SWITCH
        self._on_battery = on_battery

    def reason(self) -> str | None:
        """Why nothing should be computed now, or None."""
        if self._switch.exists():
            return f"paused until {self._switch.name} is removed"
        if self._on_battery and _runs_on_battery():
            return "paused: on battery"
        return None

    def wait(self, on_pause: Callable[[str], None]) -> None:
        """Returns at once when nothing is in the way, otherwise when nothing is any longer."""
        said = None
        while (reason := self.reason()) is not None:
            if reason != said:
                on_pause(reason)
                said = reason
            time.sleep(_LOOK_EVERY_S)


def _runs_on_battery() -> bool:
    # Not every system has it, and some raise where there is no battery.
    sensor = getattr(psutil, "sensors_battery", None)
    try:
        battery = sensor() if sensor else None
    except (OSError, NotImplementedError):
        return False
    return battery is not None and battery.power_plugged is False
