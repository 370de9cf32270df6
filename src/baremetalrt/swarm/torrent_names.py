"""What a published model is called: by its own metadata, never by its file name. Pure."""

import re
import unicodedata
from collections import Counter
from typing import Final

from baremetalrt.weights.gguf import GGUFFile

_MAX_NAME_CHARS: Final = 120
# File systems count bytes, of which a letter may take four; numbers of parts and a suffix come after it.
_MAX_NAME_BYTES: Final = 200
_MAX_TITLE_CHARS: Final = 80
_SAFE_ASCII: Final = frozenset("._+-")
# Letters, the marks that belong to them, and numbers. Nothing that turns the direction of writing, hides,
# or is a separator anywhere is among these.
_SAFE_KINDS: Final = frozenset("LMN")
# Letters and marks that show nothing: fillers, joiners, selectors of variants.
# Source: DerivedCoreProperties, Default_Ignorable_Code_Point.
_HIDDEN: Final = frozenset(
    (
        *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0),
        *(*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)),
    )
)
# What Windows opens instead of a file, whatever follows the first dot. It takes raised digits, too.
_DEVICE: Final = re.compile(r"(?:con|prn|aux|nul|com[\d¹²³]|lpt[\d¹²³])(?:\.|$)", re.IGNORECASE)
_PART: Final = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE)
# Source: `enum llama_ftype` in `llama.h`.
_FILE_TYPES: Final = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
}


def slug(text: str) -> str:
    """`text` as a file name that is safe everywhere; maybe empty.

    Letters of every script stay, composed as most systems write them; the rest becomes hyphens, and no
    dot or hyphen is at an end.
    """
    composed = unicodedata.normalize("NFC", text[: 4 * _MAX_NAME_CHARS])
    kept = "".join(c if _is_safe(c) else " " for c in composed)
    name = "-".join(kept.split())[:_MAX_NAME_CHARS]
    name = name.encode()[:_MAX_NAME_BYTES].decode(errors="ignore")
    # A mark without its letter would hang on whatever is written before the name.
    while name and (name[0] in "-." or unicodedata.category(name[0])[0] == "M"):
        name = name[1:]
    name = name.rstrip("-.")
    return f"_{name}" if _DEVICE.match(name) else name


def _is_safe(c: str) -> bool:
    if c.isascii():
        return c.isalnum() or c in _SAFE_ASCII
    return unicodedata.category(c)[0] in _SAFE_KINDS and ord(c) not in _HIDDEN


def content_name(file: GGUFFile) -> str:
    """The name of a model from its metadata: `SmolLM2-135M-Instruct-Q4_1`."""
    titles = (file.text("general.name"), file.text("general.basename"), file.architecture, "model")
    # Cut here, so that what tells the sizes of a model apart is not.
    words = [next(s for t in titles if (s := slug(t or "")[:_MAX_TITLE_CHARS].strip("-.")))]
    if file.text("general.type") == "adapter":
        words.append("LoRA")
    words.append(_quantization(file))
    name = words[0]
    for word in words[1:]:
        if word and word.lower() not in name.lower().split("-"):
            name = f"{name}-{word}"
    return name


def _quantization(file: GGUFFile) -> str:
    known = file.get("general.file_type")
    if isinstance(known, int) and known in _FILE_TYPES:
        return _FILE_TYPES[known]
    sizes: Counter[str] = Counter()
    for tensor in file.tensors.values():
        sizes[tensor.type_name] += tensor.num_bytes
    # By size, then by name: the same bytes must give the same name.
    return max(sizes, key=lambda name: (sizes[name], name)).upper() if sizes else ""


def file_names(name: str, num_parts: int) -> tuple[str, ...]:
    """The files of a model called `name`: one, or numbered parts as llama.cpp names them."""
    if num_parts == 1:
        return (f"{name}.gguf",)
    return tuple(f"{name}-{i:05d}-of-{num_parts:05d}.gguf" for i in range(1, num_parts + 1))


def part_number(file_name: str) -> tuple[str, int, int] | None:
    """Stem, number from 1, and number of parts, if `file_name` is named like a part."""
    match = _PART.fullmatch(file_name)
    return (match[1], int(match[2]), int(match[3])) if match else None
