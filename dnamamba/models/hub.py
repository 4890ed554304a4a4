"""The Hugging Face Hub through huggingface_hub, which reads proxies, tokens and HF_HUB_OFFLINE."""

import importlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from dnamamba.errors import InputError

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_repository(name: str | Path) -> bool:
    """Whether a name is a str "owner/name" that is no file or folder."""
    return isinstance(name, str) and bool(_REPOSITORY.fullmatch(name)) and not Path(name).exists()


def download(
    repo_id: str,
    names: Sequence[str],
    revision: str | None,
    cache_dir: str | Path | None,
    local_files_only: bool,
) -> Path:
    """Download files; returns their folder in the cache. Raises InputError on failure."""
    huggingface_hub = _import_hub(f"reading {repo_id!r}, which is no folder here,")
    what = f"{repo_id!r} is no folder here, and reading it from the Hub"
    advice = (
        "check the name and the network, and `hf auth whoami` if it is private; or give a folder"
    )
    with _explained(huggingface_hub, what, advice):
        folder = huggingface_hub.snapshot_download(
            repo_id,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            allow_patterns=list(names),
        )
    return Path(folder)


def upload(
    folder: Path, repo_id: str, private: bool | None, revision: str | None, commit_message: str
) -> str:
    """Upload a folder to a repository, made if missing; returns the commit's address. Raises
    InputError on failure."""
    huggingface_hub = _import_hub(f"uploading to {repo_id!r}")
    advice = "check the network, and with `hf auth whoami` that you may write there"
    with _explained(huggingface_hub, f"uploading to {repo_id!r} on the Hub", advice):
        huggingface_hub.create_repo(repo_id, private=private, exist_ok=True)
        commit = huggingface_hub.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            commit_message=commit_message,
        )
    return str(commit.commit_url)


def _import_hub(purpose: str) -> ModuleType:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise InputError(
            f"{purpose} needs the package huggingface_hub: pip install dnamamba[hub]"
        ) from error


@contextmanager
def _explained(huggingface_hub: ModuleType, what: str, advice: str) -> Iterator[None]:
    # Its error's bases are those of the package that does the transfer, which is not always one.
    errors = importlib.import_module(f"{huggingface_hub.__name__}.errors")
    transfer = (*errors.HfHubHTTPError.__bases__, OSError, errors.HFValidationError)
    try:
        yield
    except transfer as error:
        lines = str(error).strip().splitlines() or ["no reason given"]
        reason = f"{type(error).__name__}: {lines[0].rstrip('.')}"
        raise InputError(f"{what} failed ({reason}); {advice}") from error
