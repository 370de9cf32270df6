"""Torrents against what people use instead: a download and then a run, llama.cpp, aria2.

Everything is on the loopback address; rates are limited at the seed, and at the HTTP mirror, alike. Each
ratio is the median over runs that were measured back to back, with the smallest and largest in brackets.
"""

import argparse
import asyncio
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import gguf
import libtorrent as lt
import numpy as np

from baremetalrt.core.places import HOME_VARIABLE
from baremetalrt.devices.processor import default_threads
from baremetalrt.native.holes import punch_hole
from baremetalrt.swarm.client import SwarmClient
from baremetalrt.swarm.config import SwarmConfig
from baremetalrt.swarm.fetching import wait_for_header
from baremetalrt.swarm.metainfo import read_metainfo
from baremetalrt.swarm.obtaining import add_torrent
from baremetalrt.swarm.piece_checker import signatures
from baremetalrt.weights.store import find_model

BMRT = [sys.executable, "-m", "baremetalrt"]
MB = 1_000_000
QUESTION = "What is a torrent? Answer in two sentences."
_HERE = Path(__file__).parent
_SETTINGS = '[swarm]\noffline = true\nlocal_discovery = false\nlisten = "127.0.0.1"\nport = 0\n'


def report(name: str, ratios: list[float], note: str) -> None:
    low, high = min(ratios), max(ratios)
    print(
        f"{name:<44} {statistics.median(ratios):6.3f} [{low:.3f} to {high:.3f}]  {note}", flush=True
    )


class Home:
    """A home folder whose torrents stay on the loopback address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        (folder / "config.toml").write_text(_SETTINGS)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, HOME_VARIABLE: str(self.folder), "GGML_NO_BACKTRACE": "1"}

    def forget(self) -> None:
        """An empty store again."""
        shutil.rmtree(self.folder / "torrents", ignore_errors=True)

    def bmrt(self, *arguments: str) -> dict[str, Any]:
        done = subprocess.run(
            [*BMRT, *arguments, "--json"],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


@contextmanager
def seeding(home: Home, model: Path, *arguments: str) -> Iterator[dict[str, Any]]:
    """`bmrt seed`; what it printed, and `peer`."""
    process = subprocess.Popen(
        [*BMRT, "seed", str(model), "--json", *arguments],
        env=home.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        printed: dict[str, Any] = json.loads(process.stdout.readline())
        for line in process.stderr:
            if "seeding on port" in line:
                port = int(line.split("port ")[1].split(";")[0])
                break
        yield printed | {"peer": f"127.0.0.1:{port}"}
    finally:
        process.terminate()
        process.communicate()


@contextmanager
def mirror(model: Path, rate: int) -> Iterator[str]:
    """The file over HTTP, at `rate` bytes per second."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(model.stat().st_size))
            self.end_headers()
            step = max(1 << 14, rate // 100)
            started, sent = time.monotonic(), 0
            with model.open("rb") as file:
                while data := file.read(step):
                    self.wfile.write(data)
                    sent += len(data)
                    time.sleep(max(0.0, sent / rate - (time.monotonic() - started)))

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/model.gguf"
    finally:
        server.shutdown()
        server.server_close()


def catalogue(home: Home, raw: bytes, model: Path) -> None:
    """Makes a torrent known in a home as whole, with the file where it is, unhashed."""
    os.environ[HOME_VARIABLE] = str(home.folder)
    entry = add_torrent(read_metainfo(raw, source="bench")).entry
    record = entry.record
    record.paths, record.is_complete, record.is_in_place = [str(model)], True, True
    record.signatures = signatures([model])
    entry.save()
    del os.environ[HOME_VARIABLE]


# time to first token


def first_tokens(work: Path, rates_mb: list[int], runs: int) -> None:
    model = find_model(None).path
    home, theirs = Home(work / "home"), Home(work / "seed")
    download = work / "download.gguf"
    for rate_mb in rates_mb:
        behind, against_pull, against_http, firsts = [], [], [], []
        for _ in range(runs):
            with seeding(theirs, model, "--limit-up", f"{rate_mb}MB/s") as seed:
                home.forget()
                ask = ("-t", "0", "-n", "1", "--peer", seed["peer"])
                started = time.perf_counter()
                timings = home.bmrt("run", seed["magnet"], QUESTION, *ask)["timings"]
                first = timings["time_to_first_token_s"]
                firsts.append(first)
                behind.append(first / timings["last_byte_s"])
                home.forget()
                started = time.perf_counter()
                name = home.bmrt("pull", seed["magnet"], "--peer", seed["peer"])["name"]
                pulled_s = time.perf_counter() - started
                answer = home.bmrt("run", name, QUESTION, "-t", "0", "-n", "1")
                then = pulled_s + answer["timings"]["time_to_first_token_s"]
                against_pull.append(first / then)
            with mirror(model, rate_mb * MB) as url:
                started = time.perf_counter()
                fetch = "import sys, urllib.request as u; u.urlretrieve(*sys.argv[1:])"
                subprocess.run([sys.executable, "-c", fetch, url, str(download)], check=True)
                _llama_cpp(download)
                against_http.append(first / (time.perf_counter() - started))
        note = f"first token after {statistics.median(firsts):.2f} s"
        report(f"{rate_mb} MB/s: first token / last byte", behind, note)
        report(f"{rate_mb} MB/s: / pull, then run", against_pull, "")
        report(f"{rate_mb} MB/s: / HTTP, then llama.cpp", against_http, "")


def _llama_cpp(model: Path) -> None:
    rendered = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    arguments = [str(model), rendered, "4096", str(default_threads())]
    subprocess.run(
        [sys.executable, str(_HERE / "first_token_llama_cpp.py"), *arguments],
        check=True,
        capture_output=True,
    )


# throughput


def write_large(path: Path, num_tensors: int, tensor_bytes: int) -> Path:
    """A GGUF file of random bytes: blocks of one tensor each."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(num_tensors)
    rng = np.random.default_rng(1)
    for i in range(num_tensors):
        data = rng.integers(0, 256, tensor_bytes, dtype=np.uint8).view(np.float16)
        writer.add_tensor(f"blk.{i}.ffn_down.weight", data.reshape(-1, 1024))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@contextmanager
def tracker(peers: list[str]) -> Iterator[str]:
    """Tells everybody who asks of these peers: aria2 takes none on its command line."""
    compact = b"".join(
        bytes(map(int, host.split("."))) + int(port).to_bytes(2, "big")
        for host, _, port in (peer.rpartition(":") for peer in peers)
    )
    answer = lt.bencode({b"interval": 1800, b"peers": compact})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/announce"
    finally:
        server.shutdown()
        server.server_close()


def _timed(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Wall seconds and processor seconds of a child process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    quiet = subprocess.DEVNULL
    subprocess.run(command, env=environment, stdin=quiet, stdout=quiet, stderr=quiet, check=True)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def throughput(work: Path, runs: int) -> None:
    if not shutil.which("aria2c"):
        print("throughput: needs aria2c (package aria2), which is not installed")
        return
    model = write_large(work / "large.gguf", 64, 16 << 20)
    # aria2 reads v1 alone.
    entry = lt.create_file_entry("large.gguf", model.stat().st_size)
    made = lt.create_torrent([entry], 1 << 20, lt.create_torrent.v1_only)
    lt.set_piece_hashes(made, str(work))
    raw = lt.bencode(made.generate())
    for num_seeds in (1, 3):
        with ExitStack() as stack:
            homes = [Home(work / f"large-seed-{num_seeds}-{i}") for i in range(num_seeds)]
            for home in homes:
                catalogue(home, raw, model)
            seeds = [stack.enter_context(seeding(home, Path("large"))) for home in homes]
            url = stack.enter_context(tracker([seed["peer"] for seed in seeds]))
            _compare_throughput(work, seeds, url, runs)
    model.unlink()


def _compare_throughput(work: Path, seeds: list[dict[str, Any]], url: str, runs: int) -> None:
    home, target = Home(work / f"large-home-{len(seeds)}"), work / "aria2"
    torrent = seeds[0]["torrent"]
    peers = [option for seed in seeds for option in ("--peer", seed["peer"])]
    ours = [*BMRT, "pull", torrent, *peers]
    theirs = ["aria2c", "-q", "-d", str(target), "--seed-time=0", "--file-allocation=none"]
    theirs += ["--enable-dht=false", "--bt-enable-lpd=false", "--enable-peer-exchange=false"]
    theirs += [f"--bt-tracker={url}", "--interface=lo", torrent]
    speed, processor, rates = [], [], []
    for run in range(runs):
        times: list[tuple[float, float]] = [(0.0, 0.0)] * 2
        for side in (run % 2, 1 - run % 2):
            home.forget()
            shutil.rmtree(target, ignore_errors=True)
            times[side] = _timed((ours, theirs)[side], home.environment)
        speed.append(times[1][0] / times[0][0])
        processor.append(times[0][1] / times[1][1])
        rates.append([seeds[0]["bytes"] / MB / wall for wall, _ in times])
    mine, other = (statistics.median(rate[i] for rate in rates) for i in (0, 1))
    note = f"{mine:.0f} and {other:.0f} MB/s"
    report(f"{len(seeds)} seeds: speed, ours / aria2", speed, note)
    report(f"{len(seeds)} seeds: processor time, ours / aria2", processor, "")
    home.forget()
    shutil.rmtree(target, ignore_errors=True)


# a block that jumps the queue


def jump(work: Path, runs: int, rate_mb: int) -> None:
    model = write_large(work / "jump.gguf", 40, 8 << 20)
    theirs = Home(work / "jump-seed")
    ratios = []
    for run in range(runs):
        os.environ[HOME_VARIABLE] = str(Home(work / f"jump-{run}").folder)
        with seeding(theirs, model, "--limit-up", f"{rate_mb}MB/s") as seed:
            ratios.append(asyncio.run(_jump(seed, rate_mb)))
        shutil.rmtree(os.environ.pop(HOME_VARIABLE))
    report(f"a needed block of 8 MiB at {rate_mb} MB/s: time / size", ratios, "")
    model.unlink()


async def _jump(seed: dict[str, Any], rate_mb: int) -> float:
    config = SwarmConfig(offline=True, local_discovery=False, listen="127.0.0.1", port=0)
    raw = Path(seed["torrent"]).read_bytes()
    async with SwarmClient(config) as client:
        entry = add_torrent(read_metainfo(raw, source="bench"))
        torrent = await client.add(entry, peers=[seed["peer"]])
        file = await wait_for_header(torrent)
        units = [file.header_ranges, *(block.byte_ranges for block in file.blocks)]
        torrent.set_units(units)
        await torrent.wait_for(file.blocks[3].byte_ranges)  # the download is well under way
        block = file.blocks[30]
        started = time.perf_counter()
        await torrent.wait_for(block.byte_ranges)
        return (time.perf_counter() - started) / (block.num_bytes / (rate_mb * MB))


# start-up with a large store


def startup(work: Path, runs: int) -> None:
    """Ten sparse models of 5 GB; their pieces are claimed, and trusted as long as nobody wrote."""
    home = Home(work / "store")
    source = write_large(work / "sparse.gguf", 32, 1 << 20)
    for i in range(10):
        path = work / f"sparse-{i}.gguf"
        shutil.copy(source, path)
        os.truncate(path, 5_000_000_000)
        punch_hole(path, 1 << 20, 5_000_000_000)
        entries = [lt.create_file_entry(path.name, 5_000_000_000)]
        made = lt.create_torrent(entries, 4 << 20, lt.create_torrent.v1_only)
        for piece in range(made.num_pieces()):
            made.set_hash(piece, (i + 1).to_bytes(20, "big"))
        catalogue(home, lt.bencode(made.generate()), path)
    seconds, served = [], []
    for _ in range(runs):
        answer = home.bmrt("run", QUESTION, "-t", "0", "-n", "1")
        seconds.append(answer["timings"]["load_s"])
        started = time.perf_counter()
        process = subprocess.Popen(
            [*BMRT, "serve", "--port", "0"],
            env=home.environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        assert process.stderr is not None
        for line in process.stderr:
            if "listening on" in line:
                break
        served.append(time.perf_counter() - started)
        process.terminate()
        process.communicate()
    report("store of 50 GB: seconds to the first prompt", seconds, "bmrt run")
    report("store of 50 GB: seconds to the first prompt", served, "bmrt serve")
    for path in work.glob("sparse*.gguf"):
        path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", default="2,10,50", help="MB/s, comma-separated")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", choices=("first", "throughput", "jump", "startup"))
    arguments = parser.parse_args()
    rates = [int(rate) for rate in arguments.rates.split(",")]
    with tempfile.TemporaryDirectory(prefix="bmrt-bench-") as folder:
        work = Path(folder)
        parts: dict[str, Callable[[], None]] = {
            "startup": lambda: startup(work, arguments.runs),
            "jump": lambda: jump(work, arguments.runs, 10),
            "throughput": lambda: throughput(work, arguments.runs),
            "first": lambda: first_tokens(work, rates, arguments.runs),
        }
        for name, part in parts.items():
            if arguments.only in (None, name):
                part()


if __name__ == "__main__":
    main()
