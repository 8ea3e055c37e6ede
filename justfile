# Project commands. `just` lists them; CI runs `.ci/run`, which runs `just ci`.
set shell := ["bash", "-euo", "pipefail", "-c"]
export PATH := justfile_directory() / "target/tools/bin:" + env("PATH")

# list all recipes
default:
    @just --list --unsorted

# run the server from this checkout
serve *args:
    cargo run --release -- serve {{ args }}

# run unit tests, style checks, and integration tests over real sockets
test *args:
    cargo test --locked {{ args }}

# run only the style checks
tidy:
    cargo test --locked --test tidy

# test real clients (npm 10-12, pnpm 9, 10, 12, yarn 1 and 4, bun, deno) against a local registry; downloads them to target/clients
clients *args:
    cargo test --locked --test clients -- {{ args }}

# update the expected client output after a deliberate change; review the diff
clients-bless:
    UPDATE_EXPECT=1 cargo test --locked --test clients

# Takes an hour on two cores. `just matrix --only npm12 --modes run` repeats a part of it.
# install a real application with every client in every mode, from this machine's npm registry; writes target/matrix
matrix *args:
    cargo build --release --locked
    python3 tests/matrix/matrix.py target/release/coldframe {{ args }}

# compare our range parser with the `semver` of the installed npm
oracle:
    cargo test --locked --test oracle

# download packuments and tarballs of a real application from this machine's npm registry into corpus/
capture *names:
    node benches/capture.mjs {{ names }}

# compare performance with nginx and Verdaccio on captured data; needs nginx, wrk, node
bench *args:
    cargo build --release --locked
    python3 benches/side_by_side.py target/release/coldframe {{ args }}

# benchmark packument processing, verdicts and the endpoint parser on captured data
bench-engine:
    cargo bench --locked --bench packument --bench endpoints

# count what signals would have held of three years of updates; `folders` hold packuments, as `just capture` writes them
survey *folders="corpus":
    cargo run --release --locked -- policy survey --updates --whole-seconds {{ folders }}

# kill the server at random under load, `count` times; checks that responses and verdicts stay correct
kills count="200":
    KILLS={{ trim_start_match(count, "count=") }} cargo test --locked --test it crash_recovery::

# run mixed load against a changing registry for `minutes`; checks that memory and open files do not grow
soak minutes="30" *args:
    cargo build --release --locked
    python3 benches/soak.py target/release/coldframe --minutes {{ trim_start_match(minutes, "minutes=") }} {{ args }}

# build and test the image without Docker; needs root, buildah and debootstrap; `just image PROGRAM` uses an existing binary
image *program:
    docker/image {{ program }}

# benchmark the inspection of tarballs: a generated one, and the given files
bench-tarball *files:
    cargo bench --locked --bench tarball -- {{ files }}

# benchmark policy evaluation: 3,000 versions with `strict`, and with 100 more rules
bench-policy:
    cargo bench --locked --bench policy

# fuzz the parsers for `seconds` each; needs cargo-fuzz, and no nightly Rust
fuzz seconds="60":
    cd fuzz && for target in packument endpoint range npmrc config lockfile audit tags archive manifest signatures attestations contents authorization; do \
        mkdir -p "corpus/$target"; \
        RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none "$target" "corpus/$target" "seeds/$target" -- \
            -dict="dictionaries/$target.dict" -max_total_time={{ seconds }} -timeout=10 -rss_limit_mb=2048; \
    done

# format the source
fmt:
    cargo fmt

# check the formatting
fmt-check:
    cargo fmt --check

# run clippy; warnings are errors
lint:
    cargo clippy --locked --all-targets -- -D warnings
    cargo clippy --locked --test clients --test netns --test oracle -- -D warnings

# build the API documentation; broken links are errors
docs:
    RUSTDOCFLAGS=-Dwarnings cargo doc --locked --no-deps

# check dependencies: licences, duplicates, sources, banned crates
deny: tools
    cargo-deny --locked check --hide-inclusion-graph licenses bans sources

# check for known vulnerabilities; downloads the RustSec database, so not part of `ci`
advisories: tools
    cargo-deny --locked check advisories

# install the tools that `ci` needs into target/tools (cargo-deny, just)
tools:
    .ci/tools

# run all checks that a change must pass, cheapest first
ci: fmt-check deny test lint docs
    if command -v node >/dev/null && command -v npm >/dev/null; then just clients; else echo "node and npm are missing: skipped tests/clients"; fi
