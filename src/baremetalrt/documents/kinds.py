"""What a file is, by its name and its first bytes."""

import re
from pathlib import PurePath
from typing import Final, Literal

from baremetalrt.documents.charset import is_binary
from baremetalrt.documents.document import Refusal
from baremetalrt.documents.names import names_in

FileKind = Literal[
    "text",
    "markdown",
    "code",
    "html",
    "pdf",
    "office",
    "sheet",
    "odf",
    "rtf",
    "epub",
    "mail",
    "mbox",
]

HEAD_BYTES: Final = 4096
_BY_SUFFIX: Final[dict[str, FileKind]] = {
    **dict.fromkeys((".md", ".markdown", ".mdown", ".mkd", ".rmd", ".qmd"), "markdown"),
    **dict.fromkeys((".html", ".htm", ".xhtml", ".shtml"), "html"),
    **dict.fromkeys((".eml", ".emlx"), "mail"),
    **dict.fromkeys((".mbox", ".mbx"), "mbox"),
    **dict.fromkeys(names_in(".docx .docm .dotx .pptx .pptm .ppsx .potx"), "office"),
    **dict.fromkeys(names_in(".xlsx .xlsm .xltx .xlsb .xls .ods .ots"), "sheet"),
    **dict.fromkeys(names_in(".odt .ott .odp .otp"), "odf"),
    ".rtf": "rtf",
    ".epub": "epub",
    ".pdf": "pdf",
    **dict.fromkeys(
        names_in(
            """
        .ada .asm .awk .bash .bat .bzl .c .cc .cfg .clj .cljs .cmake .coffee .conf .cpp .cs .css
        .csv .cu .cxx .d .dart .diff .ebnf .el .elm .erl .ex .exs .f .f90 .fish .frag .fs .fsx
        .g4 .glsl .go .gradle .graphql .groovy .h .hcl .hh .hpp .hrl .hs .hxx .idl .ini .jl .js
        .json .jsonl .jsx .kt .kts .l .less .lisp .lua .m .mak .mjs .mk .ml .mli .mm .nim .nix
        .pas .patch .php .pl .pm .proto .ps1 .py .pyi .pyx .r .rb .rkt .rs .s .sass .scala .scm
        .scss .sh .sol .sql .sv .svelte .swift .tcl .tf .toml .ts .tsv .tsx .v .vala .vb .vert
        .vhd .vhdl .vim .vue .wat .wgsl .xml .xsd .xsl .xslt .y .yaml .yml .zig .zsh
        """
        ),
        "code",
    ),
}
_CODE_NAMES: Final = frozenset(
    names_in("makefile dockerfile cmakelists.txt rakefile gemfile jenkinsfile vagrantfile")
)
# Text of a kind, but nothing that anybody wrote; or a container that would need its own reader.
_NO_READER: Final = frozenset(
    names_in(
        """
        .7z .a .aac .avi .bin .bmp .bz2 .class .db .dll .dmg .doc .dylib .eps .exe .flac
        .gguf .gif .gz .heic .ico .ics .iso .jar .jpeg .jpg .key .lock .map .mkv .mov .mp3 .mp4
        .msf .msg .numbers .o .ogg .otf .p12 .pages .parquet .pem .pfx .png .ppt
        .ps .pst .pyc .rar .safetensors .so .sqlite .svg .tar .tgz .tif .tiff .ttf
        .vcf .wav .webm .webp .whl .woff .woff2 .xz .zip .zst
        """
    )
)
_GENERATED: Final = ("package-lock.json", "pnpm-lock.yaml", ".min.js", ".min.css")
_OLE: Final = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ARCHIVES: Final = ("office", "sheet", "odf", "epub")
_SAYS_AT: Final = 30
_SAYS: Final[dict[bytes, FileKind]] = {
    b"mimetypeapplication/epub+zip": "epub",
    b"mimetypeapplication/vnd.oasis.opendocument.spreadsheet": "sheet",
    b"mimetypeapplication/vnd.oasis.opendocument.": "odf",
}
_FIELD: Final = re.compile(rb"[!-9;-~]+:[^\r\n]*(?:\r?\n[ \t][^\r\n]*)*\r?\n")
_MAIL_FIELDS: Final = re.compile(
    rb"(?im)^(?:received|return-path|delivered-to|message-id|from|to|date|subject|mime-version):"
)
_FROM_LINE: Final = re.compile(
    rb"From (?:[^\r\n]*\b\d{1,2}:\d\d\b[^\r\n]*|[^\s@]+@[^\s@]+[ \t]*)\r?\n(?:>?From [^\r\n]*\r?\n)?"
    rb"(?=[!-9;-~]+:)"
)
_HTML: Final = re.compile(
    rb"\s*(?:<\?xml[^>]{0,200}>\s*)?(?:<!--.{0,2000}?-->\s*)?<(?:!doctype\s+html|html)\b",
    re.I | re.S,
)


def kind_of(name: str, head: bytes) -> FileKind:
    """The reader for a file called `name` that begins with `head`.

    Raises:
        Refusal: there is none.
    """
    path = PurePath(name.lower())
    by_name = _BY_SUFFIX.get(path.suffix) or ("code" if path.name in _CODE_NAMES else None)
    if head.startswith(b"%PDF-"):
        return "pdf"
    if head.startswith(b"{\\rtf"):
        return "rtf"
    if head.startswith(_OLE) and by_name in ("office", "sheet") and path.suffix != ".xls":
        raise Refusal("document.encrypted", "it is encrypted, or in an old format")
    if path.name.endswith(_GENERATED):
        raise Refusal("document.generated", "a program wrote it, for programs")
    if path.suffix in _NO_READER:
        raise Refusal("document.no-reader", f"there is no reader for {path.suffix} files")
    if head.startswith(b"PK\x03\x04") and (by_name is None or by_name in _ARCHIVES):
        return _archive_by_content(head) or by_name or "office"
    if by_name in (*_ARCHIVES, "pdf", "rtf"):
        return by_name
    if is_binary(head) and by_name not in ("mail", "mbox"):
        raise Refusal("document.no-reader", "it is no text, and of no kind that can be read")
    if by_name is None or by_name == "mail":
        return _by_content(head) or by_name or "text"
    return by_name


def _archive_by_content(head: bytes) -> FileKind | None:
    """What some archives say of themselves in their first entry, which is not compressed."""
    return next((kind for said, kind in _SAYS.items() if head.startswith(said, _SAYS_AT)), None)


def _by_content(head: bytes) -> FileKind | None:
    """Mail, mailboxes and web pages often have no suffix, or one that lies."""
    if _FROM_LINE.match(head):
        return "mbox"
    if _HTML.match(head):
        return "html"
    end, num_fields = 0, 0
    while match := _FIELD.match(head, end):
        num_fields += _MAIL_FIELDS.match(match[0]) is not None
        end = match.end()
    return "mail" if num_fields >= 3 else None
