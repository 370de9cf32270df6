"""The numbers that shape a model, read from GGUF metadata and bounded before they are believed.

Source: the keys of ggml's `docs/gguf.md`; defaults follow llama.cpp's `llama-model.cpp`.
"""

import math
import reprlib
from dataclasses import dataclass
from typing import Final, Literal

from baremetalrt.core.errors import IntegrityError
from baremetalrt.weights.gguf import GGUFFile

_MAX_WIDTH: Final = 1 << 20
_MAX_HEADS: Final = 4096
_MAX_EXPERTS: Final = 1024
MAX_CONTEXT: Final = 1 << 28

RopeScaling = Literal["none", "linear", "yarn", "longrope"]
_ROPE_SCALINGS: Final[tuple[RopeScaling, ...]] = ("none", "linear", "yarn", "longrope")


@dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotary position embedding. Source: RoFormer; YaRN, arXiv 2309.00071."""

    num_dims: int
    base: float
    scale: float
    scaling: RopeScaling
    original_context: int
    extrapolation: float
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """What every architecture has, and the few numbers that only some have (zero or one if not)."""

    architecture: str
    num_blocks: int
    width: int
    feed_forward_width: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    vocabulary_size: int
    training_context: int
    norm_epsilon: float
    rope: Rope
    attention_scale: float
    # rope of the blocks with a sliding window, where it differs
    window_rope: Rope | None = None
    # sliding window in tokens, and which blocks have it
    window: int = 0
    windowed: tuple[bool, ...] = ()
    attention_softcap: float = 0.0
    logit_softcap: float = 0.0
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    # attention temperature by position: 1 + scale * log(1 + floor(position / original context))
    temperature_scale: float = 0.0
    num_experts: int = 0
    num_experts_used: int = 0
    expert_width: int = 0
    expert_weights_scale: float = 0.0

    @property
    def kv_width(self) -> int:
        """Elements per token and block in each of the K and V caches."""
        return self.head_size * self.num_kv_heads

    def is_windowed(self, block: int) -> bool:
        return bool(self.windowed) and self.windowed[block]

    def rope_of(self, block: int) -> Rope:
        return self.window_rope if self.window_rope and self.is_windowed(block) else self.rope


class MetadataReader:
    """Typed, bounded access to the metadata of one architecture."""

    def __init__(self, file: GGUFFile) -> None:
        self.file = file
        self.architecture = file.architecture

    def integer(self, key: str, *, low: int, high: int, default: int | None = None) -> int:
        """An integer within bounds. An array counts when all of its elements are equal.

        Raises:
            IntegrityError: absent without a default, of another type, or out of bounds.
        """
        value = self._get(key)
        if isinstance(value, list) and value and all(v == value[0] for v in value):
            value = value[0]
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.wrong(key, value, f"an integer from {low} to {high}")
        return value

    def number(self, key: str, *, low: float, high: float, default: float | None = None) -> float:
        """A finite number within bounds."""
        value = self._get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(key, value, "a number")
        if not math.isfinite(value) or not low <= value <= high:
            raise self.wrong(key, value, f"a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, key: str, *, default: bool) -> bool:
        value = self._get(key)
        return default if value is None else bool(value)

    def text(self, key: str, *, default: str) -> str:
        value = self._get(key)
        return value if isinstance(value, str) else default

    def flags(self, key: str, length: int) -> tuple[bool, ...] | None:
        """A list of `length` truth values, or None when there is no list under `key`."""
        value = self._get(key)
        if not isinstance(value, list):
            return None
        if len(value) < length:
            raise self.wrong(key, f"{len(value)} values", f"{length} values")
        return tuple(bool(v) for v in value[:length])

    def counts(self, key: str, length: int) -> tuple[int, ...] | None:
        """A count for each block, listed or the same for all; None when there is nothing under `key`."""
        value = self._get(key)
        if value is None:
            return None
        listed = value if isinstance(value, list) else [value] * length
        found = [v for v in listed if isinstance(v, int) and 0 <= v <= _MAX_HEADS]
        if len(found) != len(listed) or len(listed) < length:
            raise self.wrong(key, value, f"{length} counts up to {_MAX_HEADS}")
        return tuple(found[:length])

    def _get(self, key: str) -> object:
        # Metadata arrays are as long as the model is deep: anything longer is not for us.
        if (self.file.array_length(f"{self.architecture}.{key}") or 0) > _MAX_HEADS:
            raise self.wrong(key, "a huge array", "a value")
        return self.file.get(f"{self.architecture}.{key}")

    def wrong(self, key: str, value: object, expected: str) -> IntegrityError:
        found = "nothing" if value is None else reprlib.repr(value)
        return IntegrityError(
            f"{self.file.path.name}: {self.architecture}.{key} is {found}, expected {expected}",
            code="gguf.metadata",
            source=str(self.file.path),
        )


def read_hyperparameters(reader: MetadataReader) -> Hyperparameters:
    """The numbers that all architectures share; a family adds its own afterwards.

    Raises:
        IntegrityError: one is absent, of the wrong type, or absurd.
    """
    file = reader.file
    num_blocks = reader.integer("block_count", low=1, high=4096)
    width = reader.integer("embedding_length", low=1, high=_MAX_WIDTH)
    num_heads = reader.integer("attention.head_count", low=1, high=_MAX_HEADS)
    num_kv_heads = reader.integer(
        "attention.head_count_kv", low=1, high=num_heads, default=num_heads
    )
    if num_heads % num_kv_heads:
        raise reader.wrong("attention.head_count_kv", num_kv_heads, f"a divisor of {num_heads}")
    head_size = reader.integer(
        "attention.key_length", low=1, high=_MAX_WIDTH, default=max(1, width // num_heads)
    )
    value_size = reader.integer("attention.value_length", low=1, high=_MAX_WIDTH, default=head_size)
    if value_size != head_size:
        raise reader.wrong("attention.value_length", value_size, f"the key length {head_size}")
    training_context = reader.integer("context_length", low=1, high=MAX_CONTEXT)
    num_experts = reader.integer("expert_count", low=0, high=_MAX_EXPERTS, default=0)
    feed_forward_width = reader.integer("feed_forward_length", low=0, high=_MAX_WIDTH, default=0)
    return Hyperparameters(
        architecture=reader.architecture,
        num_blocks=num_blocks,
        width=width,
        feed_forward_width=feed_forward_width,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_size=head_size,
        vocabulary_size=_vocabulary_size(file),
        training_context=training_context,
        norm_epsilon=reader.number("attention.layer_norm_rms_epsilon", low=0.0, high=1.0),
        rope=_read_rope(reader, head_size, training_context),
        attention_scale=1.0 / math.sqrt(head_size),
        num_experts=num_experts,
        num_experts_used=reader.integer(
            "expert_used_count",
            low=1 if num_experts else 0,
            high=num_experts,
            default=0 if not num_experts else None,
        ),
        expert_width=reader.integer(
            "expert_feed_forward_length", low=1, high=_MAX_WIDTH, default=feed_forward_width
        ),
        expert_weights_scale=reader.number("expert_weights_scale", low=0.0, high=1e4, default=0.0),
    )


def _vocabulary_size(file: GGUFFile) -> int:
    """How many tokens the embedding has a row for; zero without one."""
    embedding = file.tensors.get("token_embd.weight")
    num_rows = embedding.shape[1] if embedding else 0
    num_tokens = file.array_length("tokenizer.ggml.tokens")
    # A row without a token could win, and libllama ends the process when asked for its text.
    if num_rows and num_tokens not in (None, num_rows):
        raise IntegrityError(
            f"{file.path.name} has {num_tokens} tokens but {num_rows} embeddings",
            code="gguf.vocabulary",
            source=str(file.path),
        )
    return num_rows


def _read_rope(reader: MetadataReader, head_size: int, training_context: int) -> Rope:
    num_dims = reader.integer("rope.dimension_count", low=2, high=head_size, default=head_size)
    if num_dims % 2:
        raise reader.wrong("rope.dimension_count", num_dims, "an even number")
    name = reader.text("rope.scaling.type", default="linear")
    if name not in _ROPE_SCALINGS:
        raise reader.wrong("rope.scaling.type", name, "one of " + ", ".join(_ROPE_SCALINGS))
    scaling: RopeScaling = next(s for s in _ROPE_SCALINGS if s == name)
    factor = reader.number(
        "rope.scaling.factor",
        low=0.0,
        high=1e6,
        default=reader.number("rope.scale_linear", low=0.0, high=1e6, default=0.0),
    )
    scale = 1.0 / factor if factor and scaling != "none" else 1.0
    extrapolation = 1.0 if scaling == "yarn" else 0.0
    attention_factor = reader.number("rope.scaling.attn_factor", low=0.0, high=1e6, default=1.0)
    if extrapolation:
        log_multiplier = reader.number(
            "rope.scaling.yarn_log_multiplier", low=0.0, high=100.0, default=0.0
        )
        attention_factor *= _yarn_attention_factor(1.0 / scale, log_multiplier)
    return Rope(
        num_dims=num_dims,
        base=reader.number("rope.freq_base", low=1e-3, high=1e12, default=10000.0),
        scale=scale,
        scaling=scaling,
        original_context=reader.integer(
            "rope.scaling.original_context_length",
            low=1,
            high=MAX_CONTEXT,
            default=training_context,
        ),
        extrapolation=extrapolation,
        attention_factor=attention_factor,
        beta_fast=reader.number("rope.scaling.yarn_beta_fast", low=1e-3, high=1e6, default=32.0),
        beta_slow=reader.number("rope.scaling.yarn_beta_slow", low=1e-3, high=1e6, default=1.0),
    )


def _yarn_attention_factor(factor: float, log_multiplier: float) -> float:
    """What to multiply attention by, beyond the `1 + 0.1 ln(factor)` that ggml's rope applies.

    Source: YaRN section 3.4, and `llama-context.cpp`, which cancels ggml's own factor likewise.
    """

    def mscale(multiplier: float) -> float:
        return 1.0 if factor <= 1.0 else 0.1 * multiplier * math.log(factor) + 1.0

    wanted = mscale(1.0) / mscale(log_multiplier) if log_multiplier else mscale(1.0)
    return wanted / (1.0 + 0.1 * math.log(factor))


def window_pattern(reader: MetadataReader, h: Hyperparameters, period: int) -> tuple[bool, ...]:
    """Which blocks look through a window: listed one by one, or all but every `period`-th."""
    listed = reader.flags("attention.slidingwindow_pattern", h.num_blocks)
    if listed is not None:
        return listed
    period = reader.integer(
        "attention.slidingwindow_pattern", low=0, high=h.num_blocks + 1, default=period
    )
    return tuple(period == 0 or i % period < period - 1 for i in range(h.num_blocks))
