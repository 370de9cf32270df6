"""The process of a whole model, as a node sees it: started, asked, and found to have ended."""

import mmap
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from baremetalrt.core import sandbox
from baremetalrt.core.children import end_child
from baremetalrt.core.errors import BareMetalError, CapacityError, IntegrityError
from baremetalrt.core.units import MIB
from baremetalrt.native.library import ENVIRONMENT_VARIABLE
from baremetalrt.native.whole_model import WholeConfig
from baremetalrt.session.whole import wire

# Isolated: neither the folder one is in nor the environment decides what is imported.
_COMMAND: Final = (sys.executable, "-I", "-m", "baremetalrt.session.whole.worker")
# Loading reads the file once, from a slow disk perhaps, and so may a step. One of so many tokens takes
# no longer than that, or else a multiple of it.
_PATIENCE_S: Final = 60.0
_SLOW_DISK_BYTES_PER_S: Final = 20 * MIB
_TOKENS_AT_ONCE: Final = 32
_END_S: Final = 5.0
_NONSENSE: Final = "has a process that says nonsense"
# What drivers of devices are told by; the library is found by the first one.
_TOLD: Final = (ENVIRONMENT_VARIABLE, "GGML_", "CUDA_", "HIP_", "ROCR_", "VK_", "LLAMA_")


@dataclass(frozen=True, kw_only=True)
class WholeFile:
    """The model's files, the first of which is loaded, and what its vocabulary says of the logits."""

    paths: tuple[Path, ...]
    num_bytes: int
    vocabulary_size: int


class WholeProcess:
    """One process at a time. `start` and `step` are for one thread, `end` for any."""

    def __init__(self, file: WholeFile, config: WholeConfig, *, is_confined: bool) -> None:
        """`is_confined`: whether it can do without files of the system, as drivers cannot."""
        self.config = config
        self._file = file
        self._is_confined = is_confined
        self._process: subprocess.Popen[bytes] | None = None
        num_bytes = 4 * config.max_rows * file.vocabulary_size
        self._rows_file = _memory_file(num_bytes)
        rows = np.frombuffer(mmap.mmap(self._rows_file, num_bytes), np.float32)
        self._rows_RV = rows.reshape(config.max_rows, file.vocabulary_size)
        self.can_cut = True
        self._is_over = False

    @property
    def is_running(self) -> bool:
        """As far as is known: that it was killed shows at the next step."""
        return self._process is not None

    def start(self) -> None:
        """Starts it and loads the model; blocks.

        Raises:
            IntegrityError: the file is refused, or ends the process that loads it.
            CapacityError: there is no memory for it.
        """
        if self._is_over:
            raise RuntimeError("the model was closed")
        self._process = process = self._spawn()
        load = wire.Load(
            # By the names that they have here: libllama finds the parts of a model by theirs.
            paths=[os.fsencode(path.absolute()) for path in self._file.paths],
            config=self.config,
            rows_file=self._rows_file,
            vocabulary_size=self._file.vocabulary_size,
            is_confined=self._is_confined,
        )
        reply = self._ask(process, load, self._limit_s, "loaded it")
        if isinstance(reply, wire.Failed):
            self._stop()
            raise self._error(reply)
        if not isinstance(reply, wire.Loaded):
            self._fail(_NONSENSE)
        self.can_cut = reply.can_cut

    def step(self, step: wire.Step) -> NDArray[np.float32]:
        """Logits `(R, V)` of one step; the memory is that of the next one, too. Blocks.

        Raises:
            CapacityError: no memory for this step, or the process was killed, as for lack of memory.
            IntegrityError: the process ended of itself, as it does on a file that it does not like.
        """
        process = self._process
        if process is None:
            raise RuntimeError("the process of the model was not started")
        num_tokens = sum(len(one.tokens) for one in step.slices)
        limit_s = self._limit_s * max(1.0, num_tokens / _TOKENS_AT_ONCE)
        reply = self._ask(process, step, limit_s, "computed with it")
        if isinstance(reply, wire.Failed):
            raise self._error(reply)
        num_read = {"none": 0, "last": len(step.slices), "all": num_tokens}[step.reads]
        if not isinstance(reply, wire.Computed) or reply.num_rows != num_read:
            self._fail(_NONSENSE)
        return self._rows_RV[:num_read]

    def end(self) -> None:
        """Ends it for good, whatever it does; who waits for a step hears of it. From any thread."""
        self._is_over = True
        process = self._process
        if process is not None:
            process.kill()
            process.wait()

    def close(self) -> None:
        """Frees what is left; nobody may be in `start` or `step`."""
        self._is_over = True
        self._stop()
        if self._rows_file >= 0:
            os.close(self._rows_file)
            self._rows_file = -1

    def _spawn(self) -> "subprocess.Popen[bytes]":
        told = {name: value for name, value in os.environ.items() if name.startswith(_TOLD)}
        environment = sandbox.environment() | told | {"GGML_NO_BACKTRACE": "1"}
        # It has as many threads as it is told to.
        del environment["OMP_NUM_THREADS"]
        return subprocess.Popen(
            _COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            # Replies are waited for, and not longer than so.
            bufsize=0,
            pass_fds=(self._rows_file,),
            # Ctrl-C is for the program, which may go on.
            start_new_session=True,
        )

    def _ask(
        self,
        process: "subprocess.Popen[bytes]",
        message: wire.Load | wire.Step,
        limit_s: float,
        what: str,
    ) -> wire.Reply:
        """One request, one reply; `what` it does with the file, should that end it."""
        assert process.stdin is not None and process.stdout is not None
        try:
            _send(process.stdin, wire.encode(message))
            reply = _receive(process.stdout, time.monotonic() + limit_s)
        except TimeoutError:
            self._fail(f"hangs: the process that {what} took more than {limit_s:.0f} s")
        except (EOFError, OSError):
            self._explain(process, what)
        except ValueError:
            self._fail(_NONSENSE)
        except BaseException:
            # Somebody interrupts: its reply would be taken for that of the next step.
            self._stop()
            raise
        return reply

    def _explain(self, process: "subprocess.Popen[bytes]", what: str) -> NoReturn:
        """Raises the error that its end is."""
        try:
            status = process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._fail(_NONSENSE)  # it says no more, and does not go
        if status == -signal.SIGKILL:
            self._stop()
            raise CapacityError(
                f"the process of {self._name} was killed, as the system does where memory is short",
                code="model.killed",
                hint="ask again; if it happens again, use a smaller --context or model",
            )
        ended = signal.Signals(-status).name if status < 0 else f"status {status}"
        self._fail(f"ended the process that {what} ({ended})")

    def _fail(self, what: str) -> NoReturn:
        self._stop()
        raise IntegrityError(
            f"{self._name} {what}",
            code="model.crashed",
            source=str(self._file.paths[0]),
            hint="the file is damaged, or the library has a fault; fetch the file again",
        )

    def _error(self, reply: wire.Failed) -> BareMetalError:
        if reply.kind == "capacity":
            return CapacityError(reply.message, code=reply.code, hint=reply.hint)
        source = str(self._file.paths[0])
        return IntegrityError(reply.message, source=source, code=reply.code, hint=reply.hint)

    @property
    def _limit_s(self) -> float:
        """How long it may take to read the file once."""
        return _PATIENCE_S + self._file.num_bytes / _SLOW_DISK_BYTES_PER_S

    @property
    def _name(self) -> str:
        return self._file.paths[0].name

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        end_child(process, process.stdin, process.stdout)


def _send(requests: IO[bytes], data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        # A pipe takes as much as it has room for.
        rest = rest[requests.write(rest) :]


def _receive(replies: IO[bytes], until_s: float) -> wire.Reply:
    """The next reply; raises `EOFError`, `TimeoutError`, or `ValueError` where it is none."""
    poll, data = select.poll(), b""
    poll.register(replies, select.POLLIN)
    while (missing := wire.num_missing(data)) > 0:
        if not poll.poll(max(0.0, 1000 * (until_s - time.monotonic()))):
            raise TimeoutError
        more = replies.read(missing)
        if not more:
            raise EOFError
        data += more
    return wire.decode_reply(data)


def _memory_file(num_bytes: int) -> int:
    """An open file without a name, which two processes share; in memory, where the system has such."""
    if hasattr(os, "memfd_create"):
        found = os.memfd_create("rows")
    else:
        with tempfile.TemporaryFile() as file:
            found = os.dup(file.fileno())
    os.truncate(found, num_bytes)
    return found
