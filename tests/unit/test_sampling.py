"""From logits to tokens, beside the same arithmetic in numpy."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from baremetalrt.core.errors import IntegrityError, UsageError
from baremetalrt.session.options import SampleOptions
from baremetalrt.session.sampling import Sampler, log_probabilities

VOCABULARY = 24
RNG = np.random.default_rng(7)
LOGITS = (2 * RNG.standard_normal(VOCABULARY)).astype(np.float32)
OFF = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}


def draw(
    count: int,
    *,
    logits: NDArray[np.float32] = LOGITS,
    prompt: Sequence[int] = (),
    **options: object,
) -> list[int]:
    """Tokens drawn one after the other from the same logits."""
    sampler = Sampler(SampleOptions(**options), len(logits), prompt)
    tokens = [sampler.sample(logits.copy(), None) for _ in range(count)]
    sampler.close()
    return tokens


def softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.exp(x - x.max())
    return weights / weights.sum()


def remaining(top_k: int, top_p: float, min_p: float) -> NDArray[np.int64]:
    """The tokens that the filters leave, best first."""
    order = np.argsort(-LOGITS)[: top_k or None]
    probabilities = softmax(LOGITS[order].astype(np.float64))
    if top_p < 1.0:
        order = order[: int(np.searchsorted(np.cumsum(probabilities), top_p)) + 1]
    if min_p > 0.0:
        order = order[LOGITS[order] >= LOGITS[order[0]] + np.log(min_p)]
    return order


@pytest.mark.parametrize("seed", range(5))
def test_temperature_zero_takes_the_best(seed: int) -> None:
    """Greedy is argmax, whatever the filters and the seed."""
    logits = np.random.default_rng(seed).standard_normal(VOCABULARY).astype(np.float32)
    assert draw(3, logits=logits, temperature=0.0, seed=seed) == [int(logits.argmax())] * 3


@pytest.mark.parametrize("seed", [0, 1, -1, 0xFFFFFFFF, (1 << 64) - 1, -(1 << 63)])
def test_a_seed_reproduces(seed: int) -> None:
    """Every seed, the odd ones too, draws the same tokens again."""
    options = {"temperature": 3.0, **OFF, "seed": seed}
    assert draw(50, **options) == draw(50, **options)


def test_other_seeds_draw_other_tokens() -> None:
    """A seed matters, and so does having none."""
    drawn = [tuple(draw(50, temperature=3.0, **OFF, seed=seed)) for seed in (1, 2, None, None)]
    assert len(set(drawn)) == 4


@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p"),
    [
        (0, 1.0, 0.0),
        (1, 1.0, 0.0),
        (5, 1.0, 0.0),
        (0, 0.6, 0.0),
        (0, 0.9, 0.0),
        (0, 1.0, 0.2),
        (0, 1.0, 0.02),
        (8, 0.8, 0.05),
        (12, 0.95, 0.1),
    ],
)
def test_filters_leave_the_right_tokens(top_k: int, top_p: float, min_p: float) -> None:
    """What is drawn is what numpy leaves, as often as its probabilities say."""
    tokens = draw(8000, temperature=2.0, top_k=top_k, top_p=top_p, min_p=min_p, seed=3)
    left = remaining(top_k, top_p, min_p)
    assert set(tokens) == set(left.tolist())
    expected = np.zeros(VOCABULARY)
    expected[left] = softmax(LOGITS[left].astype(np.float64) / 2.0)
    seen = np.bincount(tokens, minlength=VOCABULARY) / len(tokens)
    assert np.abs(seen - expected).sum() / 2 < 0.03


@pytest.mark.parametrize(
    ("repetition", "presence", "frequency", "window"),
    [(3.0, 0.0, 0.0, 64), (1.0, 3.0, 0.0, 64), (1.0, 0.0, 0.4, 64), (1.2, 0.3, 0.8, 5)],
)
def test_penalties_look_at_the_last_tokens(
    repetition: float, presence: float, frequency: float, window: int
) -> None:
    """Greedy answers with penalties are those of a twin that counts for itself."""
    best = int(LOGITS.argmax())
    text = [best, 3, best, 4]
    expected = []
    for _ in range(30):
        logits = LOGITS.astype(np.float64)
        counts = np.bincount(text[-window:], minlength=VOCABULARY)
        scaled = np.where(logits > 0, logits / repetition, logits * repetition)
        logits = np.where(counts > 0, scaled - frequency * counts - presence, logits)
        expected.append(int(logits.argmax()))
        text.append(expected[-1])
    assert len(set(expected)) > 1, "the penalties change something"
    options = {
        "temperature": 0.0,
        "repetition_penalty": repetition,
        "presence_penalty": presence,
        "frequency_penalty": frequency,
        "penalty_window": window,
    }
    assert draw(30, prompt=[best, 3, best, 4], **options) == expected


def test_bias_and_grammar_rule_tokens_in_and_out() -> None:
    """A bias lifts a token to the top, and a mask leaves only what it allows."""
    worst = int(LOGITS.argmin())
    assert draw(1, temperature=0.0, logit_bias={worst: 100.0}) == [worst]
    allowed = np.zeros(VOCABULARY, dtype=np.bool_)
    allowed[[2, 5]] = True
    sampler = Sampler(SampleOptions(temperature=2.0, seed=1, **OFF), VOCABULARY, [])
    assert {sampler.sample(LOGITS.copy(), allowed) for _ in range(100)} == {2, 5}


@pytest.mark.parametrize("token", [-1, VOCABULARY])
def test_a_bias_is_for_tokens_that_exist(token: int) -> None:
    """One for any other is refused rather than forgotten, or put on a token from the end."""
    with pytest.raises(UsageError) as caught:
        draw(1, temperature=0.0, logit_bias={token: 1.0})
    assert caught.value.parameter == "logit_bias"


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_refused(value: float, temperature: float) -> None:
    """A damaged model is blamed rather than sampled from."""
    logits = LOGITS.copy()
    logits[11] = value
    with pytest.raises(IntegrityError, match="not a number"):
        draw(1, logits=logits, temperature=temperature)


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", -0.1), ("top_p", 1.1), ("min_p", float("nan")), ("repetition_penalty", 0.0)],
)
def test_options_out_of_range_are_named(name: str, value: float) -> None:
    """The user is told which option is wrong."""
    with pytest.raises(UsageError) as caught:
        SampleOptions(**{name: value})
    assert (caught.value.parameter, caught.value.code) == (name, "sampling.range")


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0, 1e4])
def test_log_probabilities_equal_log_softmax(scale: float) -> None:
    """They sum to one, and large logits do not overflow."""
    logits = (scale * RNG.standard_normal(50000)).astype(np.float32)
    ours = log_probabilities(logits)
    x = logits.astype(np.float64)
    expected = x - x.max() - np.log(np.exp(x - x.max()).sum())
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-5)
    assert abs(np.exp(ours.astype(np.float64)).sum() - 1) < 1e-5
