"""The page is asked as a script would: no file of the machine is shown, and only the page's own questions pass."""

import http.client
import io
import json
import os
import threading

import pytest
from PIL import Image

import sclip_plugin as sp
from sclip_plugin.errors import PictureError

pytest.importorskip("gradio", reason="the page is the extra 'app', which CI installs")
from sclip_plugin.integrations.app import make_app, served, serving  # noqa: E402
from sclip_plugin.integrations.app.guard import QUESTION_BYTES, uploaded  # noqa: E402
from sclip_plugin.integrations.serve import Limits  # noqa: E402
from sclip_plugin.integrations.serve.door import BoundedServer, PortError, bound_socket  # noqa: E402

LIMITS = Limits(megabytes=1, megapixels=1)
SECRET = (12, 200, 34)


class Script:
    """A visitor without a browser."""

    def __init__(self, port, uploads):
        self.port, self.uploads = port, uploads
        self.config = json.loads(self.ask("GET", "/config")[1])
        self.ids = {entry["id"]: entry["props"].get("elem_id") for entry in self.config["components"]}

    def ask(self, method, path, body=None, host=None, kind="application/json"):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Content-Type": kind, "Host": host or f"127.0.0.1:{self.port}"}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        data = b"" if "heartbeat" in path else answer.read()
        connection.close()
        return answer.status, data

    def event(self, name, kind):
        """The event of a component, by its number."""
        return next(
            d["id"]
            for d in self.config["dependencies"]
            if any(self.ids.get(t[0]) == name and t[1] == kind for t in d["targets"])
        )

    def join(self, event, data, session="s1", **more):
        return self.ask(
            "POST",
            "/gradio_api/queue/join",
            json.dumps({"data": data, "fn_index": event, "session_hash": session, **more}),
        )

    def answered(self, session="s1"):
        """All that an event answers, as text."""
        return self.ask("GET", f"/gradio_api/queue/data?session_hash={session}")[1].decode()

    def upload(self, data, name="a.png"):
        head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        status, answer = self.ask(
            "POST", "/gradio_api/upload", head + data + b"\r\n--x--\r\n", kind="multipart/form-data; boundary=x"
        )
        return status, answer


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    uploads = tmp_path_factory.mktemp("uploads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(uploads))
        page = make_app(sp.Segmenter.from_pretrained("demo", device="cpu", paths=False), limits=LIMITS)
        with bound_socket("127.0.0.1", 0) as bound:
            server = BoundedServer(served(page, LIMITS), LIMITS)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
            thread.start()
            yield Script(bound.getsockname()[1], uploads)
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def secret(tmp_path_factory):
    path = tmp_path_factory.mktemp("private") / "secret.png"
    Image.new("RGB", (40, 30), SECRET).save(path)
    return path


def png(*arguments):
    file = io.BytesIO()
    Image.new("RGB", *arguments).save(file, "PNG")
    return file.getvalue()


META = {"_type": "gradio.FileData"}


@pytest.mark.parametrize(
    "record",
    [
        {"path": "SECRET"},
        {"path": "SECRET", "meta": META},
        {"path": "SECRET", "meta": META, "url": "http://127.0.0.1/"},
        {"path": "UPLOADS/../private0/secret.png"},
        {"path": "UPLOADS/link.png"},
        {"path": "UPLOADS/folder/secret.png"},
        {"path": "UPLOADS"},
        {"path": "UPLOADS/pipe"},
        {"path": "/dev/zero"},
        {"path": "http://127.0.0.1:9/a.png", "meta": META},
        {"path": "file:///etc/passwd"},
        {"path": "UPLOADS/nothing.png"},
        {"path": "UPLOADS/a\0.png"},
        {"path": ""},
        {"path": 3},
        {"path": {"path": "SECRET"}},
        [{"deep": [{"path": "SECRET", "meta": META}]}],
    ],
    ids=str,
)
def test_a_file_that_was_not_uploaded_is_not_opened(script, secret, record):
    for name, target in (("link.png", secret), ("folder", secret.parent)):
        if not os.path.lexists(script.uploads / name):
            os.symlink(target, script.uploads / name)
    if not (script.uploads / "pipe").exists():
        os.mkfifo(script.uploads / "pipe")
    text = json.dumps(record).replace("SECRET", str(secret)).replace("UPLOADS", str(script.uploads))
    status, answer = script.join(script.event("picture", "input"), [None, json.loads(text)])
    assert status == 403 and "uploaded" in json.loads(answer)["detail"]
    status, answer = script.join(
        script.event("hide", "click"), [None, "colours", 0.5, "none"], event_data=json.loads(text)
    )
    assert status == 403, "wherever in the question it stands"


def test_the_page_itself_opens_nothing_that_was_not_uploaded(script, secret):
    link = script.uploads / "own-link.png"
    os.symlink(secret, link)
    for path in (secret, link, script.uploads, None, 3):
        with pytest.raises(PictureError, match="uploaded"):
            uploaded(path if path is None or path == 3 else str(path), str(script.uploads))


def test_what_was_uploaded_is_opened(script):
    status, answer = script.upload(png((40, 30), "red"))
    (path,) = json.loads(answer)
    assert status == 200
    assert uploaded(path, str(script.uploads)).is_file()
    event = script.event("picture", "input")
    assert script.join(event, [None, {"path": path, "meta": META, "orig_name": "a.png"}], "s2")[0] == 200
    assert "Give words" in script.answered("s2")
    status, data = script.ask("GET", f"/gradio_api/file={path}")
    assert status == 200 and data == png((40, 30), "red")


def test_a_drawn_scene_is_shown_and_its_files_can_be_fetched(script):
    assert script.join(script.event("draw", "click"), [None, []], "s3")[0] == 200
    answer = script.answered("s3")
    path = json.loads(next(line for line in answer.split("\n") if "process_completed" in line)[5:])
    shown = next(value["path"] for value in path["output"]["data"] if isinstance(value, dict) and value.get("path"))
    assert script.ask("GET", f"/gradio_api/file={shown}")[0] == 200


@pytest.mark.parametrize("method", ["proxyclip", "/etc/passwd", "sam:/etc/passwd", {"path": 3}])
def test_no_method_that_is_not_offered_is_run(script, method):
    script.join(script.event("draw", "click"), [None, []], "s4")
    script.answered("s4")
    data = [None, ["cat"], method, "none", False, False, 0, "colours", 0.5, "none"]
    status, _ = script.join(script.event("words", "change"), data, "s4")
    assert status == 403 or '"success":false' in script.answered("s4")


def test_words_of_another_kind_are_only_words(script):
    script.join(script.event("draw", "click"), [None, []], "s5")
    script.answered("s5")
    data = [None, ["@/etc/passwd", "/etc/hosts", 3], "csa", "none", False, False, 0, "colours", 0.5, "none"]
    script.join(script.event("words", "change"), data, "s5")
    assert "3 labels" in script.answered("s5")


@pytest.mark.parametrize("name", ["../../evil.png", "/etc/evil.png", "..\\evil.png", "a\0.png", ".."])
def test_an_uploaded_name_leads_nowhere_else(script, name):
    status, answer = script.upload(png((4, 3)), name)
    if status == 200:
        (path,) = json.loads(answer)
        assert os.path.realpath(path).startswith(os.path.realpath(script.uploads) + os.sep)


def test_too_large_an_upload_is_refused(script):
    assert script.upload(b"0" * 2_000_000)[0] == 413


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gradio_api/file=SECRET"),
        ("HEAD", "/gradio_api/file=SECRET"),
        ("GET", "/gradio_api/file=UPLOADS/../private0/secret.png"),
        ("GET", "/gradio_api/file=UPLOADS/%2e%2e/private0/secret.png"),
        ("GET", "/gradio_api/file=http://127.0.0.1:9/"),
        ("GET", "/gradio_api/file/SECRET"),
        ("GET", "/gradio_api/proxy=http://127.0.0.1:9/"),
        ("POST", "/gradio_api/run/predict"),
        ("POST", "/gradio_api/api/predict"),
        ("POST", "/gradio_api/call/opened"),
        ("POST", "/gradio_api/call/v2/opened"),
        ("POST", "/gradio_api/queue/join/"),
        ("POST", "//gradio_api/queue/join"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/gradio_api/vibe-edit"),
        ("POST", "/gradio_api/vibe-code"),
        ("GET", "/gradio_api/vibe-code"),
        ("GET", "/gradio_api/deep_link?session_hash=s1"),
        ("GET", "/gradio_api/openapi.json"),
        ("GET", "/gradio_api/runs"),
        ("GET", "/monitoring"),
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
        ("POST", "/login"),
        ("PUT", "/gradio_api/upload"),
    ],
)
def test_what_the_page_does_not_use_is_closed(script, secret, method, path):
    path = path.replace("SECRET", str(secret)).replace("UPLOADS", str(script.uploads))
    status, data = script.ask(method, path, "{}" if method == "POST" else None)
    assert status in (403, 404) and data[:4] != b"\x89PNG"


@pytest.mark.parametrize("path", ["/", "/config", "/gradio_api/heartbeat/x1", "/theme.css"])
def test_a_foreign_host_is_refused(script, path):
    assert script.ask("GET", path)[0] == 200
    for host in ("evil.example", f"evil.example:{script.port}", "localhost.evil.example"):
        assert script.ask("GET", path, host=host)[0] == 400
    assert script.ask("GET", path, host=f"localhost:{script.port}")[0] == 200


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b'"' + b"a" * QUESTION_BYTES + b'"'])
def test_a_question_that_can_not_be_read_is_refused(script, body):
    assert script.ask("POST", "/gradio_api/queue/join", body)[0] == 422
    assert script.ask("GET", "/config")[0] == 200


def test_a_public_address_is_answered_under_its_name_or_said_to_be_missing(monkeypatch, segmenter_of_demo):
    heard = {}
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # what `run` sets is put back
    monkeypatch.setattr(serving, "listen", lambda app, *rest: heard.update(app=app))
    monkeypatch.setattr(serving, "setup_tunnel", lambda *rest: "https://abc.gradio.example")
    serving.run(segmenter_of_demo, share=True)
    (names,) = (guard.kwargs["names"] for guard in heard["app"].user_middleware if "names" in guard.kwargs)
    assert list(names) == ["abc.gradio.example"]
    monkeypatch.setattr(serving, "setup_tunnel", lambda *rest: 1 / 0)
    with pytest.raises(PortError, match="--share"):
        serving.run(segmenter_of_demo, share=True)


@pytest.fixture
def segmenter_of_demo():
    return sp.Segmenter.from_pretrained("demo", device="cpu", paths=False)
