"""An answer as the steps that it is made of, and the events that tell how they come."""

from collections.abc import Sequence
from typing import Any

from baremetalrt.serve.calls.call import Call, CallPiece
from baremetalrt.serve.calls.news import News
from baremetalrt.serve.event_stream import Event
from baremetalrt.serve.responses.ids import new_id
from baremetalrt.serve.responses.translation import arguments_as_input

_Item = dict[str, Any]


class Output:
    """The steps of one answer: at most one is open, the last."""

    def __init__(self, custom_tools: frozenset[str] = frozenset()) -> None:
        """`custom_tools`: names of those whose input is plain text."""
        self.items: list[_Item] = []
        self._custom_tools = custom_tools
        self._is_open = False
        # white space before the first word of a message, which there may never be
        self._space = ""
        self._space_logprobs: list[dict[str, Any]] = []

    def add(self, news: News, logprobs: Sequence[dict[str, Any]] = ()) -> list[Event]:
        events: list[Event] = []
        if news.thought:
            events += self._reach("reasoning", "reasoning_text")
            events.append(self._more("response.reasoning_text.delta", news.thought))
        if news.text or (logprobs and not news.thought):
            events += self._say(news.text, logprobs)
        for piece in news.pieces:
            events += self._more_of_call(piece)
        return events

    def finish(self, *, is_cut: bool) -> list[Event]:
        """The last events; `is_cut` by the limit of its length."""
        events = []
        if all(item["type"] == "reasoning" for item in self.items):
            # An answer of nothing is one, too.
            events += self._reach("message", "output_text")
        return [*events, *self.close("incomplete" if is_cut else "completed")]

    def _say(self, text: str, logprobs: Sequence[dict[str, Any]]) -> list[Event]:
        if not (self._is_open and self.items[-1]["type"] == "message"):
            self._space += text
            self._space_logprobs += logprobs
            if not self._space.strip():
                return []
            text, logprobs = self._space, self._space_logprobs
            self._space, self._space_logprobs = "", []
        events = self._reach("message", "output_text")
        part = self.items[-1]["content"][0]
        part["logprobs"] += logprobs
        more = self._more("response.output_text.delta", text)
        return [*events, more | {"logprobs": list(logprobs)}]

    def _reach(self, kind: str, part_kind: str) -> list[Event]:
        """Opens a step of a kind with one part, unless it is open."""
        if self._is_open and self.items[-1]["type"] == kind:
            return []
        events = self.close()
        item: _Item = {"id": new_id("msg" if kind == "message" else "rs"), "type": kind}
        part: dict[str, Any] = {"type": part_kind, "text": ""}
        if kind == "message":
            item["role"] = "assistant"
            part |= {"annotations": [], "logprobs": []}
        else:
            item["summary"] = []
        begun = self._begin(item | {"status": "in_progress", "content": []})
        self.items[-1]["content"].append(part)
        added = self._event("response.content_part.added", content_index=0, part=dict(part))
        return [*events, begun, added]

    def _begin(self, item: _Item) -> Event:
        self.items.append(item)
        self._is_open = True
        return {
            "type": "response.output_item.added",
            "output_index": len(self.items) - 1,
            # As it is now: more of it comes in other events.
            "item": {k: list(v) if isinstance(v, list) else v for k, v in item.items()},
        }

    def _more(self, name: str, text: str) -> Event:
        self.items[-1]["content"][0]["text"] += text
        return self._event(name, content_index=0, delta=text)

    def _event(self, kind: str, /, **more: Any) -> Event:
        """Of the last step."""
        number = len(self.items) - 1
        return {"type": kind, "item_id": self.items[-1]["id"], "output_index": number, **more}

    def close(self, status: str = "completed") -> list[Event]:
        """Ends the step that is open, if one is."""
        self._space, self._space_logprobs = "", []
        if not self._is_open:
            return []
        self._is_open = False
        item = self.items[-1]
        if "content" not in item:
            # A call that was cut.
            item["status"] = "incomplete"
            return [self._done()]
        item["status"] = status
        (part,) = item["content"]
        text = {"content_index": 0, "text": part["text"]}
        if item["type"] == "message":
            said = self._event(
                "response.output_text.done", **text, logprobs=part.get("logprobs", [])
            )
        else:
            said = self._event("response.reasoning_text.done", **text)
        ended = self._event("response.content_part.done", content_index=0, part=part)
        return [said, ended, self._done()]

    def _done(self) -> Event:
        number = len(self.items) - 1
        return {
            "type": "response.output_item.done",
            "output_index": number,
            "item": self.items[-1],
        }

    def _more_of_call(self, piece: CallPiece) -> list[Event]:
        """A call begins with its name; plain text that it takes comes when it is complete."""
        if piece.ended is not None:
            return self._end_call(piece.ended)
        if piece.name is None:
            item = self.items[-1]
            if item["type"] != "function_call":
                return []
            item["arguments"] += piece.arguments
            kind = "response.function_call_arguments.delta"
            return [self._event(kind, delta=piece.arguments)]
        is_custom = piece.name in self._custom_tools
        ended = self.close()
        item = {
            "id": new_id("ctc" if is_custom else "fc"),
            "type": "custom_tool_call" if is_custom else "function_call",
            "status": "in_progress",
            "call_id": f"call_{piece.id}",
            "name": piece.name,
            "input" if is_custom else "arguments": "",
        }
        return [*ended, self._begin(item)]

    def _end_call(self, call: Call) -> list[Event]:
        item = self.items[-1]
        item["status"] = "completed"
        self._is_open = False
        events = []
        if item["type"] == "custom_tool_call":
            item["input"] = text = arguments_as_input(call.arguments)
            kind = "response.custom_tool_call_input"
            events.append(self._event(f"{kind}.delta", delta=text))
            events.append(self._event(f"{kind}.done", input=text))
        else:
            # What is complete says it, whatever has come in pieces.
            item["arguments"] = call.arguments
            kind = "response.function_call_arguments.done"
            said = {"name": call.name, "arguments": call.arguments}
            events.append(self._event(kind, **said))
        return [*events, self._done()]
