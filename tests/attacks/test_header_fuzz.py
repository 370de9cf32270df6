"""Valid model files with random damage: whatever it is, they load and answer, or are refused."""

import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from raw_gguf import RawFile, good_model, sentencepiece
from victim import Victim, assert_clear

SHORT_EXAMPLES = 200
SLOW_BUDGET_S = 120.0
_EXAMPLES_PER_ROUND = 500


def _small(file: RawFile) -> tuple[bytes, int]:
    return file.to_bytes(), sum(map(len, file.header()))


MODELS = [_small(good_model()), _small(good_model(sentencepiece))]
# What is likeliest to hurt where a length, a count, an offset or a type stands.
NUMBERS = [0, 1, 7, 31, 255, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32]
NUMBERS += [1 << 61, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A model with a few of: bytes changed, numbers overwritten, bytes inserted, cut out, end cut off."""
    whole, header_bytes = draw(st.sampled_from(MODELS))
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, min(header_bytes, len(data)) - 1)))
        kind = draw(st.sampled_from(["byte", "number", "number", "insert", "delete", "cut"]))
        if kind == "byte":
            data[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif kind == "number":
            width = draw(st.sampled_from([4, 8]))
            number = draw(st.sampled_from(NUMBERS) | st.integers(0, 1 << 64)) % (1 << 8 * width)
            data[at : at + width] = number.to_bytes(width, "little")
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=64))
        elif kind == "delete":
            del data[at : at + draw(st.integers(1, 64))]
        elif draw(st.integers(0, 9)) == 0:  # rarely: little is left to be found after it
            del data[at + 1 :]
    return bytes(data)


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    with Victim() as victim:
        yield victim


_numbers = count()


def survives(victim: Victim, data: bytes) -> None:
    """The process lives, and says what is wrong where it does not answer."""
    with tempfile.TemporaryDirectory() as folder:
        # A new name each time: the one before may still be mapped.
        path = Path(folder) / f"{next(_numbers)}.gguf"
        path.write_bytes(data)
        reply = victim.do("generate", path=str(path), prompts=[[1, 2, 3]])
    outcome = reply["answers"][0] if "answers" in reply else reply
    if "error" in outcome:
        assert_clear(outcome)
    else:
        assert outcome["tokens"]


_COMMON = settings(
    deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=False
)


@settings(_COMMON, max_examples=SHORT_EXAMPLES, derandomize=True)
@given(data=damaged())
def test_damaged_headers_do_no_harm(victim: Victim, data: bytes) -> None:
    """The same few hundred files each time."""
    survives(victim, data)


@pytest.mark.slow
def test_damaged_headers_do_no_harm_for_minutes(victim: Victim) -> None:
    """Other files each time, as many as the time allows."""

    @settings(_COMMON, max_examples=_EXAMPLES_PER_ROUND, phases=[Phase.generate, Phase.shrink])
    @given(data=damaged())
    def try_some(data: bytes) -> None:
        survives(victim, data)

    ends_at = time.monotonic() + SLOW_BUDGET_S
    while time.monotonic() < ends_at:
        try_some()
