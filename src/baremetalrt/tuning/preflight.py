"""What can be refused before anything is read or learned: the model, what is adapted, the device."""

from pathlib import Path

from baremetalrt.blocks.architectures import read_model
from baremetalrt.blocks.inventory import take_inventory
from baremetalrt.core.errors import UsageError
from baremetalrt.core.spans import BlockSpan
from baremetalrt.native.vocabulary_guard import check_vocabulary
from baremetalrt.tuning.architectures import require_counterpart
from baremetalrt.tuning.config import TuneConfig
from baremetalrt.tuning.targets import bad_targets, parse_targets
from baremetalrt.weights.gguf import GGUFFile


def check_request(config: TuneConfig, base_file: Path) -> None:
    """Reads the header of the model alone; without PyTorch, unless a device of its own is asked for.

    Raises:
        UsageError: the model cannot be tuned, or not in that way, or there is no such device.
        IntegrityError: the file is not what it claims to be.
    """
    file = GGUFFile.open(base_file)
    architecture, h = read_model(file)
    entry = require_counterpart(h)
    take_inventory(file, architecture, h, BlockSpan(0, h.num_blocks))
    check_vocabulary(base_file)
    paths = [
        path for name, path in entry.linears.items() if f"{name}.weight" in file.blocks[0].tensors
    ]
    _check_targets(config.targets, paths, h.num_blocks)
    if config.device != "cpu":
        check_device(config.device)


def _check_targets(targets: str | None, paths: list[str], num_blocks: int) -> None:
    wanted = parse_targets(targets)
    if wanted is None:
        return
    names = {path.rpartition(".")[2] for path in paths}
    if isinstance(wanted, list):
        is_known = any(name in names or name in paths for name in wanted)
    else:
        # `peft` matches whole names.
        full = (f"model.layers.{i}.{path}" for i in range(num_blocks) for path in paths)
        is_known = any(wanted.fullmatch(name) for name in full)
    if not is_known:
        raise bad_targets(f"no module of this model matches {targets!r}", sorted(names))


def check_device(device: str) -> None:
    """Raises:
    UsageError: PyTorch has no such device here.
    """
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(
            f"PyTorch has no device {device!r} here: {str(error).partition(chr(10))[0]}",
            code="tune.device",
            parameter="device",
            hint="leave --torch-device out to compute on the processor",
        ) from error
