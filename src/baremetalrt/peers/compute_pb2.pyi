from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Encoding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENCODING_F32: _ClassVar[Encoding]
    ENCODING_F16: _ClassVar[Encoding]
    ENCODING_Q8: _ClassVar[Encoding]

class Reads(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    READS_NONE: _ClassVar[Reads]
    READS_LAST: _ClassVar[Reads]
    READS_ALL: _ClassVar[Reads]

class Blame(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BLAME_CALLER: _ClassVar[Blame]
    BLAME_HERE: _ClassVar[Blame]
    BLAME_PREVIOUS: _ClassVar[Blame]
    BLAME_NEXT: _ClassVar[Blame]
ENCODING_F32: Encoding
ENCODING_F16: Encoding
ENCODING_Q8: Encoding
READS_NONE: Reads
READS_LAST: Reads
READS_ALL: Reads
BLAME_CALLER: Blame
BLAME_HERE: Blame
BLAME_PREVIOUS: Blame
BLAME_NEXT: Blame

class DescribeRequest(_message.Message):
    __slots__ = ("expulsions", "expulsion_list")
    EXPULSIONS_FIELD_NUMBER: _ClassVar[int]
    EXPULSION_LIST_FIELD_NUMBER: _ClassVar[int]
    expulsions: int
    expulsion_list: bytes
    def __init__(self, expulsions: _Optional[int] = ..., expulsion_list: _Optional[bytes] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Renewed(_message.Message):
    __slots__ = ("certificate", "for_torrents")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    FOR_TORRENTS_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    for_torrents: bytes
    def __init__(self, certificate: _Optional[bytes] = ..., for_torrents: _Optional[bytes] = ...) -> None: ...

class ListsRequest(_message.Message):
    __slots__ = ("known",)
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    known: _containers.RepeatedCompositeFieldContainer[KnownList]
    def __init__(self, known: _Optional[_Iterable[_Union[KnownList, _Mapping]]] = ...) -> None: ...

class KnownList(_message.Message):
    __slots__ = ("key", "number")
    KEY_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    number: int
    def __init__(self, key: _Optional[bytes] = ..., number: _Optional[int] = ...) -> None: ...

class ListsReply(_message.Message):
    __slots__ = ("lists",)
    LISTS_FIELD_NUMBER: _ClassVar[int]
    lists: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, lists: _Optional[_Iterable[bytes]] = ...) -> None: ...

class HostedSpan(_message.Message):
    __slots__ = ("model", "name", "start", "end", "num_blocks", "step_s", "num_bytes", "num_cells", "num_texts", "context", "source")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    STEP_S_FIELD_NUMBER: _ClassVar[int]
    NUM_BYTES_FIELD_NUMBER: _ClassVar[int]
    NUM_CELLS_FIELD_NUMBER: _ClassVar[int]
    NUM_TEXTS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    model: str
    name: str
    start: int
    end: int
    num_blocks: int
    step_s: float
    num_bytes: int
    num_cells: int
    num_texts: int
    context: int
    source: Source
    def __init__(self, model: _Optional[str] = ..., name: _Optional[str] = ..., start: _Optional[int] = ..., end: _Optional[int] = ..., num_blocks: _Optional[int] = ..., step_s: _Optional[float] = ..., num_bytes: _Optional[int] = ..., num_cells: _Optional[int] = ..., num_texts: _Optional[int] = ..., context: _Optional[int] = ..., source: _Optional[_Union[Source, _Mapping]] = ...) -> None: ...

class Source(_message.Message):
    __slots__ = ("torrent", "port", "is_private")
    TORRENT_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    IS_PRIVATE_FIELD_NUMBER: _ClassVar[int]
    torrent: str
    port: int
    is_private: bool
    def __init__(self, torrent: _Optional[str] = ..., port: _Optional[int] = ..., is_private: _Optional[bool] = ...) -> None: ...

class Description(_message.Message):
    __slots__ = ("id", "version", "release", "library", "spans", "budget_bytes", "byte_s", "expulsions", "expulsion_list", "renews", "offers")
    ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    LIBRARY_FIELD_NUMBER: _ClassVar[int]
    SPANS_FIELD_NUMBER: _ClassVar[int]
    BUDGET_BYTES_FIELD_NUMBER: _ClassVar[int]
    BYTE_S_FIELD_NUMBER: _ClassVar[int]
    EXPULSIONS_FIELD_NUMBER: _ClassVar[int]
    EXPULSION_LIST_FIELD_NUMBER: _ClassVar[int]
    RENEWS_FIELD_NUMBER: _ClassVar[int]
    OFFERS_FIELD_NUMBER: _ClassVar[int]
    id: str
    version: int
    release: str
    library: str
    spans: _containers.RepeatedCompositeFieldContainer[HostedSpan]
    budget_bytes: int
    byte_s: float
    expulsions: int
    expulsion_list: bytes
    renews: bool
    offers: _containers.RepeatedCompositeFieldContainer[Offer]
    def __init__(self, id: _Optional[str] = ..., version: _Optional[int] = ..., release: _Optional[str] = ..., library: _Optional[str] = ..., spans: _Optional[_Iterable[_Union[HostedSpan, _Mapping]]] = ..., budget_bytes: _Optional[int] = ..., byte_s: _Optional[float] = ..., expulsions: _Optional[int] = ..., expulsion_list: _Optional[bytes] = ..., renews: _Optional[bool] = ..., offers: _Optional[_Iterable[_Union[Offer, _Mapping]]] = ...) -> None: ...

class Offer(_message.Message):
    __slots__ = ("name", "torrent", "num_bytes", "is_private", "port")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TORRENT_FIELD_NUMBER: _ClassVar[int]
    NUM_BYTES_FIELD_NUMBER: _ClassVar[int]
    IS_PRIVATE_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    name: str
    torrent: str
    num_bytes: int
    is_private: bool
    port: int
    def __init__(self, name: _Optional[str] = ..., torrent: _Optional[str] = ..., num_bytes: _Optional[int] = ..., is_private: _Optional[bool] = ..., port: _Optional[int] = ...) -> None: ...

class Peer(_message.Message):
    __slots__ = ("id", "address", "text")
    ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    id: str
    address: str
    text: bytes
    def __init__(self, id: _Optional[str] = ..., address: _Optional[str] = ..., text: _Optional[bytes] = ...) -> None: ...

class Step(_message.Message):
    __slots__ = ("position", "tokens", "rows", "encoding", "reads", "epoch")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    READS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    position: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    rows: bytes
    encoding: Encoding
    reads: Reads
    epoch: int
    def __init__(self, position: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., rows: _Optional[bytes] = ..., encoding: _Optional[_Union[Encoding, str]] = ..., reads: _Optional[_Union[Reads, str]] = ..., epoch: _Optional[int] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("text", "model", "start", "end", "tokens", "capacity", "next", "epoch", "encoding", "withheld", "scope")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    WITHHELD_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    text: bytes
    model: str
    start: int
    end: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    capacity: int
    next: Peer
    epoch: int
    encoding: Encoding
    withheld: int
    scope: bytes
    def __init__(self, text: _Optional[bytes] = ..., model: _Optional[str] = ..., start: _Optional[int] = ..., end: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., capacity: _Optional[int] = ..., next: _Optional[_Union[Peer, _Mapping]] = ..., epoch: _Optional[int] = ..., encoding: _Optional[_Union[Encoding, str]] = ..., withheld: _Optional[int] = ..., scope: _Optional[bytes] = ...) -> None: ...

class Redirect(_message.Message):
    __slots__ = ("next", "resend", "epoch")
    NEXT_FIELD_NUMBER: _ClassVar[int]
    RESEND_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    next: Peer
    resend: bool
    epoch: int
    def __init__(self, next: _Optional[_Union[Peer, _Mapping]] = ..., resend: _Optional[bool] = ..., epoch: _Optional[int] = ...) -> None: ...

class Grow(_message.Message):
    __slots__ = ("capacity",)
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    capacity: int
    def __init__(self, capacity: _Optional[int] = ...) -> None: ...

class Truncate(_message.Message):
    __slots__ = ("length", "epoch")
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    length: int
    epoch: int
    def __init__(self, length: _Optional[int] = ..., epoch: _Optional[int] = ...) -> None: ...

class Close(_message.Message):
    __slots__ = ("keep",)
    KEEP_FIELD_NUMBER: _ClassVar[int]
    keep: bool
    def __init__(self, keep: _Optional[bool] = ...) -> None: ...

class Command(_message.Message):
    __slots__ = ("number", "open", "step", "grow", "truncate", "redirect", "close", "probe")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    GROW_FIELD_NUMBER: _ClassVar[int]
    TRUNCATE_FIELD_NUMBER: _ClassVar[int]
    REDIRECT_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    number: int
    open: Open
    step: Step
    grow: Grow
    truncate: Truncate
    redirect: Redirect
    close: Close
    probe: Probe
    def __init__(self, number: _Optional[int] = ..., open: _Optional[_Union[Open, _Mapping]] = ..., step: _Optional[_Union[Step, _Mapping]] = ..., grow: _Optional[_Union[Grow, _Mapping]] = ..., truncate: _Optional[_Union[Truncate, _Mapping]] = ..., redirect: _Optional[_Union[Redirect, _Mapping]] = ..., close: _Optional[_Union[Close, _Mapping]] = ..., probe: _Optional[_Union[Probe, _Mapping]] = ...) -> None: ...

class Probe(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Done(_message.Message):
    __slots__ = ("length", "is_complete")
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    IS_COMPLETE_FIELD_NUMBER: _ClassVar[int]
    length: int
    is_complete: bool
    def __init__(self, length: _Optional[int] = ..., is_complete: _Optional[bool] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("position", "num_tokens", "num_rows", "width", "rows")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_ROWS_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    position: int
    num_tokens: int
    num_rows: int
    width: int
    rows: bytes
    def __init__(self, position: _Optional[int] = ..., num_tokens: _Optional[int] = ..., num_rows: _Optional[int] = ..., width: _Optional[int] = ..., rows: _Optional[bytes] = ...) -> None: ...

class Fault(_message.Message):
    __slots__ = ("code", "message", "blame", "epoch")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    BLAME_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    blame: Blame
    epoch: int
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., blame: _Optional[_Union[Blame, str]] = ..., epoch: _Optional[int] = ...) -> None: ...

class Report(_message.Message):
    __slots__ = ("number", "done", "result", "fault")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    number: int
    done: Done
    result: Result
    fault: Fault
    def __init__(self, number: _Optional[int] = ..., done: _Optional[_Union[Done, _Mapping]] = ..., result: _Optional[_Union[Result, _Mapping]] = ..., fault: _Optional[_Union[Fault, _Mapping]] = ...) -> None: ...

class Passed(_message.Message):
    __slots__ = ("text", "step")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    text: bytes
    step: Step
    def __init__(self, text: _Optional[bytes] = ..., step: _Optional[_Union[Step, _Mapping]] = ...) -> None: ...

class Received(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
