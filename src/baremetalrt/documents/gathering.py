"""From paths to `train.jsonl`, `held_out.jsonl` and `unread.jsonl`.

Three passes, so that memory holds a few hundred bytes for each document and never all texts: read into a
spool; judge what repeats; write what stays.
"""

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
import numpy as np

from baremetalrt.documents import duplicates, wire
from baremetalrt.documents.boilerplate import BoilerplateConfig, LineCounts
from baremetalrt.documents.cleaning import has_words
from baremetalrt.documents.document import Document, Reached, Unread
from baremetalrt.documents.duplicates import DuplicateConfig
from baremetalrt.documents.limits import ReadingLimits
from baremetalrt.documents.reader_process import ReaderProcess
from baremetalrt.documents.splitting import SplitConfig, choose_held_out, cut_tail
from baremetalrt.documents.spool import Spool, open_private
from baremetalrt.documents.walking import FoundFile, walk

TRAIN: Final = "train.jsonl"
HELD_OUT: Final = "held_out.jsonl"
UNREAD: Final = "unread.jsonl"


@dataclass(frozen=True, kw_only=True)
class GatherConfig:
    """How documents are read, and what of them stays."""

    limits: ReadingLimits = field(default_factory=ReadingLimits)
    boilerplate: BoilerplateConfig = field(default_factory=BoilerplateConfig)
    duplicates: DuplicateConfig = field(default_factory=DuplicateConfig)
    split: SplitConfig = field(default_factory=SplitConfig)


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What was gathered. `digest` names the examples: equal digests, equal `train` and `held_out`.

    `documents` by kind and `unread` by code are numbers of each.
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


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far it is. While `phase` is `reading`, bytes are those of files; of the largest one, too."""

    phase: str
    done: int
    total: int
    num_documents: int
    path: str = ""


OnProgress = Callable[[Progress], None]


def gather(
    paths: Sequence[Path],
    folder: Path,
    config: GatherConfig | None = None,
    on_progress: OnProgress = lambda _: None,
) -> Summary:
    """Reads everything below `paths` and writes the three files into `folder`, which must exist.

    Raises:
        UsageError: a path does not exist.
        CapacityError: the reading process does not start.
        OSError: the disk is full, or `folder` cannot be written.
    """
    config = config or GatherConfig()
    with Spool(folder / ".spool") as spool, open_private(folder / UNREAD, "wb") as unread_file:
        reading = _Reading(config, spool, unread_file, on_progress)
        reading.run(paths)
        judged = _judge(spool, reading.lines, config, on_progress, reading.num_documents)
        with (
            open_private(folder / TRAIN, "wb") as train,
            open_private(folder / HELD_OUT, "wb") as held,
        ):
            written = _write(spool, reading.lines, judged, config, train, held)
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
        digest=written.digest.hexdigest(),
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

    def run(self, paths: Sequence[Path]) -> None:
        self._report("looking", 0, 0)
        found = []
        for file in walk(paths):
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

    def _report(self, phase: str, done: int, total: int, path: str = "") -> None:
        self._on_progress(
            Progress(
                phase=phase, done=done, total=total, num_documents=self.num_documents, path=path
            )
        )


@dataclass(frozen=True)
class _Judged:
    """What the second pass found out.

    `is_held_out` has the numbers of the documents that stay, `trimmed` of those that lose lines.
    `lone`: the one whose end is held out, because no document can be.
    """

    verdict: duplicates.Verdict
    is_held_out: dict[int, bool]
    trimmed: set[int]
    num_repeated_lines: int
    lone: int | None


def _judge(
    spool: Spool,
    lines: LineCounts,
    config: GatherConfig,
    on_progress: OnProgress,
    num_documents: int,
) -> _Judged:
    hashes: list[bytes] = []
    signatures = bytearray()
    sizes = array("q")
    families: list[int] = []
    numbers: dict[str, int] = {}
    num_repeated = 0
    trimmed: set[int] = set()
    for number, document in enumerate(spool):
        on_progress(
            Progress(
                phase="comparing", done=number, total=num_documents, num_documents=num_documents
            )
        )
        text, num_lines = lines.without_repeated(document.text, document.kind)
        num_repeated += num_lines
        if num_lines:
            trimmed.add(number)
        # What is nothing but shared lines goes; all of these are not alike for being empty.
        is_empty = not has_words(text)
        sizes.append(0 if is_empty else len(text.encode()))
        hashes.append(duplicates.content_hash(document.text if is_empty else text))
        signatures += duplicates.signature(document.text if is_empty else text)
        families.append(numbers.setdefault(_family(document), len(numbers)))
    signatures_NP = np.frombuffer(signatures, dtype=np.uint32).reshape(
        -1, duplicates.NUM_PERMUTATIONS
    )
    verdict = duplicates.judge(hashes, signatures_NP, sizes, families, config.duplicates)
    staying = [at for at in range(len(hashes)) if verdict.kept_N[at] and sizes[at]]
    chosen = choose_held_out(
        [hashes[at] for at in staying],
        [int(verdict.group_N[at]) for at in staying],
        [sizes[at] for at in staying],
        config.split,
    )
    sides = dict(zip(staying, chosen, strict=True))
    lone = (
        None if any(chosen) else max(staying, key=lambda at: (sizes[at], hashes[at]), default=None)
    )
    return _Judged(verdict, sides, trimmed, num_repeated, lone)


def _family(document: Document) -> str:
    """The mail that something was attached to, or the file."""
    part = document.origin.part
    head = part.partition("/")[0] if part.startswith("message ") else ""
    return f"{document.origin.path}\n{head}"


@dataclass
class _Written:
    num_train: int = 0
    num_held_out: int = 0
    train_bytes: int = 0
    held_out_bytes: int = 0
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)


def _write(
    spool: Spool,
    lines: LineCounts,
    judged: _Judged,
    config: GatherConfig,
    train: BinaryIO,
    held_out: BinaryIO,
) -> _Written:
    """The third pass."""
    written = _Written()
    for number, document in enumerate(spool):
        if number not in judged.is_held_out:
            continue
        text = document.text
        if number in judged.trimmed:
            text = lines.without_repeated(text, document.kind)[0]
        for part, is_held_out in _parts(text, judged, number, config):
            example = msgspec.structs.replace(document, text=part)
            line = _example(example)
            (held_out if is_held_out else train).write(line)
            written.digest.update(b"h" if is_held_out else b"t")
            written.digest.update(line)
            if is_held_out:
                written.num_held_out += 1
                written.held_out_bytes += len(part.encode())
            else:
                written.num_train += 1
                written.train_bytes += len(part.encode())
    return written


def _parts(
    text: str, judged: _Judged, number: int, config: GatherConfig
) -> Iterator[tuple[str, bool]]:
    if number != judged.lone:
        yield text, judged.is_held_out[number]
        return
    head, tail = cut_tail(text, config.split)
    yield head, False
    if has_words(tail):
        yield tail, True


def _example(document: Document) -> bytes:
    line = {"text": document.full_text, "origin": str(document.origin)}
    return msgspec.json.encode(line) + b"\n"
