"""Files that are their owner's alone."""

import stat
from pathlib import Path

from baremetalrt.core.files import make_private


def test_what_was_typed_is_read_by_its_owner_alone(tmp_path: Path) -> None:
    """New, and left readable by an older release; what is in it stays."""
    new, old = tmp_path / "home" / "history", tmp_path / "old"
    old.write_text("words")
    old.chmod(0o644)
    for path in (new, old):
        make_private(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (new.read_text(), old.read_text()) == ("", "words")
