"""From folders to examples: what stays, what goes, who can read it, and that a rerun does the same."""

import json
import mailbox
import random
import stat
from pathlib import Path
from typing import Any

import pytest

import document_kit as kit
from baremetalrt.core.errors import UsageError
from baremetalrt.core.installation import how_to_add
from baremetalrt.core.places import learned_folder
from baremetalrt.documents.gathering import GatherProgress
from baremetalrt.documents.splitting import SplitConfig
from baremetalrt.documents.verdicts import GatherConfig
from baremetalrt.learning import corpora as learning
from baremetalrt.learning.corpora import Corpus, gather_corpus

WARES = ("salt", "wool", "iron", "amber", "glass", "wine", "figs", "tar", "rope", "tea", "copper")
WARES += ("silk", "rye", "hides", "oil", "ice")
SHIPS = [
    f"The ship number {n} carried {word}, and {word} alone, from a port that {word} made rich, "
    f"until a winter in which nobody wanted {word} any more and number {n} stayed where it was."
    for n, word in enumerate(WARES)
]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BMRT_HOME", str(tmp_path / "home"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sixteen texts that have nothing to do with each other."""
    for number, text in enumerate(SHIPS):
        kit.write(tmp_path / "docs", f"{number}.txt", text)
    return tmp_path / "docs"


def examples(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def texts(corpus: Corpus) -> list[str]:
    return [e["text"] for path in (corpus.train_path, corpus.held_out_path) for e in examples(path)]


def test_every_text_is_on_one_side(folder: Path) -> None:
    """With where it came from; nothing is lost, and something is held out."""
    corpus = gather_corpus([folder], "ships")
    assert sorted(texts(corpus)) == sorted(SHIPS)
    assert corpus.summary.num_held_out == len(examples(corpus.held_out_path)) >= 1
    (first,) = (
        e
        for e in examples(corpus.train_path) + examples(corpus.held_out_path)
        if "salt" in e["text"]
    )
    assert first == {"text": SHIPS[0], "origin": str(folder / "0.txt")}


def test_only_the_owner_can_read_what_is_derived(folder: Path) -> None:
    """0700 and 0600, also while it is being written: nothing else is there."""
    corpus = gather_corpus([folder], "ships")
    for path in [corpus.folder.parent, corpus.folder]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    files = sorted(path.name for path in corpus.folder.iterdir())
    assert files == ["corpus.json", "held_out.jsonl", "train.jsonl", "unread.jsonl"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in corpus.folder.iterdir()} == {0o600}
    assert list(corpus.folder.parent.iterdir()) == [corpus.folder]


def test_a_rerun_finds_the_same_and_leaves_it(folder: Path, tmp_path: Path) -> None:
    """What training has put beside it stays."""
    first = gather_corpus([folder], "ships")
    kit.write(first.folder, "checkpoint", b"weights")
    second = gather_corpus([folder], "ships")
    assert first.is_new and not second.is_new
    assert first.summary == second.summary
    assert (second.folder / "checkpoint").exists()


def test_the_split_does_not_depend_on_names(folder: Path, tmp_path: Path) -> None:
    """The same texts elsewhere, under other names and in another order: on the same sides as before."""
    config = GatherConfig(split=SplitConfig(fraction=0.3))
    first = gather_corpus([folder], "ships", config)
    for number, text in enumerate(reversed(SHIPS)):
        kit.write(tmp_path / "copy", f"x{number}.md", text)
    second = gather_corpus([tmp_path / "copy"], "copies", config)
    held_out = {e["text"] for e in examples(first.held_out_path)}
    assert held_out == {e["text"] for e in examples(second.held_out_path)}
    assert first.summary.digest == second.summary.digest
    other = gather_corpus([folder], "others", GatherConfig(split=SplitConfig(fraction=0.3, seed=1)))
    assert held_out != {e["text"] for e in examples(other.held_out_path)}


def test_documents_that_moved_are_the_same_documents(folder: Path) -> None:
    """Other names, other places: what they say is what was learned, so nothing is read anew."""
    first = gather_corpus([folder], "ships")
    folder.joinpath("0.txt").rename(folder / "zz.txt")
    moved = folder.rename(folder.with_name("elsewhere"))
    second = gather_corpus([moved], "ships")
    assert not second.is_new and second.summary == first.summary


@pytest.mark.parametrize("num_files", [1, 3, 40])
def test_a_twentieth_is_held_out_in_several_stretches(num_files: int, tmp_path: Path) -> None:
    """One long text beside short ones, or alone: five in a hundred, and no text is held out whole."""
    words = random.Random(3)
    for number in range(num_files):
        size = 170_000 if number == 0 else 1500
        text = ""
        while len(text) < size:
            sentence = " ".join(words.choice(WARES) for _ in range(12))
            text += f"Of {sentence}, number {words.randrange(10**9)} was the last. "
            text += "\n\n" if words.random() < 0.2 else ""
        kit.write(tmp_path / "docs", f"{number}.txt", text)
    summary = gather_corpus([tmp_path / "docs"], "long").summary
    share = summary.held_out_bytes / (summary.held_out_bytes + summary.train_bytes)
    assert 0.045 < share < 0.055
    assert summary.num_held_out >= 4


def test_nothing_is_held_out_where_nothing_is_asked_for(folder: Path) -> None:
    """All texts are trained on; the file is there, and empty."""
    config = GatherConfig(split=SplitConfig(fraction=0.0))
    corpus = gather_corpus([folder], "ships", config)
    assert len(examples(corpus.train_path)) == len(SHIPS)
    assert examples(corpus.held_out_path) == [] and corpus.summary.num_held_out == 0


def test_other_documents_do_not_replace_what_was_learned(folder: Path) -> None:
    """Unless they may; then what was there is gone."""
    gather_corpus([folder], "ships")
    kit.write(folder, "more.txt", "A text of its own, which has joined the others lately.")
    with pytest.raises(UsageError) as caught:
        gather_corpus([folder], "ships")
    assert caught.value.code == "learn.exists"
    corpus = gather_corpus([folder], "ships", may_replace=True)
    assert corpus.is_new and len(texts(corpus)) == len(SHIPS) + 1


def test_duplicates_stay_once(folder: Path) -> None:
    """Also in another format; also nearly."""
    kit.write(folder, "again.docx", kit.docx(SHIPS[3]))
    kit.write(folder, "upper.txt", SHIPS[4].upper())
    kit.write(folder, "near.txt", SHIPS[5] + " And a word.")
    kit.write(folder, "nearer.txt", "Well. " + SHIPS[5])
    corpus = gather_corpus([folder], "ships")
    summary = corpus.summary
    assert (summary.num_duplicates, summary.num_near_duplicates) == (2, 2)
    assert len(texts(corpus)) == len(SHIPS)


def test_related_texts_are_on_one_side(tmp_path: Path) -> None:
    """A text and its later version: too different to be one, too alike to measure one with the other."""
    for number, text in enumerate(SHIPS):
        words = (text + " " + SHIPS[number - 1]).split()
        kit.write(tmp_path / "docs", f"{number}-a.txt", " ".join(words))
        kit.write(
            tmp_path / "docs", f"{number}-b.txt", " ".join([*words[:-14], f"other end {number}"])
        )
    config = GatherConfig(split=SplitConfig(fraction=0.4))
    corpus = gather_corpus([tmp_path / "docs"], "ships", config)
    origins = [
        {Path(e["origin"]).name.partition("-")[0] for e in examples(path)}
        for path in (corpus.train_path, corpus.held_out_path)
    ]
    assert corpus.summary.num_near_duplicates < len(SHIPS) and corpus.summary.num_held_out
    assert not origins[0] & origins[1]


def test_a_mail_and_its_attachment_are_on_one_side(tmp_path: Path) -> None:
    """One was sent because of the other."""
    box = mailbox.mbox(tmp_path / "box")
    for one, other in zip(SHIPS[:8], SHIPS[8:], strict=True):
        box.add(kit.mail(one, attachments=[("a.txt", "text/plain", other.encode())]))
    box.close()
    config = GatherConfig(split=SplitConfig(fraction=0.4))
    corpus = gather_corpus([tmp_path / "box"], "box", config)
    sides = [
        {e["origin"].rpartition("#")[2].partition("/")[0] for e in examples(path)}
        for path in (corpus.train_path, corpus.held_out_path)
    ]
    assert corpus.summary.documents == {"mail": 8, "text": 8}
    assert all(sides) and not sides[0] & sides[1]


def test_lines_that_many_documents_share_go(tmp_path: Path) -> None:
    """The footer of a mailing list, with its numbers; lines of code repeat and stay."""
    for number, text in enumerate(SHIPS):
        footer = f"You are subscriber {number} of the list of harbours and ships."
        kit.write(tmp_path / "docs", f"{number}.txt", f"{text}\n\n{footer}")
        code = f"import harbour_library\n\ndef ship_{number}():\n    return {number}, '{text[:60]}'"
        kit.write(tmp_path / "docs", f"{number}.py", code)
    corpus = gather_corpus([tmp_path / "docs"], "ships")
    assert corpus.summary.num_repeated_lines == len(SHIPS)
    assert not any("subscriber" in text for text in texts(corpus))
    assert sum("import harbour_library" in text for text in texts(corpus)) == len(SHIPS)


def test_one_document_alone_is_held_out_in_stretches(tmp_path: Path) -> None:
    """Cut between paragraphs, from several places; together they are the whole."""
    path = kit.write(tmp_path, "book.txt", "\n\n".join(SHIPS))
    corpus = gather_corpus([path], "book")
    train, held_out = (
        [paragraph for e in examples(side) for paragraph in e["text"].split("\n\n")]
        for side in (corpus.train_path, corpus.held_out_path)
    )
    assert sorted(train + held_out) == sorted(SHIPS)
    assert 2 <= len(held_out) <= 5


def test_what_was_not_read_is_listed_beside(folder: Path) -> None:
    """With reason and code; the rest is read all the same."""
    kit.write(folder, "photo.jpg", b"\xff\xd8\xff")
    kit.write(folder, ".secret", "hidden words")
    kit.write(folder, "node_modules/x.js", "x = 1")
    corpus = gather_corpus([folder], "ships")
    assert {(Path(u["origin"]).name, u["code"]) for u in examples(corpus.unread_path)} == {
        ("photo.jpg", "document.no-reader"),
        (".secret", "file.hidden"),
        ("node_modules", "file.machinery"),
    }
    assert len(texts(corpus)) == len(SHIPS)


def test_maildirs_are_read(tmp_path: Path) -> None:
    """`cur`, `new` and folders in it, whose names begin with a dot; not what is still on its way."""
    box = mailbox.Maildir(tmp_path / "Mail", create=True)
    box.add(kit.mail(SHIPS[0]))
    box.add_folder("Sent").add(kit.mail(SHIPS[1]))
    kit.write(tmp_path / "Mail" / "tmp", "1.x.y", bytes(kit.mail(SHIPS[2])))
    kit.write(tmp_path / "Mail", "dovecot.index", b"\0index")
    corpus = gather_corpus([tmp_path / "Mail"], "mail")
    assert corpus.summary.documents == {"mail": 2} and not corpus.summary.unread
    assert {e.partition("\n\n")[2] for e in texts(corpus)} == set(SHIPS[:2])


def test_what_was_learned_is_not_read_again(folder: Path) -> None:
    """A home folder may be inside of what is read."""
    gather_corpus([folder], "ships")
    corpus = gather_corpus([folder.parent], "everything")
    assert corpus.summary.num_files == len(SHIPS)
    assert corpus.summary.unread == {"file.own": 1}


def test_a_file_that_is_named_twice_is_read_once(folder: Path) -> None:
    """By itself, by its folder, by a link that was named."""
    (folder.parent / "link").symlink_to(folder)
    corpus = gather_corpus([folder / "3.txt", folder, folder.parent / "link"], "ships")
    assert corpus.summary.num_files == len(SHIPS) and not corpus.summary.num_duplicates


def test_progress_goes_from_nothing_to_everything(folder: Path) -> None:
    """In bytes of files, then in documents."""
    seen: list[GatherProgress] = []
    gather_corpus([folder], "ships", on_progress=seen.append)
    reading = [p for p in seen if p.phase == "reading"]
    assert [p.done for p in reading] == sorted(p.done for p in reading) and reading[0].done == 0
    assert {p.total for p in reading} == {sum(len(text) for text in SHIPS)}
    assert {p.phase for p in seen} == {"looking", "reading", "comparing"}


def test_nothing_to_learn_is_an_error(tmp_path: Path) -> None:
    """And leaves nothing."""
    kit.write(tmp_path / "docs", "a.jpg", b"\xff\xd8")
    with pytest.raises(UsageError) as caught:
        gather_corpus([tmp_path / "docs"], "nothing")
    assert caught.value.code == "learn.empty"
    assert not list((tmp_path / "home" / "learned").iterdir())


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 65, "a b", "x.", "CON/"])
def test_names_are_names(name: str, folder: Path) -> None:
    """They become folders."""
    with pytest.raises(UsageError) as caught:
        gather_corpus([folder], name)
    assert caught.value.code == "adapter.name"


def test_without_the_extra_the_error_says_what_to_type(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One command, for the Python that runs."""
    monkeypatch.setattr(learning, "_REQUIRED", ("no_such_package",))
    with pytest.raises(UsageError) as caught:
        gather_corpus([folder], "ships")
    assert caught.value.code == "learn.not-installed"
    assert caught.value.hint == how_to_add("learn", "tune")


def test_what_a_killed_run_left_is_swept_away(folder: Path) -> None:
    """By the next one of the same name; the folder of a run that goes on is left alone."""
    learned = learned_folder()
    dead = kit.write(learned, f".ships.{(1 << 22) + 1}/.spool", b"private words").parent
    other = kit.write(learned, f".ships.more.{(1 << 22) + 1}/.spool", b"private words").parent
    alive = kit.write(learned, ".ships.1/.spool", b"private words").parent
    gather_corpus([folder], "ships")
    assert (dead.exists(), other.exists(), alive.exists()) == (False, True, True)
