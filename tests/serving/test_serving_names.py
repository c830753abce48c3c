from __future__ import annotations

import socket

import pytest

from bcfusion.serving import names
from bcfusion.serving.guard import Hosts


def test_a_server_for_everybody_has_addresses_for_others_by_which_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {socket.AF_INET: "192.168.0.7", socket.AF_INET6: "fd00::7"}
    monkeypatch.setattr(names, "_own_address", lambda family, elsewhere: found[family])
    monkeypatch.setattr(socket, "gethostname", lambda: "Studio")
    assert names.addresses_for_others("0.0.0.0", "https://127.0.0.1:8000/") == [
        "https://192.168.0.7:8000/",
        "https://studio:8000/",
    ]
    told = names.addresses_for_others("::", "http://[::1]:8000/")
    assert told == ["http://192.168.0.7:8000/", "http://[fd00::7]:8000/", "http://studio:8000/"]
    hosts = Hosts("0.0.0.0")
    for name in [*(each.split("/")[2] for each in told), "studio.local:8000"]:
        assert hosts.knows(name)
        assert not Hosts("127.0.0.1").knows(name)


def test_a_server_that_is_bound_to_one_address_has_no_others() -> None:
    for host in ("127.0.0.1", "localhost", "192.168.0.7"):
        assert names.addresses_for_others(host, f"http://{host}:8000/") == []


def test_a_machine_without_a_network_has_its_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoNetwork(socket.socket):
        def connect(self, address: object) -> None:
            raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "socket", NoNetwork)
    assert names.addresses_for_others("0.0.0.0", "http://127.0.0.1:1/") == [f"http://{names.own_names()[0]}:1/"]
