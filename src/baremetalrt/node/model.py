"""A model that is ready to answer, wherever its blocks run."""

import asyncio
import copy
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from baremetalrt.blocks.span import Span
from baremetalrt.core.errors import UsageError
from baremetalrt.core.owner import THIS_USER, Owner
from baremetalrt.core.spans import ByteRange
from baremetalrt.core.tasks import in_thread
from baremetalrt.session import public_text
from baremetalrt.session.chat_template import ChatTemplate, Message
from baremetalrt.session.grammar import GrammarCompiler
from baremetalrt.session.options import SampleOptions
from baremetalrt.session.overflow import num_kept
from baremetalrt.session.route import Route
from baremetalrt.session.session import GenerationOptions, Session
from baremetalrt.session.tokenizer import Tokenizer

if TYPE_CHECKING:
    from baremetalrt.blocks.loaded_adapters import AdapterSet
    from baremetalrt.session.whole.process import WholeProcess

# Runs of spaces make the longest tokens there are; no text comes near this on average.
_MAX_CHARS_PER_TOKEN: Final = 128
_MAX_BEGINNINGS: Final = 32


@dataclass
class Use:
    """Since when a model is here and when somebody asked it last, in seconds since 1970."""

    since: float = field(default_factory=time.time)
    last: float = field(default_factory=time.time)
    on_use: Callable[[], None] = lambda: None
    num_users: int = 0

    def __post_init__(self) -> None:
        self._idle = asyncio.Event()
        self._idle.set()

    def note(self) -> None:
        self.last = time.time()
        self.on_use()

    @contextmanager
    def begun(self) -> Iterator[None]:
        """Somebody uses the model until the block ends; on the event loop."""
        self.num_users += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.num_users -= 1
            self.last = time.time()
            if not self.num_users:
                self._idle.set()

    async def idle(self) -> None:
        """Returns once nobody uses the model."""
        await self._idle.wait()


@dataclass
class Model:
    """File, tokenizer, template and route. `base` is the model itself, where this one has adapters.

    What it computes belongs to `owner`. `beginning`: tokens that everybody may know. `slides`: texts that
    outgrow the context lose what is in their middle.
    """

    name: str
    path: Path
    num_blocks: int
    vocabulary_size: int
    tokenizer: Tokenizer
    template: ChatTemplate
    route: Route
    context_limit: int
    created: int
    adapters: "AdapterSet | None" = None
    base: "Model | None" = None
    owner: Owner = THIS_USER
    beginning: list[int] = field(default_factory=list)
    use: Use = field(default_factory=Use)
    slides: bool = False
    # as its makers mean it
    sampling: SampleOptions = field(default_factory=SampleOptions)
    _spans: list[Span] = field(default_factory=list)
    # of a model that runs whole
    _process: "WholeProcess | None" = None

    def __post_init__(self) -> None:
        self._grammars = GrammarCompiler(self.tokenizer)
        # how chats with the last few system texts begin, which stays when a text slides
        self._system_beginnings: deque[list[int]] = deque(maxlen=_MAX_BEGINNINGS)

    def session(self, prompt: list[int], options: GenerationOptions) -> Session:
        """One generation from a tokenized prompt; raises `UsageError` when it does not fit."""
        size = self.vocabulary_size
        if any(not 0 <= token < size for token in prompt):
            raise UsageError(
                f"the prompt has token ids outside of 0 to {size - 1}",
                code="prompt.tokens",
                parameter="prompt",
            )
        self.use.note()
        return Session(
            self.route,
            self.tokenizer,
            self._grammars,
            context_limit=self.context_limit,
            prompt=prompt,
            options=options,
            adapters=self.adapters,
            owner=self.owner,
            num_kept=self._num_kept(prompt) if self.slides else None,
        )

    def _num_kept(self, prompt: list[int]) -> int:
        known = [len(b) for b in list(self._system_beginnings) if prompt[: len(b)] == b]
        return num_kept(max(known, default=0), self.context_limit)

    async def compute_beginning(self) -> None:
        """So that nobody else has to; it is kept as long as the model is. Raises `CapacityError`."""
        await public_text.compute(self.route, self.beginning)

    def owned_by(self, owner: Owner) -> "Model":
        """This model as it answers somebody; it is the same one in memory."""
        owned = copy.copy(self)
        owned.owner = owner
        return owned

    def with_adapters(self, adapters: "AdapterSet", label: str) -> "Model":
        """This model as it answers with adapters; it is the same one in memory."""
        adapted = copy.copy(self)
        adapted.base = self.without_adapters()
        adapted.name, adapted.adapters = f"{adapted.base.name}:{label}", adapters
        return adapted

    def without_adapters(self) -> "Model":
        """The model itself."""
        return self.base or self

    @property
    def is_base(self) -> bool:
        """Whether its file has no chat template: it goes on with texts, and was not taught to answer."""
        return bool(self.template.turn_marks)

    def chat_options(self, options: GenerationOptions) -> GenerationOptions:
        """The same for an answer in a conversation, which ends where the next turn begins."""
        marks = self.template.turn_marks
        if not marks:
            return options
        tokens = (self.tokenizer.encode(mark, special=True) for mark in marks)
        alone = {one[0] for one in tokens if len(one) == 1 and self.tokenizer.is_control(one[0])}
        return replace(
            options, stop=(*options.stop, *marks), stop_tokens=options.stop_tokens | alone
        )

    async def tokenize_chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        variables: dict[str, Any] | None = None,
    ) -> list[int]:
        """The prompt for a conversation, by the model's own template."""

        def work() -> list[int]:
            text = self.template.render(messages, tools=tools, variables=variables)
            self.require_room(len(text))
            if self.slides and messages and messages[0]["role"] == "system":
                render = partial(self.template.render, tools=tools, variables=variables)
                found = public_text.beginning_after(messages[0], render, self.tokenizer)
                self._system_beginnings.append(found)
            return self.tokenizer.encode_chat(text)

        return await in_thread(work)

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt as it stands, control tokens by their names."""
        self.require_room(len(text))
        return self.tokenizer.encode_prompt(text)

    def require_room(self, num_chars: int) -> None:
        """Refuses at once what cannot possibly fit; raises `UsageError`."""
        if not self.slides and num_chars > _MAX_CHARS_PER_TOKEN * self.context_limit:
            raise UsageError(
                f"this model's maximum context length is {self.context_limit} tokens, and the prompt "
                f"has {num_chars} characters",
                code="context.exceeded",
                parameter="messages",
                hint="shorten the prompt",
            )

    @property
    def weight_bytes(self) -> tuple[int, int]:
        """Weights used in the mapped file, and weights held as copies."""
        weights = [span.weights for span in self._spans]
        return sum(w.mapped_bytes for w in weights), sum(w.copied_bytes for w in weights)

    @property
    def process(self) -> "WholeProcess | None":
        """What computes it, where it runs whole."""
        return self._process

    @property
    def spans(self) -> Sequence[Span]:
        """What of it is in the memory of this machine."""
        return self._spans

    def unit_ranges(self) -> list[tuple[ByteRange, ...]]:
        """The bytes of the file in the order in which they are computed with."""
        return [span.unit_ranges(unit) for span in self._spans for unit in span.units]

    def end_process(self) -> None:
        """Ends a step that runs elsewhere, from any thread; nothing can be computed afterwards."""
        if self._process is not None:
            self._process.end()

    def close(self) -> None:
        """Lets go of everything but its spans, which are the node's."""
        if self._process is not None:
            self._process.close()
        self.tokenizer.close()
