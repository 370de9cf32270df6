"""Events of a response say, one by one, what its steps are in the end."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from baremetalrt.serve.calls.call import Call, whole
from baremetalrt.serve.calls.news import News
from baremetalrt.serve.event_stream import Event
from baremetalrt.serve.responses.output import Output

_texts = st.text("ab \n", max_size=3)
_calls = st.builds(Call, st.sampled_from(["f", "plain"]), st.just('{"input": "x"}'))


def _with_pieces(thought: str, text: str, calls: list[Call]) -> News:
    made = [Call(call.name, call.arguments) for call in calls]
    return News(thought, text, whole(made).pieces)


_news = st.builds(_with_pieces, _texts, _texts, st.lists(_calls, max_size=2))


def _replayed(events: list[Event]) -> list[dict[str, Any]]:
    """What a client makes of the events."""
    items: list[dict[str, Any]] = []
    for event in events:
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert event["output_index"] == len(items)
            items.append(dict(event["item"]))
            continue
        item = items[-1]
        assert event["output_index"] == len(items) - 1
        if kind == "output_item.done":
            for field in ("content", "arguments", "input"):
                assert item.get(field) == event["item"].get(field)
            items[-1] = event["item"]
            continue
        assert event["item_id"] == item["id"]
        if kind == "content_part.added":
            item["content"] = [*item["content"], dict(event["part"])]
        elif kind == "content_part.done":
            item["content"][-1] = event["part"]
        elif kind.endswith("_text.delta"):
            item["content"][-1]["text"] += event["delta"]
        elif kind.endswith("_text.done"):
            assert item["content"][-1]["text"] == event["text"]
        elif kind.endswith(".delta"):
            field = "input" if "custom" in kind else "arguments"
            item[field] += event["delta"]
    return items


@given(st.lists(_news, max_size=8), st.booleans())
def test_events_say_what_comes(news: list[News], is_cut: bool) -> None:
    output = Output(frozenset({"plain"}))
    events = [event for one in news for event in output.add(one)]
    events += output.finish(is_cut=is_cut)
    assert _replayed(events) == output.items
    calls = [item for item in output.items if item["type"].endswith("_call")]
    assert len(calls) == sum(len(one.calls) for one in news)
    for item in output.items:
        assert item["status"] in ("completed", "incomplete")
    thoughts = [i["content"][0]["text"] for i in output.items if i["type"] == "reasoning"]
    assert "".join(thoughts) == "".join(one.thought for one in news)
    said = [i["content"][0]["text"] for i in output.items if i["type"] == "message"]
    # White space between steps is nobody's.
    assert "".join("".join(said).split()) == "".join("".join(one.text for one in news).split())
    assert said or calls
