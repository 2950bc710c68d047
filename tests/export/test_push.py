import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub.constants
import pytest

from conftest import run
from secateur.core.errors import InputError, StorageError
from secateur.export.push import push

GIVEN: dict = {}


class Hub(BaseHTTPRequestHandler):
    """As much of a hub as an upload needs; what it was given stands in GIVEN."""

    exists = False

    def _answer(self, code, body, **headers):
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if Hub.exists:
            self._answer(200, {"id": "me/small", "_id": "0", "modelId": "me/small", "sha": "0" * 40, "siblings": []})
        else:
            self._answer(404, {"error": "no"}, X_Error_Code="RepoNotFound")

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/create"):
            GIVEN["created"] = json.loads(body)
            self._answer(200, {"url": f"http://{self.headers['Host']}/me/small", "id": "me/small"})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            told = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
            self._answer(200, {"files": told})
        else:
            GIVEN["commit"] = [json.loads(line) for line in body.splitlines()]
            address = f"http://{self.headers['Host']}/me/small/commit/{'1' * 40}"
            self._answer(200, {"commitUrl": address, "commitOid": "1" * 40, "success": True})

    def log_message(self, *words):
        """Say nothing."""


@pytest.fixture
def hub(monkeypatch):
    GIVEN.clear()
    Hub.exists = False
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    yield server
    server.shutdown()
    server.server_close()


def test_a_folder_is_uploaded_with_its_card(hub, monkeypatch, capsys, saved, tmp_path):
    args = (saved("llama"), "--method", "magnitude", "--ratio", 0.5, "--out", tmp_path / "s")
    assert run(monkeypatch, capsys, "prune", *args)[0] == 0
    code, printed, err = run(monkeypatch, capsys, "push", tmp_path / "s", "me/small", "--json")
    assert code == 0, err
    assert json.loads(printed)["commit"].endswith("1" * 40)
    assert GIVEN["created"]["name"] == "small" and "private" in str(GIVEN["created"])
    files = {line["value"]["path"] for line in GIVEN["commit"] if line["key"] == "file"}
    assert {"README.md", "config.json", "model.safetensors", "result.json"} <= files


def test_a_repository_that_exists_is_kept_unless_asked(hub, saved):
    Hub.exists = True
    with pytest.raises(InputError, match="add --update"):
        push(saved("llama"), "me/small")
    assert not GIVEN
    assert push(saved("llama"), "me/small", update=True).endswith("1" * 40)
    assert "created" not in GIVEN and GIVEN["commit"]


@pytest.mark.parametrize("name", ["small", "me/", "a/b/c"])
def test_names_are_owner_and_name(name, saved):
    with pytest.raises(InputError, match="OWNER/NAME"):
        push(saved("llama"), name)


def test_a_hub_that_cannot_be_reached_is_said(saved, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match="the hub did not take"):
        push(saved("llama"), "me/small")


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(InputError, match="is no model folder"):
        push(tmp_path, "me/x")
