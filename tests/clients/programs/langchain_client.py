"""langchain-openai."""

from typing import Any

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
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import SecretStr


def model(max_tokens: int) -> ChatOpenAI:
    settings: dict[str, Any] = {"max_tokens": max_tokens}
    key = SecretStr(KEY)
    return ChatOpenAI(model=MODEL, base_url=BASE_URL, api_key=key, temperature=0, **settings)


@tool
def get_weather(city: City) -> str:
    """Weather of a city."""
    return f"sunny in {city}"


short, long = model(MAX_TOKENS), model(LONG)
forced = long.bind_tools([get_weather], tool_choice="required", parallel_tool_calls=False)
(call,) = forced.invoke(WEATHER).tool_calls
tell(
    chat=short.invoke(PROMPT).content,
    stream=[piece.content for piece in short.stream(PROMPT)],
    call=[call["name"], call["args"]],
    person=long.with_structured_output(Person).invoke(PERSON),
)
