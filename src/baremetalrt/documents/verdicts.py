"""Which documents stay, which lines of them, and on which side they are."""

from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from baremetalrt.documents import duplicates
from baremetalrt.documents.boilerplate import BoilerplateConfig, LineCounts
from baremetalrt.documents.cleaning import has_words
from baremetalrt.documents.document import Document
from baremetalrt.documents.duplicates import DuplicateConfig
from baremetalrt.documents.limits import ReadingLimits
from baremetalrt.documents.splitting import SplitConfig, Stretches, Text, choose_held_out


@dataclass(frozen=True, kw_only=True)
class GatherConfig:
    """How documents are read, and what of them stays."""

    limits: ReadingLimits = field(default_factory=ReadingLimits)
    boilerplate: BoilerplateConfig = field(default_factory=BoilerplateConfig)
    duplicates: DuplicateConfig = field(default_factory=DuplicateConfig)
    split: SplitConfig = field(default_factory=SplitConfig)


@dataclass(frozen=True)
class Judged:
    """What the second pass found out.

    `stretches` has the numbers of the documents that stay, and what of each is held out; `trimmed` the
    numbers of those that lose lines.
    """

    verdict: duplicates.Verdict
    stretches: dict[int, Stretches]
    trimmed: set[int]
    num_repeated_lines: int


def judge(
    documents: Iterable[Document],
    lines: LineCounts,
    config: GatherConfig,
    on_document: Callable[[int], None],
) -> Judged:
    """Reads every document once; calls `on_document` with the number of each."""
    hashes: list[bytes] = []
    signatures = bytearray()
    sizes = array("q")
    families: list[int] = []
    numbers: dict[str, int] = {}
    num_repeated = 0
    trimmed: set[int] = set()
    for number, document in enumerate(documents):
        on_document(number)
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
    texts = [Text(hashes[at], int(verdict.group_N[at]), sizes[at]) for at in staying]
    chosen = choose_held_out(texts, config.split)
    return Judged(verdict, dict(zip(staying, chosen, strict=True)), trimmed, num_repeated)


def _family(document: Document) -> str:
    """The mail that something was attached to, or the file."""
    part = document.origin.part
    head = part.partition("/")[0] if part.startswith("message ") else ""
    return f"{document.origin.path}\n{head}"
