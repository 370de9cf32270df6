"""From paths to `train.jsonl`, `held_out.jsonl` and `unread.jsonl`.

Three passes, so that memory holds a few hundred bytes for each document and never all texts: read into a
spool; judge what repeats; write what stays.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from baremetalrt.documents import wire
from baremetalrt.documents.boilerplate import LineCounts
from baremetalrt.documents.cleaning import has_words
from baremetalrt.documents.document import Document, Reached, Unread
from baremetalrt.documents.reader_process import ReaderProcess
from baremetalrt.documents.splitting import cut
from baremetalrt.documents.spool import Spool, open_private
from baremetalrt.documents.verdicts import GatherConfig, Judged, judge
from baremetalrt.documents.walking import FoundFile, walk

TRAIN: Final = "train.jsonl"
HELD_OUT: Final = "held_out.jsonl"
UNREAD: Final = "unread.jsonl"


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What was gathered. `digest` names the examples by what they say, whatever files they come from and
    in whatever order.

    `documents` by kind and `unread` by code are numbers of each. What is held out of a document leaves
    several texts of it to train on: `num_train` and `num_held_out` count texts.
    """

    num_train: int
    num_held_out: int
    train_bytes: int
    held_out_bytes: int
    num_files: int
    file_bytes: int
    documents: dict[str, int]
    unread: dict[str, int]
    num_duplicates: int
    num_near_duplicates: int
    num_repeated_lines: int
    digest: str

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__struct_fields__}


@dataclass(frozen=True, kw_only=True)
class GatherProgress:
    """How far it is: in bytes of files while `phase` is `reading`, else in documents."""

    phase: str
    done: int
    total: int
    num_documents: int
    path: str = ""


OnProgress = Callable[[GatherProgress], None]


def gather(
    paths: Sequence[Path],
    folder: Path,
    config: GatherConfig | None = None,
    on_progress: OnProgress = lambda _: None,
    *,
    without: Path | None = None,
) -> Summary:
    """Reads everything below `paths` and writes the three files into `folder`, which must exist.

    What is below `without` is not read.

    Raises:
        UsageError: a path does not exist.
        CapacityError: the reading process does not start.
        OSError: the disk is full, or `folder` cannot be written.
    """
    config = config or GatherConfig()
    with Spool(folder / ".spool") as spool, open_private(folder / UNREAD, "wb") as unread_file:
        reading = _Reading(config, spool, unread_file, on_progress)
        reading.run(paths, without)
        judged = judge(spool, reading.lines, config, reading.report_comparing)
        with (
            open_private(folder / TRAIN, "wb") as train,
            open_private(folder / HELD_OUT, "wb") as held,
        ):
            written = _write(spool, reading.lines, judged, train, held)
    return Summary(
        num_train=written.num_train,
        num_held_out=written.num_held_out,
        train_bytes=written.train_bytes,
        held_out_bytes=written.held_out_bytes,
        num_files=reading.num_files,
        file_bytes=reading.file_bytes,
        documents=dict(sorted(reading.kinds.items())),
        unread=dict(sorted(reading.unread.items())),
        num_duplicates=int(judged.verdict.exact_N.sum()),
        num_near_duplicates=int((~judged.verdict.kept_N & ~judged.verdict.exact_N).sum()),
        num_repeated_lines=judged.num_repeated_lines,
        digest=corpus_digest(written.digests),
    )


class _Reading:
    """The first pass."""

    def __init__(
        self, config: GatherConfig, spool: Spool, unread_file: BinaryIO, on_progress: OnProgress
    ) -> None:
        self.lines = LineCounts(config.boilerplate)
        self.kinds: Counter[str] = Counter()
        self.unread: Counter[str] = Counter()
        self.num_files = 0
        self.file_bytes = 0
        self._config = config
        self._spool = spool
        self._unread_file = unread_file
        self._on_progress = on_progress

    @property
    def num_documents(self) -> int:
        return self.lines.num_documents

    def run(self, paths: Sequence[Path], without: Path | None) -> None:
        self._report("looking", 0, 0)
        found = []
        for file in walk(paths, without=without):
            if isinstance(file, Unread):
                self._note_unread(file)
            else:
                found.append(file)
        total, done = sum(file.num_bytes for file in found), 0
        with ReaderProcess(self._config.limits) as reader:
            for file in found:
                self._report("reading", done, total, file.origin.path)
                self._read(reader, file, done, total)
                done += file.num_bytes
                self.num_files += 1
        self.file_bytes = done

    def _read(self, reader: ReaderProcess, file: FoundFile, done: int, total: int) -> None:
        request = wire.Request(path=file.path, origin=file.origin, kind=file.kind)
        for item in reader.read(request):
            if isinstance(item, Reached):
                self._report("reading", done + item.offset, total, file.origin.path)
            elif isinstance(item, Unread):
                self._note_unread(item)
            else:
                self.kinds[item.kind] += 1
                self.lines.add(item.text, item.kind)
                self._spool.append(item)

    def _note_unread(self, unread: Unread) -> None:
        self.unread[unread.code] += 1
        line = {"origin": str(unread.origin), "reason": unread.reason, "code": unread.code}
        self._unread_file.write(msgspec.json.encode(line) + b"\n")

    def report_comparing(self, number: int) -> None:
        """The second pass is at this document."""
        self._report("comparing", number, self.num_documents)

    def _report(self, phase: str, done: int, total: int, path: str = "") -> None:
        self._on_progress(
            GatherProgress(
                phase=phase, done=done, total=total, num_documents=self.num_documents, path=path
            )
        )


@dataclass
class _Written:
    num_train: int = 0
    num_held_out: int = 0
    train_bytes: int = 0
    held_out_bytes: int = 0
    digests: list[bytes] = field(default_factory=list)

    def note(self, text: str, is_held_out: bool) -> None:
        self.digests.append(content_digest(text, is_held_out))
        num_bytes = len(text.encode())
        if is_held_out:
            self.num_held_out += 1
            self.held_out_bytes += num_bytes
        else:
            self.num_train += 1
            self.train_bytes += num_bytes


def content_digest(text: str, is_held_out: bool) -> bytes:
    """Names one example by what it says and where it is."""
    mark = b"h" if is_held_out else b"t"
    return hashlib.blake2b(mark + text.encode("utf-8", "replace"), digest_size=16).digest()


def corpus_digest(digests: list[bytes]) -> str:
    """Names all examples by the digest of each, in whatever order."""
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def _write(
    spool: Spool, lines: LineCounts, judged: Judged, train: BinaryIO, held_out: BinaryIO
) -> _Written:
    """The third pass."""
    written = _Written()
    for number, document in enumerate(spool):
        stretches = judged.stretches.get(number)
        if stretches is None:
            continue
        text = document.text
        if number in judged.trimmed:
            text = lines.without_repeated(text, document.kind)[0]
        for part, is_held_out in cut(text, stretches):
            part = part.strip("\n") if stretches.num > 1 else part
            if not has_words(part):
                continue
            example = msgspec.structs.replace(document, text=part)
            (held_out if is_held_out else train).write(_example(example))
            written.note(example.full_text, is_held_out)
    return written


def _example(document: Document) -> bytes:
    line = {"text": document.full_text, "origin": str(document.origin)}
    return msgspec.json.encode(line) + b"\n"
