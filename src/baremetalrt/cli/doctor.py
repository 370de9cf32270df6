"""`bmrt doctor`: is everything here that is needed?"""

import platform
import sys
from dataclasses import asdict
from typing import Any

import click

from baremetalrt import __version__
from baremetalrt.cli import output
from baremetalrt.core.errors import BareMetalError
from baremetalrt.core.units import format_bytes


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Check library, devices, memory and store."""
    report = _report()
    if as_json:
        output.print_json(report)
    else:
        _print(report)
    sys.exit(1 if report["problems"] else 0)


def _report() -> dict[str, Any]:
    from baremetalrt.devices.memory import available_bytes, total_bytes
    from baremetalrt.devices.processor import default_threads
    from baremetalrt.devices.survey import survey_devices, survey_library
    from baremetalrt.weights.store import default_model, models_folder, stored_models

    problems = []
    library: dict[str, Any] | None = None
    devices: list[dict[str, Any]] = []
    try:
        library = asdict(survey_library())
        devices = [asdict(device) for device in survey_devices()]
    except BareMetalError as error:
        problems.append({"code": error.code, "message": error.message, "hint": error.hint})
    default = default_model()
    if default is None:
        problems.append(
            {
                "code": "model.not-found",
                "message": "the embedded default model is not installed",
                "hint": "`make run` installs it",
            }
        )
    return {
        "version": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "library": library,
        "devices": devices,
        "threads": default_threads(),
        "memory_available_bytes": available_bytes(),
        "memory_total_bytes": total_bytes(),
        "store": str(models_folder()),
        "models": len(stored_models()),
        "default_model": str(default.path) if default else None,
        "problems": problems,
    }


def _print(r: dict[str, Any]) -> None:
    print(f"bmrt {r['version']}, Python {r['python']}, {r['system']}")
    if r["library"]:
        lib = r["library"]
        print(f"library    ggml {lib['ggml']} from {lib['origin']}: {lib['path']}")
    for device in r["devices"]:
        memory = format_bytes(device["memory_total_bytes"])
        print(f"device     {device['name']}: {device['description']} ({device['kind']}, {memory})")
        if device["features"]:
            print(f"           compiled for {' '.join(device['features'])}")
    print(f"threads    {r['threads']}")
    available, total = r["memory_available_bytes"], r["memory_total_bytes"]
    print(f"memory     {format_bytes(available)} available of {format_bytes(total)}")
    print(f"store      {r['store']} ({r['models']} models)")
    print(f"default    {r['default_model'] or 'not installed'}")
    for problem in r["problems"]:
        print(f"problem    {problem['message']}")
        if problem["hint"]:
            print(f"           hint: {problem['hint']}")
    if not r["problems"]:
        print("all is well")
