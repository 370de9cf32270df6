"""Model files that lie, end early or are made to harm: each is refused, and nothing else happens."""

import itertools
import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from raw_gguf import (
    ARRAY,
    BOOL,
    BYTE,
    F32,
    F64,
    I32,
    STRING,
    U8,
    U16,
    U32,
    U64,
    WIDTH,
    RawFile,
    RawTensor,
    array,
    good_model,
    numbers,
    scalar,
    sentencepiece,
    string,
    strings,
    text,
)
from victim import Reply, Victim, assert_clear

from baremetalrt.blocks.architectures import ARCHITECTURES
from baremetalrt.core.errors import IntegrityError
from baremetalrt.core.units import GIB, MIB
from baremetalrt.native.gguf import HEADER_LIMIT_BYTES
from baremetalrt.node.device_choice import matrix_kind
from baremetalrt.node.model_profile import profile_model
from baremetalrt.weights.gguf import GGUFFile
from baremetalrt.weights.store import find_model

# A header of the greatest length takes half of this, as a vocabulary in Python and in libllama.
MAX_PEAK_BYTES = GIB
PROMPT = [1, 2, 3]
HUGE = {"2^31": 1 << 31, "2^32": 1 << 32, "2^63-1": (1 << 63) - 1, "2^63": 1 << 63}
HUGE |= {"2^64-1": (1 << 64) - 1}

Edit = Callable[[RawFile], object]


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    with Victim() as victim:
        yield victim


def attempt(victim: Victim, path: Path, content: RawFile | bytes) -> Reply:
    """What comes of loading this file and continuing a prompt: an error, or tokens."""
    path.write_bytes(content.to_bytes() if isinstance(content, RawFile) else content)
    return attempt_file(victim, path)


def attempt_file(victim: Victim, path: Path) -> Reply:
    reply = victim.do("generate", path=str(path), prompts=[PROMPT])
    assert reply["peak_bytes"] <= MAX_PEAK_BYTES
    outcome: Reply = reply["answers"][0] if "answers" in reply else reply
    if "error" in outcome:
        assert_clear(outcome)
    return outcome


def edited(edit: Edit, vocabulary: Callable[[], list[tuple[str, bytes]]] | None = None) -> RawFile:
    file = good_model(vocabulary) if vocabulary else good_model()
    edit(file)
    return file


def put(key: str, value: bytes) -> Edit:
    return lambda f: f.set(key, value)


def change(tensor: str, **what: object) -> Edit:
    return lambda f: vars(f.tensor(tensor)).update(what)


def each_tensor_renamed(old: str, new: str) -> Edit:
    def edit(f: RawFile) -> None:
        for t in f.tensors:
            t.name = t.name.replace(old, new)

    return edit


def filled(tensor: str, value: float) -> Edit:
    def edit(f: RawFile) -> None:
        t = f.tensor(tensor)
        t.data = np.full(len(t.data) // 4, value, np.float32).tobytes()

    return edit


@pytest.mark.parametrize("vocabulary", [None, sentencepiece])
def test_the_file_that_the_cases_begin_with_answers(
    vocabulary: Callable[[], list[tuple[str, bytes]]] | None, victim: Victim, tmp_path: Path
) -> None:
    """Otherwise the cases below would show nothing."""
    outcome = attempt(victim, tmp_path / "model.gguf", edited(lambda f: None, vocabulary))
    assert len(outcome["tokens"]) == 4


def test_a_file_cut_anywhere_is_refused(victim: Victim, tmp_path: Path) -> None:
    """At and between the ends of magic, version, counts, keys, values, infos, padding and tensors."""
    file = good_model()
    whole = file.to_bytes()
    ends = list(itertools.accumulate(map(len, file.header())))
    data_start = ends[-1]
    ends += [data_start + end for end in itertools.accumulate(len(t.data) for t in file.tensors)]
    starts = [0, *ends]
    cuts = {0, *ends, *((a + b) // 2 for a, b in itertools.pairwise(starts))} - {len(whole)}
    for cut in sorted(cuts):
        outcome = attempt(victim, tmp_path / f"{cut}.gguf", whole[:cut])
        if cut < 4:
            expected = "gguf.magic"
        elif cut < data_start:
            expected = "gguf.header"
        else:
            expected = "gguf.truncated"
        assert outcome.get("code") == expected, f"cut at {cut}"


# Every count and length that a header has, near the ends of its type.


def _lengths(n: int) -> dict[str, Edit]:
    def long_key(f: RawFile) -> None:
        f.values[-1] = (b"", struct.pack("<Q", n) + b"key")

    found: dict[str, Edit] = {
        "tensors": lambda f: setattr(f, "num_tensors", n),
        "values": lambda f: setattr(f, "num_values", n),
        "string": put("x", struct.pack("<IQ", STRING, n) + b"abc"),
        "key": long_key,
        "dims": change("token_embd.weight", num_dims=n & 0xFFFFFFFF),
        "dimension": change("output_norm.weight", shape=(n,)),
        "last-dimension": change("token_embd.weight", shape=(WIDTH, n)),
        "all-dimensions": change("token_embd.weight", shape=(n, n, n, n)),
        "offset": change("token_embd.weight", offset=n),
        "aligned-offset": change("token_embd.weight", offset=n & ~31),
    }
    for name, type_ in {"u8": U8, "u64": U64, "bool": BOOL, "f64": F64, "string": STRING}.items():
        found[f"array-of-{name}"] = put("x", array(type_, n, b"abc"))
    return found


LENGTHS = {f"{what}-{size}": e for size, n in HUGE.items() for what, e in _lengths(n).items()}
# Without the bits that count, these are the true ones.
LENGTHS = {k: e for k, e in LENGTHS.items() if k not in {"dims-2^32", "dims-2^63"}}

HEADERS: dict[str, Edit] = {
    **LENGTHS,
    **{
        f"version-{v}": lambda f, v=v: setattr(f, "version", v)
        for v in (0, 1, 4, 0x03000000, 0xFFFFFFFF)
    },
    **{
        f"type-{t}": change("blk.0.attn_q.weight", type=t & 0xFFFFFFFF)
        for t in (-1, 4, 5, 31, 36, 43, 99, 1 << 31)
    },
    "one-tensor-too-many": lambda f: setattr(f, "num_tensors", len(f.tensors) + 1),
    "one-value-too-few": lambda f: setattr(f, "num_values", len(f.values) - 1),
    "one-value-too-many": lambda f: setattr(f, "num_values", len(f.values) + 1),
    "more-entries-than-can-be-compared": lambda f: f.values.extend(
        (struct.pack("<I", i), scalar(U8, 0)) for i in range(1 << 16)
    ),
    "five-dimensions": change("output_norm.weight", shape=(WIDTH, 1, 1, 1, 1)),
    "no-dimensions": change("output_norm.weight", shape=()),
    "empty-dimension": change("token_embd.weight", shape=(WIDTH, 0)),
    "overlapping-tensors": change("blk.0.attn_k.weight", offset=0),
    "unaligned-offset": change("blk.0.attn_k.weight", offset=7),
    "tensor-twice": change("blk.0.attn_k.weight", name="blk.0.attn_v.weight"),
    "tensor-without-name": lambda f: f.tensors.extend([RawTensor("", (1,), b"1234")] * 2),
    "tensor-with-long-name": change("blk.0.attn_k.weight", name="x" * 64),
    "terminal-codes-in-tensor-name": lambda f: f.tensors.extend(
        [RawTensor("\x1b[2J\n", (1,), b"1234")] * 2
    ),
    "key-twice": lambda f: f.values.append(f.values[3]),
    "long-key-twice": lambda f: f.values.extend([("k" * MIB, scalar(U8, 1))] * 2),
    "terminal-codes-in-key": lambda f: f.values.extend([("\x1b[2J\n", scalar(U8, 1))] * 2),
    "empty-key": put("", scalar(U8, 1)),
    "value-of-unknown-type": put("x", struct.pack("<II", 99, 2)),
    "array-of-arrays": put("x", array(ARRAY, 2, bytes(64))),
    "array-of-unknown-type": put("x", array(99, 2, bytes(64))),
    **{f"alignment-{a}": put("general.alignment", scalar(U32, a)) for a in (0, 7, 1 << 31)},
    "alignment-of-wrong-type": put("general.alignment", string("32")),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_lies_is_refused(name: str, victim: Victim, tmp_path: Path) -> None:
    """A wrong count, length, offset, type or name says that the file is damaged."""
    outcome = attempt(victim, tmp_path / "model.gguf", edited(HEADERS[name]))
    assert (outcome.get("error"), outcome["code"]) == ("IntegrityError", "gguf.header")


@pytest.mark.parametrize("magic", [b"GGML", b"gguf", b"FUGG", b"PK\x03\x04", bytes(4)])
def test_other_files_are_not_taken_for_models(magic: bytes, victim: Victim, tmp_path: Path) -> None:
    """The first four bytes decide."""
    file = edited(lambda f: setattr(f, "magic", magic))
    assert attempt(victim, tmp_path / "model.gguf", file)["code"] == "gguf.magic"


WEIGHT_NAMES = ("token_embd", "output_norm", "blk.0.attn_q", "blk.0.attn_norm", "blk.1.ffn_down")


def _narrowed(f: RawFile, name: str) -> None:
    t = f.tensor(f"{name}.weight")
    t.shape, t.data = (16, *t.shape[1:]), t.data[: len(t.data) // WIDTH * 16]


TENSORS: dict[str, Edit] = {
    **{
        f"no-{name}": lambda f, n=name: f.tensors.remove(f.tensor(f"{n}.weight"))
        for name in WEIGHT_NAMES
    },
    **{f"narrow-{name}": lambda f, n=name: _narrowed(f, n) for name in WEIGHT_NAMES[:-1]},
    **{
        f"{what}-of-integers": change(f"{what}.weight", type=26)
        for what in ("token_embd", "output_norm", "blk.0.attn_q")
    },
    "last-one-not-counted": lambda f: setattr(f, "num_tensors", len(f.tensors) - 1),
    "hole-in-blocks": each_tensor_renamed("blk.1.", "blk.7."),
    "absurd-block-number": each_tensor_renamed("blk.1.", "blk.999999999."),
    "no-blocks": lambda f: f.tensors.__delitem__(slice(2, None)),
    "no-tensors": lambda f: f.tensors.clear(),
    "unknown-tensor": lambda f: f.tensors.append(RawTensor("blk.0.x.weight", (1,), b"1234")),
    "terminal-codes": lambda f: f.tensors.append(RawTensor("blk.0.\x1b[2J\r", (1,), b"1234")),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_do_not_fit_the_model_are_refused(
    name: str, victim: Victim, tmp_path: Path
) -> None:
    """Absent, unknown, of another shape or type: ggml never gets to see them."""
    outcome = attempt(victim, tmp_path / "model.gguf", edited(TENSORS[name]))
    assert outcome.get("error") == "IntegrityError"
    assert outcome["code"] in {"gguf.tensors", "gguf.header", "gguf.vocabulary"}


@pytest.mark.parametrize("name", TENSORS)
def test_what_does_not_fit_is_not_planned_for(name: str, tmp_path: Path) -> None:
    """Whoever only wants sizes, of a model or for the choice of a device, says so likewise."""
    (tmp_path / "model.gguf").write_bytes(edited(TENSORS[name]).to_bytes())
    for ask in (profile_model, matrix_kind):
        with pytest.raises(IntegrityError):
            ask(GGUFFile.open(tmp_path / "model.gguf"))


NUMBERS = (
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.factor",
    "rope.scaling.type",
    "rope.scaling.original_context_length",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_log_multiplier",
    "expert_count",
    "expert_used_count",
    "vocab_size",
)
ABSURD_VALUES = {
    "zero": scalar(U32, 0),
    "seven": scalar(U32, 7),
    "minus-one": scalar(I32, -1),
    "2^31": scalar(U32, 1 << 31),
    "2^64-1": scalar(U64, (1 << 64) - 1),
    "fraction": scalar(F32, 2.5),
    "denormal": scalar(F32, 1e-40),
    "nan": scalar(F32, math.nan),
    "infinity": scalar(F64, math.inf),
    "minus-infinity": scalar(F64, -math.inf),
    "bool": scalar(BOOL, True),
    "string": string("7"),
    "megabyte": string("x" * MIB),
    "terminal-codes": string("\x1b]0;x\x07\n"),
    "list": numbers(U32, [1, 2, 3]),
    "empty-list": numbers(U32, []),
    "list-of-strings": strings(["a", "b"]),
    "long-list": array(U32, MIB, bytes(4 * MIB)),
}
# What a block needs and has no default for: none of the values above will do.
NEVER_ABSURD = {"block_count", "embedding_length", "attention.head_count"}


@pytest.mark.parametrize("value", ABSURD_VALUES)
@pytest.mark.parametrize("key", NUMBERS)
def test_absurd_numbers_are_refused_or_do_no_harm(
    key: str, value: str, victim: Victim, tmp_path: Path
) -> None:
    """Zero, negative, huge, not a number, of another type: an error, or ignored where unused."""
    file = edited(put(f"llama.{key}", ABSURD_VALUES[value]))
    outcome = attempt(victim, tmp_path / "model.gguf", file)
    assert "error" in outcome or key not in NEVER_ABSURD


@pytest.mark.parametrize("key", ["block_count", "context_length", "embedding_length"])
def test_a_missing_number_is_named(key: str, victim: Victim, tmp_path: Path) -> None:
    """The message says which one."""
    file = edited(lambda f: f.drop(f"llama.{key}"))
    outcome = attempt(victim, tmp_path / "model.gguf", file)
    assert outcome["code"] == "gguf.metadata"
    assert f"llama.{key} is nothing" in outcome["message"]


@pytest.mark.parametrize(
    "value",
    [
        string("mamba9"),
        string(""),
        string("l" * MIB),
        string(b"\xff\xfe\x1b[2J\n"),
        scalar(U32, 1),
        strings(["llama"]),
        array(STRING, MIB, bytes(8 * MIB)),
        None,
    ],
    ids=["unknown", "empty", "megabyte", "no-text", "number", "list", "long-list", "none"],
)
def test_an_unknown_architecture_lists_the_known_ones(
    value: bytes | None, victim: Victim, tmp_path: Path
) -> None:
    """So that the user knows what to look for."""
    key = "general.architecture"
    file = edited(put(key, value) if value is not None else lambda f: f.drop(key))
    outcome = attempt(victim, tmp_path / "model.gguf", file)
    assert (outcome["error"], outcome["code"]) == ("UsageError", "model.unknown-architecture")
    assert all(name in outcome["hint"] for name in ARCHITECTURES)


# weights


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("tensor", ["token_embd", "blk.0.attn_q", "blk.1.ffn_norm", "output_norm"])
def test_weights_that_are_not_numbers_end_the_answer(
    tensor: str, value: float, victim: Victim, tmp_path: Path
) -> None:
    """The model is blamed; no token is made of them."""
    file = edited(filled(f"{tensor}.weight", value))
    outcome = attempt(victim, tmp_path / "model.gguf", file)
    assert (outcome.get("error"), outcome["code"]) == ("IntegrityError", "model.not-finite")


def test_a_poisoned_token_does_not_spoil_later_answers(victim: Victim, tmp_path: Path) -> None:
    """What one prompt computed from damaged weights is not reused for the next."""

    def untie(f: RawFile) -> None:
        f.tensors.append(
            RawTensor("output.weight", f.tensor("token_embd.weight").shape, bytes(4 * WIDTH * 259))
        )
        head = f.tensors[-1]
        head.data = f.tensor("token_embd.weight").data

    def poison(f: RawFile) -> None:
        untie(f)
        rows = np.frombuffer(f.tensor("token_embd.weight").data, np.float32).reshape(-1, WIDTH)
        rows = rows.copy()
        rows[7] = math.nan
        f.tensor("token_embd.weight").data = rows.tobytes()

    sound = attempt(victim, tmp_path / "sound.gguf", edited(untie))
    path = tmp_path / "poisoned.gguf"
    path.write_bytes(edited(poison).to_bytes())
    prompts = [PROMPT, [1, 2, 7, 3], [7], PROMPT, [1, 2, 7, 3]]
    answers = victim.do("generate", path=str(path), prompts=prompts)["answers"]
    assert [a.get("code") for a in answers] == [
        None,
        "model.not-finite",
        "model.not-finite",
        None,
        "model.not-finite",
    ]
    assert 7 not in sound["tokens"]
    assert answers[0] == answers[3] == sound


# vocabulary


def tokens_of(f: RawFile) -> list[bytes]:
    """The tokens of a file from `raw_gguf`, taken apart again."""
    raw = dict(f.values)["tokenizer.ggml.tokens"][16:]
    found, at = [], 0
    while at < len(raw):
        end = at + 8 + struct.unpack_from("<Q", raw, at)[0]
        found.append(raw[at + 8 : end])
        at = end
    return found


def with_tokens(*replacements: tuple[int, bytes]) -> Edit:
    def edit(f: RawFile) -> None:
        tokens = tokens_of(f)
        for i, token in replacements:
            tokens[i] = token
        f.set("tokenizer.ggml.tokens", strings(tokens))

    return edit


def vocabulary_value(key: str, value: bytes) -> Edit:
    return put(f"tokenizer.ggml.{key}", value)


BAD_VOCABULARIES: dict[str, tuple[Edit, str]] = {
    "duplicates": (with_tokens((40, b"same"), (41, b"same")), "gguf.vocabulary"),
    "duplicates-up-to-a-nul": (with_tokens((40, b"x\0a"), (41, b"x\0b")), "gguf.vocabulary"),
    "empty": (vocabulary_value("tokens", strings([])), "gguf.vocabulary"),
    "absent": (lambda f: f.drop("tokenizer.ggml.tokens"), "gguf.vocabulary"),
    "of-numbers": (vocabulary_value("tokens", numbers(I32, range(259))), "gguf.vocabulary"),
    "larger-than-the-embedding": (
        lambda f: f.set("tokenizer.ggml.tokens", strings([*tokens_of(f), "a1", "a2"])),
        "gguf.vocabulary",
    ),
    "smaller-than-the-embedding": (
        lambda f: f.set("tokenizer.ggml.tokens", strings(tokens_of(f)[:20])),
        "gguf.vocabulary",
    ),
    "too-few-types": (vocabulary_value("token_type", numbers(I32, [1])), "gguf.vocabulary"),
    "too-few-scores": (vocabulary_value("scores", numbers(F32, [1.0])), "gguf.vocabulary"),
    "types-of-strings": (vocabulary_value("token_type", strings(["a"] * 259)), "gguf.vocabulary"),
    "bos-of-wrong-type": (vocabulary_value("bos_token_id", string("x")), "gguf.vocabulary"),
    "eos-negative": (vocabulary_value("eos_token_id", scalar(I32, -1)), "gguf.vocabulary"),
    "flag-of-wrong-type": (vocabulary_value("add_bos_token", string("x")), "gguf.vocabulary"),
    "unknown-kind": (vocabulary_value("model", string("\x1b[2Jx")), "model.unknown-tokenizer"),
    "kind-without-end": (vocabulary_value("model", string("x" * MIB)), "model.unknown-tokenizer"),
    "kind-of-wrong-type": (vocabulary_value("model", strings(["gpt2"])), "model.unknown-tokenizer"),
    "no-kind": (lambda f: f.drop("tokenizer.ggml.model"), "model.unknown-tokenizer"),
}
BAD_BYTE_PAIRS: dict[str, Edit] = {
    "no-merges": lambda f: f.drop("tokenizer.ggml.merges"),
    "merges-of-numbers": vocabulary_value("merges", numbers(I32, [1] * 259)),
    "unknown-splitting": vocabulary_value("pre", string("\x1b[2J\n" + "x" * MIB)),
    "every-token-a-byte": vocabulary_value("token_type", numbers(I32, [BYTE] * 259)),
    "sentencepiece-without-bytes": vocabulary_value("model", string("llama")),
}


@pytest.mark.parametrize("name", BAD_VOCABULARIES)
@pytest.mark.parametrize("vocabulary", [None, sentencepiece], ids=["byte-pairs", "sentencepiece"])
def test_a_damaged_vocabulary_is_refused(
    vocabulary: Callable[[], list[tuple[str, bytes]]] | None,
    name: str,
    victim: Victim,
    tmp_path: Path,
) -> None:
    """Before libllama, which would end the process on many of them, has seen it."""
    edit, code = BAD_VOCABULARIES[name]
    outcome = attempt(victim, tmp_path / "model.gguf", edited(edit, vocabulary))
    assert outcome.get("code") == code


@pytest.mark.parametrize("name", BAD_BYTE_PAIRS)
def test_damaged_byte_pairs_are_refused(name: str, victim: Victim, tmp_path: Path) -> None:
    """Merges and the way to split text are part of the vocabulary."""
    outcome = attempt(victim, tmp_path / "model.gguf", edited(BAD_BYTE_PAIRS[name]))
    assert outcome.get("code") == "gguf.vocabulary"


def test_sentencepiece_without_a_byte_token_is_refused(victim: Victim, tmp_path: Path) -> None:
    """Text with that byte would end the process."""
    file = edited(with_tokens((3 + 0x41, b"no A")), sentencepiece)
    assert attempt(victim, tmp_path / "model.gguf", file)["code"] == "gguf.vocabulary"


ODD_VOCABULARIES: dict[str, Edit] = {
    "not-utf-8": with_tokens((40, b"\xff\xfe"), (41, b"\xe2\x96"), (42, b"\xf8\x88\x80\x80\x80")),
    "empty-strings": with_tokens((40, b""), (41, b"")),
    "long-token": with_tokens((40, b"x" * MIB)),
    "all-undefined": vocabulary_value("token_type", numbers(I32, [0] * 259)),
    "all-control": vocabulary_value("token_type", numbers(I32, [3] * 259)),
    "types-from-nowhere": vocabulary_value("token_type", numbers(I32, [1 << 30] * 259)),
    "scores-not-numbers": vocabulary_value("scores", numbers(F32, [math.nan] * 259)),
    "bytes-unnamed": vocabulary_value("token_type", numbers(I32, [BYTE] * 259)),
    "odd-merges": vocabulary_value("merges", strings(["", " ", "ab", "a b c", b"\xff \0", "z z"])),
    "many-merges": vocabulary_value("merges", strings(["a b"] * 100_000)),
    **{
        f"{name}-{value}": vocabulary_value(f"{name}_token_id", scalar(U32, value))
        for name in ("bos", "eos", "eot", "unknown", "padding", "seperator", "fim_pre", "mask")
        for value in (259, 1_000_000, (1 << 32) - 1)
    },
    "begins-with-a-token-from-nowhere": lambda f: f.set(
        "tokenizer.ggml.bos_token_id", scalar(U32, (1 << 32) - 1)
    ).set("tokenizer.ggml.add_bos_token", scalar(BOOL, True)),
    "ends-with-a-token-from-nowhere": lambda f: f.set(
        "tokenizer.ggml.eos_token_id", scalar(U32, 1_000_000)
    ).set("tokenizer.ggml.add_eos_token", scalar(BOOL, True)),
}


@pytest.mark.parametrize("name", ODD_VOCABULARIES)
@pytest.mark.parametrize("vocabulary", [None, sentencepiece], ids=["byte-pairs", "sentencepiece"])
def test_an_odd_vocabulary_is_refused_or_reads_and_writes(
    vocabulary: Callable[[], list[tuple[str, bytes]]] | None,
    name: str,
    victim: Victim,
    tmp_path: Path,
) -> None:
    """Every token is asked for its text, and texts of all kinds are taken apart."""
    outcome = attempt(victim, tmp_path / "model.gguf", edited(ODD_VOCABULARIES[name], vocabulary))
    assert "tokens" in outcome or outcome["code"] == "gguf.vocabulary"


@pytest.mark.parametrize("size", [1, 5, 12])
def test_a_vocabulary_smaller_than_the_usual_special_tokens_does_no_harm(
    size: int, victim: Victim, tmp_path: Path
) -> None:
    """libllama takes token 11 for the end where a file names none."""

    def vocabulary() -> list[tuple[str, bytes]]:
        return [
            ("tokenizer.ggml.model", string("gpt2")),
            ("tokenizer.ggml.pre", string("default")),
            ("tokenizer.ggml.tokens", strings(f"t{i}" for i in range(size))),
            ("tokenizer.ggml.merges", strings(["a b"])),
        ]

    path = tmp_path / "model.gguf"
    path.write_bytes(good_model(vocabulary, size).to_bytes())
    answers = victim.do("generate", path=str(path), prompts=[[0]])["answers"]
    assert len(answers[0]["tokens"]) == 4


# parts


def part(number: int, count: int, total: int) -> RawFile:
    """A file that says it is one of several; the first has all the tensors."""
    file = good_model()
    if number:
        file.tensors = [RawTensor(f"blk.{number + 1}.x", (8,), bytes(32))]
    file.set("split.no", scalar(U16, number)).set("split.count", scalar(U16, count))
    return file.set("split.tensors.count", scalar(I32, total))


@pytest.mark.parametrize("count", [0xFFFF, 5000])
def test_an_absurd_number_of_parts_is_refused(count: int, victim: Victim, tmp_path: Path) -> None:
    """Without looking for any of them."""
    path = tmp_path / f"model-00001-of-{count:05d}.gguf"
    assert attempt(victim, path, part(0, count, 20))["code"] == "gguf.header"


def test_a_missing_part_is_named(victim: Victim, tmp_path: Path) -> None:
    """The message has the name of the file that is not there."""
    outcome = attempt(victim, tmp_path / "model-00001-of-00002.gguf", part(0, 2, 21))
    assert outcome["code"] == "model.not-found"
    assert "model-00002-of-00002.gguf" in outcome["message"]


def test_a_part_by_itself_is_refused(victim: Victim, tmp_path: Path) -> None:
    """By a name that is not one of a part, and by being another part than the first."""
    outcome = attempt(victim, tmp_path / "model.gguf", part(0, 2, 21))
    assert outcome["code"] == "gguf.part-name"
    outcome = attempt(victim, tmp_path / "model-00002-of-00002.gguf", part(1, 2, 21))
    assert outcome["code"] == "gguf.part-name"


PARTS = {
    "other-number": part(0, 2, 21),
    "other-count": part(1, 3, 21),
    "tensors-missing": part(1, 2, 99),
    "tensor-in-both": part(1, 2, 21),
    "not-a-model": RawFile(magic=b"GGML"),
    "empty": RawFile(),
}
PARTS["tensor-in-both"].tensors[0].name = "output_norm.weight"


@pytest.mark.parametrize("name", PARTS)
def test_parts_that_do_not_belong_together_are_refused(
    name: str, victim: Victim, tmp_path: Path
) -> None:
    """Each part says which one it is; together they have every tensor once."""
    (tmp_path / "model-00002-of-00002.gguf").write_bytes(PARTS[name].to_bytes())
    total = 99 if name == "tensors-missing" else len(good_model().tensors) + 1
    outcome = attempt(victim, tmp_path / "model-00001-of-00002.gguf", part(0, 2, total))
    assert outcome.get("error") == "IntegrityError"


# size

LONG_HEADERS: dict[str, Edit] = {
    f"strings-in-{key}": put(key, array(STRING, 4_000_000, bytes(32_000_000)))
    for key in ("tokenizer.ggml.tokens", "tokenizer.ggml.merges", "llama.block_count", "x")
}
LONG_HEADERS |= {
    "booleans": put("x", array(BOOL, 28 * MIB, bytes(28 * MIB))),
    "longer-than-the-limit": put("x", array(STRING, 8 * MIB, bytes(2 * HEADER_LIMIT_BYTES))),
    "values": lambda f: f.values.extend(
        (struct.pack("<I", i), scalar(U8, 0)) for i in range(1_800_000)
    ),
    "tensors": lambda f: f.tensors.extend(RawTensor(f"{i}", (0,), b"") for i in range(500_000)),
}
# what nobody looks into
HARMLESS_IF_LONG = {"strings-in-x", "strings-in-tokenizer.ggml.merges", "booleans"}


@pytest.mark.parametrize("name", LONG_HEADERS)
def test_a_long_header_costs_little_memory(name: str, tmp_path: Path) -> None:
    """Millions of tiny things fit into a header; each costs a multiple of its size to hold."""
    with Victim() as fresh:
        outcome = attempt(fresh, tmp_path / "model.gguf", edited(LONG_HEADERS[name]))
    assert "error" in outcome or name in HARMLESS_IF_LONG


# The model that comes with the package: its real header, and a hole where the weights would be.


@pytest.fixture(scope="module")
def real_header() -> bytes:
    path = find_model(None).path
    with path.open("rb") as f:
        return f.read(GGUFFile.open(path).data_offsets[0])


@pytest.mark.parametrize(
    ("missing_bytes", "code"), [(None, "gguf.truncated"), (1 << 20, "gguf.truncated"), (0, None)]
)
def test_a_real_header_needs_its_data(
    missing_bytes: int | None,
    code: str | None,
    real_header: bytes,
    victim: Victim,
    tmp_path: Path,
) -> None:
    """A download that ended early is told from damage. Weights of nothing but zeros are no crash."""
    path = tmp_path / "model.gguf"
    path.write_bytes(real_header)
    if missing_bytes is not None:
        with path.open("r+b") as f:
            f.truncate(find_model(None).path.stat().st_size - missing_bytes)
    assert attempt_file(victim, path).get("code") == code


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999])
def test_a_real_header_cut_short_is_refused(
    share: float, real_header: bytes, victim: Victim, tmp_path: Path
) -> None:
    """Wherever in its vocabulary, merges or tensors."""
    cut = real_header[: int(len(real_header) * share)]
    assert attempt(victim, tmp_path / "model.gguf", cut)["code"] == "gguf.header"


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("Ġthe", "Ġand", "gguf.vocabulary"),
        ("Ġthe", b"\xff\xfe\xfd\xfc\xfb", None),
        ("Ġthe", b"\x1b[2J\x07", None),
        ("Ġthe", bytes(5), None),
    ],
    ids=["twice", "not-utf-8", "terminal-codes", "nuls"],
)
def test_a_real_vocabulary_with_one_bad_token(
    old: str, new: str | bytes, code: str | None, real_header: bytes, victim: Victim, tmp_path: Path
) -> None:
    """One of 49152 is changed: a duplicate is found, bytes that are no text do no harm."""
    path = tmp_path / "model.gguf"
    path.write_bytes(real_header.replace(text(old), text(new), 1))
    with path.open("r+b") as f:
        f.truncate(find_model(None).path.stat().st_size)
    assert attempt_file(victim, path).get("code") == code
