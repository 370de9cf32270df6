"""What `bmrt run` and its chat share: an answer as it comes, and how fast it was."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from baremetalrt.cli import options
from baremetalrt.node.options import GivenSampling, SampleOptions

if TYPE_CHECKING:
    from baremetalrt.node.answering import GenerationOptions, GenerationStats


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """What the command says of an answer; light, until `generation`. `json_schema`: JSON or a file."""

    sampling: GivenSampling
    system: str | None
    max_tokens: int | None
    stop: tuple[str, ...]
    json_schema: str | None
    grammar: Path | None

    def generation(self, recommended: SampleOptions) -> "GenerationOptions":
        """The same for the engine, where nothing is said as the model's makers recommend.

        Raises:
            UsageError: a schema or a grammar is none.
        """
        from baremetalrt.node.answering import GenerationOptions

        return GenerationOptions(
            sampling=replace(recommended, **self.sampling),
            max_tokens=self.max_tokens,
            ends_loops=True,
            stop=self.stop,
            grammar=options.grammar(self.json_schema, self.grammar),
        )

    def conversation(self, prompt: str) -> list[dict[str, str]]:
        """A message of the user, and what comes before it."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": prompt}]


def describe_speed(stats: "GenerationStats") -> str:
    """One line about how fast an answer was."""
    cached = f" ({stats.cached_tokens} from cache)" if stats.cached_tokens else ""
    return (
        f"{stats.prompt_tokens} prompt tokens{cached} at {stats.prefill_tokens_per_s:.1f}/s, "
        f"{stats.generated_tokens} generated at {stats.decode_tokens_per_s:.1f}/s"
    )
