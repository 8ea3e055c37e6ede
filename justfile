# The words of this house. `just` alone lists them; `.ci/run` runs `ci`.
set shell := ["bash", "-euo", "pipefail", "-c"]
export PATH := justfile_directory() / "target/tools/bin:" + env("PATH")

# list the words
default:
    @just --list --unsorted

# run the server from this tree
serve *args:
    cargo run --release -- serve {{ args }}

# unit tests, the tidiness of the tree, and sentences over real sockets
test *args:
    cargo test --locked {{ args }}

# only the rules of the house
tidy:
    cargo test --locked --test tidy

# real npm 10 to 12, pnpm 9, 10 and 12, yarn 1 and 4, bun, deno at every door before a registry of our own; they are fetched once, by name, to target/clients
clients *args:
    cargo test --locked --test clients -- {{ args }}

# write the clients' words anew after a deliberate change; read the diff
clients-bless:
    UPDATE_EXPECT=1 cargo test --locked --test clients

# An hour on two cores; `just matrix --only npm12 --doors run` makes a part of it anew.
# every client at every door with a real application from the registry this machine's npm uses; the table is kept in target/matrix
matrix *args:
    cargo build --release --locked
    python3 tests/matrix/matrix.py target/release/coldframe {{ args }}

# our reading of npm's ranges against the `semver` of the npm that is installed here
oracle:
    cargo test --locked --test oracle

# fetch a real application's packuments and tarballs from the registry this machine's npm uses, into corpus/
capture *names:
    node benches/capture.mjs {{ names }}

# measure beside nginx and Verdaccio on what was captured: needs nginx, wrk, node
bench *args:
    cargo build --release --locked
    python3 benches/side_by_side.py target/release/coldframe {{ args }}

# time the packument engine, the verdicts and the endpoint parser on what was captured
bench-engine:
    cargo bench --locked --bench packument --bench questions

# kill it at random under load, so often; nothing half-written is served and no verdict changes
kills count="200":
    KILLS={{ trim_start_match(count, "count=") }} cargo test --locked --test it kills::

# mixed load for so many minutes before a registry that never stands still; memory and open files must not grow
soak minutes="30" *args:
    cargo build --release --locked
    python3 benches/soak.py target/release/coldframe --minutes {{ trim_start_match(minutes, "minutes=") }} {{ args }}

# build the image without an engine and without pulling, and run it: root, Debian's buildah and debootstrap; `just image PROGRAM` spares the build
image *program:
    docker/image {{ program }}

# time judging: 3,000 versions by `strict`, and with 100 more rules
bench-policy:
    cargo bench --locked --bench policy

# look for inputs that break the parsers, for some seconds each; needs nightly and cargo-fuzz
fuzz seconds="60":
    cd fuzz && for target in packument endpoint range npmrc config lockfile audit tags; do \
        mkdir -p "corpus/$target"; \
        cargo +nightly fuzz run "$target" "corpus/$target" "seeds/$target" -- \
            -dict="dictionaries/$target.dict" -max_total_time={{ seconds }} -timeout=10 -rss_limit_mb=2048; \
    done

# put the source in order
fmt:
    cargo fmt

# say whether it is in order
fmt-check:
    cargo fmt --check

# clippy, warnings are errors
lint:
    cargo clippy --locked --all-targets -- -D warnings
    cargo clippy --locked --test clients --test netns --test oracle -- -D warnings

# the documentation builds without a broken link
docs:
    RUSTDOCFLAGS=-Dwarnings cargo doc --locked --no-deps

# licences, duplicates, sources, banned crates
deny: tools
    cargo-deny --locked check --hide-inclusion-graph licenses bans sources

# known vulnerabilities: fetches the RustSec database, so not part of `ci`
advisories: tools
    cargo-deny --locked check advisories

# bring the tools `ci` needs into target/tools (cargo-deny; just itself when it is missing)
tools:
    .ci/tools

# all of the above that a change must pass, the cheapest first
ci: fmt-check deny test lint docs
    if command -v node >/dev/null && command -v npm >/dev/null; then just clients; else echo "node and npm are not here: tests/clients did not run"; fi
