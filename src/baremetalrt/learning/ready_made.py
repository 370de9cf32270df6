"""Ready-made examples in files: split and kept like what is gathered from documents."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from baremetalrt.core.errors import UsageError
from baremetalrt.core.files import disk_errors
from baremetalrt.documents.gathering import (
    HELD_OUT,
    TRAIN,
    UNREAD,
    Summary,
    content_digest,
    corpus_digest,
)
from baremetalrt.documents.splitting import SplitConfig, Stretches, Text, choose_held_out, cut
from baremetalrt.documents.spool import open_private
from baremetalrt.learning.corpora import Corpus, drafted, settle

if TYPE_CHECKING:
    from baremetalrt.tuning.examples import Example

_KIND: Final = "example"


def keep_examples(
    files: Sequence[Path], name: str, config: SplitConfig, *, may_replace: bool = False
) -> Corpus:
    """Reads examples into the folder of `name`; those that say the same leave that folder as it is.

    Texts are held out in stretches; a conversation is on one side.

    Raises:
        UsageError: a file or a line is none, or `name` has learned something else, which may not go.
        CapacityError: the disk is full or forbidden.
    """
    from baremetalrt.tuning.examples import read_files

    examples = read_files(files)
    with drafted(name) as draft:
        with disk_errors():
            summary = _write(examples, files, draft, config)
        if not summary.num_train:
            raise UsageError(
                "there is nothing to learn: the files hold no examples",
                code="tune.too-little",
                parameter="files",
            )
        return settle(name, draft, summary, may_replace=may_replace)


def _write(
    examples: Sequence["Example"], files: Sequence[Path], draft: Path, config: SplitConfig
) -> Summary:
    # In an order of their own: whatever the files are called, the same examples make the same corpus.
    by_digest = sorted(((content_digest(e.said, False), e) for e in examples), key=lambda d: d[0])
    texts = [
        Text(
            digest,
            int.from_bytes(digest, "little"),
            e.num_bytes,
            e.text is None,
        )
        for digest, e in by_digest
    ]
    counts, sizes, digests = [0, 0], [0, 0], []
    with (
        open_private(draft / TRAIN, "wb") as train,
        open_private(draft / HELD_OUT, "wb") as held_out,
    ):
        for (_, example), stretches in zip(by_digest, choose_held_out(texts, config), strict=True):
            for part, is_held_out in _parts(example, stretches):
                (held_out if is_held_out else train).write(
                    part.as_line().encode("utf-8", "replace") + b"\n"
                )
                counts[is_held_out] += 1
                sizes[is_held_out] += part.num_bytes
                digests.append(content_digest(part.said, is_held_out))
    open_private(draft / UNREAD, "wb").close()
    return Summary(
        num_train=counts[0],
        num_held_out=counts[1],
        train_bytes=sizes[0],
        held_out_bytes=sizes[1],
        num_files=len(files),
        file_bytes=sum(file.stat().st_size for file in files),
        documents={_KIND: len(examples)},
        unread={},
        num_duplicates=0,
        num_near_duplicates=0,
        num_repeated_lines=0,
        digest=corpus_digest(digests),
    )


def _parts(example: "Example", stretches: Stretches) -> Iterator[tuple["Example", bool]]:
    if example.text is None:
        yield example, bool(stretches.held_out)
        return
    for part, is_held_out in cut(example.text, stretches):
        part = part if stretches.num == 1 else part.strip("\n")
        if part.strip():
            yield replace(example, text=part), is_held_out
