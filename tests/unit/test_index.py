"""Names of models: what they mean, what they look like, and lists that are none."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetalrt.core.errors import IntegrityError, UsageError
from baremetalrt.hub.names import parse_hub_name
from baremetalrt.index.known import add_name, all_lists, own_list_file, remove_name, source_of
from baremetalrt.index.lists import (
    KnownList,
    ListedModel,
    alike,
    find,
    read_list,
    search,
    skeleton,
    write_list,
)


def listing(publisher: str, **sources: str) -> KnownList:
    """A list with a model of one size for each name."""
    models = [ListedModel(name=name, sizes={"a": source}) for name, source in sources.items()]
    return KnownList(publisher, tuple(models))


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BMRT_HOME", str(tmp_path))


def test_the_bundled_list_is_sound() -> None:
    """Every source is a name on a hub, and no two names look alike."""
    own, bundled = all_lists()
    assert not own.models and len(bundled.models) >= 7
    for one in bundled.models:
        assert one.licence in ("Apache-2.0", "MIT") and one.description and one.architecture
        for source in one.sizes.values():
            assert parse_hub_name(source).quant is None
    assert len({skeleton(one.name) for one in bundled.models}) == len(bundled.models)
    assert source_of("qwen2.5-coder:0.5b") == "hf:Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF"
    assert source_of("Qwen2.5-Coder") == "hf:Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF"
    assert source_of("unheard-of") is None and source_of("a/b") is None
    with pytest.raises(UsageError, match="no size 9b"):
        source_of("qwen3:9b")


def test_ones_own_names_go_before_others() -> None:
    add_name("qwen3", "hf:me/mine", "of my own")
    assert source_of("qwen3") == "hf:me/mine"
    add_name("mine:7b", "a" * 40)
    add_name("mine:1b", "hf:me/small:Q4_0")
    assert source_of("mine") == "a" * 40 and source_of("mine:1b") == "hf:me/small:Q4_0"
    remove_name("mine:7b")
    assert source_of("mine") == "hf:me/small:Q4_0"
    for name in ("mine", "qwen3"):
        remove_name(name)
    assert source_of("mine") is None and source_of("qwen3:0.6b") is not None
    with pytest.raises(UsageError, match="not on your list"):
        remove_name("qwen3")


@pytest.mark.parametrize("name", ["", "Ä", "a b", "../x", "x" * 65, "a:b:c", "\u0430bc", "-a"])
def test_what_is_no_name_is_refused(name: str) -> None:
    """Letters of other alphabets, which look like ours, among them."""
    with pytest.raises(UsageError):
        add_name(name, "hf:a/b")
    assert not own_list_file().exists()


@pytest.mark.parametrize("source", ["", "qwen3", "http://x/y.gguf", "hf:a/b\n", "zz" * 20])
def test_where_it_is_to_be_had_is_no_other_name(source: str) -> None:
    with pytest.raises(UsageError):
        add_name("mine", source)


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "[[model]]",
        '[[model]]\nname = "a"\nsizes = {}',
        '[[model]]\nname = "A"\nsizes = { x = "hf:a/b" }',
        '[[model]]\nname = "\u0430"\nsizes = { x = "hf:a/b" }',
        '[[model]]\nname = "a"\nsizes = { x = "other" }',
        '[[model]]\nname = "a"\ndescription = "\\u001b[2J"\nsizes = { x = "hf:a/b" }',
        '[[model]]\nname = 1\nsizes = { x = "hf:a/b" }',
        "model = 3",
    ],
)
def test_a_list_that_is_none(text: str) -> None:
    with pytest.raises(IntegrityError):
        read_list(text, "x")


_NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
_SIZES = st.dictionaries(_NAMES, st.just("hf:a/b"), min_size=1, max_size=3)
_TEXTS = st.text(st.characters(categories=["L", "N", "P", "Zs"]), max_size=20).filter(
    str.isprintable
)
_MODELS = st.builds(ListedModel, name=_NAMES, sizes=_SIZES, description=_TEXTS, licence=_TEXTS)


@given(st.lists(_MODELS, max_size=5))
def test_what_is_written_is_read(models: list[ListedModel]) -> None:
    assert read_list(write_list(models), "x") == models
    for one in models:
        found = find(one.name, [KnownList("a", tuple(models))])
        assert found is not None and found.model.name == one.name


def test_names_that_look_alike_are_shown() -> None:
    known = [listing("a", llama3="hf:a/b", qwen="hf:a/b", gem="hf:a/b")]
    assert alike("1lama3", known) == ["llama3"] and alike("Ilama3", known) == ["llama3"]
    assert alike("llama-3", known) == ["llama3"] and alike("llama3.1-instruct", known) == ["llama3"]
    assert alike("nothing", known) == [] and alike("gern", known) == ["gem"]


def test_words_are_looked_for_everywhere() -> None:
    _, bundled = all_lists()
    assert [one.name for _, one in search(["editors"], [bundled])] == ["qwen2.5-coder"]
    assert len(list(search(["apache", "tools"], [bundled]))) == 2


def test_two_publishers_of_one_name_are_shown() -> None:
    """Unless they mean the same bytes; one's own name goes before both."""
    anna, ben = listing("anna", tiny="hf:a/b"), listing("ben", tiny="hf:c/d")
    with pytest.raises(UsageError, match="several lists") as raised:
        find("tiny", [anna, ben])
    assert raised.value.code == "index.ambiguous"
    assert "anna/tiny:a" in str(raised.value.hint) and "ben/tiny:a" in str(raised.value.hint)
    for name in ("anna/tiny", "anna/tiny:a"):
        found = find(name, [anna, ben])
        assert found is not None and found.source == "hf:a/b"
    assert find("carl/tiny", [anna, ben]) is None
    same = listing("carl", tiny="hf:a/b")
    assert find("tiny", [anna, same]) is not None
    own = find("tiny", [listing("own", tiny="hf:me/mine"), anna, ben])
    assert own is not None and own.source == "hf:me/mine"


def test_the_content_decides_what_is_one_model() -> None:
    def of(publisher: str, source: str, content: str) -> KnownList:
        model = ListedModel(name="tiny", sizes={"a": source}, contents={"a": content})
        return KnownList(publisher, (model,))

    one, other = of("anna", "a" * 40, "1" * 64), of("ben", "b" * 40, "1" * 64)
    assert find("tiny", [one, other]) is not None
    with pytest.raises(UsageError, match="several lists"):
        find("tiny", [one, of("ben", "b" * 40, "2" * 64)])


def test_a_name_that_passes_for_another_lists_is_shown() -> None:
    real, spoof = listing("bundled", qwen3="hf:a/b"), listing("eve", qvven3="hf:e/vil")
    with pytest.raises(UsageError, match="looks like") as raised:
        find("qvven3", [real, spoof])
    assert raised.value.code == "index.alike" and "bundled/qwen3" in str(raised.value.hint)
    found = find("eve/qvven3", [real, spoof])
    assert found is not None and found.source == "hf:e/vil"
