#!/usr/bin/env python3
"""Lets Coldframe run under mixed load for a while before a registry of its own that never stands still: versions are published, ripen,
are backdated and taken down, and the registry goes down now and then, each time in another way. Every answer is compared with what may
be seen at that moment; memory and open files are sampled and must not grow. Needs nothing but Python; loopback only.

Usage: soak.py BINARY [--minutes 30] [--clients 12] [--seed 1] [--pause 0.02]
"""

import argparse, asyncio, base64, collections, gzip, hashlib, json, os, pathlib, random, re, signal, statistics, subprocess, sys, tempfile, time

AGE, TTL, STALE, SILENCE = 20.0, 3.0, 120.0, 3.0
# Instants upstream tells are whole seconds, and both sides of a request take a moment.
SLACK = 1.5
SETTINGS = {
    "min-release-age": f"{AGE:.0f}s", "packument-ttl": f"{TTL:.0f}s", "max-stale": f"{STALE:.0f}s", "upstream-timeout": f"{SILENCE:.0f}s",
    "memory": "24MB", "cache-size": "600MB", "send-timeout": "5s", "header-timeout": "5s", "idle-timeout": "20s", "log-level": "warn",
}
# Each package has as many changing versions from the start as it may have: the registry as a whole does not grow.
PACKAGES, LARGE, CHANGING = 150, 6, 8
ABBREVIATED = "application/vnd.npm.install-v1+json; q=1.0, application/json; q=0.8, */*"
AGENTS = ["npm/10.9.4 node/v22.1.0 linux x64", "npm/11.6.2 node/v24.1.0 linux x64", "pnpm/10.18.0 npm/? node/v22.1.0 linux x64", "Bun/1.3.0", "yarn/1.22.22 npm/? node/v22.1.0"]
# More than a server remembers of what was not there: it is full before memory is looked at.
UNKNOWN = 12_000
OUTAGES = ["closed", "503", "429", "silent", "cut", "garbage"]


def now():
    return time.time()


def instant(at):
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1000):03d}Z"


class Version:
    """One version: when it came, when it says it came, and whether it was ever due to be seen."""

    def __init__(self, package, number, came, claims, size):
        self.package, self.number, self.came, self.claims, self.gone = package, number, came, claims, None
        self.tarball = random.Random(f"{package.name}@{number}").randbytes(size)
        self.integrity = "sha512-" + base64.b64encode(hashlib.sha512(self.tarball).digest()).decode()
        # The last answer without it, before it came: a backdated one counts from there. What tokens read has its own history.
        self.unseen_until = dict(package.last_answer)

    def path(self):
        return f"/{self.package.name}/-/{self.package.name}-{self.number}.tgz"

    def opens(self, own=False):
        """The earliest instant at which it may be seen, by those with a token of their own or the others."""
        return max(self.claims, self.unseen_until[own]) + AGE


class Package:
    def __init__(self, name, count, rng):
        self.name, self.next, self.last_answer, self.bytes, self.revision = name, 0, {False: 0.0, True: 0.0}, None, 0
        self.versions, self.lost, self.wants = {}, {}, {}
        self.size = 1_000_000 if name.startswith("heavy") else rng.choice([2_000, 20_000, 120_000])
        self.padding = "x" * (1500 if count > 100 else 300)
        for _ in range(count):
            self.publish(now() - 400 * 86400, None)
        self.settled = list(self.versions)
        for _ in range(CHANGING):
            self.publish(now() - 400 * 86400, None)

    def publish(self, came, claims):
        number = f"1.{self.next}.0"
        self.next += 1
        self.versions[number] = Version(self, number, came, came if claims is None else claims, self.size)
        self.bytes = None
        return number

    def take_down(self, number):
        version = self.versions.pop(number)
        version.gone = now()
        self.lost[number] = version
        self.bytes = None
        while len(self.lost) > 30:
            self.lost.pop(next(iter(self.lost)))

    def latest(self):
        return next(reversed(self.versions))

    def document(self, url):
        """Returns the document, plain and compressed. It is rendered again when something changed."""
        if self.bytes is None:
            self.revision += 1
            time_of = {number: instant(version.claims) for number, version in (self.lost | self.versions).items()}
            manifests = {
                number: {
                    "name": self.name, "version": number, "description": self.padding, "dependencies": self.wants, "dist": {"tarball": url + version.path(), "integrity": version.integrity},
                }
                for number, version in self.versions.items()
            }
            plain = json.dumps({"_id": self.name, "name": self.name, "dist-tags": {"latest": self.latest()}, "versions": manifests, "time": {"created": instant(now() - 1e6), "modified": instant(now())} | time_of}).encode()
            self.bytes = plain, gzip.compress(plain, 1), f'"{self.name}-{self.revision}"'
        return self.bytes


class Registry:
    """The registry: a loopback socket that answers from what is so at that moment."""

    def __init__(self, rng):
        self.rng, self.mood, self.ill_until, self.well_since = rng, None, 0.0, now()
        self.answers = 0
        self.packages = {}
        for number in range(PACKAGES):
            name = f"heavy-{number}" if number % 25 == 0 else f"package-{number}"
            self.packages[name] = Package(name, 500 if number % 30 == 7 and number // 30 < LARGE else rng.randint(3, 25), rng)
        for package in self.packages.values():
            # What is fetched ahead, and what is not there.
            package.wants = {name: "*" for name in rng.sample(sorted(self.packages), 2)} | {f"nowhere-{package.name}": "1"}

    async def start(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.url = "http://127.0.0.1:%d" % self.server.sockets[0].getsockname()[1]

    async def live(self, until):
        """Things happen."""
        outage_due = now() + 60
        while now() < until:
            await asyncio.sleep(0.5)
            if self.mood and now() > self.ill_until:
                self.mood, self.well_since = None, None
            if now() > outage_due and now() < until - 60:
                self.mood, self.ill_until, outage_due = self.rng.choice(OUTAGES), now() + self.rng.uniform(3, 15), now() + self.rng.uniform(60, 120)
            package = self.rng.choice(list(self.packages.values()))
            roll = self.rng.random()
            fresh = [number for number in package.versions if number not in package.settled]
            if len(fresh) > CHANGING:
                package.take_down(fresh.pop(0))
            if roll < 0.45:
                package.publish(now(), None)
            elif roll < 0.6:
                package.publish(now(), now() - self.rng.uniform(1, 400) * 86400)
            elif roll < 0.85 and fresh:
                package.take_down(self.rng.choice(fresh))
            elif roll < 0.9:
                package.padding = package.padding[::-1]
                package.bytes = None

    def is_well(self):
        """Returns whether no request can still see an outage: it has ended, and a later answer was received."""
        return self.mood is None and self.well_since is not None and now() > self.well_since + 2 * TTL + 31

    async def serve(self, reader, writer):
        try:
            while await self.answer(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    async def answer(self, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        await reader.readexactly(int(headers.get("content-length", 0)))
        path = target.split("?")[0]
        if self.mood and not await self.sulk(writer):
            return False
        if self.well_since is None:
            self.well_since = now()
        self.answers += 1
        status, more, body = self.reply(method, path, headers)
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
        told = "".join(f"{name}: {value}\r\n" for name, value in more.items())
        writer.write(f"HTTP/1.1 {status} Told\r\ndate: {date}\r\ncontent-length: {len(body)}\r\n{told}\r\n".encode() + (b"" if status == 304 else body))
        await writer.drain()
        return True

    async def sulk(self, writer):
        """An answer of an upstream that is ill; whether the true one goes out after all."""
        match self.mood:
            case "503" | "429":
                writer.write(f"HTTP/1.1 {self.mood} No\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
            case "silent":
                await asyncio.sleep(SILENCE * 3)
            case "cut":
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n{\"name\":")
            case "garbage":
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\nconnection: close\r\n\r\n<html>maintenance</h")
        await writer.drain()
        return False

    def reply(self, method, path, headers):
        if method == "POST":
            return 200, {"content-type": "application/json"}, b"{}"
        name, _, file = path[1:].partition("/-/")
        package = self.packages.get(name)
        if package is None:
            return 404, {"content-type": "application/json"}, b'{"error":"Not found"}'
        if file:
            version = package.versions.get(file.removesuffix(".tgz").removeprefix(name + "-"))
            return (200, {"content-type": "application/octet-stream"}, version.tarball) if version else (404, {}, b"")
        plain, packed, etag = package.document(self.url)
        package.last_answer["authorization" in headers] = now()
        if headers.get("if-none-match") == etag:
            return 304, {"etag": etag}, b""
        if "gzip" in headers.get("accept-encoding", ""):
            return 200, {"etag": etag, "content-type": "application/json", "content-encoding": "gzip"}, packed
        return 200, {"etag": etag, "content-type": "application/json"}, plain


class Client:
    """One client, with a connection it keeps while it can."""

    def __init__(self, soak, number):
        self.soak, self.rng, self.etags, self.stream = soak, random.Random(f"{soak.seed}-{number}"), {}, None

    async def fill(self, count):
        """Asks for what is not there, so often that what is remembered of it grows no more."""
        for _ in range(count):
            await self.unknown()

    async def run(self, until):
        steps = [(self.packument, 50), (self.tarball, 25), (self.part, 5), (self.aborted, 3), (self.manifest, 5), (self.tags, 3), (self.audit, 3), (self.unknown, 3), (self.strange, 3)]
        names, weights = zip(*steps)
        while now() < until:
            step = self.rng.choices(names, weights)[0]
            try:
                await asyncio.wait_for(step(), 30)
            except (ConnectionError, asyncio.IncompleteReadError):
                # A connection that idled may be closed as the next request is sent.
                self.soak.seen["connection lost"] += 1
                self.close()
            except asyncio.TimeoutError:
                self.soak.wrong(f"{step.__name__}: no answer within 30 s")
                self.close()
            await asyncio.sleep(self.rng.uniform(0, 2 * self.soak.pause))
        self.close()

    def close(self):
        if self.stream:
            self.stream[1].close()
        self.stream = None

    async def send(self, path, headers=None, method="GET", body=b""):
        if self.stream is None:
            self.stream = await asyncio.open_connection("127.0.0.1", self.soak.port, limit=1 << 20)
        head = {"host": f"127.0.0.1:{self.soak.port}", "user-agent": self.rng.choice(AGENTS)} | (headers or {})
        if body:
            head["content-length"] = str(len(body))
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        self.stream[1].write(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body)
        await self.stream[1].drain()

    async def ask(self, path, headers=None, method="GET", body=b""):
        await self.send(path, headers, method, body)
        reader = self.stream[0]
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split(" ")[1])
        told = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        if status == 304:
            content = b""
        elif "content-length" in told:
            content = await reader.readexactly(int(told["content-length"]))
        else:
            content = b""
            while length := int(await reader.readuntil(b"\r\n"), 16):
                content += (await reader.readexactly(length + 2))[:-2]
            await reader.readexactly(2)
        if told.get("connection") == "close":
            self.close()
        self.soak.seen[status] += 1
        return status, told, gzip.decompress(content) if told.get("content-encoding") == "gzip" else content

    def package(self):
        packages = list(self.soak.registry.packages.values())
        # A few are asked for often.
        return packages[min(int(self.rng.expovariate(1 / 40)), len(packages) - 1)]

    async def packument(self, headers=None):
        package = self.package()
        form = self.rng.choice(["application/json", ABBREVIATED])
        packed = self.rng.random() < 0.7
        key = (package.name, form, packed)
        headers = dict(headers or {}) | {"accept": form} | ({"accept-encoding": "gzip"} if packed else {})
        if key in self.etags and self.rng.random() < 0.6:
            headers["if-none-match"] = self.etags[key]
        own = "authorization" in headers
        since, answered = now(), package.last_answer[own]
        status, told, content = await self.ask(f"/{package.name}", headers)
        if status == 304:
            return self.soak.claim(told.get("etag") == headers.get("if-none-match"), f"{package.name}: a 304 for another ETag")
        if status != 200:
            return self.soak.bear(status, f"/{package.name}", content, known=not own and answered > since - STALE + 10)
        self.etags[key] = told["etag"]
        document = json.loads(content)
        self.check(package, set(document["versions"]), "warning" in told, since, own)
        for tag, target in document["dist-tags"].items():
            self.soak.claim(target in document["versions"], f"{package.name}: `{tag}` dangles at {target}")

    def check(self, package, shown, stale, since, own):
        """Holds what is shown against what may and what must be."""
        self.soak.seen["stale" if stale else "fresh"] += 1
        for number in shown:
            version = package.versions.get(number) or package.lost.get(number)
            if version is None:
                continue
            self.may_be_seen(version, "packument", own)
            if not stale and version.gone and self.soak.registry.is_well():
                self.soak.claim(version.gone > since - TTL - SLACK - 1, f"{package.name}@{number} is shown {since - version.gone:.1f} s after it was taken down")
        if stale or not self.soak.registry.is_well():
            return
        for number, version in package.versions.items():
            due = max(version.opens(own), version.came + AGE) + TTL + SLACK
            self.soak.claim(number in shown or due > since, f"{package.name}@{number} is hidden {since - due:.1f} s after it was due")

    def may_be_seen(self, version, where, own=False):
        """No version is seen before it is due, nor on a document from before it was due, nor when it went before it was due."""
        name = f"{version.package.name}@{version.number} in a {where}"
        early = version.opens(own) - SLACK
        self.soak.claim(now() > early, f"{name} is seen {early - now():.1f} s too early")
        self.soak.claim(version.package.last_answer[own] > early, f"{name} was opened by a document from before it was due")
        self.soak.claim(version.gone is None or version.gone > early, f"{name} is seen though it was taken down before it was due")

    def any_version(self, package):
        recent = list(package.versions)[-6:] + list(package.lost)[-3:]
        return package.versions.get(number := self.rng.choice(recent if self.rng.random() < 0.5 else list(package.versions))) or package.lost[number]

    async def tarball(self, part=None):
        package = self.package()
        version = self.any_version(package)
        since = now()
        headers = {"range": f"bytes={part[0]}-{part[1]}"} if part else {}
        status, _, content = await self.ask(version.path(), headers)
        if status in (200, 206):
            whole = version.tarball if status == 200 else version.tarball[part[0]:part[1] + 1]
            self.soak.claim(content == whole, f"{version.path()}: other bytes than were published")
            self.may_be_seen(version, "tarball")
            return
        visible = max(version.opens(), version.came + AGE) + TTL + SLACK < since and version.gone is None
        self.soak.bear(status, version.path(), content, refusal=not visible)

    async def part(self):
        start = self.rng.randint(0, 1500)
        await self.tarball((start, start + self.rng.randint(0, 400)))

    async def aborted(self):
        heavy = [package for package in self.soak.registry.packages.values() if package.size > 500_000]
        package = self.rng.choice(heavy)
        await self.send(self.any_version(package).path())
        if self.rng.random() < 0.7:
            await self.stream[0].read(1000)
        self.soak.seen["aborted"] += 1
        self.stream[1].transport.abort()
        self.stream = None

    async def manifest(self):
        package = self.package()
        version = self.any_version(package)
        since = now()
        status, _, content = await self.ask(f"/{package.name}/{version.number}")
        if status == 200:
            self.may_be_seen(version, "manifest")
        else:
            visible = max(version.opens(), version.came + AGE) + TTL + SLACK < since and version.gone is None
            self.soak.bear(status, f"/{package.name}/{version.number}", content, refusal=not visible)

    async def tags(self):
        package = self.package()
        status, _, content = await self.ask(f"/-/package/{package.name}/dist-tags")
        if status != 200:
            return self.soak.bear(status, f"dist-tags of {package.name}", content)
        for number in json.loads(content).values():
            version = package.versions.get(number) or package.lost.get(number)
            if version:
                self.may_be_seen(version, "dist-tag")

    async def audit(self):
        body = json.dumps({self.package().name: ["1.0.0"]}).encode()
        status, _, content = await self.ask("/-/npm/v1/security/advisories/bulk", {"content-type": "application/json"}, "POST", body)
        if status != 200:
            self.soak.bear(status, "audit", content)

    async def unknown(self):
        status, _, content = await self.ask(f"/no-such-{self.rng.randrange(10**9)}")
        if status != 404:
            self.soak.bear(status, "an unknown package", content)

    async def strange(self):
        """Strangers' hosts and tokens must fill no memory."""
        if self.rng.random() < 0.5:
            await self.packument({"host": f"stranger-{self.rng.randrange(10**9)}.example"})
        else:
            await self.packument({"authorization": f"Bearer {self.rng.randrange(10**9)}"})


class Soak:
    def __init__(self, arguments):
        self.seed, self.pause, self.seen, self.mistakes, self.samples, self.claims = arguments.seed, arguments.pause, collections.Counter(), [], [], 0
        self.registry = Registry(random.Random(arguments.seed))

    def claim(self, holds, otherwise):
        self.claims += 1
        if not holds:
            self.wrong(otherwise)

    def wrong(self, what):
        self.mistakes.append(what)
        if len(self.mistakes) <= 20:
            print(f"WRONG at {time.strftime('%H:%M:%S')} (upstream: {self.registry.mood or 'well'}): {what}", flush=True)

    def bear(self, status, what, content, refusal=False, known=False):
        """An answer without what was asked for: it needs a reason."""
        if status in (403, 404):
            return self.claim(refusal or not self.registry.is_well(), f"{what}: {status} {content[:300]!r}")
        self.claim(not self.registry.is_well(), f"{what}: {status} while upstream is well: {content[:300]!r}")
        self.claim(not known, f"{what}: {status} though the last answer is cached: {content[:300]!r}")

    def sample(self, process):
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        kib = {name: int(value) for name, value in re.findall(r"^(VmRSS|RssAnon|RssFile):\s+(\d+)", status, re.M)}
        self.samples.append((now(), kib["VmRSS"] / 1024, kib["RssAnon"] / 1024, len(os.listdir(f"/proc/{process.pid}/fd"))))

    async def watch(self, process, until):
        begun, told = now(), 0
        while now() < until and process.poll() is None:
            self.sample(process)
            if now() - begun >= 60 * told:
                told += 1
                _, rss, anon, files = self.samples[-1]
                print(f"{(now() - begun) / 60:5.1f} min  {rss:6.1f} MB resident  {anon:6.1f} MB its own  {files:4} files  {sum(count for key, count in self.seen.items() if isinstance(key, int)):8} answers  {self.registry.answers:7} upstream  {self.claims:9} claims  {len(self.mistakes)} wrong", flush=True)
            await asyncio.sleep(2)

    def judge_growth(self):
        """The last quarter against the second: by then every cache is full."""
        if self.samples[-1][0] - self.samples[0][0] < 240:
            print("too short to judge growth: at least 5 minutes")
            return
        quarter = len(self.samples) // 4
        early, late = self.samples[quarter:2 * quarter], self.samples[3 * quarter:]
        for column, what, room in ((2, "MB of memory", 8.0), (3, "open files", 16.0)):
            before, after = (statistics.median(sample[column] for sample in part) for part in (early, late))
            print(f"{what}: {before:.1f} in the second quarter, {after:.1f} in the last, at most {max(sample[column] for sample in self.samples):.1f}")
            self.claim(after <= before * 1.1 + room, f"{what} grew from {before:.1f} to {after:.1f}")

    async def run(self, binary, minutes, clients, home):
        await self.registry.start()
        flags = [part for name, value in SETTINGS.items() for part in (f"--{name}", value)]
        environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
        log = open(home / "log", "w")
        command = [binary, "serve", "--listen", "127.0.0.1:0", "--upstream", self.registry.url, "--data-dir", str(home / "data"), *flags]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            self.port = int(next(line for line in process.stdout if "listening" in line).strip().rstrip("/").rsplit(":", 1)[1])
            callers = [Client(self, number) for number in range(clients)]
            await asyncio.gather(*(client.fill(UNKNOWN // clients) for client in callers))
            until = now() + 60 * minutes
            await asyncio.gather(self.registry.live(until), self.watch(process, until), *(client.run(until) for client in callers))
            self.claim(process.poll() is None, "it exited")
        finally:
            process.send_signal(signal.SIGTERM)
            ended = await asyncio.to_thread(process.wait, 30)
        self.claim(ended == 0, f"it ended with {ended}")
        self.claim("panicked" not in (home / "log").read_text(), "it panicked")
        self.judge_growth()
        print(f"{dict(sorted(self.seen.items(), key=str))}\n{self.claims} claims, {len(self.mistakes)} wrong; disk {sum(file.stat().st_size for file in (home / 'data').rglob('*') if file.is_file()) >> 20} MB")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--pause", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=pathlib.Path)
    arguments = parser.parse_args()
    # Asked to end, it takes its server with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    soak = Soak(arguments)
    with tempfile.TemporaryDirectory(prefix="soak-") as home:
        home = arguments.keep or pathlib.Path(home)
        home.mkdir(exist_ok=True, parents=True)
        asyncio.run(soak.run(arguments.binary, arguments.minutes, arguments.clients, home))
    sys.exit(bool(soak.mistakes))


if __name__ == "__main__":
    main()
