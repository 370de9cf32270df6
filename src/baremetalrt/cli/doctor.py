"""`bmrt doctor`: is everything here that is needed?"""

import sys
from typing import TYPE_CHECKING

import click

from baremetalrt.cli import options, output
from baremetalrt.core.units import format_bytes

if TYPE_CHECKING:
    from baremetalrt.node.health import Health


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
        if device.features:
            print(f"           compiled for {' '.join(device.features)}")
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
    print(f"readers    of documents reach {' and '.join(left) or 'neither files nor network'}")
    for problem in h.problems:
        print(f"problem    {problem.message}")
        if problem.hint:
            print(f"           hint: {problem.hint}")
    if not h.problems:
        print("all is well")
