"""Conversations reach templates of every habit: no system message, null content, arguments as text."""

from collections.abc import Iterator
from typing import Any

import pytest

from baremetalrt.core.errors import IntegrityError, UsageError
from baremetalrt.session.chat_template import ChatTemplate, TemplateProcess

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Weather?"}
CALLED = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}
    ],
}
RESULT = {"role": "tool", "content": "grey", "tool_call_id": "1"}

_NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
)
_TURN = "{% for m in messages %}[{{ m.role }}]"
_END = "{% endfor %}"
# How templates write a call, and what they then show.
_CALLS = {
    "only where content is null": (
        (
            "{% if m.content is none %}{% for t in m.tool_calls %}{{ t.function.name }}:"
            "{{ t.function.arguments | tojson }}{% endfor %}{% else %}{{ m.content }}{% endif %}"
        ),
        'look:{"at": "sky"}',
    ),
    "puts arguments together as text": (
        (
            "{% for t in m.tool_calls %}{{ t.function.name + ' ' + t.function.arguments }}{% endfor %}"
            "{{ m.content }}"
        ),
        'look {"at": "sky"}',
    ),
    "both": (
        (
            "{% if m.content is none %}{% for t in m.tool_calls %}"
            "{{ t.function.name + ' ' + t.function.arguments }}{% endfor %}"
            "{% else %}{{ m.content }}{% endif %}"
        ),
        'look {"at": "sky"}',
    ),
    "as objects": (
        (
            "{% for t in m.tool_calls %}{{ t.function.name }} at "
            "{{ t.function.arguments['at'] }}{% endfor %}{{ m.content + '' }}"
        ),
        "look at sky",
    ),
}


@pytest.fixture(scope="module")
def process() -> Iterator[TemplateProcess]:
    process = TemplateProcess()
    yield process
    process.close()


def render(process: TemplateProcess, source: str, *messages: dict[str, Any]) -> str:
    return ChatTemplate(process, source, bos="", eos="").render(messages)


def test_what_the_system_says_goes_to_the_user(process: TemplateProcess) -> None:
    assert render(process, _NO_SYSTEM, SYSTEM, USER) == "[user]Be brief.\n\nWeather?"
    assert render(process, _NO_SYSTEM, SYSTEM) == "[user]Be brief."
    assert render(process, _NO_SYSTEM, {"role": "system", "content": ""}, USER) == "[user]Weather?"


def test_who_takes_a_system_message_gets_it(process: TemplateProcess) -> None:
    source = f"{_TURN}{{{{ m.content }}}}{_END}"
    assert render(process, source, SYSTEM, USER) == "[system]Be brief.[user]Weather?"


def test_other_refusals_are_said_as_they_were(process: TemplateProcess) -> None:
    """Of the conversation as it was sent, and not of what was tried in its place."""
    with pytest.raises(UsageError, match="no system"):
        render(process, _NO_SYSTEM, SYSTEM, USER, USER)
    with pytest.raises(UsageError, match="roles must alternate"):
        render(process, _NO_SYSTEM, USER, USER)


@pytest.mark.parametrize("habit", _CALLS)
def test_every_template_tells_of_the_calls(process: TemplateProcess, habit: str) -> None:
    written, expected = _CALLS[habit]
    assert expected in render(process, _TURN + written + _END, USER, CALLED, RESULT)


def test_a_template_without_calls_tells_the_rest(process: TemplateProcess) -> None:
    source = f"{_TURN}{{{{ m.content }}}}{_END}"
    assert render(process, source, USER, CALLED, RESULT) == "[user]Weather?[assistant][tool]grey"


def test_a_template_that_takes_forever_is_tried_once(process: TemplateProcess) -> None:
    source = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(IntegrityError, match="too long"):
        render(process, source, SYSTEM, USER, CALLED)
