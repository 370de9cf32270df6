"""Magnet links as people paste them and as other programs write them."""

import base64

import pytest

from baremetalrt.core.errors import UsageError
from baremetalrt.core.ids import is_magnet_or_hash, split_choice
from baremetalrt.core.magnet_links import parse_magnet_link, with_choice

HASH = "50fa26bc8cc36d078a5ca4635f9ee314bd37e81c"
V2 = "0123456789abcdef" * 4
BASE32 = base64.b32encode(bytes.fromhex(HASH)).decode()
LINK = f"magnet:?xt=urn:btih:{HASH}"


@pytest.mark.parametrize(
    "text",
    [
        LINK,
        f"{LINK}&dn=caf%E9.gguf",
        f"{LINK}&dn=caf\udce9.gguf",
        f"{LINK}&dn=\ud800",
        f"{LINK}&dn=%00%1b%5b2J%e2%80%ae",
        f"MAGNET:?xt=urn:btih:{HASH}",
        f"Magnet:?XT=URN:BTIH:{HASH.upper()}&DN=x",
        f" {LINK} ",
        f"\t{LINK}\r\n",
        f"<{LINK}>",
        f'"{LINK}"',
        LINK.replace("btih:", "btih:\n  "),
        f"magnet:?dn=a%20name&amp;xt=urn:btih:{HASH}&amp;tr=udp://t.example:1",
        f"magnet:///?xt=urn:btih:{HASH}",
        f"magnet:?xt=urn%3Abtih%3A{HASH}",
        f"magnet:?xt.1=urn:btih:{HASH}&xt.2=urn:sha1:x",
        f"magnet:?xt=urn:btih:{BASE32}",
        f"magnet:?xt=urn:btih:{BASE32.lower()}",
        BASE32,
        f" {BASE32}\n",
        f" {HASH.upper()} ",
    ],
)
def test_a_link_is_read_however_it_is_written(text: str) -> None:
    """In any case of letters, with what mail and pages put around it, in hexadecimal and in base32."""
    assert parse_magnet_link(text).infohashes == (HASH,)


@pytest.mark.parametrize(
    "text", [f" {LINK}", f"MAGNET:?xt=urn:btih:{HASH}", BASE32, HASH, f" {V2}"]
)
def test_what_is_a_link_is_not_taken_for_a_prompt(text: str) -> None:
    assert is_magnet_or_hash(text)
    assert not is_magnet_or_hash(f"x{text.strip()}")


def test_a_word_is_no_hash() -> None:
    """Though small letters alone could be base32, as in the name of a file."""
    assert not is_magnet_or_hash("abcdefghijklmnopqrstuvwxyzabcdef")
    assert not is_magnet_or_hash("A" * 31) and not is_magnet_or_hash("A" * 33)


def test_both_hashes_trackers_mirrors_and_peers_are_taken_over() -> None:
    link = parse_magnet_link(
        f"{LINK}&xt=urn:btmh:1220{V2}&tr=http%3A%2F%2Ft.example%2Fannounce%3Fkey%3Da%2Bb&tr=udp://u:1"
        "&ws=http://m.example/a%2520b.gguf&x.pe=1.2.3.4:5&x.pe=[2001:db8::1]:6&so=0,2&x.other=1"
    )
    assert link.infohashes == (V2, HASH)
    assert link.trackers == ("http://t.example/announce?key=a+b", "udp://u:1")
    assert link.web_seeds == ("http://m.example/a%20b.gguf",)
    assert link.peers == ("1.2.3.4:5", "[2001:db8::1]:6")


def test_a_link_without_end_is_read_to_a_bound() -> None:
    """Nobody has a hundred trackers."""
    link = parse_magnet_link(LINK + "".join(f"&tr=udp://{n}.example:1" for n in range(5000)))
    assert len(link.trackers) == 100
    with pytest.raises(UsageError, match="too long"):
        parse_magnet_link(LINK + "&dn=" + "x" * (1 << 20))


@pytest.mark.parametrize("file", ["Q4_K_M", "sub folder/模型-Q4.gguf", "a:b", "100%&more"])
def test_a_choice_travels_with_what_names_the_torrent(file: str) -> None:
    """In a link as a parameter, behind a file or a hash after a colon."""
    link = with_choice(f" {LINK} ", file)
    assert parse_magnet_link(link).file == file and split_choice(link) == (link, None)
    if ":" not in file:
        assert split_choice(with_choice("a/b.torrent", file)) == ("a/b.torrent", file)
        assert split_choice(with_choice(HASH, file)) == (HASH, file)
