"""openai-agents, by the Responses API, which is its default."""

import asyncio
import json
from typing import Any

from agents import Agent, ModelSettings, Runner, function_tool, set_tracing_disabled
from asked import LONG, MAX_TOKENS, MODEL, PERSON, PROMPT, WEATHER, City, Person, tell

set_tracing_disabled(True)
called: list[Any] = []


@function_tool
def get_weather(city: City) -> str:
    """Weather of a city."""
    called.append(["get_weather", {"city": city}])
    return f"sunny in {city}"


def agent(max_tokens: int, **more: Any) -> Agent[None]:
    choice = more.pop("tool_choice", None)
    settings = ModelSettings(
        temperature=0,
        max_tokens=max_tokens,
        tool_choice=choice,
        parallel_tool_calls=False if choice else None,
    )
    return Agent(name="one", model=MODEL, model_settings=settings, **more)


async def main() -> None:
    stream = Runner.run_streamed(agent(MAX_TOKENS), PROMPT)
    pieces = [
        event.data.delta
        async for event in stream.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    caller = agent(
        LONG, tools=[get_weather], tool_choice="required", tool_use_behavior="stop_on_first_tool"
    )
    await Runner.run(caller, WEATHER)
    tell(
        chat=(await Runner.run(agent(MAX_TOKENS), PROMPT)).final_output,
        stream=pieces,
        call=json.loads(json.dumps(called[0])),
        person=(await Runner.run(agent(LONG, output_type=Person), PERSON)).final_output,
    )


asyncio.run(main())
