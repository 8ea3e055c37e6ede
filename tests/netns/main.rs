//! The transparent listener behind a real packet filter redirect, in its own network namespace. Runs only on request and as root:
//! `cargo test --test netns`. Needs `unshare`, `mount`, `ip`, `nft`, `setpriv`, `openssl` and `curl`; a missing one is a failure.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

mod isolated;

/// The script inside the namespace. The names resolve to documentation addresses on its loopback interface, whose port 443 is
/// redirected, except for connections of Coldframe's own user.
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
serve() { # user
    mkdir -p "data$1"; chown "$1" "data$1"
    setpriv --reuid "$1" --clear-groups "$COLDFRAME" serve --listen 127.0.0.1:0 --transparent 0.0.0.0:8443 --upstream http://127.0.0.1:1/ \
        --gateway 127.0.0.1:8080 --intercept registry.example --allow-host other.example --allow-host '*.inward.example' \
        --data-dir "data$1" >"out$1" 2>"log$1" &
    coldframe=$!
    for _ in $(seq 200); do grep -q registry= "out$1" && break; sleep 0.1; done
    "$COLDFRAME" ca export --upstream http://127.0.0.1:1/ --intercept registry.example --data-dir "data$1" > "ca$1.pem"
}
get() { # label, file of roots, URL, address
    echo "$1: $(curl -sS --max-time 20 --cacert "$2" --resolve "$4" "$3" 2>&1 | tr '\n' ' ' | cut -c1-300)"
}
serve 61234
get registry ca61234.pem https://registry.example/ registry.example:443:198.51.100.20
get other other.pem https://other.example/ other.example:443:198.51.100.10
get refused other.pem https://third.example/ third.example:443:198.51.100.30
get plain ca61234.pem http://registry.example:443/ registry.example:443:198.51.100.20
for name in loop ten meta six mapped metasix; do
    host=$name.inward.example
    echo "connect $name: $(curl -s -o /dev/null -w '%{http_connect}' --max-time 20 -x http://127.0.0.1:8080 "https://$host/" || true)"
    echo "plain $name: $(curl -s -o /dev/null -w '%{http_code}' --max-time 20 -x http://127.0.0.1:8080 "http://$host/" || true)"
    get "redirected $name" other.pem "https://$host/" "$host:443:198.51.100.30"
done
mkdir project; echo '{ "lockfileVersion": 3, "packages": {} }' > project/package-lock.json
echo 'registry=https://registry.example/' > project/.npmrc
doctor() {
    (cd project && "$COLDFRAME" doctor --upstream http://127.0.0.1:1/ --intercept registry.example --listen 127.0.0.1:9 \
        --data-dir ../data61234 || true) | grep 'npm asks' | sed "s/^/doctor: /"
}
doctor
kill $coldframe; wait $coldframe || true
# The gateway is stopped.
doctor
serve 0
get loop other.pem https://other.example/ other.example:443:198.51.100.10
kill $coldframe $other
wait $coldframe || true
grep -h 'gateway refused' log0 | head -3 | cut -c1-400
"#;

#[test]
fn redirected_connections_are_served_or_tunnelled_and_never_loop() {
    let folder = TempDir::new().unwrap();
    open_to_all(folder.path());
    let result = Command::new("unshare")
        .args(["--net", "--mount", "sh", "-c", SCRIPT])
        .env("PLACE", folder.path())
        .env("COLDFRAME", env!("CARGO_BIN_EXE_coldframe"))
        .env("HOME", folder.path())
        .output()
        .expect("`unshare` is installed");
    let (output, errors) = (String::from_utf8_lossy(&result.stdout), String::from_utf8_lossy(&result.stderr));
    assert!(result.status.success(), "the script failed; it needs root and all tools\n{output}\n{errors}");
    let line = |name: &str| output.lines().find(|line| line.starts_with(&format!("{name}: "))).unwrap_or_default();
    assert!(line("registry").contains("{\"coldframe\":"), "{output}");
    // The client trusts only the server's own certificate, so the connection was tunnelled.
    assert!(line("other").contains("s_server"), "{output}\n{errors}");
    assert!(line("refused").contains("access denied"), "{output}");
    assert!(line("plain").contains("curl: ("), "{output}");
    // A name that resolves to an internal address is refused by every path.
    for name in ["loop", "ten", "meta", "six", "mapped", "metasix"] {
        assert_eq!(line(&format!("connect {name}")), format!("connect {name}: 403"), "{output}");
        assert_eq!(line(&format!("plain {name}")), format!("plain {name}: 403"), "{output}");
        assert!(line(&format!("redirected {name}")).contains("access denied"), "{output}");
    }
    let doctor: Vec<_> = output.lines().filter(|line| line.starts_with("doctor: ")).collect();
    assert!(doctor[0].contains("ok       npm asks registry.example; its connections are redirected to the gateway"), "{output}");
    assert!(doctor[1].contains("bypass   npm asks registry.example directly"), "{output}");
    // As a user without the exemption, Coldframe's own connection is redirected back to it. It detects this after one round.
    assert!(line("loop").contains("curl: ("), "{output}");
    let own = output.matches("redirected connection is from coldframe itself").count();
    assert_eq!(own, 1, "{output}");
}

/// Lets all users enter a directory: the server runs as its own user.
fn open_to_all(folder: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
}
