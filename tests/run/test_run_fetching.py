"""Files of the Hugging Face hub: what is fetched, what is not, and what is said; by the hub's real client."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from fake_hub import TOKEN, FakeHub, forget_client

from bcfusion.errors import CheckpointError
from bcfusion.run.fetching import Reference, fetch, parse_reference, repository_of

FILES = {"a.yaml": b"a: 1\n", "b.bin": b"b" * 1000, "pytorch_model.ckpt": b"pickle"}
NAME = "me/model"


def fetched(name: str = NAME, revision: str | None = None, **more: object) -> Path:
    given = {"needed": ["a.yaml"], "largest": {"b.bin": 2000}, **more}
    return fetch(Reference(name, revision), ["a.yaml", "b.bin"], **given).folder  # type: ignore[arg-type]


def refusal(name: str = NAME, revision: str | None = None, **more: object) -> str:
    with pytest.raises(CheckpointError) as error:
        fetched(name, revision, **more)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("me/model", ("me/model", None)),
        ("me/model@v1.0", ("me/model", "v1.0")),
        ("me/model@feature/wide", ("me/model", "feature/wide")),
        *[
            (text, None)
            for text in ("model", "me/", "/me/model", "a/b/c", "me/../x", "me/model@", "me/model@../x", "~/x/y")
        ],
        *[(text, None) for text in ("me/.", "me/-x", "me/x.", "-me/x", "me-/x", "me/a--b", "me/" + "x" * 94)],
        ("me/" + "x" * 93, ("me/" + "x" * 93, None)),
    ],
)
def test_a_reference_has_an_owner_a_name_and_perhaps_a_revision(text: str, meant: tuple[str, str] | None) -> None:
    assert parse_reference(text) == meant


def test_files_of_known_names_are_fetched_once(hub: FakeHub) -> None:
    commit = hub.add(NAME, {**FILES, "../outside": b"x", "folder/a.yaml": b"x", "a.yaml\n": b"x"})
    folder = fetched()
    assert sorted(path.name for path in folder.rglob("*")) == ["a.yaml", "b.bin"]
    assert (folder / "b.bin").read_bytes() == FILES["b.bin"]
    assert folder.name == commit
    assert repository_of(folder) == (NAME, commit)
    assert repository_of(folder.parent) is None
    hub.requests.clear()
    assert fetched() == folder
    assert hub.requests == [f"GET /api/models/{NAME}"]  # is it still the newest?
    assert fetched(revision=commit) == folder
    assert hub.requests == [f"GET /api/models/{NAME}"]  # a commit never changes


def test_a_new_commit_is_noticed_and_a_revision_stays(hub: FakeHub) -> None:
    old = hub.add(NAME, FILES)
    assert fetched().name == old
    new = hub.repositories[NAME].commit({**FILES, "a.yaml": b"a: 2\n"})
    assert (fetched() / "a.yaml").read_bytes() == b"a: 2\n"
    assert fetched().name == new
    assert fetched(revision=old).name == old


def test_without_a_connection_the_cache_is_used(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = hub.add(NAME, FILES)
    fetched()
    hub.broken = 503
    found = fetch(Reference(NAME, None), ["a.yaml"], needed=["a.yaml"])
    assert (found.revision, found.offline) == (commit, "the hub answers with an error (503)")
    hub.broken = 429
    found = fetch(Reference(NAME, None), ["a.yaml"], needed=["a.yaml"])
    assert (found.revision, found.offline) == (commit, "the hub answers with an error (429)")
    with socket.socket() as free:  # nobody listens there any more
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    forget_client()
    found = fetch(Reference(NAME, None), ["a.yaml"], needed=["a.yaml"])
    assert (found.revision, found.offline) == (commit, "the hub cannot be reached")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    forget_client()
    found = fetch(Reference(NAME, None), ["a.yaml"], needed=["a.yaml"])
    assert (found.revision, found.offline) == (commit, "it is switched off (HF_HUB_OFFLINE)")
    assert "HF_HUB_OFFLINE), and an earlier download is not in the cache" in refusal("me/other")
    assert "an earlier download is not in the cache" in refusal(revision="v2")


def test_what_the_hub_refuses_is_a_sentence(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(NAME, FILES)
    hub.add("me/gated", FILES, gated=True)
    hub.add("me/private", FILES, private=True)
    hub.add("me/empty", {"README.md": b"#"})
    missing = "me/none cannot be fetched from the Hugging Face hub: there is no such repository, or it is private"
    assert missing in refusal("me/none")
    assert "the repository has no such revision" in refusal(revision="v9")
    assert "its owner grants access to it: ask on its page" in refusal("me/gated")
    assert "it has no a.yaml" in refusal("me/empty")
    assert refusal("me/private").endswith("or it is private: then log in by hf auth login, or set HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "the hub does not know the token: log in by hf auth login, or correct HF_TOKEN" in refusal("me/private")
    assert "the hub does not know the token" in refusal(NAME)  # not even what everybody may see
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert (fetched("me/private") / "a.yaml").is_file()


def test_a_huge_file_is_refused_before_it_is_fetched(hub: FakeHub) -> None:
    hub.add(NAME, FILES)
    hub.sizes["b.bin"] = 10**13
    assert "its b.bin has 10000000000000 bytes, more than the 2000 that such a file may have" in refusal()
    assert not any("resolve" in request for request in hub.requests)


@pytest.mark.slow
def test_a_download_that_breaks_off_leaves_nothing_that_is_taken_for_whole(hub: FakeHub) -> None:
    hub.add(NAME, FILES)
    hub.cut.add("b.bin")
    assert refusal().endswith("the download broke off; the same command continues it")
    hub.broken = 503
    refusal()  # nor from the cache
    hub.broken = 0
    hub.cut.clear()
    assert (fetched() / "b.bin").read_bytes() == FILES["b.bin"]


def test_without_the_client_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert refusal() == (
        "me/model is on the Hugging Face hub, which needs huggingface_hub: pip install 'bcfusion[hub]'"
    )
