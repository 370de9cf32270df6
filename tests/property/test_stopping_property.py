"""Stop strings are found however the text arrives."""

from hypothesis import given
from hypothesis import strategies as st

from baremetalrt.session.stopping import StopMatcher

# Few letters, so that stops overlap with the text, with each other and with themselves.
LETTERS = "ab\n"
STOPS = st.lists(st.text(LETTERS, min_size=1, max_size=5), max_size=3)
CHUNKS = st.lists(st.text(LETTERS, max_size=4), max_size=12)


def expected(text: str, stops: list[str]) -> tuple[str, str | None]:
    """What may be shown and the stop that ends it: of all, the one that is complete first."""
    hits = [(text.find(s), s) for s in stops if s in text]
    if not hits:
        return text, None
    at, stop = min(hits, key=lambda hit: (hit[0] + len(hit[1]), hit[0]))
    return text[:at], stop


@given(CHUNKS, STOPS)
def test_any_chunking_gives_what_the_whole_text_gives(chunks: list[str], stops: list[str]) -> None:
    """The text before the stop, and which stop it was, do not depend on how tokens cut the text."""
    matcher = StopMatcher(stops)
    shown = "".join(matcher.add(chunk) for chunk in chunks)
    if matcher.matched is None:
        shown += matcher.finish()
    assert (shown, matcher.matched) == expected("".join(chunks), stops)


@given(CHUNKS, STOPS)
def test_nothing_shown_is_part_of_a_stop(chunks: list[str], stops: list[str]) -> None:
    """What has been shown at any time never has to be taken back."""
    visible, _ = expected("".join(chunks), stops)
    matcher, shown = StopMatcher(stops), ""
    for chunk in chunks:
        shown += matcher.add(chunk)
        assert visible.startswith(shown)


@given(CHUNKS, STOPS)
def test_only_the_beginning_of_a_stop_is_held_back(chunks: list[str], stops: list[str]) -> None:
    """Text that cannot become a stop is shown at once."""
    matcher, shown, text = StopMatcher(stops), "", ""
    for chunk in chunks:
        shown, text = shown + matcher.add(chunk), text + chunk
        if matcher.matched is not None:
            return
        held = text.removeprefix(shown)
        assert held == "" or any(s.startswith(held) and s != held for s in stops)


def test_of_two_stops_the_first_complete_one_counts() -> None:
    """A shorter stop inside of a longer one ends the text as soon as it is there."""
    for chunks in (["xabcd"], ["xa", "bc", "d"]):
        matcher = StopMatcher(["abcd", "bc"])
        assert "".join(map(matcher.add, chunks)) == "xa"
        assert matcher.matched == "bc"
