"""Every architecture this engine computes. An entry here is all that a new one needs."""

from typing import Final

from baremetalrt.blocks.architecture import Architecture
from baremetalrt.blocks.architectures import gemma, llama, olmo, phi, qwen
from baremetalrt.blocks.hyperparameters import (
    Hyperparameters,
    MetadataReader,
    read_hyperparameters,
)
from baremetalrt.core.errors import UsageError
from baremetalrt.weights.gguf import GGUFFile

ARCHITECTURES: dict[str, Architecture] = {
    architecture.name: architecture
    for family in (llama, qwen, gemma, phi, olmo)
    for architecture in family.ARCHITECTURES
}
GRAPHS_HINT: Final = "there are graphs for " + ", ".join(sorted(ARCHITECTURES))


def read_model(file: GGUFFile) -> tuple[Architecture, Hyperparameters]:
    """The architecture of a file and its numbers.

    Raises:
        UsageError: the architecture is not one of ours.
        IntegrityError: a number is absent or absurd.
    """
    architecture = ARCHITECTURES.get(file.architecture)
    if architecture is None:
        raise UsageError(
            f"{file.path.name} has the architecture {file.architecture or 'unnamed'!r}, for which "
            "there are no graphs here: it can only run whole, on this machine, if the library knows it",
            code="model.unknown-architecture",
            hint=GRAPHS_HINT,
        )
    reader = MetadataReader(file)
    return architecture, architecture.configure(reader, read_hyperparameters(reader))
