//! Packet tests of `docker/compose.yaml` and `docker/recipes/kubernetes-sidecar.yaml`: the application reaches only Coldframe.

use std::process::Command;

use tempfile::TempDir;

use super::open_to_all;

/// Three namespaces: `app`, `coldframe`, and `world` with a registry. As in the compose file, one network connects `app` and
/// `coldframe`, another one `coldframe` and `world`.
const COMPOSE_SCRIPT: &str = r#"
set -eu
mount -t tmpfs tmpfs /run
mkdir /run/netns
for machine in app coldframe world; do ip netns add $machine; ip -n $machine link set lo up; done
ip link add inside0 netns app type veth peer name inside1 netns coldframe
ip link add outside0 netns coldframe type veth peer name outside1 netns world
ip -n app address add 192.0.2.2/24 dev inside0; ip -n app link set inside0 up
ip -n coldframe address add 192.0.2.3/24 dev inside1; ip -n coldframe link set inside1 up
ip -n coldframe address add 198.51.100.2/24 dev outside0; ip -n coldframe link set outside0 up
ip -n world address add 198.51.100.1/24 dev outside1; ip -n world link set outside1 up
ip -n coldframe route add default via 198.51.100.1
# A route back from the world, so that only Coldframe's settings can stop packets.
ip -n world route add 192.0.2.0/24 via 198.51.100.2
ip netns exec coldframe sysctl -qw net.ipv4.ip_forward=$FORWARD
on() { ip netns exec "$@"; }
cd "$PLACE"
on world python3 "$REGISTRY" 198.51.100.1 --log > heard 2>&1 & registry=$!
for _ in $(seq 200); do grep -q http heard && break; sleep 0.1; done
upstream=$(head -1 heard)
mkdir data; chown 65532 data
on coldframe setpriv --reuid 65532 --clear-groups "$COLDFRAME" serve --listen 0.0.0.0:4873 --gateway 0.0.0.0:8080 --upstream "$upstream" \
    --intercept registry.example --data-dir data > out 2> log & coldframe=$!
for _ in $(seq 200); do grep -q registry= out && break; sleep 0.1; done
ask='get() { name=$1; shift; echo "$name: $(curl -sS --max-time 10 --connect-timeout 3 -w " [%{http_code}]" "$@" 2>&1 | tr "\n" " " | cut -c1-2000)"; }'
on coldframe sh -c "$ask; get control ${upstream}left-pad"
on app sh -c "$ask
get packument http://192.0.2.3:4873/left-pad
get old http://192.0.2.3:4873/left-pad/-/left-pad-1.0.0.tgz --output old.tgz
get young http://192.0.2.3:4873/left-pad/-/left-pad-1.1.0.tgz
get gateway --proxy http://192.0.2.3:8080 http://registry.example/left-pad/-/left-pad-1.1.0.tgz
get proxied --proxy http://192.0.2.3:8080 ${upstream}left-pad
get tunnelled --proxytunnel --proxy http://192.0.2.3:8080 ${upstream}left-pad
get direct ${upstream}straight
get other http://192.0.2.3:4873/x --header 'Host: 198.51.100.1' --request-target ${upstream}smuggled
echo names: \$(python3 -c 'import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b\"?\", (\"198.51.100.1\", 53))' 2>&1 | tail -1)
ip route add default via 192.0.2.3
get routed ${upstream}routed"
kill $coldframe $registry
wait $coldframe || true
sed -n '2,$p' heard | sed 's/^/heard: /'
"#;

fn run_compose_script(forward: &str) -> String {
    let folder = TempDir::new().unwrap();
    open_to_all(folder.path());
    let result = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", COMPOSE_SCRIPT])
        .env("PLACE", folder.path())
        .env("FORWARD", forward)
        .env("REGISTRY", concat!(env!("CARGO_MANIFEST_DIR"), "/docker/registry.py"))
        .env("COLDFRAME", env!("CARGO_BIN_EXE_coldframe"))
        .env("HOME", folder.path())
        .output()
        .expect("`unshare` is installed");
    let (output, errors) = (String::from_utf8_lossy(&result.stdout), String::from_utf8_lossy(&result.stderr));
    assert!(result.status.success(), "the script failed; it needs root and all tools\n{output}\n{errors}");
    output.into_owned()
}

#[test]
fn application_in_compose_reaches_only_coldframe() {
    let output = run_compose_script("0");
    let line = |name: &str| output.lines().find(|line| line.starts_with(&format!("{name}: "))).unwrap_or_default();
    assert!(line("control").ends_with("[200]"), "the world is unreachable: {output}");
    assert!(line("packument").contains("\"1.0.0\"") && line("packument").ends_with("[200]"), "{output}");
    assert!(line("old").ends_with("[200]"), "{output}");
    assert!(line("young").ends_with("[403]") && line("gateway").ends_with("[403]"), "{output}");
    assert!(line("proxied").ends_with("[403]"), "{output}");
    assert!(line("tunnelled").ends_with("[000]") && line("tunnelled").contains("403"), "{output}");
    assert!(line("direct").ends_with("[000]") && line("routed").ends_with("[000]"), "{output}");
    assert!(!line("other").ends_with("[200]"), "{output}");
    assert!(line("names").contains("unreachable"), "{output}");
    let heard: Vec<&str> = output.lines().filter_map(|line| line.strip_prefix("heard: ")).collect();
    assert!(heard.iter().all(|line| line.starts_with("198.51.100.2 /")), "another sender reached the world: {output}");
    assert!(heard.contains(&"198.51.100.2 /left-pad"), "{output}");
    // A request with another host's name goes to the registry, which does not have it.
    assert!(!heard.iter().any(|line| line.contains("1.1.0") || line.contains("straight") || line.contains("routed")), "{output}");
}

/// Shows that the test above can fail: with IP forwarding, Coldframe routes packets of an application that sets a route.
#[test]
fn ip_forwarding_would_be_a_bypass() {
    let output = run_compose_script("1");
    assert!(output.lines().any(|line| line.starts_with("routed: ") && line.ends_with("[404]")), "{output}");
    assert!(output.lines().any(|line| line == "heard: 192.0.2.2 /routed"), "{output}");
}

/// The nftables rules of the sidecar recipe, in a pod with a link to the world.
const POD_SCRIPT: &str = r#"
set -eu
mount -t tmpfs tmpfs /run
mkdir /run/netns
for machine in pod world; do ip netns add $machine; ip -n $machine link set lo up; done
ip link add pod0 netns pod type veth peer name pod1 netns world
ip -n pod address add 198.51.100.2/24 dev pod0; ip -n pod link set pod0 up
ip -n world address add 198.51.100.1/24 dev pod1; ip -n world link set pod1 up
cd "$PLACE"
ip netns exec world python3 "$REGISTRY" 198.51.100.1 --log > heard 2>&1 & registry=$!
for _ in $(seq 200); do grep -q http heard && break; sleep 0.1; done
upstream=$(head -1 heard)
# Control for incoming connections: the world requests a server in the pod.
ip netns exec pod python3 "$REGISTRY" 0.0.0.0 > served 2>&1 & server=$!
for _ in $(seq 200); do grep -q http served && break; sleep 0.1; done
port=$(sed 's#.*:##; s#/.*##' served)
get() { # label, user, URL
    echo "$1: $(ip netns exec pod setpriv --reuid "$2" --clear-groups curl -sS --max-time 5 -o /dev/null -w '[%{http_code}]' "$3" 2>&1 | tail -1)"
}
get before 1000 "${upstream}left-pad"
ip netns exec pod nft -f "$RULES"
ip netns exec pod nft -f "$RULES"
get coldframe 65532 "${upstream}left-pad"
get app 1000 "${upstream}left-pad"
get root 0 "${upstream}left-pad"
get loopback 1000 "http://127.0.0.1:$port/left-pad"
echo "probe: $(ip netns exec world curl -sS --max-time 5 -o /dev/null -w '[%{http_code}]' "http://198.51.100.2:$port/left-pad" 2>&1)"
kill $registry $server
"#;

#[test]
fn in_a_pod_only_coldframes_user_can_connect_out() {
    let recipe = include_str!("../../docker/recipes/kubernetes-sidecar.yaml");
    let (_, rules) = recipe.split_once("egress.nft: |\n").expect("the rules");
    let folder = TempDir::new().unwrap();
    open_to_all(folder.path());
    let file = folder.path().join("egress.nft");
    std::fs::write(&file, rules).unwrap();
    let result = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", POD_SCRIPT])
        .env("PLACE", folder.path())
        .env("RULES", &file)
        .env("REGISTRY", concat!(env!("CARGO_MANIFEST_DIR"), "/docker/registry.py"))
        .output()
        .expect("`unshare` is installed");
    let (output, errors) = (String::from_utf8_lossy(&result.stdout), String::from_utf8_lossy(&result.stderr));
    assert!(result.status.success(), "the script failed; it needs root and all tools\n{output}\n{errors}");
    let ends_with =
        |name: &str, end: &str| output.lines().any(|line| line.starts_with(&format!("{name}: ")) && line.ends_with(end));
    assert!(
        ends_with("before", "[200]")
            && ends_with("coldframe", "[200]")
            && ends_with("loopback", "[200]")
            && ends_with("probe", "[200]"),
        "{output}\n{errors}"
    );
    assert!(ends_with("app", "[000]") && ends_with("root", "[000]"), "{output}\n{errors}");
}
