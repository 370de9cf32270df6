"""What a model makes of text: loss, verbatim memory, answers. No gradients."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from baremetalrt.tuning.model import TunableModel
from baremetalrt.tuning.tokenized import IGNORED, Row

# A span counts as memorized when, after its context, greedy decoding would say it word for word.
SPAN_TOKENS: Final = 50
_CONTEXT_TOKENS: Final = 20


@dataclass(frozen=True)
class Loss:
    """Nats per token over so many tokens."""

    per_token: float
    num_tokens: int


@dataclass(frozen=True)
class Memorization:
    """How many of `num_spans` spans of 50 tokens a model completes verbatim."""

    num_spans: int
    num_verbatim: int


def batches(rows: Sequence[Row], micro_rows: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Rows of similar length together, `(ids, labels)`; what is filled up at their ends is ignored.

    Attention looks back only, so what comes after a row changes nothing in it.
    """
    for start in range(0, len(rows), micro_rows):
        some = rows[start : start + micro_rows]
        longest = max(len(row.ids) for row in some)
        ids = np.zeros((len(some), longest), np.int64)
        labels = np.full((len(some), longest), IGNORED, np.int64)
        for i, row in enumerate(some):
            ids[i, : len(row.ids)] = row.ids
            labels[i, : len(row.labels)] = row.labels
        yield torch.from_numpy(ids), torch.from_numpy(labels)


def some_rows(rows: Sequence[Row], max_tokens: int) -> list[Row]:
    """Rows from all over, about as many as have so many tokens together; one at least."""
    total = sum(len(row.ids) for row in rows)
    return list(rows[:: max(1, -(-total // max_tokens))])


@torch.no_grad()
def held_out_loss(model: TunableModel, rows: Sequence[Row], micro_rows: int) -> Loss:
    """The mean over all labels of all rows."""
    model.network.eval()
    total, count = 0.0, 0
    ordered = sorted(rows, key=lambda row: len(row.ids))
    for ids, labels in batches(ordered, micro_rows):
        losses = model.token_losses(ids.to(model.device), labels.to(model.device))
        total += float(losses.sum(dtype=torch.float64))
        count += len(losses)
    return Loss(total / max(1, count), count)


@torch.no_grad()
def memorization(model: TunableModel, rows: Sequence[Row], micro_rows: int) -> Memorization:
    """Counts spans that the model would say verbatim.

    One pass tells: a model that decodes greedily says a span exactly when, given the true text before
    each of its tokens, that token is the likeliest.
    """
    model.network.eval()
    spans, verbatim = 0, 0
    for ids, labels in batches(rows, micro_rows):
        hidden_BTD = model.hidden(ids.to(model.device))
        for hidden_TD, labels_T in zip(hidden_BTD, labels, strict=True):
            hits = _hits(model, hidden_TD, labels_T)
            for start in range(_CONTEXT_TOKENS, len(hits) - SPAN_TOKENS + 1, SPAN_TOKENS):
                if bool((labels_T[start : start + SPAN_TOKENS] == IGNORED).any()):
                    continue
                spans += 1
                verbatim += bool(hits[start : start + SPAN_TOKENS].all())
    return Memorization(spans, verbatim)


def _hits(model: TunableModel, hidden_TD: torch.Tensor, labels_T: torch.Tensor) -> torch.Tensor:
    parts = hidden_TD.split(model.head.chunk_rows)
    likeliest = [model.head.logits(part).argmax(1).cpu() for part in parts]
    return torch.cat(likeliest) == labels_T


@torch.no_grad()
def answers(
    model: TunableModel, prompts: Sequence[Sequence[int]], num_tokens: int, ends: frozenset[int]
) -> list[list[int]]:
    """What follows each prompt, greedily, up to an end token; all at once, as weights are made once."""
    from transformers import DynamicCache

    if not prompts:
        return []
    model.network.eval()
    cache = DynamicCache(config=model.network.config)
    longest = max(len(prompt) for prompt in prompts)
    # Filled up in front, so that all go on at the same column; attention passes over what is filled up.
    padding = [longest - len(prompt) for prompt in prompts]
    filled = [[0] * n + list(prompt) for n, prompt in zip(padding, prompts, strict=True)]
    ids = torch.tensor(filled, device=model.device)
    columns = torch.arange(longest + num_tokens, device=model.device)
    shifts = torch.tensor(padding, device=model.device)[:, None]
    is_text, positions = columns >= shifts, (columns - shifts).clamp(min=0)
    said: list[list[int]] = [[] for _ in prompts]
    going = set(range(len(prompts)))
    first = 0
    for end in range(longest, longest + num_tokens):
        hidden_BTD = model.hidden(
            ids, cache=cache, mask=is_text[:, :end], positions=positions[:, first:end]
        )
        tokens = model.head.logits(hidden_BTD[:, -1]).argmax(1)
        for i in sorted(going):
            token = int(tokens[i])
            if token in ends:
                going.remove(i)
            else:
                said[i].append(token)
        if not going:
            break
        ids, first = tokens[:, None], end
    return said
