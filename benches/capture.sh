#!/usr/bin/env bash
# Fetches a few packuments into corpus/ (ignored by git), from the registry this machine's npm uses, to time and fuzz the
# engine on what the world really publishes. Names may be given; the default is the documents that hurt.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p corpus
registry=$(npm config get registry 2>/dev/null)
for name in "${@:-drizzle-orm next typescript @types/node react axios npm}"; do
    for one in $name; do
        curl --fail --silent --show-error --location --output "corpus/${one//\//%2f}.json" "${registry%/}/${one//\//%2f}"
        printf '%10d %s\n' "$(stat -c %s "corpus/${one//\//%2f}.json")" "$one"
    done
done
