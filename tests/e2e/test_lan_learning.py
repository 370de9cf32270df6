"""A whole fine-tune on a machine whose every packet is seen: there is none."""

from pathlib import Path

import pytest

import document_kit as kit
from namespaces import Lan, NotPermitted

QUICK = ("--rate", "0.002", "--rank", "2", "--length", "64", "--max-steps", "2", "--on-battery")
QUICK += ("--samples", "0", "--check", "1")


def test_nothing_leaves_the_machine_while_it_learns(tmp_path: Path) -> None:
    """Reading, tuning, judging, storing: no packet, no look-up of a name."""
    for i in range(6):
        words = f"Report {i}: the ferry of Brenna left at {i + 5} with {i * 7 + 3} barrels of tar."
        kit.write_as(tmp_path / "docs", f"report-{i}", [words], ("txt", "pdf", "eml")[i % 3])
    home = tmp_path / "home"
    home.mkdir()
    try:
        lan = Lan(1)
    except NotPermitted as reason:
        pytest.skip(f"no network namespaces here: {reason}")
    with lan:
        (host,) = lan.hosts
        lan.sent_beyond()
        report = host.answer(
            "learn", str(tmp_path / "docs"), "--into", "ferry", *QUICK, home=home, timeout_s=240
        )
        assert not lan.sent_beyond()
    assert report["steps"] == 2
