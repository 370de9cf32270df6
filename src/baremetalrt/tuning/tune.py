"""One whole run: examples in a folder, a model's file, an adapter in another folder, a report."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

import torch

from baremetalrt.core.errors import UsageError
from baremetalrt.devices.budget import LEDGER, Purpose
from baremetalrt.devices.processor import default_threads
from baremetalrt.native.vocabulary_guard import check_vocabulary
from baremetalrt.session.chat_template import ChatTemplate, TemplateProcess, template_of
from baremetalrt.session.tokenizer import MARK, Tokenizer
from baremetalrt.tuning.checkpoints import Checkpoints
from baremetalrt.tuning.config import Phase, TuneConfig, TuneProgress
from baremetalrt.tuning.curves import write_png
from baremetalrt.tuning.evaluation import some_rows
from baremetalrt.tuning.examples import HELD_OUT, Example, read_lines, training_examples
from baremetalrt.tuning.inquiry import Findings, Inquiry, compare, general_text, inquire
from baremetalrt.tuning.keeping import choose_keeping
from baremetalrt.tuning.memory_plan import MemoryPlan, count_steps, make_plan
from baremetalrt.tuning.model import TunableModel
from baremetalrt.tuning.pause_switch import PauseSwitch
from baremetalrt.tuning.privacy import Privacy
from baremetalrt.tuning.probing import MIN_STEPS, UNPROBED_RATE, probe_rate
from baremetalrt.tuning.report import NOT_PRIVATE, Report
from baremetalrt.tuning.resuming import BegunRun, identity
from baremetalrt.tuning.tokenized import Tokenized, prompt_text, text_tokens, tokenize
from baremetalrt.tuning.trained_adapter import TrainableAdapter, footprint_of
from baremetalrt.tuning.trainer import Trainer, TrainerConfig

OnProgress = Callable[[TuneProgress], None]
_SAMPLE_PROMPT_TOKENS: Final = 32
_MIN_REPORT_LENGTH: Final = 256
_MIN_JUDGED_TOKENS: Final = 4096
_JUDGED_PART: Final = 50
# What a question of the report costs, in tokens that are read at once: some are written one by one.
_CHECKED_TOKENS: Final = 2000
# Rows by which rates are told apart, where nothing is held out for that.
_PROBED_ROWS: Final = 8


def tune(
    config: TuneConfig,
    corpus_dir: Path,
    base_file: Path,
    adapter_dir: Path,
    on_progress: OnProgress,
    *,
    base_name: str = "",
    may_replace: bool = False,
    finish: Callable[[Report], None] = lambda report: None,
) -> Report:
    """Learns from `train.jsonl` and `questions.jsonl` in `corpus_dir`, judged by `held_out.jsonl` there.

    Blocks for long.

    Checkpoints, curves and report go to `corpus_dir`, the adapter in the form of `peft` to
    `adapter_dir`. A run that was interrupted goes on where it was; a file called `pause` in
    `corpus_dir` makes it wait. `may_replace`: an interrupted run of other settings may be lost. `finish`
    does what else has to be done before the run counts as ended.

    Raises:
        UsageError: the examples or the model cannot be used, or another run was interrupted there.
        IntegrityError: the model's file is damaged.
        CapacityError: memory or disk do not suffice.
    """
    begun = BegunRun(corpus_dir, identity(config, corpus_dir, base_file))
    if not may_replace:
        begun.require_no_other()
    run = _Run(config, begun, corpus_dir, base_file, adapter_dir, on_progress, base_name)
    report = run.run()
    finish(report)
    begun.end(adapter_dir)
    return report


class _Run:
    def __init__(
        self,
        config: TuneConfig,
        begun: BegunRun,
        corpus_dir: Path,
        base_file: Path,
        adapter_dir: Path,
        on_progress: OnProgress,
        base_name: str,
    ) -> None:
        self._corpus_dir, self._adapter_dir = corpus_dir, adapter_dir
        self._base_file, self._base_name = base_file, base_name or base_file.stem
        self._on_progress = on_progress
        self._threads = config.num_threads or default_threads()
        torch.set_num_threads(self._threads)
        self._begun = begun
        self._config = begun.settings(config)

    def run(self) -> Report:
        self._say("measuring", "reading the examples")
        train_examples = training_examples(self._corpus_dir)
        held_out_examples = read_lines(self._corpus_dir / HELD_OUT)
        check_vocabulary(self._base_file)
        self._tokenizer = Tokenizer(self._base_file)
        templates = TemplateProcess()
        self._model = TunableModel(
            self._base_file, num_threads=self._threads, device=self._config.device
        )
        try:
            self._template = self._chat_template(templates)
            train = tokenize(train_examples, self._tokenizer, self._template)
            held_out = tokenize(held_out_examples, self._tokenizer, self._template)
            return self._learn(train, held_out, held_out_examples or train_examples)
        finally:
            self._model.close()
            self._tokenizer.close()
            templates.close()

    def _learn(self, train: Tokenized, held_out: Tokenized, shown: Sequence[Example]) -> Report:
        plan = self._plan(train)
        rows, judged = train.rows(plan.length), held_out.rows(plan.length)
        # Judging should take a small part of the time of learning.
        num_learned = int(train.num_tokens * self._config.epochs)
        judged = some_rows(judged, max(_MIN_JUDGED_TOKENS, num_learned // _JUDGED_PART))
        if not any(row.num_labels for row in rows):
            raise UsageError(
                "the examples hold too little text to learn from", code="tune.too-little"
            )
        keeping = choose_keeping(self._config, sum(row.num_labels for row in judged))
        model = self._model
        model.set_checkpointing(plan.checkpointing, keep_block=plan.keep_block)
        torch.manual_seed(self._config.seed)
        adapter = TrainableAdapter(model, self._config, plan.rank, self._base_name)
        num_steps = count_steps(self._config, len(rows), plan.step_rows)
        privacy = self._privacy(len(rows), plan.step_rows, num_steps)
        inquiry = self._inquiry(train, held_out, shown, plan)
        trainer_config = TrainerConfig(
            step_rows=plan.step_rows,
            micro_rows=plan.micro_rows,
            num_steps=num_steps,
            peak_rate=self._config.learning_rate or UNPROBED_RATE,
            seed=self._config.seed,
            patience=self._config.patience,
            evaluate_every=self._config.evaluate_every,
            checkpoint_every_s=self._config.checkpoint_every_s,
            budget_bytes=plan.budget_bytes,
            keeps_best=keeping.keeps_best,
            closing_tokens=2 * (inquiry.num_tokens + self._config.num_checks * _CHECKED_TOKENS),
            privacy=privacy,
        )
        # A probe looks at the rows without noise.
        is_probed = self._config.learning_rate is None and privacy is None
        if is_probed and num_steps >= MIN_STEPS:
            rate = probe_rate(
                trainer_config,
                model,
                adapter.parameters,
                rows,
                judged if keeping.keeps_best else rows[-_PROBED_ROWS:],
                lambda rate, loss: self._say("probing", f"rate {rate:g}: loss {loss:.4f}"),
            )
            trainer_config = replace(trainer_config, peak_rate=rate)
        self._begun.remember(plan, trainer_config.peak_rate)
        checkpoints = Checkpoints(self._corpus_dir, self._begun.identity)
        trainer = Trainer(trainer_config, model, adapter.parameters, rows, judged)
        waiting = PauseSwitch(self._corpus_dir, on_battery=self._config.waits_on_battery)
        history = trainer.run(checkpoints, waiting, self._on_progress)
        adapter.save(self._adapter_dir)
        write_png(history.losses, history.held_out, history.best_step, self._corpus_dir)
        settings = {
            **asdict(plan),
            "num_steps": num_steps,
            "learning_rate": trainer_config.peak_rate,
        }
        settings |= {
            "method": self._config.method,
            "seed": self._config.seed,
            "keep": self._config.keep,
        }
        with adapter.peft.disable_adapter():
            before = self._inquire(inquiry, "before")
        after = self._inquire(inquiry, "after")
        statement = privacy.state(history.step, plan.length) if privacy else NOT_PRIVATE
        report = compare(before, after, history, keeping, inquiry.prompts, settings, statement)
        report.save(self._corpus_dir)
        return report

    def _privacy(self, num_rows: int, step_rows: int, num_steps: int) -> Privacy | None:
        if self._config.epsilon is None:
            return None
        return Privacy.for_target(
            self._config.epsilon,
            self._config.delta,
            num_rows=num_rows,
            step_rows=step_rows,
            num_steps=num_steps,
        )

    def _plan(self, train: Tokenized) -> MemoryPlan:
        model = self._model
        plan = make_plan(
            self._config,
            footprint_of(model, self._config.targets),
            model.h,
            num_tokens=train.num_tokens,
            longest=train.longest,
            room_bytes=LEDGER.room_for(Purpose.TUNING),
        )
        model.head.limit_logits(plan.logits_bytes)
        return plan

    def _chat_template(self, templates: TemplateProcess) -> ChatTemplate:
        written = self._model.file.text("tokenizer.chat_template")
        return template_of(written, self._tokenizer, templates)

    def _inquiry(
        self, train: Tokenized, held_out: Tokenized, examples: Sequence[Example], plan: MemoryPlan
    ) -> Inquiry:
        tokenizer = self._tokenizer
        # Whatever was learned from, perplexity is measured with some context.
        length = max(plan.length, _MIN_REPORT_LENGTH)
        micro_rows = max(1, plan.micro_rows * plan.length // length)
        general = Tokenized(text_tokens(general_text(), tokenizer), ()).rows(length)
        prompts = []
        for example in examples[: self._config.num_samples]:
            if example.text is None:
                text = prompt_text(example, self._template)
                tokens = tokenizer.encode_chat(text)[-plan.length :]
                prompts.append((tokens, text.replace(MARK, "")))
            else:
                start = text_tokens(example.text, tokenizer)[:_SAMPLE_PROMPT_TOKENS]
                prompts.append((start, self._decode(start)))
        return Inquiry(
            train=train.rows(length),
            held_out=held_out.rows(length),
            general=general,
            prompts=prompts,
            sample_tokens=self._config.sample_tokens,
            ends=tokenizer.end_tokens,
            decode=self._decode,
            micro_rows=micro_rows,
        )

    def _decode(self, ids: Sequence[int]) -> str:
        return b"".join(self._tokenizer.piece(i) for i in ids).decode("utf-8", "replace")

    def _inquire(self, inquiry: Inquiry, when: str) -> Findings:
        return inquire(self._model, inquiry, lambda part: self._say("reporting", f"{when}: {part}"))

    def _say(self, phase: Phase, note: str) -> None:
        self._on_progress(TuneProgress(phase=phase, step=0, num_steps=0, note=note))
