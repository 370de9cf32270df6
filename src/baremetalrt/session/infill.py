"""A text with a gap, as models read it that were trained to fill one.

Source: what llama.cpp's server makes of `/infill`: other files, what is before the gap, and what is
behind it.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from baremetalrt.core.errors import UsageError
from baremetalrt.session.tokenizer import Tokenizer

# Models were trained with some name in these places.
_REPOSITORY: Final = "project\n"
_THIS_FILE: Final = "filename\n"


class OtherFile(NamedTuple):
    """A file that belongs to the same work."""

    name: str
    text: str


def fill_prompt(
    tokenizer: Tokenizer, before: str, behind: str, files: Sequence[OtherFile] = ()
) -> list[int]:
    """The tokens that the filling follows. Texts are read as they are: no control token is in them.

    Raises:
        UsageError: the model has no tokens for a gap.
    """
    marks = tokenizer.fill_tokens
    if marks is None:
        raise UsageError(
            "this model was not made to fill a gap",
            code="model.no-infill",
            parameter="suffix",
            hint="models for code do, such as qwen2.5-coder; leave the suffix out for any other",
        )

    def said(text: str) -> list[int]:
        return tokenizer.encode(text, special=False)

    prompt: list[int] = []
    if files and marks.repository is not None:
        prompt += [marks.repository, *said(_REPOSITORY)]
    for file in files:
        if marks.file is None:
            prompt += said(f"{file.text}\n")
        else:
            prompt += [marks.file, *said(f"{file.name}\n"), *said(file.text)]
    if files and marks.file is not None:
        prompt += [marks.file, *said(_THIS_FILE)]
    prompt += tokenizer.beginning
    return [*prompt, marks.prefix, *said(before), marks.suffix, *said(behind), marks.middle]
