"""`bmrt eval`: how good a model is, with figures that say how sure they are."""

import asyncio
import math
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from baremetalrt.cli import options as parsing
from baremetalrt.cli import output
from baremetalrt.cli.model_display import ModelDisplay
from baremetalrt.cli.status_line import StatusLine
from baremetalrt.core.errors import UsageError
from baremetalrt.hosting.open_model import OpenRequest
from baremetalrt.node.naming import find_whole_model
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions

if TYPE_CHECKING:
    from baremetalrt.node.estimates import Estimate
    from baremetalrt.node.evaluation import QuestionFigures, TextFigures

_WINDOW: Final = 512
_FILE: Final = click.Path(path_type=Path)


@click.command("eval")
@click.argument("model", required=False, shell_complete=parsing.complete_model)
@click.option("--text", type=_FILE, metavar="FILE", help="Score this text: perplexity.")
@click.option("--questions", type=_FILE, metavar="FILE", help="Ask these: JSON lines.")
@click.option("--reference", metavar="MODEL", help="On the text, compare with this one.")
@click.option(
    "--window", type=click.IntRange(4), default=_WINDOW, show_default=True, metavar="TOKENS"
)
@click.option(
    "--adapter", "adapters", multiple=True, metavar="NAME[=SCALE]", help="Add a LoRA. Repeatable."
)
@parsing.JSON
@parsing.model_options
def command(
    model: str | None,
    text: Path | None,
    questions: Path | None,
    reference: str | None,
    window: int,
    adapters: tuple[str, ...],
    as_json: bool,
    options: ModelOptions,
) -> None:
    """Measure how good a model is, on a text, on questions, or on both.

    The text is taken in windows, and the second half of each is scored, as llama.cpp's perplexity does
    it. With a --reference, such as another precision: the divergence from it (KL, in nats for each
    token), and how often both would choose the same token. Questions are JSON lines: {"question": "…",
    "choices": ["…", "…"], "answer": 0}, or {"question": "…", "answer": "…"}. What stands behind ± is the
    standard error of the sample.
    """
    if text is None and (questions is None or reference is not None):
        raise UsageError(
            "a reference is compared with on a text"
            if reference
            else "there is nothing to measure on",
            code="eval.nothing",
            hint="name a text by --text FILE"
            + ("" if reference else ", questions by --questions FILE"),
        )
    given = Given(text, questions, window)
    request = OpenRequest(
        model=Opening(find_whole_model(model)), options=options, adapters=adapters
    )
    other = (
        OpenRequest(model=Opening(find_whole_model(reference)), options=options)
        if reference
        else None
    )
    name, figures, answers = asyncio.run(_measure(request, other, given))
    if as_json:
        output.print_json({"model": name, **_text_json(figures), **_questions_json(answers)})
        return
    output.print_table(("MEASURE", name, "OF"), [*_text_rows(figures), *_question_rows(answers)])


class Given:
    """The text and the questions, read before anything is loaded."""

    def __init__(self, text: Path | None, questions: Path | None, window: int) -> None:
        from baremetalrt.node.questions import read_questions

        self.text = parsing.read_text(text) if text else None
        self.questions = (
            read_questions(parsing.read_text(questions), questions.name) if questions else []
        )
        self.window = window


async def _measure(
    request: OpenRequest, other: OpenRequest | None, given: Given
) -> "tuple[str, TextFigures | None, QuestionFigures | None]":
    from baremetalrt.hosting.open_model import open_model
    from baremetalrt.node.evaluation import evaluate_questions, evaluate_text

    async with AsyncExitStack() as stack:
        display = stack.enter_context(ModelDisplay())
        opened = await stack.enter_async_context(open_model(request, display.on_event))
        reference = None
        if other is not None:
            second = await stack.enter_async_context(open_model(other, display.on_event))
            reference = second.model
        display.finish()
        line = stack.enter_context(StatusLine())
        model, figures, answers = opened.model, None, None
        if given.text is not None:
            figures = await evaluate_text(
                model,
                given.text,
                given.window,
                lambda share: line.update(f"reading the text: {share:.0%}"),
                reference=reference,
            )
        if given.questions:
            answers = await evaluate_questions(
                model, given.questions, lambda share: line.update(f"asking: {share:.0%}")
            )
        return model.name, figures, answers


def _text_rows(figures: "TextFigures | None") -> list[tuple[str, str, str]]:
    if figures is None:
        return []
    of = f"{figures.nats.count:,} tokens"
    rows = [("perplexity", f"{figures.perplexity:.4f} ± {figures.perplexity_error:.4f}", of)]
    if figures.compared is None:
        return rows
    found = figures.compared
    most, nearly_all = found.kl_percentiles
    return [
        *rows,
        ("KL from the reference", f"{found.kl.mean:.5f} ± {found.kl.error:.5f}", of),
        ("  99 % below", f"{most:.4f}", of),
        ("  99.9 % below", f"{nearly_all:.4f}", of),
        ("same token", _percent(found.agreement), of),
        ("nats more a token", f"{found.nats_more.mean:+.5f} ± {found.nats_more.error:.5f}", of),
    ]


def _question_rows(answers: "QuestionFigures | None") -> list[tuple[str, str, str]]:
    if answers is None:
        return []
    shares = (
        ("choices, by likelihood", answers.by_likelihood),
        ("choices, by likelihood a letter", answers.by_letter),
        ("answers, exact", answers.exact),
        ("answers, in the reply", answers.contained),
    )
    return [
        (name, _percent(share), f"{share.count:,} questions") for name, share in shares if share
    ]


def _percent(share: "Estimate") -> str:
    return f"{100 * share.mean:.1f} % ± {100 * share.error:.1f}"


def _json(found: "Estimate | None") -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "value": found.mean,
        "standard_error": None if math.isinf(found.error) else found.error,
        "count": found.count,
    }


def _text_json(figures: "TextFigures | None") -> dict[str, Any]:
    if figures is None:
        return {}
    said: dict[str, Any] = {
        "perplexity": figures.perplexity,
        "nats": _json(figures.nats),
        "windows": figures.num_windows,
    }
    if (found := figures.compared) is not None:
        said |= {
            "kl": _json(found.kl),
            "kl_99": found.kl_percentiles[0],
            "kl_99_9": found.kl_percentiles[1],
            "same_token": _json(found.agreement),
            "nats_more": _json(found.nats_more),
        }
    return said


def _questions_json(answers: "QuestionFigures | None") -> dict[str, Any]:
    if answers is None:
        return {}
    return {
        "choices": _json(answers.by_likelihood),
        "choices_by_letter": _json(answers.by_letter),
        "exact": _json(answers.exact),
        "contained": _json(answers.contained),
        "replies": answers.replies,
    }
