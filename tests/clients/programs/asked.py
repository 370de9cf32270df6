"""What every client asks, and how it tells what it was answered."""

import json
import os
import sys
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

BASE_URL = os.environ["OPENAI_BASE_URL"]
KEY = os.environ["OPENAI_API_KEY"]
MODEL = os.environ["ASKED_MODEL"]
PROMPT = os.environ["ASKED_PROMPT"]
MAX_TOKENS = int(os.environ["ASKED_TOKENS"])
# Room for a call or an object.
LONG = 100
WEATHER = "How is the weather in Rome?"
PERSON = "Describe a person, as JSON."
City = Literal["Paris", "Rome"]


class Person(BaseModel):
    """A person."""

    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(max_length=12)]
    age: Annotated[int, Field(ge=0, le=120)]


def tell(**answers: Any) -> None:
    """`chat`, `stream` (in pieces), `call` (name and arguments), `person`."""
    person = answers.get("person")
    if isinstance(person, Person):
        answers["person"] = person.model_dump()
    json.dump(answers, sys.stdout)
