"""How fast documents are read, per format, and how much memory a large mailbox takes.

Every format holds the same words, made here; read by the real process, alone on one core.
"""

import argparse
import os
import random
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from baremetalrt.core.units import GIB, MIB, format_bytes, parse_bytes
from baremetalrt.documents import wire
from baremetalrt.documents.document import Document, Origin
from baremetalrt.documents.gathering import gather
from baremetalrt.documents.reader_process import ReaderProcess

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import document_kit as kit

RNG = random.Random(7)
WORDS = ["".join(RNG.choices("etaoinshrdlucmfwypvbgk", k=RNG.randint(2, 9))) for _ in range(20_000)]
SAMPLE_S = 0.05


def paragraph(num_words: int = 60) -> str:
    """Sentences of made-up words, no two alike."""
    words = RNG.choices(WORDS, k=num_words)
    return " ".join(words).capitalize() + "."


def paragraphs(num_bytes: int) -> list[str]:
    """About `num_bytes` of text."""
    found, size = [], 0
    while size < num_bytes:
        found.append(paragraph())
        size += len(found[-1]) + 2
    return found


def html(texts: list[str]) -> bytes:
    body = "".join(f"<div class='post'><p>{text}</p></div>\n" for text in texts)
    return f"<html><head><title>A page</title></head><body>{body}</body></html>".encode()


def pdf(texts: list[str]) -> bytes:
    words = " ".join(texts).split()
    lines = [" ".join(words[i : i + 12]) for i in range(0, len(words), 12)]
    pages = [lines[i : i + 50] for i in range(0, len(lines), 50)]
    return kit.pdf(pages, header="A header", footer="page {page}")


def message(texts: list[str], number: int) -> bytes:
    text = "\n\n".join(texts) + "\n\nOn Monday, Bob wrote:\n> " + texts[0] + "\n\n-- \nAnn\n"
    return bytes(kit.mail(text, subject=f"Mail {number}", html=f"<p>{texts[0]}</p>"))


def write_mailbox(path: Path, num_bytes: int) -> int:
    """A mailbox of that size; each message is of its own words. Returns the number of messages."""
    # Composing mails takes longer than reading them: some are composed, and words put into those.
    shapes = [message(["WORDS"] * RNG.randint(1, 3), number) for number in range(50)]
    count = 0
    with path.open("wb") as file:
        while file.tell() < num_bytes:
            text = "\n\n".join(paragraphs(RNG.choice((500, 2000, 8000)))).encode()
            file.write(b"From a@b Tue Nov 24 10:00:00 2026\n")
            file.write(RNG.choice(shapes).replace(b"WORDS", text, 2) + b"\n\n")
            count += 1
    return count


class Peak:
    """The largest memory of this process and of those it started, sampled."""

    def __init__(self) -> None:
        self.own_bytes = self.child_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(SAMPLE_S):
            self.own_bytes = max(self.own_bytes, me.memory_info().rss)
            for child in me.children():
                try:
                    self.child_bytes = max(self.child_bytes, child.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue


def measure(folder: Path, name: str, make: Callable[[], bytes], num_files: int) -> None:
    """Prints megabytes of files and of text per second, for files of one format."""
    paths = [kit.write(folder, f"{number}-{name}", make()) for number in range(num_files)]
    size = sum(path.stat().st_size for path in paths)
    with ReaderProcess() as reader:
        kit.read(paths[0], reader=reader)  # its libraries are loaded now
        started, num_chars = time.perf_counter(), 0
        for path in paths:
            for item in reader.read(wire.Request(path=bytes(path), origin=Origin(name))):
                num_chars += len(item.text) if isinstance(item, Document) else 0
        seconds = time.perf_counter() - started
    assert num_chars
    print(
        f"{name:10} {num_files:5} files  {size / 1e6:7.1f} MB  {size / 1e6 / seconds:7.1f} MB/s of file  "
        f"{num_chars / 1e6 / seconds:7.1f} MB/s of text",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mailbox", default="1 GB", help="size of the large mailbox")
    parser.add_argument("--megabytes", type=float, default=4.0, help="text for each format")
    arguments = parser.parse_args()
    each = int(arguments.megabytes * 1e6)
    print(f"load of the machine: {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = 20
        part = each // files
        measure(folder, "a.txt", lambda: "\n\n".join(paragraphs(part)).encode(), files)
        cp1252 = "\n\n".join(["Größe, Süße: ärgerlich schön. ", *paragraphs(part)]).encode("cp1252")
        measure(folder, "cp1252.txt", lambda: cp1252, files)
        measure(folder, "a.md", lambda: "\n\n".join(["# T", *paragraphs(part)]).encode(), files)
        measure(folder, "a.py", lambda: "\n\n".join(paragraphs(part)).encode(), files)
        measure(folder, "a.html", lambda: html(paragraphs(part)), files)
        measure(folder, "a.pdf", lambda: pdf(paragraphs(part)), files)
        measure(folder, "a.docx", lambda: kit.docx(*paragraphs(part)), files)
        measure(folder, "a.eml", lambda: message(paragraphs(3000), 1), each // 8000)

        def mailbox() -> bytes:
            write_mailbox(folder / "some.mbox", each)
            return (folder / "some.mbox").read_bytes()

        measure(folder, "a.mbox", mailbox, 1)
    with tempfile.TemporaryDirectory() as name:
        measure_mailbox(Path(name), parse_bytes(arguments.mailbox))


def measure_mailbox(folder: Path, num_bytes: int) -> None:
    """The whole way of one large mailbox: reading, comparing, writing."""
    count = write_mailbox(folder / "large.mbox", num_bytes)
    size = (folder / "large.mbox").stat().st_size
    out = folder / "out"
    out.mkdir()
    started = time.perf_counter()
    with Peak() as peak:
        summary = gather([folder / "large.mbox"], out)
    seconds = time.perf_counter() - started
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        f"mailbox of {format_bytes(size)}, {count} messages, to examples: {seconds:.0f} s, "
        f"{size / 1e6 / seconds:.1f} MB/s; {summary.num_train + summary.num_held_out} documents; "
        f"peak memory {format_bytes(max(peak.own_bytes, highest))} here, "
        f"{format_bytes(peak.child_bytes)} in the reading process"
    )
    assert max(peak.own_bytes, peak.child_bytes) < GIB or size < 100 * MIB


if __name__ == "__main__":
    main()
