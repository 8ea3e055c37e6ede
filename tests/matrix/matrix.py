#!/usr/bin/env python3
"""Installs a real application with every client through every mode of Coldframe, from the registry of this machine's npm configuration.
Checks that the install succeeds without held versions, and that a lockfile made directly, which pins a held version, is refused with
the reason. Lockfiles without held versions must install. The minimum release age is chosen so that it hides `latest` of a direct
dependency.

This script is not part of the tests, because it uses a real registry, whose releases change daily. The clients are those of
tests/clients. Coldframe listens on loopback. All cells share a data directory, so each document is fetched once. The transparent mode
needs root: it runs the client in a mount namespace whose hosts file points to Coldframe. Without root, its cells are skipped.

Usage: matrix.py BINARY [--only WORD,WORD] [--modes WORD,WORD] [--application package.json] [--markdown]
"""

import argparse, concurrent.futures, datetime, json, os, pathlib, re, shutil, signal, subprocess, sys, time, urllib.error, urllib.parse, urllib.request

HERE = pathlib.Path(__file__).resolve().parent
TARGET = HERE.parent.parent / "target"
WORK = TARGET / "matrix"
CLIENTS = TARGET / "clients"
LISTEN, GATEWAY, TRANSPARENT = "127.0.0.1:4930", "127.0.0.1:4931", "127.0.0.83:443"
MODES = ["registry", "gateway", "transparent", "run"]
LOCKFILES = ["package-lock.json", "pnpm-lock.yaml", "yarn.lock", "bun.lock", "deno.lock"]
TIMEOUT = 300  # seconds
# yarn 1 requests the public host in its lockfile, regardless of the configured registry.
KNOWN = {("yarn 1", "registry"): {"public lockfile bypasses Coldframe"}}
CLOSED_HOST = "127.0.0.1:9"
CLOSED = f"http://{CLOSED_HOST}/"

SCRIPTS = ["--ignore-scripts"]
NPM = (["install", "--no-audit", "--no-fund", *SCRIPTS], ["ci", "--no-audit", "--no-fund", *SCRIPTS])
PNPM = (["install", *SCRIPTS], ["install", "--frozen-lockfile", *SCRIPTS])
TOOLS = {
    "npm 10": ("npm10/bin/npm-cli.js", *NPM),
    "npm 11": ("npm11/bin/npm-cli.js", *NPM),
    "npm 12": ("npm12/bin/npm-cli.js", *NPM),
    "pnpm 9": ("pnpm9/bin/pnpm.cjs", *PNPM),
    "pnpm 10": ("pnpm10/bin/pnpm.cjs", *PNPM),
    "pnpm 12": ("@pnpm/exe.*/pnpm", *PNPM),
    "yarn 1": ("yarn1/bin/yarn.js", ["install", "--non-interactive", *SCRIPTS], ["install", "--frozen-lockfile", "--non-interactive", *SCRIPTS]),
    "yarn 4": ("yarn4/bin/yarn.js", ["install"], ["install", "--immutable"]),
    "bun": ("@oven/bun-*/bin/bun", ["install", *SCRIPTS], ["install", "--frozen-lockfile", *SCRIPTS]),
    "deno": ("@deno/*/deno", ["install"], ["install", "--frozen"]),
}


def fetched():
    """Fetches the clients of tests/clients in the same way."""
    wanted = (HERE.parent / "clients" / "package.json").read_text()
    stamp = CLIENTS / "fetched.json"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(CLIENTS, ignore_errors=True)
    CLIENTS.mkdir(parents=True)
    (CLIENTS / "package.json").write_text(wanted)
    words = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"]
    subprocess.run(words, cwd=CLIENTS, check=True, stdin=subprocess.DEVNULL)
    stamp.write_text(wanted)


def program(tool):
    modules = CLIENTS / "node_modules"
    found = sorted(modules.glob(TOOLS[tool][0]))
    if not found:
        sys.exit(f"no program of {tool} for this platform in {modules}")
    if found[0].suffix not in (".js", ".cjs"):
        return [str(found[0])]
    node = [path for path in modules.glob("node-*/bin/node")]
    return [str(node[0]) if node else "node", str(found[0])]


def ended(words, folder, environment):
    """Runs a command with a time limit. Returns its exit code, output and duration."""
    start = time.monotonic()
    child = subprocess.Popen(words, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, start_new_session=True)
    try:
        text, _ = child.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        text, _ = child.communicate()
        text += f"\nkilled after {TIMEOUT} s\n".encode()
    return child.returncode, text.decode(errors="replace"), time.monotonic() - start


class Project:
    """A project for one client, with copies of the lockfiles in the folder `lock`."""

    def __init__(self, tool, name, manifest, lock=None):
        self.tool, self.folder = tool, WORK / "cells" / name.replace(" ", "")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.home, self.app = self.folder / "home", self.folder / "app"
        self.home.mkdir(parents=True)
        self.app.mkdir()
        (self.app / "package.json").write_text(json.dumps(manifest))
        if tool == "yarn 4":
            (self.app / "yarn.lock").write_text("")
            (self.app / ".yarnrc.yml").write_text("nodeLinker: node-modules\nenableScripts: false\n")
        for file in LOCKFILES:
            if lock and (lock / file).exists():
                shutil.copy(lock / file, self.app / file)

    def run(self, prefix, frozen, variables, inherited=False):
        environment = dict(os.environ) if inherited else {"PATH": os.environ["PATH"]}
        environment |= {
            "HOME": str(self.home), "LANG": "C", "NO_COLOR": "1", "YARN_CACHE_FOLDER": str(self.home / "yarn"), "DENO_DIR": str(self.home / "deno"),
            "DENO_NO_UPDATE_CHECK": "1", "YARN_ENABLE_TELEMETRY": "0", "YARN_ENABLE_PROGRESS_BARS": "0", "npm_config_update_notifier": "false",
            "npm_config_progress": "false", **variables,
        }
        words = [*prefix, *program(self.tool), *TOOLS[self.tool][2 if frozen else 1]]
        code, text, seconds = ended(words, self.app, environment)
        (self.folder / "output.txt").write_text(text)
        return code, text, round(seconds, 1)

    def installed(self):
        """Returns names and versions in `node_modules`, without following links."""
        found = set()
        for folder, folders, files in os.walk(self.app / "node_modules"):
            path = pathlib.PurePath(folder)
            is_package = path.parent.name == "node_modules" or path.parent.parent.name == "node_modules" and path.parent.name.startswith("@")
            if is_package and "package.json" in files:
                try:
                    manifest = json.loads((pathlib.Path(folder) / "package.json").read_text())
                except ValueError:
                    continue
                found.add((manifest.get("name"), manifest.get("version")))
            folders[:] = [inner for inner in folders if not os.path.islink(os.path.join(folder, inner))]
        return {(name, version) for name, version in found if name and version}

    def lockfiles(self):
        return "".join((self.app / file).read_text() for file in LOCKFILES if (self.app / file).exists())

    def keep_lockfiles(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        for file in LOCKFILES:
            if (self.app / file).exists():
                shutil.copy(self.app / file, folder / file)

    def tidy(self):
        shutil.rmtree(self.app / "node_modules", ignore_errors=True)
        shutil.rmtree(self.home, ignore_errors=True)


class Coldframe:
    """A server with all listeners. It is stopped for the mode `run`, which starts its own."""

    def __init__(self, binary, age, transparent):
        self.binary, self.age = binary, age
        self.settings = ["--data-dir", str(WORK / "data"), "--min-release-age", age, "--packument-ttl", "12h"]
        self.transparent, self.server = transparent, None

    def serve(self):
        if self.server:
            return
        listeners = ["--listen", LISTEN, "--gateway", GATEWAY, *(["--transparent", TRANSPARENT] if self.transparent else [])]
        log = open(WORK / f"serve-{self.age}.log", "a")
        self.server = subprocess.Popen([self.binary, "serve", *listeners, *self.settings], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True)
        for line in self.server.stdout:
            if line.startswith("registry="):
                break
        else:
            sys.exit(f"coldframe did not start: see {log.name}")
        trusted = subprocess.run([self.binary, "ca", "export", "--data-dir", str(WORK / "data")], check=True, capture_output=True).stdout
        (WORK / "trusted.pem").write_bytes(trusted)

    def stop(self):
        if self.server:
            self.server.terminate()
            self.server.wait()
            self.server = None

    def way(self, mode, hosts):
        """Returns the prefix of the client's command, its variables, and whether it inherits the environment."""
        if mode == "run":
            self.stop()
            return [self.binary, "run", *self.settings, "--"], {}, True
        self.serve()
        trusted = {"NODE_EXTRA_CA_CERTS": str(WORK / "trusted.pem")}
        proxies = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "YARN_HTTPS_PROXY", "YARN_HTTP_PROXY"]
        if mode == "gateway":
            return [], trusted | dict.fromkeys(proxies, f"http://{GATEWAY}/"), False
        if mode == "transparent":
            return ["unshare", "--mount", "sh", "-c", f'mount --bind "{hosts}" /etc/hosts && exec "$@"', "sh"], trusted, False
        names = ["npm_config_registry", "NPM_CONFIG_REGISTRY", "pnpm_config_registry", "YARN_REGISTRY", "YARN_NPM_REGISTRY_SERVER", "BUN_CONFIG_REGISTRY"]
        led = dict.fromkeys(names, f"http://{LISTEN}/") | {"YARN_UNSAFE_HTTP_WHITELIST": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
        # As on a network with closed egress: direct requests to a public host fail.
        return [], led | dict.fromkeys(proxies[:4], CLOSED), False


class Times:
    """Publication times, from the registry itself."""

    def __init__(self, registry):
        self.registry, self.known = registry, {}

    def of(self, name):
        if name not in self.known:
            kept = WORK / "times" / (name.replace("/", "%2f") + ".json")
            if not kept.exists():
                try:
                    with urllib.request.urlopen(f"{self.registry}/{name.replace('/', '%2f')}", timeout=60) as answer:
                        document = json.load(answer)
                except urllib.error.HTTPError as error:
                    if error.code != 404:
                        raise
                    # An unpublished package that another one bundles for its tests.
                    document = {"dist-tags": {"latest": None}}
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_text(json.dumps({"time": document.get("time", {}), "latest": document["dist-tags"]["latest"]}))
            self.known[name] = json.loads(kept.read_text())
        return self.known[name]

    def age(self, name, version):
        published = datetime.datetime.fromisoformat(self.of(name)["time"][version].replace("Z", "+00:00"))
        return datetime.datetime.now(datetime.timezone.utc) - published

    def young(self, packages, age):
        """Returns the packages below the minimum age."""
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(self.of, {name for name, _ in packages}))
        return sorted(f"{name}@{version}" for name, version in packages if version in self.of(name)["time"] and self.age(name, version) < age)


def direct(tool, manifest):
    """Makes a lockfile directly against the registry, without Coldframe."""
    kept = WORK / "direct" / tool.replace(" ", "")
    stored = kept / "told.json"
    if stored.exists():
        return kept, json.loads(stored.read_text())
    project = Project(tool, f"{tool}-direct", manifest)
    code, text, seconds = project.run([], False, {}, inherited=True)
    if code != 0:
        sys.exit(f"{tool} cannot install without Coldframe:\n{text[-3000:]}")
    project.keep_lockfiles(kept)
    about = {"packages": len(project.installed()), "seconds": seconds}
    stored.write_text(json.dumps(about))
    project.tidy()
    return kept, about


def cell(tool, mode, coldframe, open_coldframe, context):
    """Runs one client in one mode."""
    manifest, times, age, hosts, lock = context
    name = f"{tool}-{mode}"
    result = {}

    def attempt(label, of, frozen, lockfiles):
        project = Project(tool, f"{name}-{label}", manifest, lockfiles)
        prefix, variables, inherited = of.way(mode, hosts)
        code, text, seconds = project.run(prefix, frozen, variables, inherited)
        installed = project.installed()
        result[label] = {"code": code, "seconds": seconds, "packages": len(installed)}
        return project, code, text, installed

    project, code, text, installed = attempt("fresh", coldframe, False, None)
    young = times.young(installed, age) if code == 0 else []
    result["fresh"] |= {"young": young, "said": text[-1500:] if code else ""}
    made = WORK / "made" / name.replace(" ", "")
    project.keep_lockfiles(made)
    result["fresh"]["names_us"] = "127.0.0.1" in project.lockfiles()
    project.tidy()
    if code == 0:
        project, code, text, installed = attempt("again", coldframe, True, made)
        result["again"]["said"] = text[-1500:] if code else ""
        project.tidy()
    project, code, text, installed = attempt("pinned", coldframe, True, lock)
    reported = "reason" if "held by coldframe" in text else "status" if "403" in text else "past" if CLOSED_HOST in text else "nothing"
    flat = re.sub(r"\s+", " ", text)
    result["pinned"] |= {"told": reported, "young": times.young(installed, age), "said": flat[-1500:]}
    project.tidy()
    project, code, text, installed = attempt("public", open_coldframe, True, lock)
    result["public"]["said"] = text[-1500:] if code else ""
    project.tidy()
    return result


def failed_checks(mode, result):
    """Returns the failed checks of a cell."""
    fresh, pinned, public = result["fresh"], result["pinned"], result["public"]
    checks = {
        "install fails": fresh["code"] != 0 or not fresh["packages"],
        f"{len(fresh['young'])} young": fresh["young"],
        "lockfile has Coldframe's address": fresh["names_us"] and mode != "registry",
        "own lockfile fails": result.get("again", {"code": 1})["code"] != 0,
        "not refused": pinned["code"] == 0 or pinned["young"],
        "fails without a reason": pinned["told"] == "nothing",
        "public lockfile fails": public["code"] != 0 and pinned["told"] != "past",
        "public lockfile bypasses Coldframe": pinned["told"] == "past",
    }
    return [name for name, failed in checks.items() if failed]


def words(mode, result):
    """Renders a cell of the table."""
    if "skipped" in result:
        return result["skipped"]
    refusal = {"reason": ["refused, why"], "status": ["refused, 403"]}.get(result["pinned"]["told"], [])
    return ", ".join([str(result["fresh"]["packages"]), *failed_checks(mode, result), *refusal])


def table(run):
    cells = run["cells"]
    tools = [tool for tool in TOOLS if any(key.startswith(f"{tool} × ") for key in cells)]
    lines = ["| | " + " | ".join(MODES) + " |", "|---|" + "---|" * len(MODES)]
    for tool in tools:
        row = [words(mode, cells[key]) if (key := f"{tool} × {mode}") in cells else "" for mode in MODES]
        lines.append(f"| {tool} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def yarn_registry_hosts(binary, default):
    """Returns yarn's host name for npm's registry, which the gateway intercepts by default besides npm's own."""
    words = [binary, "ca", "init", "--data-dir", str(WORK / "names"), "--upstream", "http://127.0.0.1:1/"]
    output = subprocess.run(words, check=True, capture_output=True, text=True, env={"PATH": os.environ["PATH"], "HOME": str(WORK)}).stdout
    hosts = output.strip().rsplit(": ", 1)[1].split(", ")
    return [host for host in hosts if host != default]


def main():
    # Exit through `finally`, which stops the servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--only", default="")
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--application", default=str(HERE / "package.json"))
    parser.add_argument("--markdown", action="store_true", help="print the table of the last run")
    asked = parser.parse_args()
    results = WORK / "result.json"
    if asked.markdown:
        return print(table(json.loads(results.read_text())))
    binary = str(pathlib.Path(asked.binary).resolve())
    WORK.mkdir(parents=True, exist_ok=True)
    fetched()
    registry = subprocess.run(["npm", "config", "get", "registry"], check=True, capture_output=True, text=True).stdout.strip().rstrip("/")
    manifest, times = json.loads(pathlib.Path(asked.application).read_text()), Times(registry)
    # The youngest `latest` that is old enough for the clients' own minimum age.
    ages = {name: times.age(name, times.of(name)["latest"]) for name in manifest["dependencies"]}
    name, youngest = min(((name, age) for name, age in ages.items() if age > datetime.timedelta(hours=36)), key=lambda pair: pair[1])
    hidden, age = f"{name}@{times.of(name)['latest']}", youngest + datetime.timedelta(days=1)
    hours = int(age.total_seconds() // 3600) + 1
    age = datetime.timedelta(hours=hours)
    default = urllib.parse.urlsplit(registry).hostname
    transparent = os.geteuid() == 0 and subprocess.run(["unshare", "--mount", "true"]).returncode == 0
    hosts = WORK / "hosts"
    here = TRANSPARENT.split(":")[0]
    hosts.write_text(f"127.0.0.1 localhost\n{here} {default}\n" + "".join(f"{here} {name}\n" for name in yarn_registry_hosts(binary, default)))
    run = json.loads(results.read_text()) if results.exists() else {}
    if run.get("hidden") != hidden:
        run = {"started": datetime.datetime.now().isoformat(timespec="minutes"), "hidden": hidden, "age_hours": hours, "direct": {}, "cells": {}}
    hours = run["age_hours"]
    age = datetime.timedelta(hours=hours)
    print(f"minimum release age {hours} h, which hides {hidden}", flush=True)
    coldframe, open_coldframe = Coldframe(binary, f"{hours}h", transparent), Coldframe(binary, "0s", transparent)
    spelled = {tool.replace(" ", ""): tool for tool in TOOLS}
    tools = [spelled[word.replace(" ", "")] for word in asked.only.split(",") if word] or list(TOOLS)
    has_failures = False
    try:
        for tool in tools:
            lock, about = direct(tool, manifest)
            run["direct"][tool] = about
            pins = hidden.rsplit("@", 1)[1] in "".join((lock / file).read_text() for file in LOCKFILES if (lock / file).exists())
            if not pins:
                sys.exit(f"the lockfile that {tool} made directly does not pin {hidden}")
            print(f"{tool:8} direct       {about['packages']} packages, {about['seconds']} s", flush=True)
            for mode in asked.modes.split(","):
                if mode == "transparent" and not transparent:
                    result = {"skipped": "skipped: needs root and mount namespaces"}
                else:
                    both = [Exclusive(coldframe, open_coldframe), Exclusive(open_coldframe, coldframe)]
                    result = cell(tool, mode, *both, (manifest, times, age, hosts, lock))
                    has_failures |= bool(set(failed_checks(mode, result)) - KNOWN.get((tool, mode), set()))
                run["cells"][f"{tool} × {mode}"] = result
                results.write_text(json.dumps(run, indent=1))
                seconds = " ".join(f"{label} {part['seconds']}" for label, part in result.items() if isinstance(part, dict))
                print(f"{tool:8} {mode:12} {words(mode, result)}   [{seconds}]", flush=True)
    finally:
        coldframe.stop()
        open_coldframe.stop()
    print(f"\n{table(run)}")
    sys.exit(has_failures)


class Exclusive:
    """Serves with `current` and stops `other` first: both use the same data directory."""

    def __init__(self, current, other):
        self.current, self.other = current, other

    def way(self, mode, hosts):
        self.other.stop()
        return self.current.way(mode, hosts)


if __name__ == "__main__":
    main()
