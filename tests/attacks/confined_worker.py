"""The processes that read documents and render templates, taken over: they try what is none of theirs.

The first argument says which process; the second is a folder with a key in it.
"""

import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Numbers that are the same on every machine.
IO_URING_SETUP, PIDFD_OPEN = 425, 434
# Unlike attaching, it stops nobody.
PTRACE_SEIZE = 0x4206
LIBC = ctypes.CDLL(None, use_errno=True)
PARENT = os.getppid()


def call(function: Any, *arguments: Any) -> None:
    if function(*arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def read_memory_of_parent() -> None:
    here = ctypes.create_string_buffer(8)
    area = (ctypes.c_size_t * 2)(ctypes.addressof(here), 8)
    call(LIBC.process_vm_readv, PARENT, area, ctypes.c_ulong(1), area, ctypes.c_ulong(1), 0)


def fork() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def attempts(folder: Path) -> dict[str, Callable[[], object]]:
    """Every one of them works in a process that nothing was taken from."""
    return {
        "read a key": (folder / "member.key").read_bytes,
        "list the keys": lambda: os.listdir(folder),
        "read the accounts": Path("/etc/passwd").read_bytes,
        "read the environment of its parent": Path(f"/proc/{PARENT}/environ").read_bytes,
        "write a file": lambda: (folder / "written").write_bytes(b""),
        "replace a file": lambda: os.replace(folder / "old", folder / "new"),
        "open a key to everybody": lambda: os.chmod(folder / "member.key", 0o666),
        "change what a file says of its age": lambda: os.utime(folder / "member.key", (0, 0)),
        "open a socket": lambda: socket.socket().close(),
        "open a datagram socket": lambda: socket.socket(type=socket.SOCK_DGRAM).close(),
        "open a local socket": lambda: socket.socket(socket.AF_UNIX).close(),
        "look up a name": lambda: socket.getaddrinfo("localhost", 80),
        "run a program": lambda: subprocess.run(["true"], check=True),
        "fork": fork,
        "signal its parent": lambda: os.kill(PARENT, signal.SIGCONT),
        "limit its parent": lambda: resource.prlimit(
            PARENT, resource.RLIMIT_CORE, resource.prlimit(PARENT, resource.RLIMIT_CORE)
        ),
        "hold its parent by a descriptor": lambda: call(LIBC.syscall, PIDFD_OPEN, PARENT, 0),
        "share memory": lambda: call(LIBC.shmget, 0, ctypes.c_size_t(4096), 0o1600),
    }


# Some systems allow these to nobody.
RARE: dict[str, Callable[[], object]] = {
    "read the memory of its parent": read_memory_of_parent,
    "trace its parent": lambda: call(LIBC.ptrace, PTRACE_SEIZE, PARENT, 0, 0),
    "queue calls past the filter": lambda: call(
        LIBC.syscall, IO_URING_SETUP, 1, ctypes.create_string_buffer(120)
    ),
}


def outcomes(folder: Path) -> Iterator[tuple[str, str]]:
    """Each attempt, and what became of it."""
    for name, attempt in (attempts(folder) | RARE).items():
        try:
            attempt()
        except Exception as error:
            yield name, f"{type(error).__name__}: {error}"
        else:
            yield name, "done"


def main() -> None:
    which, folder = sys.argv[1], Path(sys.argv[2])
    if which == "free":
        for name, outcome in outcomes(folder):
            print(f"{name}={outcome}")
    elif which == "reader":
        from baremetalrt.documents import reader_worker
        from baremetalrt.documents.document import Document

        honest = reader_worker.read_file

        def read_file(path: bytes, origin: Any, *given: Any, **named: Any) -> Iterator[Any]:
            if not path.endswith(b".attack"):
                yield from honest(path, origin, *given, **named)
                return
            for name, outcome in outcomes(folder):
                yield Document(text=outcome, origin=origin, kind="text", title=name)

        reader_worker.read_file = read_file  # type: ignore[assignment]
        reader_worker.main()
    elif which == "whole":
        from baremetalrt.native import whole_model
        from baremetalrt.session.whole import wire, worker

        def compute(model: whole_model.WholeModel, step: wire.Step, address: int) -> wire.Reply:
            """What became of one attempt, the first token says which; the model computes, too."""
            model.forward(step.slices, "none")
            name, said = list(outcomes(folder))[step.slices[0].tokens[0]]
            return wire.Failed("capacity", f"{name}={said}", "attack", None)

        worker._compute = compute
        worker.main()
    else:
        from baremetalrt.session import template_worker

        environment = template_worker._environment

        def extended() -> Any:
            made = environment()
            made.globals["outcomes"] = lambda: list(outcomes(folder))
            return made

        template_worker._environment = extended
        template_worker.main()


if __name__ == "__main__":
    main()
