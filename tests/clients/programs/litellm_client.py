"""litellm, which puts many servers' dialects behind OpenAI's."""

import json
from typing import Any

import litellm
from asked import BASE_URL, KEY, LONG, MAX_TOKENS, MODEL, PERSON, PROMPT, WEATHER, Person, tell

litellm.telemetry = False
common: dict[str, Any] = {
    "model": f"openai/{MODEL}",
    "api_base": BASE_URL,
    "api_key": KEY,
    "temperature": 0,
}
tool = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def ask(text: str, max_tokens: int = MAX_TOKENS, **more: Any) -> Any:
    said = [{"role": "user", "content": text}]
    return litellm.completion(messages=said, max_tokens=max_tokens, **common, **more)


chat = ask(PROMPT).choices[0].message.content
pieces = [chunk.choices[0].delta.content or "" for chunk in ask(PROMPT, stream=True)]
(call,) = (
    ask(WEATHER, LONG, tools=[tool], tool_choice="required", parallel_tool_calls=False)
    .choices[0]
    .message.tool_calls
)
person = ask(PERSON, LONG, response_format=Person).choices[0].message.content
tell(
    chat=chat,
    stream=pieces,
    call=[call.function.name, json.loads(call.function.arguments)],
    person=Person.model_validate_json(person),
)
