"""Lists of names, written as a paragraph."""


def names_in(paragraph: str) -> tuple[str, ...]:
    """The words of `paragraph`."""
    return tuple(paragraph.split())
