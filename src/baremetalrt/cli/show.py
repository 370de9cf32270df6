"""`bmrt show`: what is in a model file, as far as the file has arrived."""

from collections import Counter
from typing import Any

import click

from baremetalrt.cli import options, output
from baremetalrt.core.errors import BareMetalError
from baremetalrt.core.units import format_bytes
from baremetalrt.swarm import catalog
from baremetalrt.swarm.catalog import Entry, Record
from baremetalrt.weights.gguf import GGUFFile
from baremetalrt.weights.store import StoredModel, find_model


@click.command("show")
@click.argument("model", required=False, shell_complete=options.complete_model)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model: str | None, as_json: bool) -> None:
    """Describe a model: architecture, blocks and their bytes, types, context.

    Only the header has to be there.
    """
    found = catalog.find(model) if model else None
    if found is not None:
        entry, record = found
        stored = StoredModel(record.name, entry.model_paths(record)[0], is_default=False)
        description = _describe(stored, GGUFFile.open(stored.path))
        description |= _describe_torrent(entry, record, GGUFFile.open(stored.path))
    else:
        stored = find_model(model)
        description = _describe(stored, GGUFFile.open(stored.path))
    if as_json:
        output.print_json(description)
    else:
        _print(description)


def _describe(stored: StoredModel, file: GGUFFile) -> dict[str, Any]:
    from baremetalrt.blocks.architectures import read_model

    types: dict[str, Counter[str]] = {}
    for tensor in file.tensors.values():
        count = types.setdefault(tensor.type_name, Counter())
        count.update(tensors=1, elements=tensor.num_elements, bytes=tensor.num_bytes)
    description: dict[str, Any] = {
        "name": stored.name,
        "files": [str(p) for p in file.paths],
        "bytes": file.num_bytes,
        "complete": not file.missing(t.byte_range for t in file.tensors.values()),
        "title": file.text("general.name"),
        "license": file.text("general.license"),
        "architecture": file.architecture,
        "parameters": sum(t.num_elements for t in file.tensors.values()),
        "types": {name: dict(count) for name, count in types.items()},
        "blocks": [
            {
                "index": block.index,
                "bytes": block.num_bytes,
                "ranges": [[r.file, r.start, r.end] for r in block.byte_ranges],
            }
            for block in file.blocks
        ],
        "outside_blocks_bytes": sum(t.num_bytes for t in file.outer_tensors.values()),
        "chat_template": file.text("tokenizer.chat_template") is not None,
        "vocabulary": file.array_length("tokenizer.ggml.tokens"),
    }
    try:
        _, h = read_model(file)
    except BareMetalError as error:
        return description | {"runnable": False, "problem": error.message}
    return description | {
        "runnable": True,
        "context": h.training_context,
        "width": h.width,
        "heads": h.num_heads,
        "kv_heads": h.num_kv_heads,
        "head_size": h.head_size,
        "feed_forward_width": h.feed_forward_width,
        "experts": h.num_experts,
        "experts_used": h.num_experts_used,
        "sliding_window": h.window or None,
    }


def _describe_torrent(entry: Entry, record: Record, file: GGUFFile) -> dict[str, Any]:
    from baremetalrt.serve.torrents import blocks_here, read_torrent_file

    metainfo = read_torrent_file(entry.metainfo_path)
    here = blocks_here(entry, record, metainfo, file)
    return {
        "complete": record.is_complete,
        "torrent": {
            "magnet": metainfo.magnet,
            "infohash_v1": metainfo.infohash_v1,
            "infohash_v2": metainfo.infohash_v2,
            "pieces": metainfo.pieces.num_pieces,
            "piece_bytes": metainfo.pieces.piece_bytes,
            "swarm": record.swarm,
            "in_place": record.is_in_place,
            "blocks_here": [i for i, is_here in enumerate(here) if is_here],
        },
    }


def _print(d: dict[str, Any]) -> None:
    title = f" · {d['title']}" if d["title"] else ""
    print(f"{d['name']}{title}")
    lines = [
        ("architecture", d["architecture"]),
        ("parameters", f"{d['parameters']:,}"),
        ("size", format_bytes(d["bytes"]) + ("" if d["complete"] else ", not complete")),
        ("license", d["license"] or "not stated"),
    ]
    if d["runnable"]:
        lines += [
            ("context", f"{d['context']} tokens"),
            ("width", f"{d['width']}, feed-forward {d['feed_forward_width']}"),
            ("heads", f"{d['heads']} of {d['head_size']}, {d['kv_heads']} for keys and values"),
        ]
        if d["experts"]:
            lines.append(("experts", f"{d['experts']}, {d['experts_used']} used per token"))
        if d["sliding_window"]:
            lines.append(("window", f"{d['sliding_window']} tokens"))
    else:
        lines.append(("problem", d["problem"]))
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
