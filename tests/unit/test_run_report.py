"""The report of a run: what was asked, how answers were judged, what is kept; for people and on disk."""

from dataclasses import replace
from pathlib import Path

import pytest

from baremetalrt.cli.run_report import describe
from baremetalrt.learning.checking import Sources
from baremetalrt.learning.judging import JUDGED_BY
from baremetalrt.tuning.examples import Example
from baremetalrt.tuning.report import Change, Checked, Checks, Report, Side

REPORT = Report(
    steps=30,
    best_step=20,
    kept_step=20,
    kept="the best by the held-out text",
    train_tokens=900,
    tokens_per_s=3.0,
    held_out_perplexity=Change(20.0, 18.0),
    general_perplexity=Change(20.0, 20.1),
    train_spans=4,
    train_recited=Change(0, 0),
    held_out_spans=4,
    held_out_recited=Change(0, 0),
    samples=(),
    losses=((1, 2.0), (2, 1.5)),
    held_out_losses=((0, 3.0),),
    settings={"rank": 4},
)


def checked(side: Side, **right: bool) -> Checked:
    return Checked(
        side=side,
        question="Who built the bridge?",
        expected="Masons from Aveyron built it.",
        origin="bridge.txt",
        before="A king.",
        after="Masons from\nRodez.",
        with_passage="Masons from Aveyron." if "with_passage" in right else None,
        right=right,
    )


CHECKS = Checks(
    checked=(
        checked("learned", before=False, after=True),
        checked("trained", before=False, after=True, with_passage=True),
        checked("trained", before=False, after=False, with_passage=True),
        checked("held out", before=False, after=False, with_passage=True),
    ),
    judged_by=JUDGED_BY,
)


def test_it_ends_with_what_was_asked() -> None:
    """How many were right of each kind, how that was judged, every answer; then what training does."""
    text = describe(replace(REPORT, checks=CHECKS))
    assert "kept is step 20: the best by the held-out text" in text
    table = {line[:24].strip(): line[24:].split("  ") for line in text.splitlines()}
    for title, counts in (
        ("questions trained on", ["0 of 1", "1 of 1"]),
        ("passages trained on", ["0 of 2", "1 of 2", "2 of 2"]),
        ("held-out text", ["0 of 1", "0 of 1", "1 of 1"]),
    ):
        assert [cell.strip() for cell in table[title] if cell.strip()] == counts
    end = text.index("answered right")
    assert text.index("perplexity") < text.index("recited word for word") < end
    assert JUDGED_BY in text[end:]
    assert text.count("question (passages trained on): Who built the bridge?") == 2
    assert "after:           Masons from Rodez." in text
    assert "passage at hand: Masons from Aveyron. [right]" in text
    assert text.endswith("for those, give the passage with the question.")


def test_what_there_is_not_is_said() -> None:
    """No held-out text, nobody asked, or nothing to ask about."""
    text = describe(replace(REPORT, held_out_perplexity=None))
    assert "held-out text            there is none" in text and "answered right" not in text
    none = Checks(checked=(), judged_by=JUDGED_BY, note="no text is long enough to be asked about")
    assert "questions: no text is long enough" in describe(replace(REPORT, checks=none))


def test_a_saved_report_is_the_same(tmp_path: Path) -> None:
    """To the last answer; a damaged one is none."""
    report = replace(REPORT, checks=CHECKS)
    path = report.save(tmp_path)
    assert Report.load(tmp_path) == report
    path.write_bytes(path.read_bytes()[:-10])
    assert Report.load(tmp_path) is None


@pytest.mark.parametrize("count", [0, 2])
def test_sources_are_bounded_and_always_the_same(count: int, tmp_path: Path) -> None:
    """Conversations that end with an answer to a question, passages of texts, of each side."""
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    lines = [Example(None, tuple(turns), "a"), Example(None, tuple(turns[1:]), "b")]
    lines += [Example(f"{i}. " + "A sentence of some words. " * 60) for i in range(5)]
    for name in ("train.jsonl", "held_out.jsonl"):
        (tmp_path / name).write_text("".join(example.as_line() + "\n" for example in lines))
    sources = Sources(tmp_path, count, seed=3)
    assert len(sources) == (6 if count else 0)
    assert [q.side for q in sources.ready()] == (["learned", "held out"] if count else [])
    assert all(len(found) == 2 * count for found in sources.passages.values())
    assert sources.passages == Sources(tmp_path, count, seed=3).passages
    assert sources.passages != Sources(tmp_path, 2, seed=4).passages
