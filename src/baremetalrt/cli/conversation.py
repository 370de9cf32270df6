"""What was said in a chat. Pure: user and model take turns in it, whatever became of an answer."""

from baremetalrt.core.errors import UsageError

Turn = dict[str, str]


class Conversation:
    """`turns` as templates take them: perhaps a system text, then question and answer by turns.

    A question is among them once it is asked. It stays if any of its answer came, with that much of
    it; if nothing did, it is as if it had not been asked, but `retry` asks it again.
    """

    def __init__(self, system: str | None = None) -> None:
        self.turns: list[Turn] = []
        self.begin(system)

    def begin(self, system: str | None) -> None:
        """Forgets everything but what the model is told at the beginning."""
        self.turns = [{"role": "system", "content": system}] if system else []
        self._unanswered: Turn | None = None
        self._earlier: Turn | None = None

    def ask(self, question: str) -> None:
        self._earlier = self._unanswered = None
        self.turns.append({"role": "user", "content": question})

    def retry(self) -> None:
        """Asks the last question again; raises `UsageError` if there was none."""
        if self._unanswered is not None:
            self.turns.append(self._unanswered)
            self._unanswered = None
        elif self.turns and self.turns[-1]["role"] == "assistant":
            self._earlier = self.turns.pop()
        else:
            raise UsageError("there is nothing to answer yet")

    def end(self, answer: str) -> None:
        """All that came of an answer, which may have been cut short, or not have begun."""
        if answer:
            self.turns.append({"role": "assistant", "content": answer})
        elif self._earlier is not None:
            self.turns.append(self._earlier)
        else:
            self._unanswered = self.turns.pop()
        self._earlier = None
