"""Memory that is refused in the middle: what was computed before is computed the same afterwards."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_models import TinyModel, write

# In a process of its own: a limit of memory binds all that is in one, and a mistake ends it.
PROGRAM = """
import resource, sys
from pathlib import Path
import numpy as np
from baremetalrt.blocks.steps import Slice
from baremetalrt.core.errors import CapacityError
from tiny_spans import open_span

TEXT = [(11 * i) % 150 for i in range(40)]
span = open_span(Path(sys.argv[1]), num_cells=8192)
sequence = span.open([1], len(TEXT))

def compute():
    del sequence.tokens[:]
    rows = [span.forward([Slice(sequence, TEXT[:20])], "last").copy()]
    rows += [span.forward([Slice(sequence, [t])], "last").copy() for t in TEXT[20:]]
    return np.concatenate(rows)

expected = compute()
np.testing.assert_array_equal(compute(), expected)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
_, hard = resource.getrlimit(resource.RLIMIT_AS)
for _ in range(2):
    # Room for what is here again, and not for a step of 100,000 tokens.
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), hard))
    for _ in range(2):
        try:
            span._graphs.reserve(100_000, 8192)
        except CapacityError as error:
            assert error.code == "native.allocation" and error.hint, error
        else:
            raise AssertionError("it was to fail")
    np.testing.assert_array_equal(compute(), expected)
    # When there is memory again, the same step is computed.
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    span._graphs.reserve(2000, 8192)
    np.testing.assert_array_equal(compute(), expected)
span.close()
print("as before")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does")
def test_a_step_that_gets_no_memory_leaves_the_others(tmp_path: Path) -> None:
    """The buffer is given back before a larger one is refused: no older graph may point into it."""
    path = write(TinyModel("llama"), tmp_path / "model.gguf")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-800:])
    assert done.stdout.strip() == "as before"
