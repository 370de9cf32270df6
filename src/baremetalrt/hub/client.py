"""Files of a hub, by its own client library: what there is, and fetching it.

`HF_ENDPOINT` says where the hub is, `HF_TOKEN` or a login who asks, as its other programs have it.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

from baremetalrt.core.errors import CapacityError, IntegrityError, UsageError
from baremetalrt.core.files import disk_errors
from baremetalrt.core.installation import how_to_add
from baremetalrt.hub.choosing import HubFile
from baremetalrt.hub.names import HubName

_MAX_FILES: Final = 10_000

# Hears how many bytes of a file are there.
OnBytes = Callable[[int], None]


@dataclass(frozen=True)
class Repository:
    """What a hub has under a name, at one commit."""

    name: HubName
    commit: str
    files: tuple[HubFile, ...]

    def address(self, file: HubFile) -> str:
        """The URL of a file, for whoever fetches it without this library."""
        import huggingface_hub

        return huggingface_hub.hf_hub_url(self.name.repo, file.path, revision=self.commit)


def look_up(name: HubName) -> Repository:
    """What is there; raises like `_hub_errors`."""
    hub = _library()
    with _hub_errors(name):
        found = hub.HfApi().model_info(name.repo, revision=name.revision, files_metadata=True)
    siblings = (found.siblings or [])[:_MAX_FILES]
    files = tuple(
        HubFile(one.rfilename, one.size or 0, one.lfs.sha256 if one.lfs else None)
        for one in siblings
        if _is_inside(one.rfilename)
    )
    return Repository(name, found.sha or "main", files)


def fetch(repository: Repository, file: HubFile, folder: Path, on_bytes: OnBytes) -> Path:
    """A file in `folder`, checked; what was fetched before goes on.

    Raises:
        UsageError, CapacityError: see `_hub_errors`; no room on the disk.
        IntegrityError: it is not what the hub says that it is; what was fetched is removed.
    """
    _library()
    path = folder / file.path
    partial = path.with_name(f"{path.name}.{(file.sha256 or repository.commit)[:16]}.part")
    with disk_errors():
        if path.is_file() and _is_that(path, file):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("ab") as target, _hub_errors(repository.name):
            _get(repository, file, target, on_bytes)
        is_sound = _is_that(partial, file)
        if is_sound:
            partial.replace(path)
        else:
            partial.unlink()
    if not is_sound:
        raise IntegrityError(
            f"{file.path} is not what the hub says that it is",
            code="hub.hash",
            source=str(repository.name),
            hint="fetch it again; if it stays so, somebody on the way changes it",
        )
    return path


def _get(repository: Repository, file: HubFile, target: BinaryIO, on_bytes: OnBytes) -> None:
    """The rest of a file. The library's own call for whole files begins anew with every process."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils._headers import build_hf_headers

    here = target.tell()
    if here > file.size:
        target.truncate(0)
        here = 0
    http_get(
        repository.address(file),
        target,
        resume_size=here,
        headers=build_hf_headers(),
        expected_size=file.size,
        tqdm_class=_reporting(on_bytes),
    )


def _is_inside(path: str) -> bool:
    """Whether a path of a stranger's stays where it belongs."""
    parts = path.replace("\\", "/").split("/")
    return bool(path) and path.isprintable() and not path.startswith("/") and ".." not in parts


def _is_that(path: Path, file: HubFile) -> bool:
    """Whether what is here is what the hub has. Reads all of it."""
    if path.stat().st_size != file.size:
        return False
    with path.open("rb") as here:
        digest = hashlib.file_digest(here, "sha256").hexdigest()
    return file.sha256 is None or digest == file.sha256


def _library() -> Any:
    # It tells its makers who uses it, unless it is told not to.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import huggingface_hub
    except ImportError as error:
        raise UsageError(
            "models of a hub need its client library", code="hub.missing", hint=how_to_add("hub")
        ) from error
    # What it says between its attempts is no line of ours; what comes of them is an error.
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    return huggingface_hub


def _reporting(on_bytes: OnBytes) -> type[Any]:
    """A progress bar, as far as the library uses one, that shows nothing and reports."""

    class Reporting:
        def __init__(
            self, *_: Any, initial: int = 0, total: int | None = None, **_more: Any
        ) -> None:
            self.n = initial
            self.total = total
            on_bytes(int(self.n))

        def update(self, n: float | None = 1) -> None:
            self.n += int(n or 0)
            on_bytes(self.n)

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def __getattr__(self, _name: str) -> Callable[..., None]:
            # What else bars do is for those who look at them.
            return lambda *_arguments, **_options: None

    return Reporting


@contextmanager
def _hub_errors(name: HubName) -> Iterator[None]:
    """The library's errors as ours.

    Raises:
        UsageError: there is no such repository or revision, or it is not for who asks.
        CapacityError: the hub does not answer, or not soon enough.
    """
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise UsageError(
            f"{name} is not for everybody",
            code="hub.gated",
            parameter="source",
            hint="ask for it on its page, and give a token in HF_TOKEN",
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise UsageError(
            f"the hub has no {name}",
            code="model.not-found",
            parameter="source",
            hint="is it spelled as on its page? what is not public needs a token in HF_TOKEN",
        ) from error
    except errors.EntryNotFoundError as error:
        raise UsageError(
            f"a file of {name} is not there any more", code="model.not-found", parameter="source"
        ) from error
    except errors.HFValidationError as error:
        raise UsageError(str(error), code="hub.name", parameter="source") from error
    except errors.OfflineModeIsEnabled as error:
        raise UsageError(
            "the hub is not asked while HF_HUB_OFFLINE is set", code="hub.offline"
        ) from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError) as error:
        raise _no_answer(str(error)) from error
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
            raise
        raise _no_answer(str(error)) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2"):
            raise _no_answer(str(error) or type(error).__name__) from error
        raise


def _no_answer(why: str) -> CapacityError:
    said = why.strip().splitlines()
    return CapacityError(
        f"the hub does not answer as it should: {said[0] if said else 'nothing was said'}",
        code="hub.no-answer",
        hint="try again: what was fetched is kept",
    )
