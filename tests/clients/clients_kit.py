"""Programs of others as their users start them: in their own environment, told of a server of ours."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from commands import environment

ROOT: Final = Path(__file__).parent
PYTHON: Final = ROOT.parent.parent / ".venv" / "clients" / "bin" / "python"
NODE_MODULES: Final = ROOT / "node_modules"
# Prompts of agents are long, and machines are not always quiet.
TIMEOUT_S: Final = 1500.0
# Nothing that a client sends leaves this machine: what tries to ends at a port where nobody listens.
_NOWHERE: Final = "http://127.0.0.1:9"
_QUIET: Final = {
    "HTTP_PROXY": _NOWHERE,
    "HTTPS_PROXY": _NOWHERE,
    "NO_PROXY": "127.0.0.1,localhost",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "OPENCODE_DISABLE_AUTOUPDATE": "1",
    "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
    "OPENCODE_DISABLE_MODELS_FETCH": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}

_TEMPLATE: Final = """{%- if tools %}<|im_start|>system
Call a tool by <tool_call>{"name": …, "arguments": {…}}</tool_call>. Tools: {{ tools | tojson }}<|im_end|>
{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>
{{ c.function | tojson }}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def with_tools(folder: Path) -> tuple[str, str]:
    """Options of `bmrt serve`: a chat template that has tools."""
    path = folder / "tools.jinja"
    path.write_text(_TEMPLATE)
    return "--chat-template", str(path)


def require_python() -> str:
    """The clients' Python; skips where `make test-clients` has not made it."""
    if not PYTHON.exists():
        pytest.skip("`make test-clients` installs the clients first")
    return str(PYTHON)


def require_node(package: str) -> str:
    """Node, for a package that npm has installed."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not on this machine")
    if not (NODE_MODULES / package).exists():
        pytest.skip(f"npm has not installed {package}: `make test-clients` does, where npm is")
    return node


def require_program(name: str, package: str) -> str:
    """A program that npm has installed."""
    require_node(package)
    return str(NODE_MODULES / ".bin" / name)


def run(
    *words: str, home: Path, variables: dict[str, str], cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs one program to its successful end, with nothing of the caller's environment."""
    home.mkdir(exist_ok=True)
    done = subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=cwd or home,
        env={**environment(home), **_QUIET, **variables},
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done


def answers_of(
    script: str, home: Path, url: str, model: str, prompt: str, num_tokens: int
) -> dict[str, Any]:
    """What one of `programs/` was answered."""
    path = ROOT / "programs" / script
    is_python = path.suffix == ".py"
    interpreter = require_python() if is_python else require_node("openai")
    variables = {
        "OPENAI_BASE_URL": f"{url}/v1",
        "OPENAI_API_KEY": "none",
        "ASKED_MODEL": model,
        "ASKED_PROMPT": prompt,
        "ASKED_TOKENS": str(num_tokens),
    }
    done = run(interpreter, str(path), home=home, variables=variables)
    # Some libraries say something to people first.
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
