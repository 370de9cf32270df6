"""`bmrt adapters import`, `export` and `merge`: adapters from files and to files."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from baremetalrt.cli import options, output

if TYPE_CHECKING:
    from baremetalrt.node.adapter_files import MergeType

# Below this share, a merged model may well answer as if nothing had been merged.
_MUCH_KEPT: Final = 0.9
_path = click.Path(path_type=Path)
_base = click.option(
    "--base",
    metavar="MODEL",
    shell_complete=options.complete_model,
    help="The model that it belongs to.  [default: the embedded one]",
)


@click.command("import")
@click.argument("path", type=_path)
@click.option("--name", help="Call it so.  [default: like the file or folder]")
@_base
@options.JSON
def import_command(path: Path, name: str | None, base: str | None, as_json: bool) -> None:
    """Put a GGUF LoRA or a PEFT folder into the store, as an adapter of the model --base.

    Everything is checked first: shapes, ranks, numbers. Pickled weights are refused.
    """
    from baremetalrt.node.adapter_files import import_adapter

    with output.progress(f"reading {path.name}"):
        imported = import_adapter(path, name, base)
    if imported.left_out:
        output.note(f"kept as GGUF alone: {imported.left_out}")
    if as_json:
        output.print_json(
            {
                "name": imported.name,
                "folder": str(imported.folder),
                "base": imported.base_name,
            }
        )
        return
    output.note(f"{imported.name}: rank {imported.rank}, for {imported.base_name}")
    print(imported.folder)


@click.command("export")
@click.argument("name")
@click.argument("target", type=_path)
@click.option(
    "--format",
    "form",
    type=click.Choice(["gguf", "peft"]),
    help="A GGUF file, or a PEFT folder.  [default: what TARGET looks like]",
)
@_base
def export_command(name: str, target: Path, form: str | None, base: str | None) -> None:
    """Write an adapter to a GGUF file for llama.cpp, or to a PEFT folder for transformers."""
    from baremetalrt.node.adapter_files import export_adapter

    export_adapter(name, target, form, base)
    print(target)


@click.command("merge")
@click.argument("names", nargs=-1, required=True, metavar="NAME[=SCALE]…")
@_base
@click.option("-o", "--output", "target", type=_path, required=True, help="Write the model here.")
@click.option(
    "--type",
    "type_",
    type=click.Choice(["auto", "same", "q8_0", "f16", "bf16", "f32"]),
    default="auto",
    show_default=True,
    help="What adapted matrices become. auto: as they are, unless the change would be lost.",
)
def merge_command(
    names: tuple[str, ...], base: str | None, target: Path, type_: "MergeType"
) -> None:
    """Write a new model: --base with adapters added to its weights.

    Steps of few bits swallow what an adapter changes by less: such matrices get more bits, as many as
    keep it, and the file grows. With --type same it keeps its size, and what is lost is said. NAME may
    be a file or a PEFT folder, too.
    """
    from baremetalrt.node.adapter_files import merge_adapters

    with output.progress(f"merging into {target.name}"):
        merged = merge_adapters(names, base, target, type_)
    output.note(
        f"{100 * merged.kept:.0f} % of what is changed is kept; {merged.num_retyped} of "
        f"{merged.num_adapted} matrices have another type now"
    )
    if merged.kept < _MUCH_KEPT:
        output.note(
            "warning: much of it was rounded away; merge with --type auto, or use the adapter as it is"
        )
    print(target)
