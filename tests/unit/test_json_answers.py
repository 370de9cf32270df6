"""Whatever a model writes can be sent as JSON, and read by who asked."""

import asyncio
import json

import pytest

from baremetalrt.core.tasks import in_thread
from baremetalrt.serve.calls.finder import CallFinder
from baremetalrt.serve.calls.notations import BY_NAME
from baremetalrt.serve.json_response import JsonResponse
from baremetalrt.serve.openai.generation import finite
from baremetalrt.serve.openai.schema import Function, Tool


def strictly(text: str | bytes) -> object:
    """Read as clients in other languages do: NaN is no JSON."""

    def refuse(name: str) -> object:
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_are_none_are_null(number: str) -> None:
    """As they are, a call's arguments could be read by nobody."""
    finder = CallFinder(BY_NAME["hermes"], (Tool(function=Function(name="get")),))
    found = finder.add(f'<tool_call>{{"name": "get", "arguments": {{"x": {number}}}}}</tool_call>')
    (call,) = found.calls
    assert strictly(call.arguments) == {"x": None} and not found.text


def test_half_a_character_is_replaced() -> None:
    """JSON can escape it, so a model can write it in a call; UTF-8 cannot say it."""
    finder = CallFinder(BY_NAME["hermes"], (Tool(function=Function(name="get")),))
    found = finder.add('<tool_call>{"arguments": {"x": "\\ud83d"}, "name": "get"}</tool_call>')
    answer = JsonResponse({"calls": [[call.name, call.arguments] for call in found.calls]})
    written = strictly(bytes(answer.body))
    assert isinstance(written, dict) and "get" in str(written["calls"])


def test_what_cannot_be_has_a_log_probability_all_the_same() -> None:
    assert strictly(bytes(JsonResponse([finite(float("-inf")), finite(-0.5)]).body)) == [
        -9999.0,
        -0.5,
    ]


def test_who_is_cancelled_waits_for_its_thread() -> None:
    """So that what it counts, or holds, is held as long as it is used."""

    async def work() -> None:
        begun, may_end, ended = asyncio.Event(), asyncio.Event(), []
        loop = asyncio.get_running_loop()

        def call() -> None:
            loop.call_soon_threadsafe(begun.set)
            asyncio.run_coroutine_threadsafe(may_end.wait(), loop).result(60)
            ended.append(True)

        task = asyncio.create_task(in_thread(call))
        await begun.wait()
        task.cancel()
        await asyncio.sleep(0.05)
        assert not task.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended

    asyncio.run(work())
