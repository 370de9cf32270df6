"""What a machine knows of its neighbours: addresses that age, names, when to announce."""

from typing import Any

from baremetalrt.hosting.address_book import AddressBook
from baremetalrt.hosting.announcing import AnnouncementTimes
from baremetalrt.hosting.choice import why_not_all
from baremetalrt.hosting.span_reports import missing_blocks, name_spans
from baremetalrt.placement.profiles import Demand, ModelProfile, Sizes

MIB = 1024**2


def test_addresses_that_were_only_heard_of_are_forgotten_with_age() -> None:
    """Unless they are heard of again, or answer; who was named is asked for ever."""
    book = AddressBook(["named:1"])
    book.note(["gone:1", "answers:1"], 0.0)
    assert book.addresses(0.0) == ["named:1", "gone:1", "answers:1"]
    book.note(["answers:1"], 1700.0)
    assert book.addresses(1900.0) == ["named:1", "answers:1"]
    assert book.addresses(1_000_000.0) == ["named:1"]


def test_strangers_cannot_fill_the_book() -> None:
    """Of too many, the newest are asked, and those who were named."""
    book = AddressBook(["named:1"])
    for i in range(1000):
        book.note([f"peer-{i}:1"], float(i))
    kept = book.addresses(999.0)
    assert kept[0] == "named:1" and kept[-1] == "peer-999:1" and len(kept) == 129


def test_news_are_announced_at_once_and_again_soon() -> None:
    """However long nothing has changed; then less and less often, within what nodes remember."""
    times = AnnouncementTimes()
    pauses = [times.next_pause_s() for _ in range(20)]
    assert pauses[:3] == [2.0, 4.0, 8.0] and pauses[-1] == 600.0
    times.note_change()
    assert times.next_pause_s() == 2.0


def span(model: str, name: str, start: int, end: int, num_blocks: int = 30) -> dict[str, Any]:
    return {"model": model, "name": name, "start": start, "end": end, "num_blocks": num_blocks}


def test_what_peers_call_differently_is_one_content() -> None:
    """All blocks are hosted, under two names: it is called as it is here, and nothing is missing."""
    peers = [
        {"id": "a", "spans": [span("c1", "big", 0, 15)]},
        {"id": "b", "spans": [span("c1", "Big Model 7B", 15, 30)]},
    ]
    rows = name_spans(peers, {"c1": ["mine"]})
    assert [(r["name"], r["called"], r["peer"]) for r in rows] == [
        ("mine", "big", "a"),
        ("mine", "Big Model 7B", "b"),
    ]
    assert missing_blocks(rows) == {}
    # Of several names here, one that peers use; without any here, one of theirs for all.
    assert {r["name"] for r in name_spans(peers, {"c1": ["mine", "big"]})} == {"big"}
    assert {r["name"] for r in name_spans(peers, {})} == {"Big Model 7B"}


def test_two_contents_of_one_name_are_two_models() -> None:
    """Blocks of one do not stand in for those of the other, and a peer that miscounts makes none."""
    peers = [
        {"id": "a", "spans": [span("c1" + 62 * "0", "model", 0, 15)]},
        {"id": "b", "spans": [span("c2" + 62 * "0", "model", 15, 30)]},
        {"id": "liar", "spans": [span("c1" + 62 * "0", "model", 20, 30, num_blocks=4096)]},
        {"id": "d", "spans": [span("c1" + 62 * "0", "model", 0, 15)]},
    ]
    assert missing_blocks(name_spans(peers, {})) == {
        "model (c1000000)": "15:20",
        "model (c2000000)": "0:15",
    }


def test_a_machine_with_too_little_room_says_what_takes_it() -> None:
    """Weights, and keys and values for so many texts: the second is what people do not think of."""
    model = ModelProfile(
        block_bytes=(2 * MIB,) * 30,
        entry_bytes=5 * MIB,
        head_bytes=5 * MIB,
        cell_bytes=1024,
        row_bytes=0,
        answer_bytes=0,
    )
    demand = Demand(4096, 4)
    sizes = Sizes(model, demand)
    said = why_not_all(sizes, demand, 30, 80 * MIB, is_given=True)
    assert said is not None
    for part in (
        "80.0 MiB hold 4 of 30 blocks",
        "2.0 MiB of weights",
        "16.0 MiB of keys and values",
    ):
        assert part in said
    for part in ("4 texts of 4096 tokens", "--share-memory", "--context", "--parallel"):
        assert part in said
    assert "--share-memory" not in str(why_not_all(sizes, demand, 30, 80 * MIB, is_given=False))
    assert why_not_all(sizes, demand, 30, 1024 * MIB, is_given=True) is None
