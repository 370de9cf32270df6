"""llm, told of the server by its file of models that speak OpenAI's dialect.

It cannot ask for a call: that one comes is the model's affair.
"""

import json
import os
from pathlib import Path

from asked import BASE_URL, KEY, LONG, MAX_TOKENS, MODEL, PERSON, PROMPT, Person, tell

folder = Path(os.environ["HOME"]) / "llm"
folder.mkdir()
os.environ["LLM_USER_PATH"] = str(folder)
served = {
    "model_id": "served",
    "model_name": MODEL,
    "api_base": BASE_URL,
    "supports_schema": True,
    "supports_tools": True,
}
# JSON is YAML.
(folder / "extra-openai-models.yaml").write_text(json.dumps([served]))

import llm  # noqa: E402

model = llm.get_model("served")
short = {"temperature": 0, "max_tokens": MAX_TOKENS}
person = model.prompt(PERSON, schema=Person, key=KEY, stream=False, temperature=0, max_tokens=LONG)
tell(
    chat=model.prompt(PROMPT, key=KEY, stream=False, **short).text(),
    stream=list(model.prompt(PROMPT, key=KEY, stream=True, **short)),
    person=Person.model_validate_json(person.text()),
)
