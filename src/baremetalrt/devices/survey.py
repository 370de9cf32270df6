"""What there is to compute with: the library that was found, and the devices it can drive."""

from dataclasses import dataclass

from baremetalrt.native.backend import backend_devices, buffer_type_name
from baremetalrt.native.library import load_library


@dataclass(frozen=True)
class LibrarySurvey:
    """The C library in use; `origin` is where it was found."""

    path: str
    origin: str
    ggml: str
    llama: str


@dataclass(frozen=True)
class DeviceSurvey:
    """One device. `features` are the instruction sets that the library was compiled to use there."""

    name: str
    kind: str
    description: str
    memory_free_bytes: int
    memory_total_bytes: int
    features: tuple[str, ...]
    repacking: tuple[str, ...]


def survey_library() -> LibrarySurvey:
    """The library; raises what `load_library` raises."""
    found = load_library()
    return LibrarySurvey(str(found.path), found.origin, found.ggml_version, found.llama_version)


def survey_devices() -> list[DeviceSurvey]:
    """Every device, in the library's order."""
    surveyed = []
    for device in backend_devices():
        free, total = device.memory_bytes()
        surveyed.append(
            DeviceSurvey(
                name=device.name.lower(),
                kind=device.kind,
                description=device.description,
                memory_free_bytes=free,
                memory_total_bytes=total,
                features=device.features(),
                repacking=tuple(buffer_type_name(t) for t in device.repacking_buffer_types()),
            )
        )
    return surveyed
