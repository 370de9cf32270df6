"""One generation: from a prompt to a stream of tokens.

With `temperature=0` or a seed, the same model, prompt and options give the same tokens. Sessions that
compute together round differently than one alone, which can tip a tie between two tokens.
"""

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from numpy.typing import NDArray

from baremetalrt.core.errors import IntegrityError, UsageError
from baremetalrt.core.owner import THIS_USER, Owner
from baremetalrt.session.grammar import Grammar, GrammarCompiler, GrammarMatcher
from baremetalrt.session.loops import LoopFinder
from baremetalrt.session.options import SampleOptions
from baremetalrt.session.overflow import shortened
from baremetalrt.session.route import Route, RoutePlace
from baremetalrt.session.sampling import Sampler, log_probabilities
from baremetalrt.session.stopping import StopMatcher
from baremetalrt.session.tokenizer import Detokenizer, Tokenizer

if TYPE_CHECKING:
    from baremetalrt.blocks.loaded_adapters import AdapterSet

# How far ahead room in the cache is taken when no limit on the answer says how much it needs.
_RESERVE_TOKENS: Final = 1024
# Rows are looked at where others wait, as the next step reuses their memory: so, few at once.
_SCORED_TOKENS: Final = 32

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """What to generate. `max_tokens=None`, or more than there is room for, goes on to the context's end;
    0 computes the prompt alone.

    Before `min_tokens`, no answer ends by a token of its own; `stop_tokens` end one like those that the
    model ends with.
    """

    sampling: SampleOptions = field(default_factory=SampleOptions)
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_tokens: frozenset[int] = frozenset()
    grammar: Grammar | None = None
    # go on past the tokens that end an answer: for measuring
    ignore_end: bool = False
    # how many alternatives to report per token; None reports no probabilities at all
    top_logprobs: int | None = None
    # an answer that says the same over and over ends, as if it had become too long
    ends_loops: bool = False
    # and those of the prompt's tokens, too: nothing of it comes out of the cache then
    scores_prompt: bool = False


@dataclass(frozen=True)
class TokenLogprob:
    """A token and the natural logarithm of its probability."""

    token: int
    logprob: float


@dataclass(frozen=True)
class Token:
    """One generated token. `text` is what may be shown now: often less or more than its own.

    `id` is None when text that was held back comes after the last token.
    """

    id: int | None
    text: str
    logprob: TokenLogprob | None = None
    alternatives: tuple[TokenLogprob, ...] = ()


@dataclass
class GenerationStats:
    """Counts in tokens and durations in seconds; final once the stream has ended."""

    prompt_tokens: int
    cached_tokens: int = 0
    generated_tokens: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0

    @property
    def prefill_tokens_per_s(self) -> float:
        computed = self.prompt_tokens - self.cached_tokens
        return computed / self.prefill_s if self.prefill_s else 0.0

    @property
    def decode_tokens_per_s(self) -> float:
        """Without the first token, which the prefill gives."""
        return max(0, self.generated_tokens - 1) / self.decode_s if self.decode_s else 0.0


class Session:
    """Generates one answer. Iterate over `generate()`; closing the iterator frees everything."""

    def __init__(
        self,
        route: Route,
        tokenizer: Tokenizer,
        grammars: GrammarCompiler,
        *,
        context_limit: int,
        prompt: list[int],
        options: GenerationOptions,
        adapters: "AdapterSet | None" = None,
        owner: Owner = THIS_USER,
        num_kept: int | None = None,
    ) -> None:
        """Checks the request; nothing is computed yet.

        With `num_kept`, a text that outgrows the context loses what is in its middle: so many tokens at
        its beginning stay, and the newest. Without, it is an error.

        Raises:
            UsageError: the prompt is empty or does not fit into the context.
        """
        self._route = route
        self._tokenizer = tokenizer
        self._options = options
        self._adapters = adapters
        self._owner = owner
        self._context_limit = context_limit
        self._num_kept = num_kept
        if num_kept is not None and len(prompt) >= context_limit:
            prompt = shortened(prompt, num_kept, context_limit)
        self._prompt = prompt
        self._limit = _token_limit(
            len(prompt), options.max_tokens, context_limit, slides=num_kept is not None
        )
        # what is stored; it is followed only where it may have to be shortened
        self._text = list(prompt) if num_kept is not None else []
        self._matcher: GrammarMatcher | None = None
        if options.grammar is not None:
            self._matcher = grammars.matcher(options.grammar)
        self._sampler = Sampler(options.sampling, tokenizer.size, prompt)
        self._detokenizer = Detokenizer(tokenizer)
        self._stops = StopMatcher(options.stop)
        self._capacity = 0
        # those of the prompt from its second token on, where they are scored
        self.prompt_scores: list[Token] = []
        self._loops = LoopFinder() if options.ends_loops else None
        # whether the answer was ended because it said the same over and over
        self.is_loop = False
        self.stats = GenerationStats(prompt_tokens=len(prompt))
        self.finish_reason: FinishReason | None = None

    @property
    def stopped_at(self) -> str | None:
        """The stop string that ended the answer, if one did."""
        return self._stops.matched

    @property
    def prompt(self) -> list[int]:
        """The tokens that the answer follows."""
        return self._prompt

    async def generate(self) -> AsyncGenerator[Token, None]:
        """The answer, token by token. After the last one `finish_reason` and `stats` are final.

        Raises:
            CapacityError: other sessions hold too much of the cache.
            IntegrityError: the model computes what is not a number.
        """
        wanted = len(self._prompt) + min(self._limit, _RESERVE_TOKENS)
        self._capacity = min(wanted, self._context_limit)
        known = () if self._options.scores_prompt else self._prompt
        place = await self._route.open(known, self._capacity, self._adapters, self._owner)
        sound = True
        try:
            started = time.perf_counter()
            logits_V = await self._prefill(place)
            first_at = time.perf_counter()
            self.stats.prefill_s = first_at - started
            if self._limit == 0:
                self.finish_reason = "length"
            while self.finish_reason is None:
                token = self._choose(logits_V)
                self.stats.decode_s = time.perf_counter() - first_at
                if token is not None:
                    yield token
                if self.finish_reason is None:
                    assert token is not None and token.id is not None
                    logits_V = await self._decode(place, token.id)
        except IntegrityError:
            # Numbers gone bad must not be built upon by later sessions.
            sound = False
            raise
        finally:
            self._sampler.close()
            self._route.release(place, keep=sound)

    async def _prefill(self, place: RoutePlace) -> NDArray[np.float32]:
        tokens = self._prompt
        done = self.stats.cached_tokens = place.length
        at_once = self._route.chunk_tokens
        if self._options.scores_prompt:
            at_once = min(at_once, _SCORED_TOKENS)
        while True:
            chunk = tokens[done : done + at_once]
            done += len(chunk)
            is_last = done == len(tokens)
            if self._options.scores_prompt:
                rows = await self._route.forward(place, chunk, "all")
                self._score(rows, tokens[done - len(chunk) + 1 : done + 1])
            else:
                rows = await self._route.forward(place, chunk, "last" if is_last else "none")
            if is_last:
                return _last(rows)

    def _score(self, rows_RV: NDArray[np.float32], following: list[int]) -> None:
        """Row i is about the token behind it; the last of a prompt has none."""
        for row_V, token in zip(rows_RV, following, strict=False):
            self.prompt_scores.append(self._token(token, "", log_probabilities(row_V)))

    async def _decode(self, place: RoutePlace, token: int) -> NDArray[np.float32]:
        if self._num_kept is not None:
            if place.length == self._context_limit:
                await self._shorten(place, self._num_kept)
            self._text.append(token)
        if place.length == self._capacity:
            total = min(len(self._prompt) + self._limit, self._context_limit)
            self._capacity = min(total, self._capacity + _RESERVE_TOKENS)
            await self._route.grow(place, self._capacity)
        rows = await self._route.forward(place, [token], "last")
        return _last(rows)

    async def _shorten(self, place: RoutePlace, num_kept: int) -> None:
        """Makes room in a full context: forgets the middle of the text, and computes what follows."""
        self._text = shortened(self._text, num_kept, self._context_limit)
        await self._route.truncate(place, num_kept)
        done = place.length
        while done < len(self._text):
            chunk = self._text[done : done + self._route.chunk_tokens]
            done += len(chunk)
            await self._route.forward(place, chunk, "none")

    def _choose(self, logits_V: NDArray[np.float32]) -> Token | None:
        """Samples a token and decides whether it is the last; None for an unseen end token."""
        wants_logprobs = self._options.top_logprobs is not None
        logprobs_V = log_probabilities(logits_V) if wants_logprobs else None
        allowed_V = self._matcher.allowed(self._tokenizer.size) if self._matcher else None
        if self.stats.generated_tokens < self._options.min_tokens:
            allowed_V = self._without_ends(allowed_V, len(logits_V))
        chosen = self._sampler.sample(logits_V, allowed_V)
        self.stats.generated_tokens += 1
        if self._ends(chosen):
            rest = self._stops.add(self._detokenizer.finish())
            return self._finish(None, rest, "stop", logprobs_V)
        if self._matcher is not None:
            self._matcher.accept(chosen)
        text = self._stops.add(self._detokenizer.add(chosen))
        if self._stops.matched is not None:
            return self._finish(chosen, text, "stop", logprobs_V)
        if self._matcher is not None and self._matcher.is_complete:
            return self._finish(chosen, text, "stop", logprobs_V)
        self.is_loop = self._loops is not None and self._loops.add(chosen)
        if self.is_loop or self.stats.generated_tokens == self._limit:
            text += self._stops.add(self._detokenizer.finish())
            return self._finish(chosen, text, "length", logprobs_V)
        return self._token(chosen, text, logprobs_V)

    def _ends(self, token: int) -> bool:
        """Whether an answer ends with this token, which is no part of it."""
        if token in self._options.stop_tokens:
            return True
        return self._tokenizer.is_end(token) and not self._options.ignore_end

    def _without_ends(
        self, allowed_V: NDArray[np.bool_] | None, size: int
    ) -> NDArray[np.bool_] | None:
        """What may be chosen while the answer is to go on; where nothing else may be, that."""
        going_on_V = np.ones(size, np.bool_) if allowed_V is None else allowed_V.copy()
        ends = (*self._tokenizer.end_tokens, *self._options.stop_tokens)
        going_on_V[[token for token in ends if 0 <= token < size]] = False
        return going_on_V if going_on_V.any() else allowed_V

    def _finish(
        self,
        chosen: int | None,
        text: str,
        reason: FinishReason,
        logprobs_V: NDArray[np.float32] | None,
    ) -> Token | None:
        self.finish_reason = reason
        if self._stops.matched is None:
            text += self._stops.finish()
        if chosen is None:
            # The end token is no part of the answer; what was held back before it is.
            self.stats.generated_tokens -= 1
            return Token(None, text) if text else None
        return self._token(chosen, text, logprobs_V)

    def _token(self, chosen: int, text: str, logprobs_V: NDArray[np.float32] | None) -> Token:
        if logprobs_V is None:
            return Token(chosen, text)
        count = self._options.top_logprobs or 0
        best = np.argpartition(-logprobs_V, count)[:count]
        best = best[np.argsort(-logprobs_V[best])]
        return Token(
            chosen,
            text,
            TokenLogprob(chosen, float(logprobs_V[chosen])),
            tuple(TokenLogprob(int(i), float(logprobs_V[i])) for i in best),
        )


def _last(rows_RV: NDArray[np.float32]) -> NDArray[np.float32]:
    logits_V: NDArray[np.float32] = rows_RV[-1]
    return logits_V


def _token_limit(
    prompt_tokens: int, max_tokens: int | None, context_limit: int, *, slides: bool
) -> int:
    """How many tokens may be generated at most; as many as the context holds, if it `slides`."""
    if prompt_tokens == 0:
        raise UsageError("the prompt is empty", code="prompt.empty", parameter="prompt")
    room = context_limit - prompt_tokens
    if room < (max_tokens != 0):
        raise UsageError(
            # In words that clients look for.
            f"this model's maximum context length is {context_limit} tokens, and the prompt has "
            f"{prompt_tokens}",
            code="context.exceeded",
            parameter="messages",
            hint="shorten the prompt, raise --context where memory and model allow, or let "
            "--context-overflow slide drop its middle",
        )
    if slides:
        room = max(context_limit, max_tokens or 0)
    if max_tokens is None:
        return room
    if max_tokens < 0:
        raise UsageError("max_tokens must be at least 0", code="usage", parameter="max_tokens")
    return min(max_tokens, room)
