"""Stop strings in streamed text. Pure."""

from collections.abc import Sequence


class StopMatcher:
    """Passes text through until a stop string appears; holds back what may be the start of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(s for s in stops if s)
        self._held = ""
        self.matched: str | None = None

    def add(self, text: str) -> str:
        """The part of the text so far that is safe to show. After a match, nothing more is."""
        if self.matched is not None:
            return ""
        if not self._stops:
            return text
        self._held += text
        found = [(self._held.find(s), s) for s in self._stops]
        hits = [(at, s) for at, s in found if at >= 0]
        if hits:
            # The one that is complete first: which it is must not depend on how the text is cut.
            at, self.matched = min(hits, key=lambda hit: (hit[0] + len(hit[1]), hit[0]))
            shown, self._held = self._held[:at], ""
            return shown
        keep = max(overlap(self._held, s) for s in self._stops)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def finish(self) -> str:
        """What was held back, once no more text comes."""
        shown, self._held = self._held, ""
        return shown


def overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are a proper beginning of `stop`."""
    for n in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:n]):
            return n
    return 0
