"""instructor: objects by a schema, and by way of a call."""

from typing import Any

import instructor
from asked import LONG, MAX_TOKENS, MODEL, PERSON, PROMPT, WEATHER, City, Person, tell
from openai import OpenAI
from pydantic import BaseModel

openai = OpenAI()


class get_weather(BaseModel):
    """Weather of a city."""

    city: City


def ask(mode: instructor.Mode, kind: Any, text: str, max_tokens: int = LONG) -> Any:
    return instructor.from_openai(openai, mode=mode).chat.completions.create(
        model=MODEL,
        response_model=kind,
        messages=[{"role": "user", "content": text}],
        temperature=0,
        max_tokens=max_tokens,
        max_retries=0,
    )


by_schema, by_call = instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS
grown = instructor.from_openai(openai, mode=by_schema).chat.completions.create_partial(
    model=MODEL,
    response_model=Person,
    messages=[{"role": "user", "content": PERSON}],
    temperature=0,
    max_tokens=LONG,
)
last = [one.model_dump() for one in grown][-1]
person = ask(by_schema, Person, PERSON)
assert last == person.model_dump()
tell(
    chat=ask(by_schema, None, PROMPT, MAX_TOKENS).choices[0].message.content,
    call=["get_weather", ask(by_call, get_weather, WEATHER).model_dump()],
    person=person,
)
