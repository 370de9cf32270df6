"""What a model thinks before it answers, apart from the answer, while both stream in."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from baremetalrt.session.stopping import overlap
from baremetalrt.session.tokenizer import Tokenizer


class ThoughtMarks(NamedTuple):
    """What begins and ends a thought; either may be a control token."""

    opening: str
    closing: str

    @property
    def tokens(self) -> frozenset[str]:
        """What of them may be control tokens."""
        return frozenset({self.opening.removesuffix("thought"), self.closing})


THINK: Final = ThoughtMarks("<think>", "</think>")
# Those of Mistral's, Gemma's and Seed's models; most others share the first.
_KNOWN: Final = (
    THINK,
    ThoughtMarks("[THINK]", "[/THINK]"),
    ThoughtMarks("<|channel>thought", "<channel|>"),
    ThoughtMarks("<seed:think>", "</seed:think>"),
)
# How far from its end a prompt may open what the model then goes on with.
_TAIL_TOKENS: Final = 4
# Efforts at which those who ask want none of it.
_NO_EFFORT: Final = ("none", "minimal")


def marks_of(template: str) -> ThoughtMarks | None:
    """How the model of a chat template marks what it thinks, if it does."""
    return next((marks for marks in _KNOWN if marks.closing in template), None)


def begins_inside(marks: ThoughtMarks, tokenizer: Tokenizer, prompt: Sequence[int]) -> bool:
    """Whether the prompt has opened a thought already."""
    tail = b"".join(tokenizer.name(token) for token in prompt[-_TAIL_TOKENS:])
    return tail.decode("utf-8", "replace").rstrip().endswith(marks.opening)


def variables_for(effort: object) -> dict[str, object]:
    """What templates are told of `reasoning_effort`."""
    if not isinstance(effort, str):
        return {}
    return {"reasoning_effort": effort, "enable_thinking": effort not in _NO_EFFORT}


class ThoughtFinder:
    """Separates a thought at the beginning of an answer from what follows. Later marks are text."""

    def __init__(self, marks: ThoughtMarks = THINK, *, is_inside: bool) -> None:
        self._opening, self._closing = marks
        self._is_inside = is_inside
        self._is_over = False
        self._held = ""
        # White space around the marks belongs to neither side.
        self._skips_space = True

    def add(self, text: str) -> tuple[str, str]:
        """What can be shown now: of the thought, and of the answer."""
        if self._is_over:
            return "", self._trimmed(text)
        self._held += text
        if not self._is_inside:
            start = self._held.lstrip()
            if self._opening.startswith(start) and start != self._opening:
                return "", ""
            if not start.startswith(self._opening):
                self._is_over, self._skips_space = True, False
                return "", self._release()
            self._is_inside, self._held = True, start[len(self._opening) :]
        thought, closing, after = self._held.partition(self._closing)
        if closing:
            self._is_over, self._held = True, ""
            shown = self._trimmed(thought.rstrip())
            self._skips_space = True
            return shown, self._trimmed(after)
        # A line that ends here may be the last one, whose end is not part of it.
        cut = len(self._held[: len(self._held) - overlap(self._held, self._closing)].rstrip())
        thought, self._held = self._held[:cut], self._held[cut:]
        return self._trimmed(thought), ""

    def finish(self) -> tuple[str, str]:
        """What is left at the end."""
        rest = self._release()
        return ("", rest) if self._is_over or not self._is_inside else (self._trimmed(rest), "")

    def _trimmed(self, text: str) -> str:
        if self._skips_space:
            text = text.lstrip()
            self._skips_space = not text
        return text

    def _release(self) -> str:
        shown, self._held = self._held, ""
        return shown
