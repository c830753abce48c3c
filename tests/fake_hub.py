"""A server that speaks as much of the Hugging Face hub's protocol as its client needs to push and pull models."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import torch
from torch import Tensor, nn

TOKEN = "hf_" + "a" * 34  # of the user "me", with write access
LARGE = (".safetensors", ".onnx")  #: the endings of files that travel apart from the commit


@dataclass
class Repository:
    """One repository of models.

    Attributes:
        private: whether it is shown to the token's user only.
        gated: whether its files need an access that nobody has.
        branches: name to commits, the newest last.
        commits: hash to its files by name.
    """

    private: bool = False
    gated: bool = False
    branches: dict[str, list[str]] = field(default_factory=lambda: {"main": []})
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Make the files the content of a branch; return the hash of the commit."""
        name = hashlib.sha1(json.dumps([len(self.commits), branch, sorted(files)]).encode()).hexdigest()
        self.commits[name] = dict(files)
        self.branches.setdefault(branch, []).append(name)
        return name

    def find(self, revision: str) -> str | None:
        """Return the commit of a branch or of a hash."""
        if revision in self.commits:
            return revision
        commits = self.branches.get(revision)
        return commits[-1] if commits else None


@dataclass
class FakeHub:
    """The server's content, and what it was asked for.

    Attributes:
        repositories: by ``owner/name``.
        requests: method and path of each request.
        messages: of the commits that were pushed.
        cut: names of files whose content ends early.
        sizes: name to a size that is declared in place of the true one.
        broken: status with which everything is answered, 0 for none.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    cut: set[str] = field(default_factory=set)
    sizes: dict[str, int] = field(default_factory=dict)
    broken: int = 0
    uploads: dict[str, bytes] = field(default_factory=dict)
    address: str = ""

    def add(self, name: str, files: dict[str, bytes], **kind: bool) -> str:
        """Add a repository with one commit; return its hash."""
        repository = self.repositories.setdefault(name, Repository(**kind))
        return repository.commit(files)

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """Return the files of a branch or a commit."""
        repository = self.repositories[name]
        commit = repository.find(revision)
        assert commit is not None
        return repository.commits[commit]


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve on a free port of this machine until the block ends; ``hub.address`` is what HF_ENDPOINT must be."""

    class Handler(_Handler):
        content = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Refused(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.code, self.message = status, code, message
        super().__init__(status)


class _Handler(BaseHTTPRequestHandler):
    content: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    # ------------------------------------------------------------ answers

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length) if length else self._chunks()
        address = urlsplit(self.path)
        self.query, path = parse_qs(address.query), unquote(address.path)
        self.content.requests.append(f"{self.command} {path}")
        try:
            if self.content.broken:
                raise _Refused(self.content.broken)
            self._route(path)
        except _Refused as refused:
            self._send(
                refused.status,
                b"{}",
                {"X-Error-Code": refused.code, "X-Error-Message": refused.message or refused.code},
            )

    def _chunks(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return b""
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _route(self, path: str) -> None:
        if "Authorization" in self.headers and not self._may_write:  # even of what everybody may see
            raise _Refused(401, "", "Invalid credentials in Authorization header")
        for pattern, answer in (
            (r"/api/whoami-v2", self._whoami),
            (r"/api/validate-yaml", lambda: self._json({"errors": [], "warnings": []})),
            (r"/api/repos/create", self._create),
            (r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", self._info),
            (r"/api/models/([^/]+/[^/]+)/tree/([^/]+)/?", self._tree),
            (r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)", self._preupload),
            (r"/api/models/([^/]+/[^/]+)/branch/([^/]+)", self._branch),
            (r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", self._commit),
            (r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self._batch),
            (r"/lfs/([0-9a-f]{64})", self._lfs),
            (r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self._resolve),
        ):
            if found := re.fullmatch(pattern, path):
                answer(*found.groups())  # type: ignore[operator]
                return
        raise _Refused(404)

    @property
    def _may_write(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _repository(self, name: str, *, files: bool = False) -> Repository:
        found = self.content.repositories.get(name)
        if found is None or (found.private and not self._may_write):
            raise _Refused(404 if self._may_write else 401, "RepoNotFound", "Repository not found")
        if found.gated and files:
            raise _Refused(403, "GatedRepo", "Access to model is restricted")
        return found

    def _at(self, name: str, revision: str, *, files: bool = False) -> tuple[str, dict[str, bytes]]:
        repository = self._repository(name, files=files)
        commit = repository.find(revision)
        if commit is None:
            if revision in repository.branches:
                return "0" * 40, {}
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit, repository.commits[commit]

    def _whoami(self) -> None:
        if not self._may_write:
            raise _Refused(401, "", "Invalid credentials in Authorization header")
        self._json({"type": "user", "id": "1", "name": "me", "fullname": "Me", "orgs": [], "auth": {}})

    def _create(self) -> None:
        asked = json.loads(self.body)
        if not self._may_write:
            raise _Refused(401, "", "Invalid username or password.")
        owner = asked.get("organization") or "me"
        if owner != "me":
            raise _Refused(403, "", f"You don't have the rights to create a model under the namespace {owner}")
        name = f"{owner}/{asked['name']}"
        answer = {"url": f"{self.content.address}/{name}", "name": name, "id": "1"}
        if name in self.content.repositories:
            self._json(answer, 409)
            return
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        self.content.repositories[name] = Repository(private)
        self._json(answer)

    def _branch(self, name: str, branch: str) -> None:
        self._must_write()
        repository = self._repository(name)
        if branch in repository.branches:
            raise _Refused(409, "", "Reference already exists")
        repository.branches[branch] = list(repository.branches["main"])
        self._json({})

    def _info(self, name: str, revision: str | None) -> None:
        commit, files = self._at(name, revision or "main")
        siblings = [{"rfilename": file, **self._stored(file, content)} for file, content in files.items()]
        if "blobs" not in self.query:
            siblings = [{"rfilename": each["rfilename"]} for each in siblings]
        private = self.content.repositories[name].private
        self._json({"_id": "1", "id": name, "modelId": name, "sha": commit, "private": private, "siblings": siblings})

    def _tree(self, name: str, revision: str) -> None:
        _, files = self._at(name, revision)
        entries = []
        for file, content in files.items():
            stored = self._stored(file, content)
            lfs = stored.get("lfs")
            entry = {"type": "file", "path": file, "size": stored["size"], "oid": stored["blobId"]}
            entries.append({**entry, **({"lfs": {**lfs, "oid": lfs["sha256"]}} if lfs else {})})
        self._json(entries)

    def _stored(self, file: str, content: bytes) -> dict[str, Any]:
        size = self.content.sizes.get(file, len(content))
        known: dict[str, Any] = {"size": size, "blobId": _git_hash(content)}
        if file.endswith(LARGE):
            known["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": size, "pointerSize": 134}
        return known

    def _resolve(self, name: str, revision: str, file: str) -> None:
        commit, files = self._at(name, revision, files=True)
        if file not in files:
            raise _Refused(404, "EntryNotFound", "Entry not found")
        content = files[file]
        etag = hashlib.sha256(content).hexdigest() if file.endswith(LARGE) else _git_hash(content)
        sent = content[: len(content) // 2] if file in self.content.cut else content
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        self._send(200, sent, headers, declared=len(content))

    def _must_write(self) -> None:
        if not self._may_write:
            raise _Refused(401, "", "Invalid credentials in Authorization header")

    def _preupload(self, name: str, revision: str) -> None:
        self._must_write()
        self._at(name, revision)
        asked = json.loads(self.body)["files"]
        modes = [
            {
                "path": each["path"],
                "uploadMode": "lfs" if each["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for each in asked
        ]
        self._json({"files": modes, "commitOid": "0" * 40})

    def _batch(self, name: str) -> None:
        self._must_write()
        self._repository(name)
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.content.address}/lfs/{each['oid']}", "header": {}}}}
            for each in json.loads(self.body)["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _lfs(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Refused(400, "", "the content has another hash")
        self.content.uploads[oid] = self.body
        self._send(200, b"")

    def _commit(self, name: str, revision: str) -> None:
        self._must_write()
        _, before = self._at(name, revision)
        files = dict(before)
        for line in self.body.splitlines():
            entry = json.loads(line)
            kind, value = entry["key"], entry["value"]
            if kind == "header":
                self.content.messages.append(value["summary"])
            elif kind == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif kind == "lfsFile":
                files[value["path"]] = self.content.uploads[value["oid"]]
            elif kind == "deletedFile":
                del files[value["path"]]
        commit = self.content.repositories[name].commit(files, revision)
        url = f"{self.content.address}/{name}/commit/{commit}"
        self._json({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

    # ------------------------------------------------------------ sending

    def _json(self, content: Any, status: int = 200) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, declared: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body) if declared is None else declared))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        if declared is not None and declared != len(body):
            self.close_connection = True


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


# ---------------------------------------------------------------- the client


def forget_client() -> dict[str, Any]:
    """Unload the hub's client, which reads its environment once, when it is imported; return what was unloaded."""
    names = [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]
    return {name: sys.modules.pop(name) for name in names}


@contextmanager
def connected(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """Let the real client, freshly imported and without a token, speak with a hub of its own until the block ends."""
    before = forget_client()
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN_PATH", "HF_XET_CACHE"):
        monkeypatch.delenv(name, raising=False)
    with serving(FakeHub()) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("HF_HOME", str(home))
        for name in ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS"):
            monkeypatch.setenv(name, "1")
        try:
            yield hub
        finally:
            forget_client()
            sys.modules.update(before)


class Half(nn.Module):
    """A network of the user's own."""

    provides: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.sample_rate, self.in_channels, self.hop, self.causal, self.delay = 16000, 1, 1, True, 0
        self.gain = nn.Parameter(torch.tensor(0.5))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.gain * inputs
