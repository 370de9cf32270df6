"""Whatever becomes of its answers, a chat can always go on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetalrt.cli.conversation import Conversation
from baremetalrt.core.errors import UsageError

# What the user does, and what comes of the answer: all of it, a part, or nothing.
_steps = st.lists(st.tuples(st.sampled_from(["ask", "retry", "begin"]), st.sampled_from(["", "a"])))


@given(_steps, st.sampled_from([None, "be brief"]))
def test_user_and_model_take_turns(steps: list[tuple[str, str]], system: str | None) -> None:
    """As strict templates want it: a system text first at most, then question and answer."""
    chat = Conversation(system)
    for number, (step, answer) in enumerate(steps):
        if step == "begin":
            chat.begin(system)
        elif step == "ask":
            chat.ask(f"question {number}")
        else:
            try:
                chat.retry()
            except UsageError:
                assert not any(turn["role"] == "user" for turn in chat.turns)
                continue
        if step != "begin":
            assert chat.turns[-1]["role"] == "user"
            chat.end(answer)
        turns = [turn["role"] for turn in chat.turns]
        if system:
            assert turns.pop(0) == "system"
        assert turns == ["user", "assistant"] * (len(turns) // 2)
        assert all(turn["content"] for turn in chat.turns)


def test_a_question_without_an_answer_can_be_asked_again() -> None:
    """It is not in the conversation, and not lost either."""
    chat = Conversation()
    chat.ask("one")
    chat.end("")
    assert chat.turns == []
    chat.retry()
    assert chat.turns == [{"role": "user", "content": "one"}]
    chat.end("cut sh")
    assert chat.turns[-1] == {"role": "assistant", "content": "cut sh"}


def test_an_answer_is_replaced_by_another_only_if_there_is_one() -> None:
    chat = Conversation()
    chat.ask("one")
    chat.end("first")
    chat.retry()
    chat.end("")
    assert chat.turns[-1]["content"] == "first"
    chat.retry()
    chat.end("second")
    assert [turn["content"] for turn in chat.turns] == ["one", "second"]


def test_there_is_nothing_to_ask_again_at_first() -> None:
    with pytest.raises(UsageError):
        Conversation("be brief").retry()
