"""A W&B server of this machine, as far as runs, artifacts and workspaces need one; keeps all that it was sent."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "we"


class WandbServer:
    """What was sent.

    Attributes:
        address: for ``WANDB_BASE_URL``.
        calls: (operation, variables) of GraphQL, in order.
        uploads: path of the upload -> content.
        everything: every byte of every request.
        refused: operations that are answered with an error.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.uploads: dict[str, bytes] = {}
        self.everything: list[bytes] = []
        self.refused: set[str] = set()
        self.address = ""
        self._lock = threading.Lock()

    def of(self, operation: str) -> list[dict[str, Any]]:
        """The variables of every call of an operation."""
        return [variables for name, variables in self.calls if name == operation]

    def answer(self, name: str, variables: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            self.calls.append((name, variables))
        if name in self.refused:
            raise LookupError(name)
        upload = f"{self.address}/upload"
        if name == "UpsertBucket":
            project = {"id": "P", "name": variables["project"], "entity": {"id": "E", "name": ENTITY}}
            bucket = {"id": f"run-{variables['name']}", "name": variables["name"], "project": project}
            more = {"displayName": variables["displayName"], "sweepName": None, "historyLineCount": 0, "config": "{}"}
            return {"upsertBucket": {"bucket": {**bucket, **more}, "inserted": True}}
        if name in ("Viewer", "GetDefaultEntity"):
            teams = {"edges": [{"node": {"name": ENTITY}}]}
            about = {"id": "U", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}", "teams": teams}
            return {"viewer": about}
        if name == "Run":
            about = {"id": f"run-{variables['name']}", "projectId": "1", "tags": [], "name": variables["name"]}
            about |= {"displayName": "", "sweepName": None, "state": "finished", "config": "{}", "group": None}
            about |= {"jobType": "evaluate", "commit": None, "readOnly": False, "createdAt": "2026-01-01T00:00:00Z"}
            about |= {"heartbeatAt": None, "description": "", "notes": "", "systemMetrics": "{}", "historyKeys": None}
            about |= {"summaryMetrics": "{}", "historyLineCount": 0, "user": {"name": ENTITY, "username": ENTITY}}
            return {"project": {"run": about}}
        if name == "ArtifactMembershipByName":
            collection, _, alias = variables["name"].partition(":")
            if collection not in {sent["artifactID"] for sent in self.of("CommitArtifact")}:
                return {"project": {"artifactCollectionMembership": None}}
            place = {"id": "P", "internalId": "1", "name": variables["project"], "entity": {"name": ENTITY}}
            sequence = {"__typename": "ArtifactSequence", "name": collection, "project": place}
            artifact = {"__typename": "Artifact", "id": collection, "artifactSequence": sequence, "versionIndex": 0}
            artifact |= {"artifactType": {"name": "model"}, "description": "", "metadata": "{}", "tags": []}
            artifact |= {"ttlDurationSeconds": -1, "ttlIsInherited": True, "historyStep": None, "state": "COMMITTED"}
            artifact |= {"size": 1, "digest": "d", "commitHash": "c", "fileCount": 1, "aliases": []}
            artifact |= {"createdAt": "2026-01-01T00:00:00Z", "updatedAt": None}
            aliases = [{"__typename": "ArtifactAlias", "id": "A", "alias": alias}]
            found = {"__typename": "ArtifactCollectionMembership", "id": "M", "versionIndex": 0, "aliases": aliases}
            found |= {"createdAt": "2026-01-01T00:00:00Z", "artifactCollection": sequence, "artifact": artifact}
            return {"project": {"artifactCollectionMembership": found}}
        if name == "UseArtifact":
            used = {"id": variables["artifactID"], "digest": "d", "description": "", "state": "COMMITTED"}
            return {"useArtifact": {"artifact": {**used, "createdAt": "2026-01-01T00:00:00Z", "metadata": "{}"}}}
        if name == "UpsertView2":
            return {"upsertView": {"view": {"id": "V", "name": variables["name"]}, "inserted": True}}
        if name == "ServerFeaturesQuery":
            return {"serverInfo": {"features": []}}
        if name == "CreateArtifact":
            sequence = {"id": "S", "latestArtifact": None}
            identity = variables["input"]["artifactCollectionName"]
            return {"createArtifact": {"artifact": {"id": identity, "state": "PENDING", "artifactSequence": sequence}}}
        if name in ("CreateArtifactManifest", "UpdateArtifactManifest"):
            place = f"{upload}/{variables.get('artifactID', variables.get('artifactManifestID'))}/manifest"
            manifest = {"id": place, "file": {"id": "F", "uploadUrl": place, "uploadHeaders": []}}
            return {f"{name[0].lower()}{name[1:]}": {"artifactManifest": manifest}}
        if name == "CreateRunFiles":
            files = [{"name": file, "uploadUrl": f"{upload}/{variables['run']}/{file}"} for file in variables["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        if name == "CreateArtifactFiles":
            nodes = [
                {
                    "id": "x",
                    "name": file["name"],
                    "displayName": file["name"],
                    "uploadUrl": f"{upload}/{file['artifactID']}/{file['name']}",
                    "uploadHeaders": [],
                    "artifact": {"id": file["artifactID"]},
                    "storagePath": file["name"],
                    "uploadMultipartUrls": None,
                }
                for file in variables["input"]["artifactFiles"]
            ]
            return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}
        if name == "CommitArtifact":
            return {"commitArtifact": {"artifact": {"id": variables["artifactID"], "digest": "d"}}}
        raise LookupError(name)


@contextmanager
def serve() -> Iterator[WandbServer]:
    """A server while the block lasts."""
    server = WandbServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def _body(self) -> bytes:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            server.everything += [self.path.encode(), body]
            return body

        def _reply(self, content: Any) -> None:
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self._body()
            self._reply({})

        def do_PUT(self) -> None:
            server.uploads[self.path.removeprefix("/upload/")] = self._body()
            self._reply({})

        def do_POST(self) -> None:
            body = self._body()
            if self.path != "/graphql":
                self._reply({})
                return
            asked = json.loads(body)
            name = asked.get("operationName") or asked["query"].split("(")[0].split("{")[0].split()[-1]
            try:
                self._reply({"data": server.answer(name, asked.get("variables") or {})})
            except LookupError as error:
                print(asked["query"], asked.get("variables"))
                self._reply({"data": None, "errors": [{"message": f"no such operation here: {error}"}]})

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:  # W&B drops connections as it ends
            pass

    httpd = Quiet(("127.0.0.1", 0), Handler)
    server.address = f"http://127.0.0.1:{httpd.server_address[1]}"
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()
