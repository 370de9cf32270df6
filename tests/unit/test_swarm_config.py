"""`config.toml`: what a machine does in swarms, and what its session is told."""

import socket
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from baremetalrt.core.errors import UsageError
from baremetalrt.core.settings import parse_settings, settings_path
from baremetalrt.core.units import GIB
from baremetalrt.hosting.config import ShareConfig, load_share_config
from baremetalrt.swarm.config import SECTION, SwarmConfig, load_swarm_config
from baremetalrt.swarm.session_settings import (
    is_local,
    local_only_filter,
    parse_peer,
    session_settings,
)


@pytest.fixture
def config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the settings of this test are."""
    monkeypatch.setenv("BMRT_HOME", str(tmp_path))
    assert settings_path() == tmp_path / "config.toml"
    return tmp_path / "config.toml"


def test_without_a_file_there_are_defaults(config_file: Path) -> None:
    """Nothing has to be set up; an empty file, or one without the table, says no more."""
    assert load_swarm_config() == SwarmConfig()
    for text in ("", "[swarm]\n", "# nothing yet\n"):
        config_file.write_text(text)
        assert load_swarm_config() == SwarmConfig()


def test_what_is_shared_has_a_table_of_its_own(config_file: Path) -> None:
    """Sizes in words, and ids of peers that can be."""
    assert load_share_config() == ShareConfig()
    peer = "0123456789abcdef" * 2 + "01234567"
    config_file.write_text(
        f"""
        [share]
        enabled = true
        models = ["a", "b"]
        memory = "4 GB"
        threads = 2
        listen = "192.168.1.20:7000"
        allow = ["{peer}"]
        rebalance_s = 0
        """
    )
    assert load_share_config() == ShareConfig(
        enabled=True,
        models=("a", "b"),
        memory=4 * 10**9,
        threads=2,
        listen="192.168.1.20:7000",
        allow=(peer,),
        rebalance_s=0,
    )
    assert load_swarm_config() == SwarmConfig()
    config_file.write_text('[share]\nallow = ["somebody"]')
    with pytest.raises(UsageError, match="not the id of a peer"):
        load_share_config()


def test_every_key_is_read(config_file: Path) -> None:
    """None of them keeps its default when the file says otherwise."""
    config_file.write_text(
        """
        [swarm]
        offline = true
        metered = true
        listen = "192.168.1.20"
        listen_v6 = false
        port = 7000
        local_discovery = false
        port_mapping = false
        dht = false
        dht_bootstrap = ["router.lan:6881", "10.0.0.2:6881"]
        download_limit = 1000
        upload_limit = "500 KB/s"
        disk_budget = "50 GiB"
        """
    )
    assert load_swarm_config() == SwarmConfig(
        offline=True,
        metered=True,
        listen="192.168.1.20",
        listen_v6=False,
        port=7000,
        local_discovery=False,
        port_mapping=False,
        dht=False,
        dht_bootstrap=("router.lan:6881", "10.0.0.2:6881"),
        download_limit=1000,
        upload_limit=500_000,
        disk_budget=50 * GIB,
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[swarm]\nofline = true", "ofline"),
        ("[swarm]\nsomething_else = 1", "something_else"),
        ("[swam]\noffline = true", "swam"),
        ("offline = true", "offline"),
        ("[swarm]\noffline = 1", "offline"),
        ('[swarm]\noffline = "yes"', "offline"),
        ("[swarm]\nport = true", "port"),
        ("[swarm]\nport = 6881.0", "port"),
        ('[swarm]\nport = "6881"', "port"),
        ("[swarm]\nport = -1", "port"),
        ("[swarm]\nport = 65536", "port"),
        ("[swarm]\nlisten = 127", "listen"),
        ('[swarm]\ndht_bootstrap = "router.lan:6881"', "dht_bootstrap"),
        ("[swarm]\ndht_bootstrap = [6881]", "dht_bootstrap"),
        ('[swarm]\nupload_limit = "fast"', "fast"),
        ("[swarm]\ndisk_budget = -5", "disk_budget"),
        ("swarm = 5", "swarm"),
        ("[swarm", "cannot be read"),
        ("[swarm]\n[swarm]\n", "cannot be read"),
    ],
)
def test_mistakes_name_what_is_wrong(text: str, says: str, config_file: Path) -> None:
    """A key that is not known is an error, not ignored; so is a value of another kind."""
    config_file.write_text(text)
    with pytest.raises(UsageError, match=says):
        load_swarm_config()


def test_a_misspelt_key_is_told_its_name() -> None:
    """And one that resembles none, all of them."""
    with pytest.raises(UsageError) as near:
        parse_settings(SECTION, SwarmConfig, {"upload_limits": 5})
    assert near.value.code == "config.invalid" and "'upload_limit'" in (near.value.hint or "")
    with pytest.raises(UsageError) as far:
        parse_settings(SECTION, SwarmConfig, {"x": 5})
    assert "download_limit" in (far.value.hint or "")


def test_a_file_that_is_no_text_is_an_error(config_file: Path) -> None:
    config_file.write_bytes(b"\xff\xfe[swarm]")
    with pytest.raises(UsageError, match="cannot be read"):
        load_swarm_config()
    config_file.unlink()
    config_file.mkdir()
    with pytest.raises(UsageError, match="cannot be read"):
        load_swarm_config()


# What a session is told


def test_offline_turns_off_what_leaves_the_network() -> None:
    """Whatever else the settings say: no DHT, no bootstrap nodes, no asking the router."""
    asked = SwarmConfig(offline=True, dht=True, port_mapping=True, local_discovery=True)
    settings = session_settings(asked, with_certificates=False)
    for name in ("enable_dht", "enable_upnp", "enable_natpmp"):
        assert settings[name] is False
    assert settings["dht_bootstrap_nodes"] == ""
    assert settings["enable_lsd"] is True


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("dht", ["enable_dht"]),
        ("local_discovery", ["enable_lsd"]),
        ("port_mapping", ["enable_upnp", "enable_natpmp"]),
    ],
)
def test_each_way_of_being_found_has_a_switch(key: str, names: list[str]) -> None:
    """On unless turned off."""
    on = session_settings(SwarmConfig(), with_certificates=False)
    off = session_settings(
        parse_settings(SECTION, SwarmConfig, {key: False}), with_certificates=False
    )
    assert all(on[name] is True and off[name] is False for name in names)


def test_limits_and_ports_reach_the_session() -> None:
    """Private swarms listen on a port of their own; port zero stays zero: any."""
    config = SwarmConfig(listen="127.0.0.1", port=7000, download_limit=5, upload_limit=6)
    settings = session_settings(config, with_certificates=True)
    assert settings["download_rate_limit"] == 5 and settings["upload_rate_limit"] == 6
    assert settings["listen_interfaces"] == "127.0.0.1:7000,127.0.0.1:7001s"
    plain = session_settings(SwarmConfig(port=7000), with_certificates=False)
    assert plain["listen_interfaces"] == "0.0.0.0:7000,[::]:7000"
    any_port = session_settings(
        SwarmConfig(listen="127.0.0.1", port=0, listen_v6=False), with_certificates=True
    )
    assert any_port["listen_interfaces"] == "127.0.0.1:0,127.0.0.1:0s"


LOCAL = ["10.1.2.3", "10.1.255.255", "192.168.1.20", "127.0.0.1", "127.9.9.9", "169.254.9.9"]
LOCAL += ["::1", "fe80::1", "fd00:1:2:3::9"]
# Private addresses of other networks are among them: a VPN would carry packets there.
FAR = ["10.2.0.1", "192.168.2.20", "172.16.0.1", "9.255.255.255", "1.1.1.1", "126.255.255.255"]
FAR += ["128.0.0.0", "255.255.255.255", "2606:4700::1", "fe00::1", "fd00:1:2:4::9", "fc00::1"]


@pytest.fixture
def two_interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a cable, a radio, and an address of version 6."""
    v4, v6 = socket.AF_INET, socket.AF_INET6

    def address(family: int, text: str, mask: str | None) -> SimpleNamespace:
        return SimpleNamespace(family=family, address=text, netmask=mask)

    found = {
        "cable": [address(v4, "10.1.7.7", "255.255.0.0"), address(-1, "02:00:00:00:00:01", None)],
        "radio": [
            address(v4, "192.168.1.2", "255.255.255.0"),
            address(v6, "fd00:1:2:3::2%radio", "ffff:ffff:ffff:ffff::"),
        ],
    }
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: found)


@pytest.mark.usefixtures("two_interfaces")
def test_offline_reaches_the_local_network_and_no_further() -> None:
    """The filter, which holds whoever names an address, and the check of `--peer` agree."""
    rules = local_only_filter()
    for address in LOCAL:
        assert is_local(address) and rules.access(address) == 0
    for address in FAR:
        assert not is_local(address) and rules.access(address) != 0


@pytest.mark.usefixtures("two_interfaces")
def test_peers_are_addresses_with_a_port() -> None:
    """Names are looked up only where packets may leave."""
    assert parse_peer("192.168.1.20:6881", offline=True) == ("192.168.1.20", 6881)
    assert parse_peer("[fe80::1]:1", offline=True) == ("fe80::1", 1)
    assert parse_peer("localhost:65535", offline=True) == ("localhost", 65535)
    assert parse_peer("nas.example:80", offline=False) == ("nas.example", 80)
    for text in ("nas.example:80", "1.1.1.1:80", "[2606:4700::1]:80"):
        with pytest.raises(UsageError) as caught:
            parse_peer(text, offline=True)
        assert caught.value.code == "peer.offline"


@pytest.mark.parametrize(
    "text", ["", ":", "host", "host:", ":80", "host:0", "host:65536", "host:-1", "host:x", "[]:1"]
)
def test_what_cannot_be_a_peer_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_peer(text, offline=False)
    assert caught.value.code == "peer.invalid"
