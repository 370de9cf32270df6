"""Files of Microsoft's formats: which of them it is says the archive, and not its name."""

from collections.abc import Iterator
from typing import Final

from baremetalrt.documents.document import Document, Refusal
from baremetalrt.documents.readers import docx, pptx
from baremetalrt.documents.readers.archive import opened
from baremetalrt.documents.readers.source import Source

_SHEETS: Final = ("xl/workbook.xml", "xl/workbook.bin")


def read_office(source: Source) -> Iterator[Document]:
    """The document in a text, a presentation or a workbook."""
    with opened(source) as archive:
        names = archive.names
    source.file.seek(0)
    if docx.MAIN in names:
        yield from docx.read_docx(source)
    elif pptx.MAIN in names:
        yield from pptx.read_pptx(source)
    elif not names.isdisjoint(_SHEETS):
        from baremetalrt.documents.readers.sheet import read_sheet

        yield from read_sheet(source)
    else:
        raise Refusal("document.no-reader", "it is an archive, but of no office program")
