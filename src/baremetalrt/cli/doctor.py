"""`bmrt doctor`: is everything here that is needed?"""

import sys
from typing import TYPE_CHECKING, Final

import click

from baremetalrt.cli import options, output
from baremetalrt.core.units import format_bytes

if TYPE_CHECKING:
    from baremetalrt.node.health import Health

# Source: docs/BENCHMARKS.md, "Faster still".
_GAIN_OF_AVX512: Final = "prompts were 1.1 to 1.4 and answers 1.1 to 1.2 times"


@click.command("doctor")
@options.JSON
def command(as_json: bool) -> None:
    """Check library, devices, memory and store."""
    from baremetalrt.node.health import examine

    health = examine()
    if as_json:
        output.print_json(health.as_json())
    else:
        _print(health)
    sys.exit(1 if health.problems else 0)


def _print(h: "Health") -> None:
    print(f"bmrt {h.version}, Python {h.python}, {h.system}")
    if h.library:
        print(f"library    ggml {h.library.ggml} from {h.library.origin}: {h.library.path}")
    for device in h.devices:
        memory = format_bytes(device.memory_total_bytes)
        print(f"device     {device.name}: {device.description} ({device.kind}, {memory})")
        if rates := h.rates.get(device.name):
            read, computed = 1 / rates.byte_s, rates.operations_per_s
            print(f"           reads {read / 1e9:.1f} GB/s of weights for a token, and computes")
            print(f"           {computed / 1e9:.0f} billion operations/s of a prompt")
        if device.features:
            print(f"           compiled for {' '.join(device.features)}")
    if h.unused:
        print(
            f"unused     {' '.join(h.unused)}: `bmrt engine install` brings a library that uses it"
        )
    if "AVX512" in h.unused:
        print(f"           with AVX-512, {_GAIN_OF_AVX512} as fast where it was measured")
    print(f"threads    {h.threads}")
    available, total = format_bytes(h.memory_available_bytes), format_bytes(h.memory_total_bytes)
    print(f"memory     {available} available of {total}")
    print(f"store      {h.store} ({h.models} models)")
    print(f"default    {h.default_model or 'not installed'}")
    held = f"{h.prompt_cache_texts} texts, {format_bytes(h.prompt_cache_bytes)}"
    print(f"texts      {h.prompt_cache} ({held})")
    left = [
        w for w, gone in (("files", h.confined_files), ("network", h.confined_calls)) if not gone
    ]
    reached = " and ".join(left) or "neither files nor network"
    print(f"graphs     for {len(h.architectures)} architectures: {', '.join(h.architectures)}")
    print("           others that the library knows run whole: not on peers, while they arrive,")
    print("           or with adapters")
    reached = " and ".join(left) or "neither files nor network"
    print(f"readers    of documents, and models that run whole on the processor, reach {reached}")
    for problem in h.problems:
        print(f"problem    {problem.message}")
        if problem.hint:
            print(f"           hint: {problem.hint}")
    if not h.problems:
        print("all is well")
