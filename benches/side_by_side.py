#!/usr/bin/env python3
"""Measures Coldframe and its peers in one run on one machine: the static nginx that is its upstream (the limit), and Verdaccio
with its package filter. Needs nginx, wrk, node, npm, and what `just capture` fetched. Everything listens on loopback; every load is
bounded. Prints tables and, for docs/performance.md, the same in Markdown (`--markdown FILE`).

Usage: side_by_side.py BINARY [--only sweep,warm,tarballs,many,growth,herd,install,ci] [--packages axios,react] [--seconds 5] [--without-verdaccio] [--markdown FILE]
"""

import argparse, asyncio, json, os, pathlib, re, resource, shutil, signal, statistics, subprocess, sys, tempfile, time, urllib.request

HERE = pathlib.Path(__file__).resolve().parent
CORPUS = HERE.parent / "corpus"
SITE = CORPUS / "site"
PEERS = HERE.parent / "target" / "peers"
# The port that `capture.mjs` wrote into the packuments' tarball URLs; the others use the ports after it.
NGINX, COLDFRAME, VERDACCIO = 4874, 4875, 4876
ABBREVIATED = "application/vnd.npm.install-v1+json; q=1.0, application/json; q=0.8, */*"
FULL = "application/json"
TICKS = os.sysconf("SC_CLK_TCK")

NGINX_CONF = """
worker_processes 2;
pid {work}/nginx.pid;
error_log {work}/error.log;
worker_rlimit_nofile 20000;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    log_format path '$request_method $request_uri';
    sendfile on;
    tcp_nopush on;
    keepalive_requests 100000000;
    keepalive_timeout 600;
    gzip_static on;
    default_type application/json;
    types {{ }}
    open_file_cache max=4000 inactive=600s;
    open_file_cache_valid 600s;
    map $http_accept $form {{ default full; ~vnd.npm.install abbreviated; }}
    client_body_temp_path {work}/body; proxy_temp_path {work}/proxy; fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi; scgi_temp_path {work}/scgi;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        root {site};
        location / {{ add_header Vary "accept, accept-encoding"; try_files /$form$uri.json /made$uri.json =404; }}
        location ~ /-/ {{ gzip_static off; default_type application/octet-stream; root {site}/tarballs; }}
    }}
    server {{
        listen 127.0.0.1:{counted};
        access_log {work}/counted.log path;
        root {site};
        location / {{ try_files /$form$uri.json =404; }}
    }}
}}
"""

VERDACCIO_CONF = """
storage: {work}/verdaccio
uplinks: {{ up: {{ url: "http://127.0.0.1:{upstream}/", maxage: 10m, timeout: 60s }} }}
packages:
  '@*/*': {{ access: $all, proxy: up }}
  '**': {{ access: $all, proxy: up }}
filters: {{ '@verdaccio/package-filter': {{ minAgeDays: 3 }} }}
log: {{ type: file, path: {work}/verdaccio.log, level: error }}
"""


class Server:
    """A process that listens, and what it costs."""

    def __init__(self, name, command, port, work, env=None):
        self.name, self.port = name, port
        self.log = open(work / f"{name}.out", "wb")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, env={**os.environ, **(env or {})}, cwd=work)
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ping", timeout=5).read()
                return
            except urllib.error.HTTPError:
                return
            except OSError:
                time.sleep(0.1)
        raise SystemExit(f"{name} did not start: see {self.log.name}")

    def pids(self):
        """The process and its children: nginx's workers."""
        found, queue = [], [self.process.pid]
        while queue:
            pid = queue.pop()
            found.append(pid)
            try:
                for task in os.listdir(f"/proc/{pid}/task"):
                    queue += [int(child) for child in open(f"/proc/{pid}/task/{task}/children").read().split()]
            except OSError:
                pass
        return found

    def cpu(self):
        """Seconds of processor time so far."""
        total = 0
        for pid in self.pids():
            fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICKS

    def memory(self, field):
        """`VmRSS` or `VmHWM`, in MB, of all processes."""
        total = 0
        for pid in self.pids():
            found = re.search(rf"{field}:\s+(\d+) kB", open(f"/proc/{pid}/status").read())
            total += int(found.group(1)) if found else 0
        return total / 1024

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


class Bench:
    def __init__(self, options):
        self.options, self.tables, self.started = options, [], []
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="coldframe-bench-"))
        self.names = sorted(str(path.relative_to(SITE / "full"))[:-5] for path in (SITE / "full").rglob("*.json"))

    # Servers

    def nginx(self):
        conf = self.work / "nginx.conf"
        conf.write_text(NGINX_CONF.format(work=self.work, port=NGINX, counted=NGINX + 10, site=SITE))
        return Server("nginx", ["nginx", "-p", str(self.work), "-c", str(conf), "-g", "daemon off;"], NGINX, self.work)

    def coldframe(self, data, *more, upstream=NGINX, port=COLDFRAME):
        command = [self.options.binary, "serve", "--listen", f"127.0.0.1:{port}", "--upstream", f"http://127.0.0.1:{upstream}/",
                   "--data-dir", str(self.work / data), "--log-level", "warn", *more]
        server = Server("coldframe", command, port, self.work, env={"npm_config_userconfig": "/dev/null"})
        self.started.append(server)
        return server

    def verdaccio(self):
        PEERS.mkdir(parents=True, exist_ok=True)
        if not (PEERS / "node_modules/@verdaccio/package-filter").exists():
            # A mirror that keeps no dist-tags but `latest` has no `node-fetch@cjs`.
            (PEERS / "package.json").write_text('{"private":true,"overrides":{"node-fetch":"2.7.0"}}')
            subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "verdaccio@6", "@verdaccio/package-filter"], cwd=PEERS, check=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        conf = self.work / "verdaccio.yaml"
        conf.write_text(VERDACCIO_CONF.format(work=self.work, upstream=NGINX))
        command = ["node", str(PEERS / "node_modules/verdaccio/bin/verdaccio"), "--config", str(conf), "--listen", f"127.0.0.1:{VERDACCIO}"]
        return Server("verdaccio", command, VERDACCIO, self.work)

    # Loads

    def path(self, name):
        return "/" + name.replace("/", "%2f")

    def wrk(self, port, path, headers, connections=32, seconds=None, script=None):
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds or self.options.seconds}s", "--latency", "--timeout", "10s"]
        for name, value in headers.items():
            command += ["-H", f"{name}: {value}"]
        if script:
            command += ["-s", str(script)]
        told = subprocess.run([*command, f"http://127.0.0.1:{port}{path}"], capture_output=True, text=True, check=True).stdout

        def found(pattern):
            match = re.search(pattern, told)
            return match.groups() if match else None

        units = {"us": 1e-3, "ms": 1, "s": 1e3, "m": 6e4}
        p99 = found(r"99%\s+([\d.]+)(us|ms|s|m)\b")
        sizes = {"B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30}
        rate = found(r"Transfer/sec:\s+([\d.]+)(B|KB|MB|GB)")
        errors = found(r"Non-2xx or 3xx responses: (\d+)")
        socket = found(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)")
        return {"rps": float(found(r"Requests/sec:\s+([\d.]+)")[0]), "p99": float(p99[0]) * units[p99[1]], "rate": float(rate[0]) * sizes[rate[1]],
                "errors": int(errors[0]) if errors else 0, "lost": sum(map(int, socket)) if socket else 0}

    def sweep(self, port, accept):
        """Requests every packument once, eight at a time. Returns the seconds that it took."""
        config = self.work / "sweep.curl"
        lines = [f'url = "http://127.0.0.1:{port}{self.path(name)}"\noutput = "/dev/null"' for name in self.names]
        config.write_text("\n".join(lines))
        command = ["curl", "--no-progress-meter", "--fail", "--parallel", "--parallel-max", "8", "--header", f"accept: {accept}", "--header", "accept-encoding: gzip",
                   "--config", str(config)]
        start = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=600)
        return time.monotonic() - start

    # Reports

    def table(self, title, head, rows):
        widths = [max(len(str(cell)) for cell in column) for column in zip(head, *rows)]
        line = lambda cells: "  ".join(str(cell).ljust(width) if at == 0 else str(cell).rjust(width) for at, (cell, width) in enumerate(zip(cells, widths)))
        print(f"\n{title}\n" + "\n".join(map(line, [head, *rows])), flush=True)
        mark = lambda cells: "| " + " | ".join(map(str, cells)) + " |"
        self.tables.append("\n".join([f"**{title}**", "", mark(head), mark(["---"] + ["---:"] * (len(head) - 1)), *map(mark, rows)]))

    # Measurements

    def measure_sweep(self, nginx):
        rows = []
        for label, accept in [("abbreviated", ABBREVIATED), ("full", FULL)]:
            self.sweep(NGINX, accept)
            limit = min(self.sweep(NGINX, accept) for _ in range(3))
            rows.append([f"{label}: nginx", f"{limit:.2f} s", "1.0", "", f"{nginx.memory('VmRSS'):.0f}"])
            times, cpus, peaks = [], [], []
            for at in range(3):
                server = self.coldframe(f"sweep-{label}-{at}")
                before = server.cpu()
                times.append(self.sweep(COLDFRAME, accept))
                cpus.append(server.cpu() - before)
                peaks.append(server.memory("VmHWM"))
                if at == 2:
                    warm = self.sweep(COLDFRAME, accept)
                server.stop()
            took = statistics.median(times)
            rows.append([f"{label}: Coldframe, cold", f"{took:.2f} s", f"{took / limit:.1f}", f"{statistics.median(cpus):.2f} s", f"{max(peaks):.0f}"])
            rows.append([f"{label}: Coldframe, warm", f"{warm:.2f} s", f"{warm / limit:.1f}", "", ""])
            if not self.options.without_verdaccio:
                server = self.verdaccio()
                before = server.cpu()
                took = self.sweep(VERDACCIO, accept)
                rows.append([f"{label}: Verdaccio, cold", f"{took:.2f} s", f"{took / limit:.1f}", f"{server.cpu() - before:.2f} s", f"{server.memory('VmHWM'):.0f}"])
                server.stop()
                shutil.rmtree(self.work / "verdaccio", ignore_errors=True)
        self.table(f"A sweep of {len(self.names)} packuments, eight at a time, gzip", ["", "wall", "× nginx", "CPU", "peak MB"], rows)

    def measure_warm(self, nginx):
        cases = []
        for name in self.options.packages.split(","):
            for label, accept in [("abbreviated", ABBREVIATED), ("full", FULL)]:
                cases.append((f"{name}, {label}", name, accept, "gzip"))
        plain = [("axios, abbreviated, plain", "axios", ABBREVIATED, "identity"), ("react, full, plain", "react", FULL, "identity")]
        cases += [case for case in plain if case[1] in self.options.packages.split(",")]
        peers = [("nginx", NGINX), ("Coldframe", COLDFRAME)] + ([] if self.options.without_verdaccio else [("Verdaccio", VERDACCIO)])
        server = self.coldframe("warm")
        verdaccio = None if self.options.without_verdaccio else self.verdaccio()
        rows = []
        for label, name, accept, coding in cases:
            headers = {"accept": accept, "accept-encoding": coding}
            for matched in [False, True]:
                if matched and (coding != "gzip" or name in ("typescript", "@types/node")):
                    continue
                found = {}
                for peer, port in peers:
                    asked = dict(headers)
                    if matched:
                        request = urllib.request.Request(f"http://127.0.0.1:{port}{self.path(name)}", headers=headers)
                        etag = urllib.request.urlopen(request).headers["etag"]
                        if not etag:
                            continue
                        asked["if-none-match"] = etag
                    self.wrk(port, self.path(name), asked, seconds=1)
                    # Nginx and Coldframe in turns, three times: the machine is not equally fast at all times.
                    found[peer] = []
                for _ in range(self.options.rounds):
                    for peer, port in peers:
                        if peer in found and (peer != "Verdaccio" or not found[peer]):
                            asked = dict(headers)
                            if matched:
                                request = urllib.request.Request(f"http://127.0.0.1:{port}{self.path(name)}", headers=headers)
                                asked["if-none-match"] = urllib.request.urlopen(request).headers["etag"]
                            found[peer].append(self.wrk(port, self.path(name), asked))
                middle = lambda peer, key: statistics.median(run[key] for run in found[peer])
                row = [label + (", 304" if matched else ""), f"{middle('nginx', 'rps'):,.0f}", f"{middle('Coldframe', 'rps'):,.0f}",
                       f"{middle('Coldframe', 'rps') / middle('nginx', 'rps'):.2f}", f"{middle('nginx', 'p99'):.1f}", f"{middle('Coldframe', 'p99'):.1f}"]
                if verdaccio:
                    run = found.get("Verdaccio")
                    row += [f"{run[0]['rps']:,.0f}" + (f" ({run[0]['lost']} lost)" if run[0]["lost"] else "")] if run else [""]
                errors = sum(run["errors"] + run["lost"] for run in found["Coldframe"])
                if errors:
                    row[0] += f" ({errors} ERRORS)"
                rows.append(row)
        head = ["warm packument, 32 connections", "nginx/s", "Coldframe/s", "ratio", "nginx p99 ms", "Coldframe p99 ms"] + (["Verdaccio/s"] if verdaccio else [])
        self.table("Warm packuments (gzip unless said)", head, rows)
        peaks = [["Coldframe", f"{server.memory('VmRSS'):.0f}", f"{server.memory('VmHWM'):.0f}"]]
        if verdaccio:
            peaks.append(["Verdaccio", f"{verdaccio.memory('VmRSS'):.0f}", f"{verdaccio.memory('VmHWM'):.0f}"])
            verdaccio.stop()
            shutil.rmtree(self.work / "verdaccio", ignore_errors=True)
        self.table("Memory after it", ["", "MB", "peak MB"], peaks)
        server.stop()

    def measure_tarballs(self, nginx):
        found = sorted((path.stat().st_size, path) for path in (SITE / "tarballs").rglob("*.tgz"))
        server = self.coldframe("tarballs")
        rows = []
        for size in [20_000, 600_000, 4_000_000]:
            weight, path = min(found, key=lambda one: abs(one[0] - size))
            where = "/" + str(path.relative_to(SITE / "tarballs"))
            runs = {NGINX: [], COLDFRAME: []}
            for port in runs:
                self.wrk(port, where, {}, seconds=1)
            for _ in range(self.options.rounds):
                for port in runs:
                    runs[port].append(self.wrk(port, where, {}))
            middle = lambda port, key: statistics.median(run[key] for run in runs[port])
            rows.append([f"{weight / 1e6:.2f} MB", f"{middle(NGINX, 'rate') / 1e6:,.0f}", f"{middle(COLDFRAME, 'rate') / 1e6:,.0f}",
                         f"{middle(COLDFRAME, 'rate') / middle(NGINX, 'rate'):.2f}", f"{middle(NGINX, 'p99'):.1f}", f"{middle(COLDFRAME, 'p99'):.1f}"])
        self.table("Warm tarballs, 32 connections", ["", "nginx MB/s", "Coldframe MB/s", "ratio", "nginx p99 ms", "Coldframe p99 ms"], rows)
        self.table("Memory after it", ["", "MB", "peak MB"], [["Coldframe", f"{server.memory('VmRSS'):.0f}", f"{server.memory('VmHWM'):.0f}"]])
        server.stop()

    def measure_many(self, nginx):
        rows = []
        server = self.coldframe("many")
        for name in ["axios", "react"]:
            headers = {"accept": ABBREVIATED, "accept-encoding": "gzip"}
            for peer, port, process in [("nginx", NGINX, nginx), ("Coldframe", COLDFRAME, server)]:
                self.wrk(port, self.path(name), headers, seconds=1)
                run = self.wrk(port, self.path(name), headers, connections=2000, seconds=2 * self.options.seconds)
                rows.append([f"{name}: {peer}", f"{run['rps']:,.0f}", f"{run['p99']:.0f}", run["errors"] + run["lost"], f"{process.memory('VmRSS'):.0f}", f"{process.memory('VmHWM'):.0f}"])
        self.table("2,000 keep-alive clients", ["", "/s", "p99 ms", "errors", "MB", "peak MB"], rows)
        server.stop()

    def measure_growth(self, nginx):
        made = SITE / "made"
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        manifest = lambda name, version: {"name": name, "version": version, "dist": {"tarball": f"http://127.0.0.1:{NGINX}/{name}/-/{name}-{version}.tgz", "shasum": "0" * 40}}
        for at in range(10_000):
            name = f"made-{at}"
            versions = {f"1.{minor}.0": manifest(name, f"1.{minor}.0") for minor in range(8)}
            document = {"name": name, "dist-tags": {"latest": "1.7.0"}, "versions": versions, "time": {version: "2020-01-01T00:00:00.000Z" for version in versions}}
            (made / f"{name}.json").write_text(json.dumps(document))
        rows = []
        server = self.coldframe("growth")
        for count in [10, 100, 1_000, 10_000]:
            script = self.work / "random.lua"
            script.write_text('local n = 0\nfunction request()\n n = (n * 7919 + 4547) % ' + str(count) + '\n return wrk.format("GET", "/made-" .. n)\nend\n')
            # One pass over all, so that none is cold.
            config = self.work / "all.curl"
            config.write_text("\n".join(f'url = "http://127.0.0.1:{COLDFRAME}/made-{at}"\noutput = "/dev/null"' for at in range(count)))
            subprocess.run(["curl", "--no-progress-meter", "--fail", "--parallel", "--parallel-max", "8", "-H", "accept-encoding: gzip", "--config", str(config)], check=True, stdout=subprocess.DEVNULL)
            headers = {"accept": ABBREVIATED, "accept-encoding": "gzip"}
            self.wrk(COLDFRAME, "/", headers, seconds=2, script=script)
            before = server.cpu()
            run = self.wrk(COLDFRAME, "/", headers, script=script)
            cost = (server.cpu() - before) / (run["rps"] * self.options.seconds) * 1e6
            rows.append([f"{count:,}", f"{run['rps']:,.0f}", f"{run['p99']:.1f}", f"{cost:.0f}", run["errors"] + run["lost"], f"{server.memory('VmRSS'):.0f}"])
        self.table("As the cache grows", ["packages", "/s", "p99 ms", "CPU µs a request", "errors", "MB"], rows)
        server.stop()
        shutil.rmtree(made, ignore_errors=True)

    def measure_herd(self, nginx):
        server = self.coldframe("herd", upstream=NGINX + 10)
        config = self.work / "herd.curl"
        config.write_text("\n".join(f'url = "http://127.0.0.1:{COLDFRAME}/drizzle-orm"\noutput = "/dev/null"' for _ in range(50)))
        start = time.monotonic()
        subprocess.run(["curl", "--no-progress-meter", "--fail", "--parallel", "--parallel-immediate", "--parallel-max", "50", "-H", f"accept: {FULL}", "-H", "accept-encoding: gzip", "--config", str(config)], check=True, stdout=subprocess.DEVNULL)
        took = time.monotonic() - start
        asked = (self.work / "counted.log").read_text().count("GET /drizzle-orm")
        self.table("50 clients at once on drizzle-orm, cold", ["wall", "upstream requests", "peak MB"], [[f"{took:.2f} s", asked, f"{server.memory('VmHWM'):.0f}"]])
        server.stop()

    def measure_install(self, nginx):
        self.measure_npm("install")

    def measure_ci(self, nginx):
        self.measure_npm("ci")

    def measure_npm(self, command):
        times = {"direct": [], "warm": [], "cold": []}
        # What was captured holds versions of the same day, which a lockfile asks for by name: all must be old enough.
        age = ["--min-release-age", "1h"]
        warm = self.coldframe("install-warm", *age)
        self.install(command, NGINX)
        self.install(command, COLDFRAME)
        for at in range(self.options.rounds):
            cold = self.coldframe(f"install-cold-{at}", *age, port=COLDFRAME + 5)
            turns = [("direct", NGINX), ("warm", COLDFRAME), ("cold", COLDFRAME + 5)]
            # Each in each place: the disk still writes what the run before left behind.
            for label, port in turns[at % 3:] + turns[:at % 3]:
                times[label].append(self.install(command, port))
            cold.stop()
        warm.stop()
        middle = {label: [statistics.median(run[column] for run in runs) for column in (0, 1)] for label, runs in times.items()}
        rows = [[f"npm {command}, {label}", f"{middle[label][0]:.1f} s", f"{middle[label][0] / middle['direct'][0]:.2f}", f"{middle[label][1]:.1f} s",
                 " ".join(f"{run[0]:.1f}" for run in runs)] for label, runs in times.items()]
        self.table("The application, against the static upstream, interleaved", ["", "median", "× direct", "npm's CPU", "all"], rows)

    def install(self, command, port):
        """One `npm install` or `npm ci` in a fresh project with an empty cache. Seconds, and npm's seconds of processor time."""
        # None is removed before all is measured: a file system may search long for data that was just deleted (ext4 without
        # a journal leaves inodes alone for seconds: a third of a cold server's processor time).
        home = pathlib.Path(tempfile.mkdtemp(prefix="install-", dir=self.work))
        project = home / "project"
        project.mkdir()
        shutil.copy(CORPUS / "application/package.json", project)
        if command == "ci":
            shutil.copy(CORPUS / "application/package-lock.json", project)
        env = {**os.environ, "npm_config_registry": f"http://127.0.0.1:{port}/", "npm_config_cache": str(home / "npm-cache"), "npm_config_userconfig": "/dev/null", "npm_config_update_notifier": "false"}
        os.sync()
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        subprocess.run(["npm", command, "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], cwd=project, env=env, check=True, stdout=subprocess.DEVNULL)
        took, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def run(self):
        nginx = self.nginx()
        try:
            for name in self.options.only.split(","):
                getattr(self, f"measure_{name}")(nginx)
        finally:
            for server in [*self.started, nginx]:
                server.stop()
            shutil.rmtree(self.work, ignore_errors=True)
        if self.options.markdown:
            pathlib.Path(self.options.markdown).write_text("\n\n".join(self.tables) + "\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary", type=lambda path: str(pathlib.Path(path).resolve()))
    parser.add_argument("--only", default="sweep,warm,tarballs,many,growth,herd,install,ci")
    parser.add_argument("--packages", default="axios,react,next,typescript,@types/node")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without-verdaccio", action="store_true")
    parser.add_argument("--markdown")
    options = parser.parse_args()
    missing = [tool for tool in ["nginx", "wrk", "curl", "node", "npm"] if not shutil.which(tool)]
    if missing or not SITE.exists():
        raise SystemExit(f"missing: {', '.join(missing) or 'the corpus: run `just capture`'}")
    Bench(options).run()


if __name__ == "__main__":
    main()
