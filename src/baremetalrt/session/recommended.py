"""How a model's makers mean it to be sampled, by its metadata; what they do not say is our default.

Source: the keys `general.sampling.*` of GGUF.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from baremetalrt.core.errors import UsageError
from baremetalrt.session.options import SampleOptions

_KEYS: Final = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_k": "top_k",
    "general.sampling.top_p": "top_p",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repetition_penalty",
    "general.sampling.penalty_last_n": "penalty_window",
}
_WHOLE: Final = ("top_k", "penalty_window")


def recommended(get: Callable[[str], Any]) -> SampleOptions:
    """`get` finds a key of the metadata. Values that make no sense are passed over."""
    options = SampleOptions()
    for key, name in _KEYS.items():
        value = get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        try:
            # Rounded as far as 32 bits are meant: 0.6 and not 0.6000000238.
            given: Any = int(value) if name in _WHOLE else float(f"{value:.6g}")
            options = replace(options, **{name: given})
        except (UsageError, ValueError, OverflowError):
            continue
    return options
