"""What `make run` installs is named by hashes, and is what pyproject.toml asks for."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKED = ROOT / "packaging" / "locked.txt"
# Not locked: whatever tests, teaches or reads documents besides.
MODEL = ROOT / "packaging" / "default-model.txt"


def entries() -> dict[str, tuple[Requirement, list[str]]]:
    """Each package with its hashes."""
    text = re.sub(r"^#.*\n", "", LOCKED.read_text(), flags=re.M).replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        named, *hashes = re.split(r"\s+--hash=", line.strip())
        requirement = Requirement(named)
        name = canonicalize_name(requirement.name)
        assert name not in found
        found[name] = requirement, hashes
    return found


def asked() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines = project["project"]["dependencies"] + project["build-system"]["requires"]
    return [Requirement(line) for line in lines]


def test_every_package_has_one_release_and_the_hashes_of_its_files() -> None:
    for requirement, hashes in entries().values():
        (pin,) = requirement.specifier
        assert pin.operator == "==" and "*" not in pin.version
        assert requirement.url is None
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes)


def test_nothing_but_packages_is_named() -> None:
    """No index, no address, no path: whoever installs asks where they always ask."""
    for path in (LOCKED, MODEL):
        lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        assert not [line for line in lines if re.search(r"://|@|^\s*-(?!-hash=)|index|/", line)]


def test_the_locked_releases_are_asked_for() -> None:
    """`make lock` after a change to pyproject.toml."""
    locked = entries()
    for requirement in asked():
        pin, _ = locked[canonicalize_name(requirement.name)]
        (one,) = pin.specifier
        assert requirement.specifier.contains(one.version), f"{requirement} is {one.version} here"


def test_what_locked_packages_need_is_locked() -> None:
    """They are installed without asking what they depend on."""
    locked = entries()
    reached, waiting = set(), [canonicalize_name(r.name) for r in asked()] + ["editables"]
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        assert name in locked
        try:
            needs = [Requirement(line) for line in requires(name) or ()]
        except PackageNotFoundError:
            continue  # the tests run elsewhere than in what `make run` made
        environment = {**default_environment(), "extra": ""}
        waiting += [
            canonicalize_name(one.name)
            for one in needs
            if one.marker is None or one.marker.evaluate(environment)
        ]
    # Nor is there what nothing needs, but on other systems.
    others = {n for n, (r, _) in locked.items() if r.marker is not None}
    assert len(locked.keys() - reached - others) <= 6
