"""Where this program keeps what it keeps for its user: one folder, which `BMRT_HOME` moves."""

import os
from pathlib import Path
from typing import Final

HOME_VARIABLE: Final = "BMRT_HOME"


def home() -> Path:
    """The folder for everything; nothing of it needs to be there yet."""
    named = os.environ.get(HOME_VARIABLE)
    if named:
        return Path(named).expanduser()
    # Here and not above: whoever names a home needs none of it.
    from platformdirs import user_data_path

    return user_data_path("baremetalrt", appauthor=False)


def models_folder() -> Path:
    """The local store: GGUF files in here can be named without their folder and suffix."""
    return home() / "models"


def adapters_folder() -> Path:
    """Where adapters are kept, one folder for each."""
    return home() / "adapters"


def prefixes_folder() -> Path:
    """Where keys and values of texts are kept, one folder for each model and way of keeping them."""
    return home() / "prefixes"


def swarms_folder() -> Path:
    """Where private swarms are kept, one folder for each."""
    return home() / "swarms"


def torrents_folder() -> Path:
    """Where torrents are kept, with what was fetched."""
    return home() / "torrents"


def learned_folder() -> Path:
    """Where what was made of documents is kept, one folder for each name."""
    return home() / "learned"


def running_folder() -> Path:
    """Where processes say what they have loaded, one file for each."""
    return home() / "running"


def engines_folder() -> Path:
    """Where other builds of the library are kept, one folder for each."""
    return home() / "engines"


def device_rates_file() -> Path:
    """How fast the devices of this machine were measured to be."""
    return home() / "device-rates.json"


def device_trials_file() -> Path:
    """Which models were tried on which devices of this machine, and what came of it."""
    return home() / "device-trials.json"


def keys_file() -> Path:
    """Who may ask a server of this user's: the hashes of their keys."""
    return home() / "keys.json"


def lists_folder() -> Path:
    """Where lists of models are kept that are published here, or followed."""
    return home() / "lists"
