#!/usr/bin/env python3
"""Measures the gateway's TLS on one machine: tarballs compared with nginx's TLS on the same bytes, what a handshake and a leaf take of the
CPU, what idle tunnels take of memory, and what connections that break off leave behind. Needs root (a mount namespace gives wrk a name for
loopback), nginx, wrk and openssl. Everything listens on loopback; every load is bounded.

Usage: gateway.py BINARY [--only tarballs,handshakes,tunnels,leavings] [--seconds 5]
"""

import argparse, hashlib, http.server, base64, json, os, pathlib, random, resource, signal, socket, ssl, struct, subprocess, tempfile, threading, time

HOST = "registry.example"
SIZES = {"10 kB": 10_000, "100 kB": 100_000, "1 MB": 1_000_000}
UPSTREAM, NGINX = 4884, 4885
LISTEN, GATEWAY, TRANSPARENT, FAR = 4886, 4887, 4888, 4889

NGINX_CONF = """
worker_processes 2; daemon off; pid {work}/nginx.pid; error_log {work}/error.log; worker_rlimit_nofile 20000;
events {{ worker_connections 8192; }}
http {{
    access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000; default_type application/octet-stream;
    client_body_temp_path {work}/b; proxy_temp_path {work}/p; fastcgi_temp_path {work}/f; uwsgi_temp_path {work}/u; scgi_temp_path {work}/s;
    open_file_cache max=100 inactive=600s;
    ssl_certificate {work}/nginx.pem; ssl_certificate_key {work}/nginx.key; ssl_protocols TLSv1.3; ssl_session_tickets on;
    server {{ listen 127.0.0.1:{port} ssl backlog=4096; root {work}/site; }}
}}
"""


def publish(work):
    """Tarballs of bytes that do not deflate, and packuments that name them."""
    documents = {}
    for label, size in SIZES.items():
        name = "p" + label.replace(" ", "").lower()
        folder = work / "site" / name / "-"
        folder.mkdir(parents=True)
        body = random.Random(size).randbytes(size)
        (folder / f"{name}-1.0.0.tgz").write_bytes(body)
        sri = "sha512-" + base64.b64encode(hashlib.sha512(body).digest()).decode()
        tarball = f"http://127.0.0.1:{UPSTREAM}/{name}/-/{name}-1.0.0.tgz"
        manifest = {"name": name, "version": "1.0.0", "dist": {"tarball": tarball, "integrity": sri}}
        documents[f"/{name}"] = json.dumps({
            "name": name, "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": manifest},
            "time": {"created": "2020-01-01T00:00:00Z", "modified": "2020-01-01T00:00:00Z", "1.0.0": "2020-01-01T00:00:00Z"},
        }).encode()
    return documents


class Upstream(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    documents, site = {}, None

    def do_GET(self):
        path = self.path.split("?")[0]
        body = self.documents.get(path) or (self.site / path.lstrip("/")).read_bytes()
        self.send_response(200)
        self.send_header("content-type", "application/json" if path in self.documents else "application/octet-stream")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def cpu(pid):
    """Nanoseconds on a CPU, of all threads."""
    tasks = pathlib.Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def memory(pid):
    """Resident bytes."""
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def files(pid):
    return len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir()))


def wait_for(port):
    for _ in range(200):
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"no process listens on {port}")


def tunnel(target):
    stream = socket.create_connection(("127.0.0.1", GATEWAY), 20)
    stream.sendall(f"CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = stream.recv(1)
        if not piece:
            raise SystemExit(f"no tunnel: {head}")
        head += piece
    assert b" 200 " in head.split(b"\r\n")[0], head
    return stream


def wrk(work, url, seconds, name=HOST):
    """Requests a second and megabytes a second, by a client for which the name is loopback."""
    hosts = work / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {HOST}\n")
    words = f"mount --bind {hosts} /etc/hosts && exec wrk -t2 -c32 -d{seconds}s -H 'Host: {name}' {url}"
    told = subprocess.run(["unshare", "-m", "sh", "-c", words], capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in told or "Socket errors" in told and "read 0" not in told:
        raise SystemExit(told)
    return float(told.split("Requests/sec:")[1].split()[0])


def tarballs(work, pid, seconds):
    print("| TLS tarballs, 32 connections | nginx /s | Coldframe /s | ratio |\n|---|---:|---:|---:|")
    for label in SIZES:
        name = "p" + label.replace(" ", "").lower()
        path = f"/{name}/-/{name}-1.0.0.tgz"
        pairs = []
        for _ in range(2):
            theirs = wrk(work, f"https://{HOST}:{NGINX}{path}", seconds)
            ours = wrk(work, f"https://{HOST}:{TRANSPARENT}{path}", seconds)
            pairs.append((theirs, ours))
        theirs, ours = max(pair[0] for pair in pairs), max(pair[1] for pair in pairs)
        print(f"| {label} | {theirs:,.0f} | {ours:,.0f} | {ours / theirs:.2f} × |", flush=True)


def handshakes(work, pid):
    context = ssl.create_default_context(cafile=str(work / "ca.pem"))

    def shake(host):
        stream = tunnel(f"{host}:443")
        with context.wrap_socket(stream, server_hostname=host):
            pass

    hosts = [f"h{number}.{HOST}" for number in range(60)]
    before = cpu(pid)
    for host in hosts:
        shake(host)
    first = cpu(pid) - before
    before = cpu(pid)
    for host in hosts:
        shake(host)
    again = cpu(pid) - before
    before, count = cpu(pid), 1000
    for _ in range(count):
        shake(HOST)
    each = (cpu(pid) - before) / count
    print(f"a CONNECT and a full TLS 1.3 handshake: {each / 1e6:.3f} ms of CPU; a leaf: {(first - again) / len(hosts) / 1e6:.3f} ms of CPU")


def tunnels(pid, count=5000):
    listener = socket.create_server(("127.0.0.1", FAR), backlog=4096)
    taken = []
    threading.Thread(target=lambda: [taken.append(listener.accept()) for _ in range(count)], daemon=True).start()
    before, had = memory(pid), files(pid)
    held = [tunnel(f"localhost:{FAR}") for _ in range(count)]
    time.sleep(3)
    now = memory(pid)
    print(f"{count} idle tunnels: {(now - before) / 1e6:.0f} MB more, {now / 1e6:.0f} MB in all, {files(pid) - had} files more")
    for stream in held:
        stream.close()
    for stream, _ in taken:
        stream.close()
    settle(pid, had, before, f"{count} tunnels that were closed")


def leavings(work, pid):
    """Half-open, slow and aborted connections, thousands of them."""
    before, had = memory(pid), files(pid)
    linger = struct.pack("ii", 1, 0)
    for turn in range(3000):
        stream = socket.create_connection(("127.0.0.1", (LISTEN, GATEWAY, TRANSPARENT)[turn % 3]), 20)
        stream.sendall([b"", b"\x16", b"\x16\x03\x01\x01\x00\x01", b"CONNECT registry.example:443 HTTP/1.1\r\n\r\n\x16\x03\x01", b"GET /p1"][turn % 5])
        if turn % 2:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        stream.close()
    slow = [socket.create_connection(("127.0.0.1", TRANSPARENT), 20) for _ in range(500)]
    for stream in slow:
        stream.sendall(b"\x16\x03\x01")
    held = files(pid) - had
    settle(pid, had, before, f"3,000 aborted and 500 slow connections ({held} files meanwhile)")
    for stream in slow:
        stream.close()


def settle(pid, had, before, what):
    for _ in range(300):
        if files(pid) <= had:
            break
        time.sleep(0.1)
    print(f"after {what}: {files(pid) - had} files more, {(memory(pid) - before) / 1e6:+.0f} MB")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("binary")
    arguments.add_argument("--only", default="tarballs,handshakes,tunnels,leavings")
    arguments.add_argument("--seconds", type=int, default=5)
    chosen = arguments.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        work.chmod(0o755)
        Upstream.documents, Upstream.site = publish(work), work / "site"
        upstream = http.server.ThreadingHTTPServer(("127.0.0.1", UPSTREAM), Upstream)
        threading.Thread(target=upstream.serve_forever, daemon=True).start()
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=x",
                        "-addext", f"subjectAltName=DNS:{HOST}", "-keyout", work / "nginx.key", "-out", work / "nginx.pem"], check=True, capture_output=True)
        (work / "nginx.conf").write_text(NGINX_CONF.format(work=work, port=NGINX))
        common = ["--upstream", f"http://127.0.0.1:{UPSTREAM}/", "--data-dir", work / "data", "--intercept", HOST]
        for number in range(60):
            common += ["--intercept", f"h{number}.{HOST}"]
        started = [subprocess.Popen(["nginx", "-c", work / "nginx.conf"], stderr=subprocess.DEVNULL)]
        started.append(subprocess.Popen(
            [chosen.binary, "serve", "--listen", f"127.0.0.1:{LISTEN}", "--gateway", f"127.0.0.1:{GATEWAY}", "--transparent", f"127.0.0.1:{TRANSPARENT}",
             "--allow-host", f"localhost:{FAR}", "--max-connections", "12000", "--header-timeout", "5s", "--idle-timeout", "10m", "--log-level", "error", *common],
            stdout=subprocess.DEVNULL))
        pid = started[1].pid
        try:
            for port in (NGINX, LISTEN, GATEWAY, TRANSPARENT):
                wait_for(port)
            exported = subprocess.run([chosen.binary, "ca", "export", *common], check=True, capture_output=True)
            (work / "ca.pem").write_bytes(exported.stdout)
            wanted = chosen.only.split(",")
            if "tarballs" in wanted:
                tarballs(work, pid, chosen.seconds)
            if "handshakes" in wanted:
                handshakes(work, pid)
            if "leavings" in wanted:
                leavings(work, pid)
            if "tunnels" in wanted:
                tunnels(pid)
        finally:
            for process in started:
                process.send_signal(signal.SIGTERM)
            for process in started:
                process.wait()


main()
