"""A small Hub in this process: what the real client asks when it uploads and downloads, and faults.

It keeps repositories in memory. A commit takes all its files or none, as on the Hub; large files
go to a store by their SHA-256 first, and are nobody's until a commit names them.
"""

import base64
import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_" + "testonly" * 4


@dataclass
class Repository:
    """Files of every commit of `main`, oldest first, and of every pull request."""

    private: bool = False
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{}])
    pull_requests: list[dict[str, bytes]] = field(default_factory=list)

    @property
    def files(self):
        return self.commits[-1]

    @property
    def sha(self):
        return hashlib.sha1(str(len(self.commits)).encode()).hexdigest()


@dataclass
class Fault:
    """What happens instead of an answer, to the next `times` requests that match.

    `kind` is a status, or: `drop` (the connection ends before anything is done), `unheard` (it
    ends after it was done), `cut` (it ends in the middle of the body), `slow` (the body comes in
    small pieces with pauses).
    """

    method: str
    path: str
    kind: int | str
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)


class Hub(ThreadingHTTPServer):
    """`with Hub() as hub:` serves at `hub.endpoint` until the block ends."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, Repository] = {}
        self.store: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.log: list[str] = []
        self.forbidden: set[str] = set()  # namespaces that the token may not write to
        self.lock = threading.Lock()

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def inject(self, method, path, kind, **options):
        self.faults.append(Fault(method, path, kind, **options))

    def fault_of(self, method, path):
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method == method and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None

    def asked(self, method, path):
        """How often a request was made."""
        return sum(bool(re.fullmatch(f"{method} {path}", line)) for line in self.log)


def blob_oid(content):
    """git's name of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _is_lfs(name):
    return name.endswith(".safetensors")


class _Refused(Exception):
    def __init__(self, status, message, code=None):
        super().__init__(message)
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_):
        pass

    def _any(self):
        url = urlsplit(self.path)
        self.where, self.query = unquote(url.path), parse_qs(url.query)
        body = self._body()
        self.server.log.append(f"{self.command} {self.where}")
        self.fault = self.server.fault_of(self.command, self.where)
        kind = self.fault.kind if self.fault else None
        if kind == "drop":
            self.close_connection = True
            return
        if isinstance(kind, int):
            self._answer(kind, {"error": "injected"}, self.fault.headers)
            return
        try:
            with self.server.lock:
                status, content, headers = self._served(body)
        except _Refused as refusal:
            headers = {"X-Error-Code": refusal.code} if refusal.code else {}
            status, content = refusal.status, {"error": str(refusal)}
        if kind == "unheard":
            self.close_connection = True
            return
        self._answer(status, content, headers)

    do_GET = do_HEAD = do_POST = do_PUT = _any

    def _body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status, content, headers):
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        if self.command == "HEAD":
            return
        kind = self.fault.kind if self.fault else None
        if kind == "cut":
            self.wfile.write(raw[: len(raw) // 2])
            self.close_connection = True
        elif kind == "slow":
            step = max(1, len(raw) // 8)
            for start in range(0, len(raw), step):
                self.wfile.write(raw[start : start + step])
                self.wfile.flush()
                time.sleep(0.03)
        else:
            self.wfile.write(raw)

    # -- what is asked --------------------------------------------------------------------

    def _served(self, body):
        for method, pattern, answer in _ROUTES:
            match = re.fullmatch(pattern, self.where)
            if match and self.command in method.split():
                return answer(self, body, *match.groups())
        raise _Refused(404, f"no such address: {self.command} {self.where}")

    def _needs_token(self, repo_id=None):
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise _Refused(401, "Invalid username or password.")
        if repo_id and repo_id.partition("/")[0] in self.server.forbidden:
            raise _Refused(403, "You don't have the rights to write there.")

    def _repository(self, repo_id):
        repository = self.server.repositories.get(repo_id)
        if repository is None:
            raise _Refused(404, "Repository not found", "RepoNotFound")
        if repository.private:
            self._needs_token()
        return repository

    def _create(self, body):
        asked = json.loads(body)
        repo_id = f"{asked['organization']}/{asked['name']}"
        self._needs_token(repo_id)
        url = f"{self.server.endpoint}/{repo_id}"
        if repo_id in self.server.repositories:
            return 409, {"error": "You already created this model repo", "url": url}, {}
        private = asked.get("visibility") == "private"
        self.server.repositories[repo_id] = Repository(private, [{".gitattributes": b"*.bin lfs"}])
        return 200, {"url": url}, {}

    def _validate(self, body):
        assert json.loads(body)["content"]
        return 200, {"warnings": [], "errors": []}, {}

    def _info(self, _, repo_id, revision=None):
        repository = self._repository(repo_id)
        siblings = [{"rfilename": name} for name in sorted(repository.files)]
        record = {"id": repo_id, "modelId": repo_id, "sha": repository.sha, "siblings": siblings}
        return 200, {**record, "private": repository.private, "tags": []}, {}

    def _tree(self, _, repo_id, revision):
        entries = []
        for name, content in sorted(self._repository(repo_id).files.items()):
            entry = {"type": "file", "path": name, "size": len(content), "oid": blob_oid(content)}
            if _is_lfs(name):
                oid = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 130}
            entries.append(entry)
        return 200, entries, {}

    def _preupload(self, body, repo_id, revision):
        files = self._repository(repo_id).files
        self._needs_token()
        answers = []
        for asked in json.loads(body)["files"]:
            name = asked["path"]
            there = files.get(name)
            digest = (lambda c: hashlib.sha256(c).hexdigest()) if _is_lfs(name) else blob_oid
            answer = {"path": name, "uploadMode": "lfs" if _is_lfs(name) else "regular"}
            answer |= {"shouldIgnore": False, "oid": None if there is None else digest(there)}
            answers.append(answer)
        return 200, {"files": answers}, {}

    def _batch(self, body, repo_id):
        self._repository(repo_id)
        batch = json.loads(body)
        self._needs_token(repo_id if "ref" in batch else None)  # who only reads may propose
        objects = []
        for asked in batch["objects"]:
            found = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.server.store:
                upload = {"href": f"{self.server.endpoint}/store/{asked['oid']}?signature=s3cret"}
                verify = {"href": f"{self.server.endpoint}/{repo_id}.git/info/lfs/verify"}
                found["actions"] = {"upload": upload, "verify": verify}
            objects.append(found)
        return 200, {"transfer": "basic", "objects": objects}, {}

    def _store(self, body, oid):
        if hashlib.sha256(body).hexdigest() != oid:
            raise _Refused(400, "the content is not what its name says")
        self.server.store[oid] = body
        return 200, {}, {}

    def _verify(self, body, repo_id):
        self._needs_token()
        asked = json.loads(body)
        if len(self.server.store.get(asked["oid"], b"")) != asked["size"]:
            raise _Refused(404, "not stored")
        return 200, {}, {}

    def _commit(self, body, repo_id, revision):
        repository = self._repository(repo_id)
        pull_request = "create_pr" in self.query
        self._needs_token(None if pull_request else repo_id)
        files = dict(repository.files)
        for line in body.splitlines():
            entry = json.loads(line)
            key, value = entry["key"], entry["value"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in self.server.store:
                    raise _Refused(400, "a large file that was never uploaded")
                files[value["path"]] = self.server.store[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        (repository.pull_requests if pull_request else repository.commits).append(files)
        url = f"{self.server.endpoint}/{repo_id}"
        answer = {"commitUrl": f"{url}/commit/{repository.sha}", "commitOid": repository.sha}
        if pull_request:
            answer["pullRequestUrl"] = f"{url}/discussions/{len(repository.pull_requests)}"
        return 200, answer, {}

    def _resolve(self, _, repo_id, revision, name):
        repository = self._repository(repo_id)
        content = repository.files.get(name)
        if content is None:
            raise _Refused(404, "Entry not found", "EntryNotFound")
        headers = {"X-Repo-Commit": repository.sha, "ETag": f'"{blob_oid(content)}"'}
        if _is_lfs(name):
            etag = hashlib.sha256(content).hexdigest()
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(content))}
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if start and self.command == "GET":
            first = int(start[1])
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            return 206, content[first:], headers
        if self.command == "HEAD":
            headers["Content-Length"] = str(len(content))
        return 200, content, headers


_ID = r"([\w.-]+/[\w.-]+)"
_ROUTES = [
    ("POST", "/api/repos/create", _Handler._create),
    ("POST", "/api/validate-yaml", _Handler._validate),
    ("GET", f"/api/models/{_ID}", _Handler._info),
    ("GET", f"/api/models/{_ID}/revision/(.+)", _Handler._info),
    ("GET", f"/api/models/{_ID}/tree/([^/]+)", _Handler._tree),
    ("POST", f"/api/models/{_ID}/preupload/(.+)", _Handler._preupload),
    ("POST", f"/{_ID}.git/info/lfs/objects/batch", _Handler._batch),
    ("POST", f"/{_ID}.git/info/lfs/verify", _Handler._verify),
    ("PUT", "/store/([0-9a-f]+)", _Handler._store),
    ("POST", f"/api/models/{_ID}/commit/(.+)", _Handler._commit),
    ("GET HEAD", f"/{_ID}/resolve/([^/]+)/(.+)", _Handler._resolve),
]
