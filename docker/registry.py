"""Test registry for docker/image with one package: `left-pad` 1.0.0, ten years old, and 1.1.0, an hour old. Prints its address,
and with `--log` each request. Listens on loopback unless an address is given."""

import base64, gzip, hashlib, io, json, sys, tarfile
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def tarball(version):
    manifest = json.dumps({"name": "left-pad", "version": version}).encode()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("package/package.json")
        entry.size = len(manifest)
        archive.addfile(entry, io.BytesIO(manifest))
    return gzip.compress(packed.getvalue())


def packument(address):
    versions = {}
    for version, data in TARBALLS.items():
        integrity = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
        dist = {"tarball": f"{address}left-pad/-/left-pad-{version}.tgz", "integrity": integrity}
        versions[version] = {"name": "left-pad", "version": version, "dist": dist}
    old = datetime.now(timezone.utc) - timedelta(days=3650)
    new = datetime.now(timezone.utc) - timedelta(hours=1)
    stamp = lambda instant: instant.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    times = {"created": stamp(old), "modified": stamp(new), "1.0.0": stamp(old), "1.1.0": stamp(new)}
    return {"name": "left-pad", "dist-tags": {"latest": "1.1.0"}, "versions": versions, "time": times}


TARBALLS = {version: tarball(version) for version in ("1.0.0", "1.1.0")}


class Registry(BaseHTTPRequestHandler):
    def do_GET(self):
        files = {f"/left-pad/-/left-pad-{version}.tgz": data for version, data in TARBALLS.items()}
        files["/left-pad"] = json.dumps(packument(ADDRESS)).encode()
        body = files.get(self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Type", "application/octet-stream" if self.path.endswith(".tgz") else "application/json")
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_):
        if "--log" in sys.argv:
            print(f"{self.client_address[0]} {self.path}", flush=True)


HOST = next((word for word in sys.argv[1:] if not word.startswith("--")), "127.0.0.1")
SERVER = ThreadingHTTPServer((HOST, 0), Registry)
ADDRESS = f"http://{HOST}:{SERVER.server_address[1]}/"
print(ADDRESS, flush=True)
SERVER.serve_forever()
