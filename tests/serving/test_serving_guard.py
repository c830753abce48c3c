from __future__ import annotations

import pytest

from bcfusion.serving.guard import Hosts


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "LOCALHOST", "[::1]:8000"])
def test_this_machine_is_known_by_its_names(host: str) -> None:
    assert Hosts("127.0.0.1").knows(host)


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "127.0.0.1.evil.example", "192.168.0.7:8000", "", "localhost:8000/", "localhost;", "[::2]"),
        *("a b", "localhost\r\nX: y", "user@localhost", "localhost:999999", "127.0.0.1, evil.example"),
    ],
)
def test_a_name_that_others_can_make_resolve_to_this_machine_is_not_known(host: str) -> None:
    assert not Hosts("127.0.0.1").knows(host)


def test_a_server_for_everybody_is_known_by_any_address_but_not_by_any_name() -> None:
    hosts = Hosts("0.0.0.0", ["https://voice.example.org"])
    assert hosts.knows("192.168.0.7:8000")
    assert hosts.knows("[fe80::1]:8000")
    assert hosts.knows("voice.example.org")
    assert not hosts.knows("other.example.org")


def test_pages_of_the_server_itself_and_of_given_origins_are_trusted() -> None:
    hosts = Hosts("127.0.0.1", ["https://voice.example.org/"])
    assert hosts.trusts("http://localhost:8000", "localhost:8000")
    assert hosts.trusts("https://Voice.example.org", "127.0.0.1:8000")  # a proxy that changes the Host
    for origin in ("http://localhost:9000", "null", "http://evil.example", "file://", "http://[", "localhost:8000"):
        assert not hosts.trusts(origin, "localhost:8000"), origin
    assert not hosts.trusts("http://voice.example.org", "127.0.0.1:8000"), "it is another origin without encryption"
