"""`bmrt show`: what is in a model file, as far as the file has arrived."""

from typing import Any

import click

from baremetalrt.cli import options, output
from baremetalrt.core.units import format_bytes


@click.command("show")
@click.argument("model", required=False, shell_complete=options.complete_model)
@options.JSON
def command(model: str | None, as_json: bool) -> None:
    """Describe a model: architecture, blocks and their bytes, types, context.

    Only the header has to be there.
    """
    from baremetalrt.node.listing import describe_model

    description = describe_model(model)
    if as_json:
        output.print_json(description)
    else:
        _print(description)


def _print(d: dict[str, Any]) -> None:
    title = f" · {d['title']}" if d["title"] else ""
    print(f"{d['name']}{title}")
    lines = [
        ("architecture", d["architecture"]),
        ("parameters", f"{d['parameters']:,}"),
        ("size", format_bytes(d["bytes"]) + ("" if d["complete"] else ", not complete")),
        ("license", d["license"] or "not stated"),
    ]
    if not d["runnable"]:
        lines.append(("problem", d["problem"]))
    elif d["runs_whole"]:
        lines += [
            ("runs", "whole, through libllama: not on peers, while it arrives, or with adapters"),
            ("context", f"{d['context']} tokens"),
            ("width", f"{d['width']}"),
        ]
    else:
        lines += [
            ("context", f"{d['context']} tokens"),
            ("width", f"{d['width']}, feed-forward {d['feed_forward_width']}"),
            ("heads", f"{d['heads']} of {d['head_size']}, {d['kv_heads']} for keys and values"),
        ]
        if d["experts"]:
            lines.append(("experts", f"{d['experts']}, {d['experts_used']} used per token"))
        if d["sliding_window"]:
            lines.append(("window", f"{d['sliding_window']} tokens"))
    lines += [
        ("vocabulary", f"{d['vocabulary'] or 0} tokens"),
        ("chat template", "yes" if d["chat_template"] else "no"),
        ("files", "\n                 ".join(d["files"])),
    ]
    if "torrent" in d:
        t = d["torrent"]
        lines += [
            ("torrent", f"{t['infohash_v2'] or t['infohash_v1']}, {t['pieces']} pieces"),
            ("blocks here", f"{len(t['blocks_here'])} of {len(d['blocks'])}"),
            ("magnet", t["magnet"]),
        ]
    for name, value in lines:
        print(f"  {name:<14} {value}")
    print()
    output.print_table(
        ("TYPE", "TENSORS", "SIZE"),
        [(name, t["tensors"], format_bytes(t["bytes"])) for name, t in d["types"].items()],
    )
    print()
    output.print_table(
        ("BLOCKS", "SIZE EACH"),
        [
            *((span, format_bytes(size)) for span, size in _runs(d["blocks"])),
            ("outside", format_bytes(d["outside_blocks_bytes"])),
        ],
    )


def _runs(blocks: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Neighbouring blocks of equal size on one line."""
    runs: list[tuple[int, int, int]] = []
    for block in blocks:
        if runs and runs[-1][2] == block["bytes"]:
            runs[-1] = (runs[-1][0], block["index"], block["bytes"])
        else:
            runs.append((block["index"], block["index"], block["bytes"]))
    return [(f"{a}" if a == b else f"{a} to {b}", size) for a, b, size in runs]
