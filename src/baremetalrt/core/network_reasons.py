"""What the system says of a connection that failed, in words of ours."""

import errno
import socket
import ssl
from typing import Final

_WORDS: Final = {
    errno.ECONNREFUSED: "nobody listens there",
    errno.ECONNRESET: "it hung up",
    errno.EPIPE: "it hung up",
    errno.ECONNABORTED: "it hung up",
    errno.ETIMEDOUT: "no answer in time",
    errno.EHOSTUNREACH: "no way leads there",
    errno.ENETUNREACH: "no way leads there",
    errno.ENETDOWN: "the network is down",
    errno.EADDRINUSE: "another program has that port",
    errno.EADDRNOTAVAIL: "no interface of this machine has that address",
    errno.ENODEV: "there is no such interface",
    errno.EACCES: "this user may not",
    errno.EPERM: "this user may not",
}


def describe_failure(error: BaseException) -> str:
    """Why nobody could be reached, in a few words: of `OSError`, of `EOFError`, of what else there is."""
    if isinstance(error, socket.gaierror):
        is_sure = error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None))
        return "nobody has that name" if is_sure else "the name cannot be looked up now"
    if isinstance(error, UnicodeError):  # of a name that cannot be one
        return "nobody has that name"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, EOFError | ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "it hung up"
    if isinstance(error, ssl.SSLError):
        return "it speaks no TLS of the kind that is needed"
    if isinstance(error, OSError):
        return _WORDS.get(error.errno or 0) or error.strerror or type(error).__name__
    return str(error) or type(error).__name__
