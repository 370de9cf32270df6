"""Workbooks: rows as lines, by calamine, which reads Excel's old and new formats and LibreOffice's.

Considered: openpyxl, which reads one of them, and that slowly.
"""

import datetime
import zipfile
from collections.abc import Iterator
from typing import Final

from baremetalrt.documents.cleaning import clean, has_words, one_line_title
from baremetalrt.documents.document import EMPTY, Document, Refusal
from baremetalrt.documents.readers.archive import opened
from baremetalrt.documents.readers.source import Source, too_large

_TEXTS: Final = (".xml", ".rels", ".bin")
_MAX_COLUMNS: Final = 1000


def read_sheet(source: Source) -> Iterator[Document]:
    """One document of all sheets that are shown, with `#` before their names."""
    from python_calamine import (
        CalamineError,
        CalamineWorkbook,
        PasswordError,
        SheetTypeEnum,
        SheetVisibleEnum,
    )

    if source.num_bytes() > source.limits.container_bytes:
        raise too_large("it is", source.limits.container_bytes)
    if zipfile.is_zipfile(source.file):
        # It expands what it reads without a bound, so that has to be known to be small.
        with opened(source) as archive:
            for name in sorted(archive.names):
                if name.endswith(_TEXTS):
                    for _ in archive.chunks(name):
                        pass
    source.file.seek(0)
    try:
        workbook = CalamineWorkbook.from_filelike(source.file)
        shown = [
            sheet.name
            for sheet in workbook.sheets_metadata
            if sheet.visible == SheetVisibleEnum.Visible and sheet.typ == SheetTypeEnum.WorkSheet
        ]
        lines, num_chars = [], 0
        for name in shown:
            lines += ["", f"# {name}", ""] if len(shown) > 1 else []
            for row in workbook.get_sheet_by_name(name).iter_rows():
                line = "\t".join(_shown(value) for value in row[:_MAX_COLUMNS]).rstrip("\t")
                num_chars += len(line)
                if num_chars > source.limits.text_chars:
                    raise too_large("its text is", source.limits.text_chars)
                lines.append(line)
    except PasswordError as error:
        raise Refusal("document.encrypted", "it is encrypted") from error
    except (CalamineError, OSError, ValueError) as error:
        raise Refusal("document.damaged", f"it is damaged: {error}") from error
    text = clean("\n".join(lines))
    if not has_words(text):
        raise EMPTY
    title = one_line_title(source.name.rpartition(".")[0])
    yield Document(text=text, origin=source.origin, kind="sheet", title=title)


def _shown(value: object) -> str:
    """A cell on one line, as people write it."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    if isinstance(value, datetime.datetime):
        return value.isoformat(" ")
    return " ".join(str(value).split())
