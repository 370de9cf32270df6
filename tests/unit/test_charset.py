"""Bytes that say nothing of themselves are read as what they most likely are."""

from pathlib import Path

import pytest

from baremetalrt.cli.options import grammar
from baremetalrt.core.text_input import text_of
from baremetalrt.documents.charset import decode, is_binary
from baremetalrt.serve.openai.reading import read
from baremetalrt.serve.openai.schema import CompletionRequest
from baremetalrt.session.grammar import from_gbnf
from baremetalrt.swarm.config import load_swarm_config
from baremetalrt.tuning.examples import read_lines
from charset_samples import CORPUS, samples

LANGUAGES = [name for name, (_, texts) in CORPUS.items() if not " ".join(texts).isascii()]


def joined(language: str) -> str:
    return " ".join(CORPUS[language][1])


def test_unlabelled_texts_are_read_in_their_encoding() -> None:
    """Whoever writes a line or more is read right; of a few words in rare encodings, most are."""
    wrong, num_short, num_wrong_short = [], 0, 0
    for language, encoding, text, is_long in samples():
        is_right = decode(text.encode(encoding)) == text
        if is_long and not is_right:
            wrong.append((language, encoding, text))
        num_short += not is_long
        num_wrong_short += not is_long and not is_right
    assert not wrong
    assert num_wrong_short <= num_short * 0.12


@pytest.mark.parametrize("text", ["Hyvää päivää, mitä kuuluu?", "Vi åker till Göteborg på lördag."])
def test_western_text_is_not_central_european(text: str) -> None:
    """A line is enough, though both have most of its letters."""
    assert decode(text.encode("cp1252")) == text


@pytest.mark.parametrize("declared", [None, "utf-8", "iso-8859-1", "us-ascii", "no such thing"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_utf8_with_a_bad_byte_stays_utf8(language: str, declared: str | None) -> None:
    """At the start, in the middle, between two letters, at the end; whatever was said of it."""
    text = joined(language)
    for at in (0, len(text) // 2, len(text)):
        data = text[:at].encode() + b"\xff" + text[at:].encode()
        assert decode(data, declared) == f"{text[:at]}\ufffd{text[at:]}"


@pytest.mark.parametrize("language", LANGUAGES)
def test_utf8_that_was_cut_off_stays_utf8(language: str) -> None:
    """In the middle of a character: what is left of it is not read as a letter of its own."""
    text = joined(language)
    at = max(at for at, char in enumerate(text) if not char.isascii())
    if any(not char.isascii() for char in text[:at]):
        assert decode(text[: at + 1].encode()[:-1]) == text[:at]


@pytest.mark.parametrize("encoding", ["cp932", "euc_jp", "gb18030", "big5", "euc_kr"])
def test_a_bad_byte_spoils_no_other_encoding(encoding: str) -> None:
    """A stray byte, and a character that was cut off."""
    language = next(k for k, (names, _) in CORPUS.items() if encoding in names.split())
    text = joined(language)
    data = text.encode(encoding)
    for damaged in (data[:40] + b"\xff" + data[40:], data[:-1]):
        assert decode(damaged)[:15] == text[:15]
        assert decode(damaged, encoding)[:15] == text[:15]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_bom_is_recognized(language: str, encoding: str) -> None:
    """Not by its zeros alone: beyond the Latin script there are few."""
    data = joined(language).encode(encoding)
    assert decode(data) == joined(language)
    assert not is_binary(data)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks_are_read_and_not_part_of_the_text(encoding: str) -> None:
    """Also of what is piped in, of schemas and of settings."""
    assert decode("Grüße".encode(encoding)) == text_of("Grüße".encode(encoding)) == "Grüße"


@pytest.mark.parametrize("language", ["ru", "el", "bg", "he"])
def test_a_label_that_cannot_be_is_not_believed(language: str) -> None:
    """Mail programs call everything Western."""
    encodings, _ = CORPUS[language]
    data = joined(language).encode(encodings.split()[0])
    assert decode(data, "iso-8859-1") == joined(language)


@pytest.mark.parametrize(("language", "encoding"), [("de", "cp1252"), ("ru", "cp1251")])
def test_lines_of_two_encodings_are_read_each_in_its_own(language: str, encoding: str) -> None:
    """Logs and exports that several programs wrote into."""
    text = "\n".join(CORPUS[language][1])
    data = text.encode() + b"\n" + 2 * (text.encode(encoding) + b"\n")
    assert decode(data) == f"{text}\n{text}\n{text}\n"


def test_a_label_that_can_be_is_believed() -> None:
    """Where nothing speaks against it, few letters are enough."""
    assert decode("Привет".encode("koi8-r"), "koi8-r") == "Привет"
    assert decode("Łódź".encode("iso8859-2"), "iso-8859-2") == "Łódź"
    assert decode("Čtyři".encode("cp1250"), "windows-1250") == "Čtyři"


def test_a_zero_does_not_make_a_text_binary() -> None:
    """One is an accident; many are a program's."""
    assert not is_binary(b"Text with a\0NUL in the middle of words.")
    assert is_binary(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\0>\0\x01\0\0\0")
    for language, encoding, text, is_long in samples():
        if is_long and encoding in ("cp1252", "cp1251", "cp1250"):
            at = len(text) // 2
            data = text[:at].encode(encoding) + b"\0" + text[at:].encode(encoding)
            assert decode(data).replace("\0", "") == text, language


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_what_editors_write_begins_with_a_bom(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Schemas, grammars, settings, examples to learn from, bodies of requests; as files and as words."""
    schema, gbnf, examples = tmp_path / "s.json", tmp_path / "g.gbnf", tmp_path / "e.jsonl"
    schema.write_bytes('{"type": "boolean"}'.encode(encoding))
    gbnf.write_bytes('root ::= "é"'.encode(encoding))
    examples.write_bytes('{"text": "é"}\n{"text": "b"}\n'.encode(encoding))
    assert grammar(str(schema), None) == grammar('\ufeff{"type": "boolean"}', None)
    assert grammar(None, gbnf) == from_gbnf('root ::= "é"')
    assert [example.text for example in read_lines(examples)] == ["é", "b"]
    monkeypatch.setenv("BMRT_HOME", str(tmp_path))
    (tmp_path / "config.toml").write_bytes("[swarm]\nport = 6999\n".encode(encoding))
    assert load_swarm_config().port == 6999
    body = '{"model": "m", "prompt": "é"}'.encode(encoding)
    assert read(body, CompletionRequest).request.prompt == "é"
