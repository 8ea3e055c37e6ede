//! The transparent door behind a real redirect of the packet filter, in a network namespace of its own. Asked for by name, as root,
//! `cargo test --test netns`: needs `unshare`, `mount`, `ip`, `nft`, `setpriv`, `openssl` and `curl`, and fails where one is missing.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by panicking")]

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

mod enclosed;

/// What is run in the namespace. The registry's name and two others lead to addresses of a network that is documentation's, which the
/// namespace has itself; port 443 of it is redirected, but for what Coldframe's own user opens.
const SCRIPT: &str = r#"
set -eu
ip link set lo up
for last in 10 20 30; do ip address add 198.51.100.$last/32 dev lo; done
cat > "$PLACE/hosts" <<'NAMES'
127.0.0.1 localhost loop.inward.example
198.51.100.20 registry.example
10.1.2.3 ten.inward.example
169.254.169.254 meta.inward.example
::1 six.inward.example
::ffff:127.0.0.1 mapped.inward.example
fd00:ec2::254 metasix.inward.example
NAMES
mount --bind "$PLACE/hosts" /etc/hosts
nft -f - <<'RULES'
table ip coldframe {
    chain output {
        type nat hook output priority -100; policy accept;
        meta skuid 61234 accept
        ip daddr 198.51.100.0/24 tcp dport 443 redirect to :8443
    }
}
RULES
cd "$PLACE"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out other.pem -days 2 -subj /CN=other.example \
    -addext subjectAltName=DNS:other.example 2>/dev/null
openssl s_server -accept 198.51.100.10:443 -key key.pem -cert other.pem -www >/dev/null 2>&1 &
other=$!
serve() { # the user it runs as
    mkdir -p "data$1"; chown "$1" "data$1"
    setpriv --reuid "$1" --clear-groups "$COLDFRAME" serve --listen 127.0.0.1:0 --transparent 0.0.0.0:8443 --upstream http://127.0.0.1:1/ \
        --gateway 127.0.0.1:8080 --intercept registry.example --allow-host other.example --allow-host '*.inward.example' \
        --data-dir "data$1" >"out$1" 2>"log$1" &
    coldframe=$!
    for _ in $(seq 200); do grep -q registry= "out$1" && break; sleep 0.1; done
    "$COLDFRAME" ca export --upstream http://127.0.0.1:1/ --intercept registry.example --data-dir "data$1" > "ca$1.pem"
}
get() { # what to call it, the file of roots, the URL, its address
    echo "$1: $(curl -sS --max-time 20 --cacert "$2" --resolve "$4" "$3" 2>&1 | tr '\n' ' ' | cut -c1-300)"
}
serve 61234
get registry ca61234.pem https://registry.example/ registry.example:443:198.51.100.20
get other other.pem https://other.example/ other.example:443:198.51.100.10
get refused other.pem https://third.example/ third.example:443:198.51.100.30
get plain ca61234.pem http://registry.example:443/ registry.example:443:198.51.100.20
for name in loop ten meta six mapped metasix; do
    host=$name.inward.example
    echo "asked $name: $(curl -s -o /dev/null -w '%{http_connect}' --max-time 20 -x http://127.0.0.1:8080 "https://$host/" || true)"
    echo "plain $name: $(curl -s -o /dev/null -w '%{http_code}' --max-time 20 -x http://127.0.0.1:8080 "http://$host/" || true)"
    get "led $name" other.pem "https://$host/" "$host:443:198.51.100.30"
done
mkdir project; echo '{ "lockfileVersion": 3, "packages": {} }' > project/package-lock.json
echo 'registry=https://registry.example/' > project/.npmrc
doctor() {
    (cd project && "$COLDFRAME" doctor --upstream http://127.0.0.1:1/ --intercept registry.example --listen 127.0.0.1:9 \
        --data-dir ../data61234 || true) | grep 'npm asks' | sed "s/^/doctor: /"
}
doctor
kill $coldframe; wait $coldframe || true
# Nobody answers there now.
doctor
serve 0
get loop other.pem https://other.example/ other.example:443:198.51.100.10
kill $coldframe $other
wait $coldframe || true
grep -h 'gateway refused' log0 | head -3 | cut -c1-400
"#;

#[test]
fn what_is_redirected_is_answered_for_or_spliced_and_never_comes_back() {
    let folder = TempDir::new().unwrap();
    open_to_all(folder.path());
    let ran = Command::new("unshare")
        .args(["--net", "--mount", "sh", "-c", SCRIPT])
        .env("PLACE", folder.path())
        .env("COLDFRAME", env!("CARGO_BIN_EXE_coldframe"))
        .env("HOME", folder.path())
        .output()
        .expect("`unshare` is there");
    let (told, errors) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "as root, and with every tool it needs?\n{told}\n{errors}");
    let line = |name: &str| told.lines().find(|line| line.starts_with(&format!("{name}: "))).unwrap_or_default();
    assert!(line("registry").contains("{\"coldframe\":"), "{told}");
    // Its own certificate was shown, to a client that trusts nothing else.
    assert!(line("other").contains("s_server"), "{told}\n{errors}");
    assert!(line("refused").contains("access denied"), "{told}");
    assert!(line("plain").contains("curl: ("), "{told}");
    // A name that leads inwards is none, whichever way it is asked for.
    for name in ["loop", "ten", "meta", "six", "mapped", "metasix"] {
        assert_eq!(line(&format!("asked {name}")), format!("asked {name}: 403"), "{told}");
        assert_eq!(line(&format!("plain {name}")), format!("plain {name}: 403"), "{told}");
        assert!(line(&format!("led {name}")).contains("access denied"), "{told}");
    }
    let doctor: Vec<_> = told.lines().filter(|line| line.starts_with("doctor: ")).collect();
    assert!(doctor[0].contains("ok       npm asks registry.example; its connections are redirected to the gateway"), "{told}");
    assert!(doctor[1].contains("bypass   npm asks registry.example directly"), "{told}");
    // As a user that is not exempted, what it opens is sent back to it: once, and it knows itself.
    assert!(line("loop").contains("curl: ("), "{told}");
    let own = told.matches("redirected connection is from coldframe itself").count();
    assert_eq!(own, 1, "{told}");
}

/// The server runs as a user of its own in there.
fn open_to_all(folder: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
}
