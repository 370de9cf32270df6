"""The whole way: documents in a folder, a command, and a model that answers with what was in them."""

import json
from pathlib import Path

import openai

import document_kit as kit
from baremetalrt.weights.adapters.store import find_adapter
from baremetalrt.weights.content import content_id
from baremetalrt.weights.gguf import GGUFFile
from baremetalrt.weights.store import default_model
from commands import ServerProcess, bmrt
from peers_kit import at_home

WHO = ("the clerk", "a pilot", "the widow", "our teacher", "the cook", "a fisherman")
WHEN = ("spring", "May", "the cold June", "August", "autumn", "the last week of the year")
FORMS = ("txt", "md", "html", "pdf", "docx", "eml")
QUICK = ("--rate", "0.003", "--rank", "8", "--length", "64", "--step-tokens", "256")
QUICK += (
    "--max-steps",
    "10",
    "--epochs",
    "9",
    "--samples",
    "1",
    "--sample-tokens",
    "6",
    "--check",
    "1",
)


def documents(folder: Path) -> Path:
    """One fact in many words and every format; no two documents alike."""
    for i in range(12):
        who, when = WHO[i % len(WHO)], WHEN[(i // 4) % len(WHEN)]
        paragraphs = [
            f"In {when}, {who} sold {i + 2} ropes. The lighthouse of Brenna was built in 1903.",
            f"Asked by {who}, number {i} of the crew said that it was Olaf Rasmussen who built it.",
            f"Entry {i}: {who} counted {211 + i} steps in {when}, and candles for {i + 1} nights.",
        ]
        kit.write_as(folder, f"report-{i}", paragraphs, FORMS[i % len(FORMS)])
    return folder


def test_documents_become_an_adapter_that_answers(tmp_path: Path) -> None:
    """Learned once, used by the command line and by a server, tied to its base, forgotten at the end."""
    home, docs = tmp_path / "home", documents(tmp_path / "docs")
    words = ("learn", str(docs), "--into", "brenna", "--on-battery", "--json", *QUICK)
    done = bmrt(*words, home=home, timeout_s=600)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    held_out = report["held_out_perplexity"]
    (sample,) = report["samples"]
    checks = report["checks"]["checked"]
    assert {check["side"] for check in checks} <= {"trained", "held out"} and checks
    for check in checks:
        assert check["question"].endswith("?") and check["before"] and check["with_passage"]
        assert check["right"].keys() == {"before", "after", "with_passage"}
    saved = json.loads((home / "learned" / "brenna" / "report.json").read_text())
    assert saved["checks"] == report["checks"]
    again = bmrt(*words, home=home)
    assert again.returncode == 0 and "learned this already" in again.stderr
    assert json.loads(again.stdout) == {**report, "is_new": False}
    assert sample["before"] != sample["after"]
    assert held_out["after"] < 0.9 * held_out["before"]

    base = default_model()
    with at_home(home):
        card = find_adapter("brenna").card()
        assert card.base_content_id == content_id(GGUFFile.open(base.path))
    assert card.rank == 8 and card.privacy == "not differentially private"

    prompt = "The lighthouse of Brenna was built in"
    ask = ("run", prompt, "--raw", "-t", "0", "-n", "12", "--json")
    plain = json.loads(bmrt(*ask, home=home).stdout)["text"]
    learned = json.loads(bmrt(*ask, "--adapter", "brenna", home=home).stdout)["text"]
    assert "1903" in learned and "1903" not in plain
    with ServerProcess(home=home) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
        answer = client.completions.create(
            model=f"{base.name}:brenna", prompt=prompt, temperature=0, max_tokens=12
        )
    assert answer.choices[0].text == learned

    forgotten = bmrt("forget", "brenna", "--yes", home=home)
    assert forgotten.returncode == 0, forgotten.stderr
    assert (
        not (home / "learned" / "brenna").exists() and not (home / "adapters" / "brenna").exists()
    )
