"""What a client over HTTP waits for besides the model, and what a name costs besides its link.

Three figures, everything on the loopback address, sides in turn. A second model that loads when it is
first asked for, against a cold `bmrt run` of the same model and prompt. What each dialect computes
beside the answer: processor time of the thread that serves, over loopback, against the same answer asked
for inside the process; for a request (one token, whole), and for a token (streamed: what more tokens
cost, divided by them). And `bmrt pull NAME` by a name of one's own, then a run, against a run of the
magnet link.
"""

import argparse
import asyncio
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from baremetalrt.core.owner import Owner
from baremetalrt.node.model import Model
from baremetalrt.node.node import Node
from baremetalrt.node.opening import Opening
from baremetalrt.node.options import ModelOptions
from baremetalrt.serve.app import Server, ServerConfig
from baremetalrt.serve.conversation import begin
from baremetalrt.serve.decoding import convert
from baremetalrt.serve.idle_connections import limits_for
from baremetalrt.serve.listen import bind, listen
from baremetalrt.serve.openai import completions
from baremetalrt.serve.openai import generation as g
from baremetalrt.serve.openai.schema import ChatRequest, CompletionRequest
from baremetalrt.session.session import GenerationStats
from baremetalrt.weights.store import StoredModel, default_model
from processes import Worker

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from commands import BMRT, ServerProcess, environment
from swarm_kit import SeedProcess, make_home
from tiny_models import write_talking

QUESTION = "What is a torrent?"
MANY = 65
# What waits for others on a busy machine is not what is asked here.
ONE = ("--threads", "1")
ADDRESSES = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "ollama": "/api/chat",
    "completions": "/v1/completions",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--model", type=Path, help="instead of the embedded default")
    given = parser.parse_args()
    model = given.model or default_model().path
    with tempfile.TemporaryDirectory() as folder:
        on_demand(Path(folder) / "on-demand", model, given.pairs)
        by_name(Path(folder) / "by-name", model, given.pairs)
    overhead(given.requests)


# A model that is asked for


def on_demand(folder: Path, model: Path, pairs: int) -> None:
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "second.gguf").symlink_to(model)
    ratios, asked, ran = [], [], []
    arguments = ("--context", "1024", "--keep-alive", "1s", "--no-torrents", *ONE)
    with ServerProcess(*arguments, home=folder) as server:
        for pair in range(pairs + 1):
            _wait_until_gone(server.url)
            sides = [lambda: _asked_for(server), lambda: _ran(folder, "second")]
            found = [side() for side in (sides if pair % 2 else reversed(sides))]
            over_http, alone = found if pair % 2 else reversed(found)
            # The first one reads the file into memory.
            if pair:
                ratios.append(over_http / alone)
                asked.append(over_http)
                ran.append(alone)
    print(
        f"a model that is asked for, to its first token: {_spread(ratios)} of a cold run, "
        f"{statistics.median(asked):.2f} s against {statistics.median(ran):.2f} s",
        flush=True,
    )


def _wait_until_gone(url: str) -> None:
    host = url.removeprefix("http://")
    while True:
        connection = http.client.HTTPConnection(host, timeout=60)
        connection.request("GET", "/health")
        loaded = json.load(connection.getresponse())["models"]
        connection.close()
        if "second" not in loaded:
            return
        time.sleep(0.1)


def _asked_for(server: ServerProcess) -> float:
    began = time.perf_counter()
    answer = _post(server.port, "/v1/chat/completions", _body("chat", "second", 1, streams=False))
    took_s = time.perf_counter() - began
    assert json.loads(answer)["usage"]["completion_tokens"] == 1
    return took_s


def _ran(home: Path, *words: str) -> float:
    """From the start of a process to the end of one that says one token."""
    began = time.perf_counter()
    command = [*BMRT, "run", *words, QUESTION, "-n", "1", "-t", "0", "--context", "1024", *ONE]
    subprocess.run(
        command, env=environment(home), stdin=subprocess.DEVNULL, capture_output=True, check=True
    )
    return time.perf_counter() - began


# A name


def by_name(folder: Path, model: Path, pairs: int) -> None:
    (folder / "seed").mkdir(parents=True)
    path = folder / "seed" / "named-model.gguf"
    path.symlink_to(model)
    differences, pulled, linked, at_once = [], [], [], []
    with SeedProcess(path, home=make_home(folder / "seeding")) as seed:
        peer = ("--peer", seed.peer)
        for pair in range(pairs):
            link = make_home(folder / f"link-{pair}")
            name, direct = make_home(folder / f"name-{pair}"), make_home(folder / f"direct-{pair}")
            for home in (name, direct):
                _bmrt(home, "index", "add", "mine", seed.magnet)

            def by_link(home: Path = link) -> None:
                linked.append(_ran(home, seed.magnet, *peer))

            def in_two(home: Path = name) -> None:
                began = time.perf_counter()
                _bmrt(home, "pull", "mine", *peer)
                _ran(home, "mine", *peer)
                pulled.append(time.perf_counter() - began)

            def by_own_name(home: Path = direct) -> None:
                at_once.append(_ran(home, "mine", *peer))

            sides = [by_link, in_two, by_own_name]
            for side in sides[pair % 3 :] + sides[: pair % 3]:
                side()
            differences.append(pulled[-1] - linked[-1])
    print(
        f"`bmrt pull NAME`, then a run: {_spread(differences)} s more than `bmrt run MAGNET`, "
        f"{statistics.median(pulled):.2f} s against {statistics.median(linked):.2f} s; "
        f"`bmrt run NAME` {statistics.median(at_once):.2f} s",
        flush=True,
    )


def _bmrt(home: Path, *words: str) -> None:
    subprocess.run(
        [*BMRT, *words],
        env=environment(home),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )


# What a dialect computes


def overhead(num_requests: int) -> None:
    """Both sides in one process: the server's own loop is where its processor time is looked at."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_talking(Path(folder) / "talking.gguf")
        node = Node(ModelOptions(num_threads=1, context=1024), serves=True)
        try:
            model = node.load(Opening(StoredModel(path.stem, path, is_default=False)))
            Measuring(node, model, num_requests).run()
        finally:
            node.close()


class Measuring:
    def __init__(self, node: Node, model: Model, num_requests: int) -> None:
        self._model, self._num_requests = model, num_requests
        self._ready = threading.Event()
        self._server = Server(node, ServerConfig(), services=[self._noticing()])
        (self._socket,) = bind("127.0.0.1", 0)
        self._port = int(self._socket.getsockname()[1])
        self._failure: BaseException | None = None

    @asynccontextmanager
    async def _noticing(self) -> AsyncIterator[None]:
        self._loop = asyncio.get_running_loop()
        yield

    def run(self) -> None:
        client = threading.Thread(target=self._measure)
        client.start()
        limits = limits_for(4, 256)
        listen(
            self._server.application(),
            [self._socket],
            limits,
            announce=lambda *_: self._ready.set(),
        )
        client.join()
        if self._failure is not None:
            raise self._failure

    def _measure(self) -> None:
        self._ready.wait()
        try:
            print("beside the answer, processor time:")
            # In a process of its own, so that nobody waits for its interpreter lock.
            with Worker("client_worker.py", {"port": self._port}) as self._client:
                for dialect in ADDRESSES:
                    self._show(dialect)
        except BaseException as error:
            self._failure = error
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    def _show(self, dialect: str) -> None:
        whole, short, long = [], [], []
        for _ in range(self._num_requests):
            inside = self._spent(lambda: self._on_loop(self._answer(dialect, 1)))
            whole.append(self._spent(lambda: self._asked(dialect, 1, streams=False)) - inside)
            short.append(self._spent(lambda: self._asked(dialect, 1, streams=True)) - inside)
        for _ in range(max(3, self._num_requests // 4)):
            inside = self._spent(lambda: self._on_loop(self._answer(dialect, MANY)))
            long.append(self._spent(lambda: self._asked(dialect, MANY, streams=True)) - inside)
        request_s = statistics.median(whole)
        token_s = (statistics.median(long) - statistics.median(short)) / (MANY - 1)
        print(
            f"  {dialect:12} {request_s * 1e3:5.2f} ms a request, {token_s * 1e6:5.1f} µs a token",
            flush=True,
        )

    def _spent(self, work: Callable[[], None]) -> float:
        before = self._on_loop(_spent_here())
        work()
        # What is left to be done when the client has it all.
        time.sleep(0.005)
        return self._on_loop(_spent_here()) - before

    def _on_loop(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _asked(self, dialect: str, num_tokens: int, *, streams: bool) -> None:
        body = _body(dialect, self._model.name, num_tokens, streams=streams)
        answer = self._client.ask({"path": ADDRESSES[dialect], "body": body})
        assert answer["status"] == 200

    async def _answer(self, dialect: str, num_tokens: int) -> None:
        """What the server does to answer, without anything of HTTP."""
        body = _body("completions" if dialect == "completions" else "chat", "", num_tokens)
        # The key under which the server looks for what it has computed before.
        model = self._model.owned_by(Owner())
        num_seen = 0
        if dialect == "completions":
            session = await completions.one(convert(body, CompletionRequest), model)
            async with aclosing(g.run_choices([session], _Uncounted())) as pieces:
                async for piece in pieces:
                    num_seen += piece.token is not None
        else:
            conversation = await begin(convert(body, ChatRequest), model)
            async with aclosing(conversation.answers(_Uncounted())) as answers:
                async for said in answers:
                    num_seen += said.token is not None
        assert num_seen == num_tokens


class _Uncounted:
    def count_generation(self, stats: GenerationStats) -> None:
        pass


async def _spent_here() -> float:
    return time.thread_time()


def _body(dialect: str, model: str, num_tokens: int, *, streams: bool = False) -> dict[str, Any]:
    said = [{"role": "user", "content": QUESTION}]
    common: dict[str, Any] = {"model": model, "stream": streams, "temperature": 0}
    if dialect == "responses":
        return common | {"input": said, "max_output_tokens": num_tokens, "store": False}
    if dialect == "ollama":
        options = {"temperature": 0, "num_predict": num_tokens}
        return {"model": model, "stream": streams, "messages": said, "options": options}
    if dialect == "completions":
        return common | {"prompt": QUESTION, "max_tokens": num_tokens}
    return common | {"messages": said, "max_tokens": num_tokens}


def _post(port: int, path: str, body: dict[str, Any]) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    said = answer.read()
    connection.close()
    assert answer.status == 200, said
    return said


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} [{min(values):.2f} to {max(values):.2f}]"


if __name__ == "__main__":
    main()
