"""What a model answers, and what is written in files, on a terminal that would obey it."""

from pathlib import Path

import pytest

from baremetalrt.cli.terminal import shown
from baremetalrt.weights.store import default_model
from commands import bmrt, on_a_terminal

# Writes the clipboard of the terminal, in the two ways in which a sequence may begin and end.
CLIPBOARD = "\x1b]52;c;b3duZWQ=\x07 \x9d52;c;b3duZWQ=\x9c done"
GRAMMAR = 'root ::= "\\x1b]52;c;b3duZWQ=\\x07 \\x9d52;c;b3duZWQ=\\x9c done"'
DANGEROUS = {
    "clipboard": ("\x1b]52;c;eA==\x07", "␛]52;c;eA==␇"),
    "eight bits": ("\x9b31mred", "\ufffd31mred"),
    "title": ("\x1b]0;owned\x1b\\", "␛]0;owned␛\\"),
    "over what was said": ("true\rfalse\b\b", "true␍false␈␈"),
    "deleted": ("a\x7fb\x00", "a␡b␀"),
    "right to left": ("exe.\u202efdp", "exe.\ufffdfdp"),
    "isolated": ("\u2066x\u2069", "\ufffdx\ufffd"),
    "half a character": ("\ud800", "\ufffd"),
}


@pytest.mark.parametrize("name", DANGEROUS)
def test_what_a_terminal_would_obey_is_shown(name: str) -> None:
    text, seen = DANGEROUS[name]
    assert shown(text) == seen


def test_what_people_write_stays_as_it_is() -> None:
    """Lines, tabs, every script, joined emoji, marks of direction."""
    for text in (
        "a\tb\n",
        "Straße",
        "नमस्ते",
        "שלום\u200f!",
        "\u200eسلام",
        "👩\u200d👩\u200d👧",
        "e\u0301",
    ):
        assert shown(text) == text


def test_an_answer_cannot_write_the_clipboard(tmp_path: Path) -> None:
    """On a terminal it is seen what it would have done; a file gets it word for word."""
    grammar = tmp_path / "escape.gbnf"
    grammar.write_text(GRAMMAR)
    ask = ("run", "Hello", "--raw", "-t", "0", "-n", "60", "--grammar", str(grammar))
    seen = on_a_terminal(*ask, home=tmp_path).decode()
    assert "␛]52;c;b3duZWQ=␇ \ufffd52;c;b3duZWQ=\ufffd done" in seen
    assert "\x1b" not in seen and "\x07" not in seen and "\x9d" not in seen
    assert bmrt(*ask, home=tmp_path).stdout.rstrip("\n") == CLIPBOARD


def test_names_in_the_store_cannot_either(tmp_path: Path) -> None:
    """A file whose name is a sequence, in a listing."""
    model, models = default_model(), tmp_path / "models"
    assert model is not None
    models.mkdir()
    (models / "nice\x1b]0;owned\x07.gguf").symlink_to(model.path)
    seen = on_a_terminal("ls", home=tmp_path).decode()
    assert "nice␛]0;owned" in seen
    assert "\x1b]0" not in seen and "\x07" not in seen
