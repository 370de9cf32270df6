"""Names of models on a hub, and which of its files they mean."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetalrt.core.errors import UsageError
from baremetalrt.core.units import GIB
from baremetalrt.hub.choosing import HubFile, HubModel, choose, models_among
from baremetalrt.hub.names import HubName, is_hub_name, parse_hub_name


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("hf:a/b", HubName("a/b")),
        (
            "HF:Qwen/Qwen2.5-0.5B-Instruct-GGUF:q4_k_m",
            HubName("Qwen/Qwen2.5-0.5B-Instruct-GGUF", "q4_k_m"),
        ),
        ("hf:a/b@v1.0:Q8_0", HubName("a/b", "Q8_0", "v1.0")),
        ("hf.co/a/b:IQ4_XS", HubName("a/b", "IQ4_XS")),
        ("https://huggingface.co/a/b", HubName("a/b")),
        ("https://huggingface.co/a/b/blob/main/c-Q4_0.gguf", HubName("a/b", "c-Q4_0", "main")),
        (
            "https://huggingface.co/a/b/resolve/main/c.gguf?download=true",
            HubName("a/b", "c", "main"),
        ),
    ],
)
def test_names(text: str, meant: HubName) -> None:
    assert is_hub_name(text) and parse_hub_name(text) == meant


@given(st.text(max_size=60))
def test_whatever_is_typed_is_a_name_or_an_error(text: str) -> None:
    try:
        name = parse_hub_name(f"hf:{text}")
    except UsageError:
        return
    assert parse_hub_name(str(name)) == name
    assert ".." not in name.repo and name.repo.count("/") == 1


def files(*names: str, size: int = GIB) -> list[HubFile]:
    return [HubFile(name, size) for name in names]


def test_models_are_told_from_what_else_is_there() -> None:
    found = models_among(
        files(
            "README.md",
            "m-Q4_K_M.gguf",
            "mmproj-F16.gguf",
            "m.imatrix.gguf",
            "Q8_0/m-Q8_0-00002-of-00002.gguf",
            "Q8_0/m-Q8_0-00001-of-00002.gguf",
            "m-F16-00001-of-00003.gguf",
        )
    )
    assert [(one.name, len(one.files)) for one in found] == [("m-Q8_0", 2), ("m-Q4_K_M", 1)]
    assert found[0].files[0].path.endswith("00001-of-00002.gguf") and found[0].size == 2 * GIB


def models(**sizes: int) -> list[HubModel]:
    return [
        HubModel(f"m-{name}", (HubFile(f"m-{name}.gguf", size * GIB),))
        for name, size in sizes.items()
    ]


def test_the_one_that_fits_is_taken() -> None:
    there = models(Q2_K=2, Q4_K_M=4, Q4_K=4, Q8_0=8, F16=16)
    for free, name in ((100, "Q4_K_M"), (6, "Q4_K_M"), (5, "Q2_K"), (1, "Q2_K")):
        assert choose(there, None, free * GIB, "x").name == f"m-{name}"
    assert choose(models(F16=16), None, GIB, "x").name == "m-F16"
    unusual = models(Q3_K_M=3, Q6_K=6)
    assert choose(unusual, None, 10 * GIB, "x").name == "m-Q6_K"


def test_a_word_means_all_of_a_word() -> None:
    there = models(Q4_K=4, Q4_K_M=4, IQ4_K=3)
    assert choose(there, "q4_k", GIB, "x").name == "m-Q4_K"
    assert choose(there, "m-Q4_K_M.gguf", GIB, "x").name == "m-Q4_K_M"
    with pytest.raises(UsageError, match="none"):
        choose(there, "Q4", GIB, "x")
    with pytest.raises(UsageError, match="3 of the files"):
        choose(there, "m", GIB, "x")
    with pytest.raises(UsageError, match="no GGUF"):
        choose([], None, GIB, "x")
