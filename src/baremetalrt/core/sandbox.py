"""Puts this process where it can read the programs it is made of, and reach nothing else.

For processes that read what strangers wrote. Linux has two means: landlock decides which files can be
opened and reached, seccomp which calls are answered at all. Both bind the process until it ends, and
neither needs rights. What was open before stays open. Names, sizes and times of files can still be asked
for, where the rights of the user allow it.

There are Python packages for each; none of them is released and kept. The interfaces of the kernel are
numbers that never change, hence this file.

Source: landlock(7), seccomp(2).
"""

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from baremetalrt.core.system_calls import FIRST_NEW, FORBIDDEN, MACHINES, OF_ITSELF


class Confinement(NamedTuple):
    """What holds from now on: whether files are out of reach, and whether calls are."""

    files: bool
    calls: bool


# Of no use to whoever reads them, and asked for by libraries: clocks, fonts, kinds of files.
_PUBLIC: Final = (
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/apache2/mime.types",
    "/etc/httpd/conf/mime.types",
    "/usr/share/zoneinfo",
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "/dev/null",
    "/dev/zero",
    "/dev/urandom",
)
_LIBRARIES: Final = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")

# Of the environment: what finds libraries, languages, and the local time.
_KEPT: Final = (
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "SYSTEMROOT",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
)

_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_SECCOMP: Final = 22
_SECCOMP_FILTER: Final = 2
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION: Final = 1
_PATH_BENEATH: Final = 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
# How many rights over files each version of landlock knows; the last one for all that follow.
_NUM_RIGHTS: Final = (13, 14, 15, 15, 16, 16)
# Binding and connecting, since version 4; abstract sockets and signals, since version 6.
_NETWORK, _SCOPES = 0b11, 0b11

# Source: `linux/filter.h`, `linux/seccomp.h`. Where `struct seccomp_data` has what is looked at.
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _MACHINE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
# Source: `linux/sched.h`.
_CLONE_THREAD: Final = 0x00010000


def confine(
    *, readable: Sequence[str] = (), files: bool = True, threads: bool = False
) -> Confinement:
    """Gives up files, network and other processes, as far as this system can hold a process to that.

    What is `readable` can still be opened; with `files=False`, everything can. With `threads`, it may
    start some. Call it before there is a second thread. It cannot be undone.
    """
    if sys.platform != "linux":
        return Confinement(files=False, calls=False)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, *_words(1, 0, 0, 0)):
        return Confinement(files=False, calls=False)
    # In this order: the second forbids the calls of the first.
    return Confinement(
        files=files and _confine_files(libc, readable), calls=_confine_calls(libc, threads)
    )


def probe() -> Confinement:
    """What would hold on this system; tried in a process of its own."""
    import subprocess

    program = "from baremetalrt.core.sandbox import confine; print(*confine())"
    said = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, env=environment(), check=False
    )
    held = said.stdout.split()
    return Confinement(files=held[:1] == [b"True"], calls=held[1:] == [b"True"])


def environment() -> dict[str, str]:
    """What such a process is told of the user's environment: no keys, and nothing that starts threads."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return kept | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def _confine_files(libc: Any, readable: Sequence[str]) -> bool:
    version = libc.syscall(*_words(_CREATE_RULESET, 0, 0, _VERSION))
    if version < 1:
        return False
    rights = (1 << _NUM_RIGHTS[min(version, len(_NUM_RIGHTS)) - 1]) - 1
    attributes = struct.pack("=Q", rights)
    attributes += struct.pack("=Q", _NETWORK) if version >= 4 else b""
    attributes += struct.pack("=Q", _SCOPES) if version >= 6 else b""
    ruleset = libc.syscall(*_words(_CREATE_RULESET), attributes, *_words(len(attributes), 0))
    if ruleset < 0:
        return False
    try:
        for path in (*_readable(), *readable):
            _allow_reading(libc, ruleset, path)
        return bool(libc.syscall(*_words(_RESTRICT_SELF, ruleset, 0)) == 0)
    finally:
        os.close(ruleset)


def _allow_reading(libc: Any, ruleset: int, path: str) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # it is not there
    try:
        rights = _READ_FILE | (_READ_DIR if os.path.isdir(path) else 0)
        rule = struct.pack("=Qi", rights, descriptor)
        libc.syscall(*_words(_ADD_RULE, ruleset, _PATH_BENEATH), rule, *_words(0))
    finally:
        os.close(descriptor)


def _readable() -> Iterator[str]:
    """Where programs and their libraries lie, and what is public."""
    yield from _PUBLIC
    places = {path for path in sys.path if os.path.isabs(path)} | set(_LIBRARIES)
    # Where the system keeps its libraries elsewhere, some of them are loaded from there.
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as lines:
        loaded = (line.partition("/") for line in lines)
        places |= {
            os.path.dirname(f"/{rest.rstrip()}") for _, slash, rest in loaded if ".so" in rest
        }
    yield from places - {"/"}


def _confine_calls(libc: Any, threads: bool) -> bool:
    machine = MACHINES.get(os.uname().machine)
    if machine is None or sys.maxsize < 1 << 32:
        return False
    program = b"".join(_filter(*machine, threads))
    memory = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("@HP", len(program) // 8, ctypes.addressof(memory))
    return bool(libc.prctl(_PR_SET_SECCOMP, *_words(_SECCOMP_FILTER), head, *_words(0, 0)) == 0)


def _filter(audit_name: int, column: int, threads: bool) -> Iterator[bytes]:
    """The program that the kernel runs before every call."""
    yield _instruction(_LOAD, _MACHINE_AT)
    yield _instruction(_IF_EQUAL, audit_name, then=1)
    yield _instruction(_RETURN, _KILL)
    yield _instruction(_LOAD, _NUMBER_AT)
    yield _instruction(_IF_AT_LEAST, FIRST_NEW, otherwise=1)
    yield _instruction(_RETURN, _REFUSE | errno.ENOSYS)
    if threads:
        # A new thread, and no new process: what it is to be is the first argument.
        yield _instruction(_IF_EQUAL, FORBIDDEN["clone"][column] or 0, otherwise=4)
        yield _instruction(_LOAD, _FIRST_ARGUMENT_AT)
        yield _instruction(_IF_ANY_BIT, _CLONE_THREAD, otherwise=1)
        yield _instruction(_RETURN, _ALLOW)
        yield _instruction(_RETURN, _REFUSE | errno.EPERM)
    for numbers in FORBIDDEN.values():
        number = numbers[column]
        if number is not None:
            yield _instruction(_IF_EQUAL, number, otherwise=1)
            yield _instruction(_RETURN, _REFUSE | errno.EPERM)
    for numbers in OF_ITSELF.values():
        yield _instruction(_IF_EQUAL, numbers[column], otherwise=5)
        yield _instruction(_LOAD, _FIRST_ARGUMENT_AT)
        yield _instruction(_IF_EQUAL, os.getpid(), then=1)
        yield _instruction(_IF_EQUAL, 0, otherwise=1)
        yield _instruction(_RETURN, _ALLOW)
        yield _instruction(_RETURN, _REFUSE | errno.EPERM)
    yield _instruction(_RETURN, _ALLOW)


def _instruction(code: int, value: int, *, then: int = 0, otherwise: int = 0) -> bytes:
    """One of them; `then` and `otherwise` say how many of those that follow are passed over."""
    return struct.pack("=HBBI", code, then, otherwise, value)


def _words(*values: int) -> Iterator[ctypes.c_long]:
    # A variadic function reads whole registers.
    return map(ctypes.c_long, values)
