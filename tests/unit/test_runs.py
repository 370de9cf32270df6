"""Which run is which: by what it does, not by what files are called; and what is kept of it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from baremetalrt.cli.learn_display import how_to_go_on
from baremetalrt.cli.progress_line import tuning_line
from baremetalrt.core.errors import UsageError
from baremetalrt.documents.splitting import SplitConfig
from baremetalrt.learning import events
from baremetalrt.learning.ready_made import keep_examples
from baremetalrt.tuning.config import TuneConfig, TuneProgress
from baremetalrt.tuning.keeping import MIN_JUDGED_TOKENS, choose_keeping
from baremetalrt.tuning.memory_plan import MemoryPlan
from baremetalrt.tuning.pace import Pace
from baremetalrt.tuning.preflight import check_request
from baremetalrt.tuning.report import Change, Report
from baremetalrt.tuning.resuming import BegunRun, ended_run, identity
from tiny_models import TinyModel, write

PLAN = MemoryPlan(
    rank=4,
    length=64,
    micro_rows=1,
    step_rows=2,
    checkpointing=True,
    keep_block=False,
    logits_bytes=1,
    estimated_bytes=1,
    budget_bytes=1,
)
REPORT = Report(
    steps=3,
    best_step=3,
    kept_step=3,
    kept="the last, as asked for",
    train_tokens=1,
    tokens_per_s=1.0,
    held_out_perplexity=None,
    general_perplexity=Change(2.0, 2.0),
    train_spans=0,
    train_recited=Change(0, 0),
    held_out_spans=0,
    held_out_recited=Change(0, 0),
    samples=(),
    losses=((1, 2.0),),
    held_out_losses=(),
    settings={},
)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BMRT_HOME", str(tmp_path / "home"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write(TinyModel("llama"), tmp_path / "model.gguf")


def examples(folder: Path, name: str = "examples.jsonl", *, last: str = "Number 11.") -> Path:
    texts = [f"Number {i}." for i in range(11)] + [last]
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def corpus(path: Path, name: str) -> Path:
    return keep_examples([path], name, SplitConfig(fraction=0.2)).folder


def test_a_run_is_what_it_does(model: Path, tmp_path: Path) -> None:
    """Files may be called otherwise, and lie elsewhere; with one other byte it is another run."""
    first = identity(TuneConfig(), corpus(examples(tmp_path / "a"), "a"), model)
    folder = corpus(examples(tmp_path / "b", "others.ndjson"), "b")
    renamed = Path(shutil.copy(model, tmp_path / "renamed.gguf"))
    assert identity(TuneConfig(num_threads=7), folder, renamed) == first
    (tmp_path / "other").mkdir()
    other = write(TinyModel("llama", seed=1), tmp_path / "other" / model.name)
    assert other.stat().st_size == model.stat().st_size
    assert identity(TuneConfig(), folder, other) != first
    assert identity(TuneConfig(rank=5), folder, model) != first
    (folder / "questions.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b"}))
    assert identity(TuneConfig(), folder, model) != first


def test_a_file_that_is_overwritten_is_another_model(model: Path, tmp_path: Path) -> None:
    """Same name, same size, other weights."""
    folder = corpus(examples(tmp_path / "a"), "a")
    first, size = identity(TuneConfig(), folder, model), model.stat().st_size
    write(TinyModel("llama", seed=1), model)
    assert model.stat().st_size == size and identity(TuneConfig(), folder, model) != first


def test_an_interrupted_run_is_not_lost_to_another(model: Path, tmp_path: Path) -> None:
    """Once it has a checkpoint; the error says which setting differs."""
    folder = corpus(examples(tmp_path / "a"), "a")
    begun = BegunRun(folder, identity(TuneConfig(), folder, model))
    other = BegunRun(folder, identity(TuneConfig(epochs=4), folder, model))
    begun.remember(PLAN, 1e-3)
    other.require_no_other()
    (folder / "checkpoint.safetensors").write_bytes(b"weights")
    begun.require_no_other()
    with pytest.raises(UsageError, match=r"epochs 3\.0 and not 4") as caught:
        other.require_no_other()
    assert caught.value.code == "tune.interrupted" and "--replace" in (caught.value.hint or "")
    begun.forget()
    other.require_no_other()


def test_a_run_has_ended_when_report_and_adapter_are_there(model: Path, tmp_path: Path) -> None:
    """Its own adapter, as it left it; another one of that name, or none, does not count."""
    folder, adapter = corpus(examples(tmp_path / "a"), "a"), tmp_path / "adapter"
    adapter.mkdir()
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(b"weights")
    config = TuneConfig()
    assert ended_run(config, folder, model, adapter) is None
    BegunRun(folder, identity(config, folder, model)).end(adapter)
    assert ended_run(config, folder, model, adapter) is None
    REPORT.save(folder)
    assert ended_run(replace(config, num_samples=9), folder, model, adapter) == REPORT
    assert ended_run(replace(config, seed=9), folder, model, adapter) is None
    weights.write_bytes(b"other weights")
    assert ended_run(config, folder, model, adapter) is None
    weights.unlink()
    assert ended_run(config, folder, model, adapter) is None


def test_examples_of_other_files_do_not_replace_what_was_learned(tmp_path: Path) -> None:
    """The same ones leave what is there; others may take its place if they are allowed to."""
    folder = corpus(examples(tmp_path / "a"), "a")
    (folder / "checkpoint.safetensors").write_bytes(b"weights")
    corpus(examples(tmp_path / "b", "x.jsonl"), "a")
    assert (folder / "checkpoint.safetensors").exists()
    other = examples(tmp_path / "c", last="Something else.")
    with pytest.raises(UsageError) as caught:
        corpus(other, "a")
    assert caught.value.code == "learn.exists"
    assert keep_examples([other], "a", SplitConfig(), may_replace=True).is_new
    assert not (folder / "checkpoint.safetensors").exists()


def test_conversations_stay_whole_and_texts_are_held_out_in_stretches(tmp_path: Path) -> None:
    """A tenth, by bytes, of one long text beside many short conversations."""
    path = tmp_path / "x.jsonl"
    turns = [{"prompt": f"Number {i}?", "completion": f"It is {i}. " * 9} for i in range(100)]
    text = {"text": " ".join(f"Sentence number {i} is here." for i in range(2000))}
    path.write_text("".join(json.dumps(line) + "\n" for line in [text, *turns]))
    kept = keep_examples([path], "x", SplitConfig(fraction=0.1))
    summary = kept.summary
    share = summary.held_out_bytes / (summary.held_out_bytes + summary.train_bytes)
    assert 0.09 < share < 0.11 and summary.num_held_out >= 4
    lines = [
        json.loads(line)
        for side in (kept.train_path, kept.held_out_path)
        for line in side.read_text().splitlines()
    ]
    assert sum("messages" in line for line in lines) == 100
    assert all(len(line["messages"]) == 2 for line in lines if "messages" in line)


@pytest.mark.parametrize(
    ("config", "num_judged", "keeps_best", "why"),
    [
        (TuneConfig(), MIN_JUDGED_TOKENS, True, "best"),
        (TuneConfig(), 20, False, "20 held-out tokens are too few"),
        (TuneConfig(), 0, False, "nothing is held out"),
        (TuneConfig(keep="last"), 9999, False, "as asked for"),
        (TuneConfig(epsilon=2.0), 9999, False, "private"),
    ],
)
def test_what_decides_which_step_is_kept(
    config: TuneConfig, num_judged: int, keeps_best: bool, why: str
) -> None:
    keeping = choose_keeping(config, num_judged)
    assert keeping.keeps_best == keeps_best and why in keeping.reason


def test_what_is_left_counts_what_comes_after_the_last_step() -> None:
    """The report is read at the pace of judging, or a third of that of steps; nothing is `0 s left`."""
    pace = Pace(step_tokens=100, step_s=30.0, judged_tokens=100, judged_s=20.0)
    assert pace.left_s(step_tokens=0, judged_tokens=900) == pytest.approx(180)
    assert Pace(step_tokens=100, step_s=30.0).left_s(
        step_tokens=10, judged_tokens=900
    ) == pytest.approx(93)
    assert Pace().left_s(step_tokens=1, judged_tokens=1) is None
    progress = TuneProgress(phase="training", step=9, num_steps=9, left_s=180.0)
    assert "3 min" in tuning_line(progress)
    for left_s in (None, 0.0, 0.4):
        assert "left" not in tuning_line(replace(progress, left_s=left_s))


def test_an_interruption_says_how_to_go_on() -> None:
    """Where the same command begins, whatever was going on."""
    training = TuneProgress(phase="training", step=42, num_steps=150, saved_step=40)
    for event, said in (
        (None, "begins anew"),
        (events.GatherProgress(phase="reading", done=1, total=2, num_documents=1), "begins anew"),
        (events.AskedAbout(3, 8), "3 of 8"),
        (replace(training, step=0, saved_step=None, phase="probing"), "before the first step"),
        (training, "at step 42 of 150: the same command goes on after step 40"),
        (replace(training, phase="reporting"), "goes on with the report"),
    ):
        assert said in how_to_go_on(event)


@pytest.mark.parametrize(
    ("changes", "code"),
    [({"targets": "nothing"}, "tune.targets"), ({"device": "nothing"}, "tune.device")],
)
def test_what_cannot_be_tuned_is_said_at_once(
    changes: dict[str, str], code: str, talking_model: Path
) -> None:
    """Before anything is read: modules that are not there, devices that are not there, other files."""
    for targets in (None, "q_proj", "q_proj,nothing", r".*\.0\..*(up|down)_proj"):
        check_request(TuneConfig(targets=targets), talking_model)
    with pytest.raises(UsageError) as caught:
        check_request(TuneConfig(**changes), talking_model)
    assert caught.value.code == code
