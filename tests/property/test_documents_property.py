"""What holds for every text: splitting loses nothing, cleaning and judging twice change nothing."""

import random
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from baremetalrt.documents.charset import decode
from baremetalrt.documents.cleaning import clean
from baremetalrt.documents.duplicates import (
    NUM_PERMUTATIONS,
    Verdict,
    content_hash,
    judge,
    signature,
)
from baremetalrt.documents.passages import split_passages
from baremetalrt.documents.readers.quoting import own_words
from baremetalrt.documents.splitting import SplitConfig, Stretches, Text, choose_held_out, cut

TEXTS = st.text(
    st.one_of(st.sampled_from(" \n\t\r.!?a\u0301\u00ad\u2028"), st.characters()), max_size=400
)
VOCABULARY = [f"w{i}" for i in range(40)]


@given(TEXTS, st.integers(1, 60))
def test_passages_joined_are_the_text(text: str, max_size: int) -> None:
    """None is empty, none is too large."""
    passages = split_passages(text, max_size)
    assert "".join(passages) == text
    assert all(0 < len(passage) <= max_size for passage in passages)


@given(TEXTS, st.integers(1, 20))
def test_passages_are_measured_as_the_caller_measures(text: str, max_size: int) -> None:
    """Here in bytes; what is one character alone may be larger."""
    passages = split_passages(text, max_size, measure=lambda t: len(t.encode("utf-8", "replace")))
    assert "".join(passages) == text
    assert all(len(p) == 1 or len(p.encode("utf-8", "replace")) <= max_size for p in passages)


@given(st.lists(st.text("ab ", min_size=1, max_size=30), min_size=1, max_size=20))
def test_passages_end_where_paragraphs_end(paragraphs: list[str]) -> None:
    """As long as every paragraph fits."""
    text = "\n\n".join(paragraphs)
    for passage in split_passages(text, 40)[:-1]:
        assert passage.rstrip(" ").endswith("\n\n")


@given(TEXTS, st.booleans())
def test_cleaning_twice_changes_nothing(text: str, keeps_layout: bool) -> None:
    """And what is clean can be written as UTF-8."""
    once = clean(text, keeps_layout=keeps_layout)
    assert clean(once, keeps_layout=keeps_layout) == once
    once.encode()


@settings(deadline=None)  # the first guess imports what guesses
@given(st.binary(max_size=300), st.one_of(st.none(), st.text(max_size=12)))
def test_bytes_always_decode(data: bytes, declared: str | None) -> None:
    """Whatever they are, and whatever was said of them."""
    decode(data, declared).encode("utf-8", "surrogatepass")


@given(st.text(st.sampled_from("ab>:- \nOnwrte_"), max_size=200))
def test_own_words_are_lines_of_the_mail(text: str) -> None:
    """Nothing is added and nothing is put elsewhere."""
    lines = iter(text.split("\n"))
    own = own_words(text)
    assert not own or all(line in lines for line in own.split("\n"))


def texts_from(seed: int, num: int) -> list[str]:
    """Texts some of which are copies of others, with a few words changed."""
    rng = random.Random(seed)
    texts: list[str] = []
    for _ in range(num):
        if texts and rng.random() < 0.5:
            words = rng.choice(texts).split()
            for _ in range(rng.choice((0, 1, 2, 8))):
                words[rng.randrange(len(words))] = rng.choice(VOCABULARY)
        else:
            words = [rng.choice(VOCABULARY) for _ in range(rng.choice((3, 30, 100)))]
        texts.append(" ".join(words))
    return texts


def judged(texts: list[str]) -> Verdict:
    hashes = [content_hash(text) for text in texts]
    data = b"".join(signature(text) for text in texts)
    signatures = np.frombuffer(data, dtype=np.uint32).reshape(-1, NUM_PERMUTATIONS)
    return judge(hashes, signatures, [len(text) for text in texts])


def kept(texts: list[str]) -> list[str]:
    return [text for text, stays in zip(texts, judged(texts).kept_N, strict=True) if stays]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 60))
def test_judging_twice_drops_nothing_more(seed: int, num: int) -> None:
    """What stays has no duplicates among itself."""
    once = kept(texts_from(seed, num))
    assert kept(once) == once


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 60))
def test_what_stays_does_not_depend_on_the_order(seed: int, num: int) -> None:
    """Files may come in any order."""
    texts = texts_from(seed, num)
    shuffled = random.Random(seed).sample(texts, len(texts))
    assert sorted(kept(texts)) == sorted(kept(shuffled))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 60), st.integers(0, 5))
def test_the_split_is_a_function_of_content(seed: int, num: int, split_seed: int) -> None:
    """Each text is on the same side whatever the order, and those of a group on one side."""
    texts = sorted(set(texts_from(seed, num)))
    config = SplitConfig(fraction=0.2, seed=split_seed)
    found = []
    for order in (texts, random.Random(seed).sample(texts, len(texts))):
        groups = judged(order).group_N.tolist()
        about = [
            Text(content_hash(text), group, len(text))
            for text, group in zip(order, groups, strict=True)
        ]
        found.append(dict(zip(order, choose_held_out(about, config), strict=True)))
    assert found[0] == found[1]


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 30_000), st.booleans()), max_size=60),
    st.floats(0.001, 0.5),
    st.integers(-5, 5),
)
def test_what_is_held_out_is_what_was_asked_for(
    sizes: list[tuple[int, int, bool]], fraction: float, seed: int
) -> None:
    """By bytes, whatever the texts are like; of little text a fifth at most; whole texts stay whole."""
    texts = [
        Text(bytes([n]) * 16, group, size, is_whole)
        for n, (group, size, is_whole) in enumerate(sizes)
    ]
    chosen = choose_held_out(texts, SplitConfig(fraction=fraction, seed=seed))
    total = sum(size for _, size, _ in sizes)
    held_out = sum(
        text.num_bytes * len(s.held_out) / s.num for text, s in zip(texts, chosen, strict=True)
    )
    wanted = max(fraction * total, min(2000, 0.2 * total))
    # The last one taken is taken if that is nearer than leaving it.
    assert held_out <= 2 * wanted
    for text, stretches in zip(texts, chosen, strict=True):
        assert all(0 <= number < stretches.num for number in stretches.held_out)
        assert not text.is_whole or stretches.num == 1


@given(st.lists(st.integers(1, 200_000), min_size=1, max_size=40), st.integers(0, 9))
def test_unrelated_texts_are_held_out_to_the_stretch(sizes: list[int], seed: int) -> None:
    """A few long ones or many short ones: as much as was asked for, and in several stretches."""
    texts = [Text(bytes([n]) * 16, n, size) for n, size in enumerate(sizes)]
    total = sum(sizes)
    chosen = choose_held_out(texts, SplitConfig(fraction=0.05, seed=seed))
    held_out = sum(
        text.num_bytes * len(s.held_out) / s.num for text, s in zip(texts, chosen, strict=True)
    )
    if total >= 40_000:
        longest = 1.5 * min(max(300, total * 0.05 / 8), 2000)
        assert abs(held_out - 0.05 * total) <= longest / 2 + 1
        assert sum(len(s.held_out) for s in chosen) >= 4


@given(
    st.text(st.sampled_from("ab \n."), max_size=2000),
    st.integers(1, 12),
    st.sets(st.integers(0, 11)),
)
def test_parts_of_a_text_are_the_text(text: str, num: int, held_out: set[int]) -> None:
    """Joined; no two beside each other are on one side."""
    numbers = frozenset(n for n in held_out if n < num)
    parts = cut(text, Stretches(num, numbers))
    assert "".join(part for part, _ in parts) == text
    assert all(a[1] != b[1] for a, b in pairwise(parts))
    assert sum(is_held_out for _, is_held_out in parts) <= len(numbers)
