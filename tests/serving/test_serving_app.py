"""What the server tells, and whom it refuses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from serving_server import Client, make_models, noise, running, wav

from bcfusion.serving.assets import Asset
from bcfusion.serving.limits import Limits
from bcfusion.serving.models import ServedModel
from bcfusion.serving.server import Settings


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ServedModel]:
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def client(models: dict[str, ServedModel]) -> Iterator[Client]:
    limits = Limits(requests=10_000)
    with running(models, Settings(port=0, limits=limits, origins=("https://voice.example.org",))) as client:
        yield client


def test_the_models_are_listed_in_their_order_with_what_they_take(client: Client) -> None:
    models = client.get("/api/models").json()
    assert [model["name"] for model in models] == ["one", "two", "whole", "both"]
    assert [model["sensors"] for model in models] == [["body"], ["body", "noisy"]] * 2
    assert [model["causal"] for model in models] == [True, True, False, False]
    assert models[0]["frame_ms"] == models[0]["latency_ms"] == 8.0
    assert models[2]["frame_ms"] is models[2]["latency_ms"] is None
    assert models[0]["task"] == "bone_to_air"
    assert models[0]["sample_rate"] == 16000
    assert models[0]["parameters"] > 100
    assert [model["mixed_sensor"] for model in models] == [0, 1, 0, 1]


def test_bounds_and_health(client: Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/api/limits").json() == Limits().plain()


def test_every_answer_restricts_what_a_page_may_do(client: Client) -> None:
    for path in ("/", "/healthz", "/api/models", "/nothing"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'self'; ")
        assert "unsafe" not in policy
        assert f"ws://{client.place[0]}:{client.place[1]} " in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers
    assert client.get("/api/models").headers["cache-control"] == "no-store"


def test_the_page_and_its_files_come_from_a_table(
    models: dict[str, ServedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = {"page.html": Asset(b"<p>page", "text/html; charset=utf-8"), "a.js": Asset(b"1", "text/javascript")}
    monkeypatch.setattr("bcfusion.serving.server.read_assets", lambda: table)
    with running(models) as client:
        page = client.get("/")
        assert (page.body, page.headers["content-type"]) == (b"<p>page", "text/html; charset=utf-8")
        assert client.get("/assets/a.js").headers["content-type"].startswith("text/javascript")
        assert client.get("/assets/b.js").status == 404


def test_the_files_of_the_page_are_read() -> None:
    from bcfusion.serving.assets import read_assets

    assets = read_assets()
    assert assets["player.js"].kind == "text/javascript; charset=utf-8"
    assert b"class Player" in assets["player.js"].content


@pytest.mark.parametrize("path", ["/", "/api/models", "/healthz"])
def test_a_name_that_was_made_to_resolve_to_this_machine_reaches_nothing(client: Client, path: str) -> None:
    answer = client.ask("GET", path, host="evil.example:8000")
    assert answer.status == 403
    assert "this server has another name" in answer.error
    assert "evil.example" not in answer.headers["content-security-policy"]
    assert client.ask("GET", path, host="voice.example.org").status != 403


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1", "http://[", ""])
def test_a_page_of_another_site_may_not_send_or_delete(client: Client, origin: str) -> None:
    for answer in (
        client.post([("a.wav", wav(noise(9)))], {"Origin": origin}, model="one"),
        client.ask("DELETE", "/api/jobs/x", headers={"Origin": origin}),
    ):
        assert answer.status == 403
        assert "pages of other sites may not use this server" in answer.error


def test_the_own_page_and_given_origins_may(client: Client) -> None:
    own = f"http://{client.place[0]}:{client.place[1]}"
    for origin in (own, "https://voice.example.org"):
        assert client.post([("a.wav", wav(noise(9)))], {"Origin": origin}, model="one").status == 202


def test_methods_that_do_not_exist_are_refused_in_a_sentence(client: Client) -> None:
    for method, path in (("DELETE", "/api/models"), ("PUT", "/"), ("GET", "/api/jobs"), ("POST", "/healthz")):
        answer = client.ask(method, path)
        assert (answer.status, answer.error) == (405, "this address does not take that method")


def test_a_client_that_asks_without_end_is_slowed_down(models: dict[str, ServedModel]) -> None:
    with running(models, limits=Limits(requests=1)) as client:
        answers = [client.get("/healthz") for _ in range(8)]
        assert [answer.status for answer in answers[:5]] == [200] * 5
        assert answers[-1].status == 429
        assert answers[-1].headers["retry-after"] == "1"
        assert "too many requests" in answers[-1].error


def test_loading_the_page_takes_nothing_from_the_rate(models: dict[str, ServedModel]) -> None:
    with running(models, limits=Limits(requests=1)) as client:
        assert {client.get(path).status for path in ("/", "/assets/serve.js") * 10} == {200}
        assert client.get("/healthz").status == 200


def test_behind_a_proxy_each_client_has_a_rate_of_its_own(models: dict[str, ServedModel]) -> None:
    def statuses(client: Client, seen: str) -> list[int]:
        return [client.get("/healthz", headers={"X-Forwarded-For": seen}).status for _ in range(8)]

    slow = Limits(requests=1e-6)
    with running(models, Settings(port=0, limits=slow, origins=("https://voice.example.org",))) as client:
        assert statuses(client, "10.0.0.1") == [200] + [429] * 7
        assert statuses(client, "10.0.0.9, 10.0.0.1") == [429] * 8, "the proxy puts the address that it has seen last"
        assert statuses(client, "10.0.0.1, 10.0.0.2") == [200] + [429] * 7
    with running(models, Settings(port=0, limits=slow)) as client:
        assert statuses(client, "10.0.0.1")[:1] + statuses(client, "10.0.0.2") == [200] + [429] * 8
