"""pydantic-ai: text, a schema, and the same by way of a call."""

import asyncio

from asked import (
    BASE_URL,
    KEY,
    LONG,
    MAX_TOKENS,
    MODEL,
    PERSON,
    PROMPT,
    WEATHER,
    City,
    Person,
    tell,
)
from pydantic import BaseModel
from pydantic_ai import Agent, ModelSettings, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=BASE_URL, api_key=KEY))
short = ModelSettings(temperature=0, max_tokens=MAX_TOKENS)
long = ModelSettings(temperature=0, max_tokens=LONG, parallel_tool_calls=False)


class Weather(BaseModel):
    city: City


async def main() -> None:
    plain = Agent(model, model_settings=short)
    async with plain.run_stream(PROMPT) as stream:
        pieces = [piece async for piece in stream.stream_text(delta=True, debounce_by=None)]
    # What it wants as its output must be called.
    called = Agent(model, output_type=ToolOutput(Weather, name="get_weather"), model_settings=long)
    formed = Agent(model, output_type=NativeOutput(Person), model_settings=long)
    tell(
        chat=(await plain.run(PROMPT)).output,
        stream=pieces,
        call=["get_weather", (await called.run(WEATHER)).output.model_dump()],
        person=(await formed.run(PERSON)).output,
    )


asyncio.run(main())
