"""Rows as they travel: nothing changes in 32 bit, and little in fewer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from baremetalrt.peers.wire import ENCODINGS, Activations, encode_rows, read_rows

ROWS = arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.sampled_from([32, 64, 576])),
    elements=st.floats(-60000, 60000, width=32),
)


@given(ROWS)
def test_32_bit_is_exact(rows: NDArray[np.float32]) -> None:
    assert np.array_equal(back(rows, "f32"), rows)


@given(ROWS)
def test_half_precision_is_within_its_step(rows: NDArray[np.float32]) -> None:
    assert np.all(np.abs(back(rows, "f16") - rows) <= np.abs(rows) * 2**-11 + 2**-24)


@given(ROWS)
def test_8_bit_is_within_half_a_step_of_its_group(rows: NDArray[np.float32]) -> None:
    step = np.abs(rows).reshape(-1, 32).max(axis=1, keepdims=True) / 127
    error = np.abs(back(rows, "q8") - rows).reshape(-1, 32)
    assert np.all(error <= 0.5001 * step + 1e-30)


@pytest.mark.parametrize(("kind", "ratio"), [("f32", 1), ("f16", 0.5), ("q8", 9 / 32)])
def test_fewer_bits_are_fewer_bytes(kind: Activations, ratio: float) -> None:
    rows = np.ones((3, 576), dtype=np.float32)
    assert len(encode_rows(rows, ENCODINGS[kind])) == ratio * rows.nbytes


def back(rows: NDArray[np.float32], kind: Activations) -> NDArray[np.float32]:
    encoding = ENCODINGS[kind]
    return read_rows(encode_rows(rows, encoding), *rows.shape, encoding)
