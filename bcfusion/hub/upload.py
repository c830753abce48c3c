"""One commit that makes a repository of the Hugging Face hub hold a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bcfusion.errors import CheckpointError
from bcfusion.hub.package import NAMES, Package
from bcfusion.run.fetching import hub_errors, hub_reason

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["Uploaded", "check_login", "upload"]

_LOG_IN = "log in by hf auth login with a token that may write (huggingface.co/settings/tokens), or set HF_TOKEN"


@dataclass(frozen=True)
class Uploaded:
    """What a repository holds now.

    Attributes:
        address: of the commit.
        revision: its hash.
        removed: files of an earlier model that this one has no counterpart of.
    """

    address: str
    revision: str
    removed: tuple[str, ...]


def check_login(repository: str) -> HfApi:
    """Return the hub's client, after it has recognised the user.

    Raises:
        CheckpointError: there is no token, it is not valid, or the hub cannot be reached.
    """
    try:
        from huggingface_hub import HfApi, get_token
    except ImportError as error:
        raise CheckpointError("push needs huggingface_hub: pip install 'bcfusion[hub]'") from error
    if get_token() is None:
        raise CheckpointError(f"{repository}: the Hugging Face hub asks who you are\n{_LOG_IN}")
    api = HfApi()
    try:
        api.whoami()
    except hub_errors() as error:
        raise CheckpointError(f"{repository}: the Hugging Face hub refuses: {hub_reason(error)}") from error
    return api


def upload(
    api: HfApi, package: Package, repository: str, *, private: bool, revision: str | None, message: str
) -> Uploaded:
    """Upload a package in one commit; the repository and the branch are made if they do not exist.

    Of an earlier model, files that the package has no counterpart of are deleted in the same commit: an exported file
    of other weights would be wrong. All other files of the repository stay.

    Args:
        api: from :func:`check_login`.
        package: what is uploaded.
        repository: ``owner/name``.
        private: whether the repository must be one for its members only; it is made so.
        revision: the branch; None for main.
        message: of the commit.

    Raises:
        CheckpointError: the repository is public and ``private`` is asked for, the hub refuses, or the connection is
            lost. The repository then holds what it held before; one that was made, or a new branch, stays, empty.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    try:
        api.create_repo(repository, private=private, exist_ok=True)
        if private and not api.model_info(repository).private:  # it was there already: the hub has not changed it
            raise CheckpointError(
                f"{repository} is public: make it private in its settings on the hub, or leave out --private"
            )
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        there = set(api.list_repo_files(repository, revision=revision))
        removed = tuple(name for name in NAMES if name in there and name not in package.files)
        done = api.create_commit(
            repository,
            [
                *(CommitOperationAdd(name, str(package.folder / name)) for name in package.files),
                *(CommitOperationDelete(name) for name in removed),
            ],
            commit_message=message,
            revision=revision,
        )
    except hub_errors() as error:
        raise CheckpointError(f"{repository}: the Hugging Face hub refuses: {hub_reason(error)}") from error
    return Uploaded(str(done.commit_url), str(done.oid), removed)
