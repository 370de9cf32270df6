"""`bmrt adapters import`, `export` and `merge`: adapters from files and to files."""

import shutil
from pathlib import Path
from typing import Final

import click

from baremetalrt.cli import options, output
from baremetalrt.core.errors import UsageError
from baremetalrt.serve.library import find_whole_model

# Below this share, a merged model may well answer as if nothing had been merged.
_MUCH_KEPT: Final = 0.9
_path = click.Path(path_type=Path)
_base = click.option(
    "--base",
    metavar="MODEL",
    shell_complete=options.complete_model,
    help="The model that it belongs to.  [default: the embedded one]",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command("import")
@click.argument("path", type=_path)
@click.option("--name", help="Call it so.  [default: like the file or folder]")
@_base
@_json
def import_command(path: Path, name: str | None, base: str | None, as_json: bool) -> None:
    """Put a GGUF LoRA or a PEFT folder into the store, as an adapter of the model --base.

    Everything is checked first: shapes, ranks, numbers. Pickled weights are refused.
    """
    from dataclasses import replace

    from baremetalrt.serve.adapters import check_base, read_adapter
    from baremetalrt.weights.adapters import store
    from baremetalrt.weights.adapters.peft import WEIGHTS_NAME, write_peft
    from baremetalrt.weights.content import content_id
    from baremetalrt.weights.gguf import GGUFFile

    if not path.exists():
        raise UsageError(f"no adapter at {path}", code="adapter.not-found", parameter="path")
    model = find_whole_model(base)
    file = GGUFFile.open(model.path)
    title = path.name if path.is_dir() else path.stem
    called = store.check_name(name or title.replace(" ", "-"))
    with output.progress(f"reading {path.name}"):
        adapter = read_adapter(path, file)
        check_base(adapter, file)
        adapter = replace(
            adapter, name=called, base_content_id=content_id(file), base_name=model.name
        )

    def beside(folder: Path) -> None:
        if not (path / WEIGHTS_NAME).is_file():
            return
        # Written anew: what others put into their files does not come along.
        try:
            write_peft(adapter, folder, file)
        except UsageError as error:
            output.note(f"kept as GGUF alone: {error.message}")

    stored = store.add(adapter, beside=beside)
    if as_json:
        output.print_json({"name": stored.name, "folder": str(stored.folder), "base": model.name})
        return
    output.note(f"{stored.name}: rank {adapter.rank}, for {model.name}")
    print(stored.folder)


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
    from baremetalrt.serve.adapters import check_base
    from baremetalrt.weights.adapters import store
    from baremetalrt.weights.adapters.peft import write_peft
    from baremetalrt.weights.gguf import GGUFFile

    stored = store.find_adapter(name)
    adapter = store.load(stored)
    if target.exists():
        raise UsageError(f"{target} exists already", code="file.exists", parameter="target")
    form = form or ("gguf" if target.suffix.lower() == ".gguf" else "peft")
    if form == "gguf" and adapter.is_dora:
        raise UsageError(
            f"{stored.name} is DoRA, which other programs do not read from GGUF",
            code="adapter.unsupported",
            hint="--format peft, or `bmrt adapters merge` it into a model of its own",
        )
    if form == "gguf":
        target.touch(mode=0o600)
        shutil.copyfile(stored.gguf_path, target)
    else:
        file = GGUFFile.open(find_whole_model(base or adapter.base_name).path)
        check_base(adapter, file)
        write_peft(adapter, target, file)
        store.make_private(target)
    print(target)


@click.command("merge")
@click.argument("names", nargs=-1, required=True, metavar="NAME[=SCALE]…")
@_base
@click.option("-o", "--output", "target", type=_path, required=True, help="Write the model here.")
def merge_command(names: tuple[str, ...], base: str | None, target: Path) -> None:
    """Write a new model: --base with adapters added to its weights.

    Each tensor keeps its type, so what an adapter changes by less than a step of the quantization is
    lost; an adapter that is kept apart loses nothing. NAME may be a file or a PEFT folder, too.
    """
    from baremetalrt.serve.adapters import AdapterShelf, check_base, parse_choice
    from baremetalrt.weights.adapters.merge import merge
    from baremetalrt.weights.gguf import GGUFFile

    choices = [parse_choice(name, allow_paths=True) for name in names]
    file = GGUFFile.open(find_whole_model(base).path)
    shelf = AdapterShelf()
    parts = []
    for choice in choices:
        adapter = shelf.find(choice.reference, file, allow_paths=True)
        check_base(adapter, file)
        parts.append((adapter, choice.scale))
    with output.progress(f"merging into {target.name}"):
        kept = merge(file, parts, target)
    if kept < _MUCH_KEPT:
        output.note(
            f"{100 * kept:.0f} % of what is changed is left after quantization; merge into a model of "
            "more bits, or use the adapter as it is"
        )
    print(target)
