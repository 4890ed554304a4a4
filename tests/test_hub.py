"""Models from and to the Hugging Face Hub: a stand-in for its package, and a server on loopback."""

import hashlib
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from dnamamba.errors import InputError
from dnamamba.models import DnaModel, MambaConfig
from dnamamba.models.loading import weights_of
from model_cases import tiny_model

ROOT = Path(__file__).resolve().parents[1]
IDS = torch.arange(7, 12)[None]


def build_tiny() -> DnaModel:
    return tiny_model(MambaConfig(d_state=4))


class FakeHub(types.ModuleType):
    """huggingface_hub with one repository, which records its calls."""

    class HfHubHTTPError(OSError):
        pass

    class HFValidationError(ValueError):
        pass

    def __init__(self, folder: Path) -> None:
        super().__init__("huggingface_hub")
        self.folder = folder
        self.calls: list[tuple[str, dict]] = []
        self.failure: Exception | None = None
        self.uploaded: list[str] = []
        self.errors = types.ModuleType("huggingface_hub.errors")
        self.errors.HfHubHTTPError = self.HfHubHTTPError
        self.errors.HFValidationError = self.HFValidationError

    def snapshot_download(self, repo_id, **options):
        self.calls.append((repo_id, options))
        if self.failure:
            raise self.failure
        return str(self.folder)

    def create_repo(self, repo_id, **options):
        self.calls.append((repo_id, options))
        if self.failure:
            raise self.failure

    def upload_folder(self, *, folder_path, **options):
        self.calls.append((options.pop("repo_id"), options))
        self.uploaded = sorted(path.name for path in Path(folder_path).iterdir())
        return types.SimpleNamespace(commit_url="https://hub.invalid/commit/1")


@pytest.fixture
def fake_hub(tmp_path, monkeypatch):
    hub = FakeHub(tmp_path / "cached")
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", hub.errors)
    monkeypatch.chdir(tmp_path)
    return hub


def test_a_repository_is_downloaded(fake_hub):
    model = build_tiny()
    model.save_pretrained(fake_hub.folder)
    again = DnaModel.from_pretrained("owner/name", revision="v1", cache_dir="here")
    assert torch.equal(again(IDS), model(IDS))
    options = {"revision": "v1", "cache_dir": "here", "local_files_only": False}
    names = ["config.json", "model.safetensors"]
    assert fake_hub.calls == [("owner/name", {**options, "allow_patterns": names})]


def test_weights_of_a_repository_have_a_checksum(fake_hub):
    """That of the file in the cache, so that a job notices when the repository has changed."""
    build_tiny().save_pretrained(fake_hub.folder)
    content = (fake_hub.folder / "model.safetensors").read_bytes()
    assert weights_of("owner/name") == hashlib.sha256(content).hexdigest()
    assert fake_hub.calls[-1][1]["local_files_only"] is True
    assert weights_of("mamba-demo") is None


def test_a_folder_of_that_name_comes_first(fake_hub):
    build_tiny().save_pretrained("owner/name")
    DnaModel.from_pretrained("owner/name")
    assert fake_hub.calls == []


@pytest.mark.parametrize("name", [Path("owner/name"), "./owner/name", "name", "/owner/name"])
def test_a_path_is_never_looked_for_on_the_hub(fake_hub, name):
    with pytest.raises(InputError, match=r"has no config.json: a saved model is a folder with"):
        DnaModel.from_pretrained(name)
    assert fake_hub.calls == []


def test_a_revision_of_a_folder_is_refused(fake_hub):
    build_tiny().save_pretrained("owner/name")
    with pytest.raises(InputError, match=r"owner/name is no repository .* leave revision out"):
        DnaModel.from_pretrained("owner/name", revision="v1")


def test_a_failed_download_is_explained(fake_hub):
    fake_hub.failure = fake_hub.HfHubHTTPError("404 Client Error.\nmany\nlines")
    message = (
        r"^'owner/name' is no folder here, and reading it from the Hub failed \(HfHubHTTPError: "
        r"404 Client Error\); check the name and the network"
    )
    with pytest.raises(InputError, match=message) as caught:
        DnaModel.from_pretrained("owner/name")
    assert "\n" not in str(caught.value)


def test_a_repository_of_another_project_is_told(fake_hub):
    fake_hub.folder.mkdir()
    (fake_hub.folder / "config.json").write_text('{"model_type": "mamba"}')
    (fake_hub.folder / "model.safetensors").touch()
    with pytest.raises(InputError, match=r"no config of dnamamba; .* `dnamamba convert import`"):
        DnaModel.from_pretrained("owner/name")


def test_the_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install dnamamba\[hub\]"):
        DnaModel.from_pretrained("owner/name")
    with pytest.raises(InputError, match=r"pip install dnamamba\[hub\]"):
        build_tiny().push_to_hub("owner/name")


def test_a_model_is_uploaded(fake_hub):
    address = build_tiny().push_to_hub("owner/name", private=True, commit_message="first")
    assert address == "https://hub.invalid/commit/1"
    assert fake_hub.uploaded == ["config.json", "model.safetensors"]
    assert fake_hub.calls == [
        ("owner/name", {"private": True, "exist_ok": True}),
        ("owner/name", {"revision": None, "commit_message": "first"}),
    ]


def test_a_failed_upload_is_explained(fake_hub):
    fake_hub.failure = ConnectionError("no route")
    message = r"uploading to 'owner/name' on the Hub failed \(ConnectionError: no route\); check"
    with pytest.raises(InputError, match=message):
        build_tiny().push_to_hub("owner/name")


# The real package, against a server that speaks as much of the Hub's language as reading needs.
WITH_SERVER = """
import http.server, json, os, sys, threading
from pathlib import Path

folder, cache = map(Path, sys.argv[1:])
COMMIT = "a" * 40

class Hub(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args): pass
    def do_HEAD(self): self.answer()
    def do_GET(self): self.wfile.write(self.answer())
    def answer(self):
        path, data, status = self.path.split("?")[0], b"", 200
        files = [{"type": "file", "path": one.name, "rfilename": one.name, "oid": "b" * 40,
                  "size": one.stat().st_size} for one in folder.iterdir()]
        if path.startswith("/api/models/owner/name/tree/"):
            data = json.dumps(files).encode()
        elif path.startswith("/api/models/owner/name"):
            data = json.dumps({"id": "owner/name", "sha": COMMIT, "siblings": files}).encode()
        elif path.startswith(f"/owner/name/resolve/{COMMIT}/"):
            data = (folder / Path(path).name).read_bytes()
        else:
            status = 404

        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", json.dumps(Path(path).name))
        self.send_header("X-Repo-Commit", COMMIT)
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        return data

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"

from dnamamba import DnaModel, InputError

DnaModel.from_pretrained("owner/name", cache_dir=cache)
try:
    DnaModel.from_pretrained("owner/other", cache_dir=cache)
except InputError as error:
    print(error)
server.shutdown()
server.server_close()
model = DnaModel.from_pretrained("owner/name", cache_dir=cache, local_files_only=True)
print(model.config.d_model)
for repository, offline in (("owner/other", False), ("owner/more", True)):
    try:
        DnaModel.from_pretrained(repository, cache_dir=cache, local_files_only=offline)
    except InputError as error:
        print(error)
"""


@pytest.mark.slow
def test_the_real_package_reads_from_a_server_and_then_from_its_cache(tmp_path):
    pytest.importorskip("huggingface_hub", reason="needs huggingface_hub (the hub extra)")
    build_tiny().save_pretrained(tmp_path / "repository")
    arguments = [sys.executable, "-c", WITH_SERVER, tmp_path / "repository", tmp_path / "cache"]
    settings = {name: text for name, text in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        arguments,
        cwd=tmp_path,
        env={**settings, "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path), "NO_PROXY": "*"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    missing, size, unreachable, uncached = done.stdout.splitlines()
    assert "failed (RepositoryNotFoundError: 404" in missing
    assert size == "8"
    assert "failed (LocalEntryNotFoundError" in unreachable
    assert "failed (LocalEntryNotFoundError" in uncached
