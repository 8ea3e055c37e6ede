//! Checks of `docker/`: the compose file leaves the application no bypass, and recipes use existing settings, commands and flags.
//! `tests/netns` tests the same with packets, `just image` with the image.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use coldframe::config::SettingKey;
use coldframe::config::settings::{FILE_VARIABLE, PREFIX, SETTINGS};
use granit_parser::{Event, Parser};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::process::{coldframe, run};

const COMPOSE: &str = include_str!("../../docker/compose.yaml");

/// Parses plain YAML. Panics on anchors, aliases and tags, which could hide a value.
fn yaml(text: &str) -> Value {
    let mut open: Vec<(Value, Option<String>)> = Vec::new();
    let mut whole = Value::Null;
    for event in Parser::new_from_str(text) {
        let value = match event.expect("YAML").0 {
            Event::Scalar(text, _, 0, None) => Value::String(text.into_owned()),
            Event::SequenceStart(_, 0, None) => {
                open.push((Value::Array(Vec::new()), None));
                continue;
            }
            Event::MappingStart(_, 0, None) => {
                open.push((Value::Object(Map::new()), None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => open.pop().expect("an open collection").0,
            Event::StreamStart | Event::StreamEnd | Event::DocumentStart(..) | Event::DocumentEnd => continue,
            other => panic!("unsupported YAML: {other:?}"),
        };
        match open.last_mut() {
            None => whole = value,
            Some((Value::Array(elements), _)) => elements.push(value),
            Some((Value::Object(members), key)) => match key.take() {
                None => *key = Some(value.as_str().expect("a scalar key").to_owned()),
                Some(key) => assert!(members.insert(key.clone(), value).is_none(), "duplicate key `{key}`"),
            },
            Some(open) => panic!("scalar on the stack: {open:?}"),
        }
    }
    whole
}

fn texts(value: &Value) -> Vec<&str> {
    let list = |value: &Value| matches!(value, Value::Array(_) | Value::Null);
    assert!(list(value), "not a list: {value}");
    value.as_array().into_iter().flatten().map(|text| text.as_str().expect("a string")).collect()
}

/// Finds every setting by which a service other than Coldframe could reach more than Coldframe.
fn bypasses(compose: &Value) -> Vec<String> {
    let mut bypasses = Vec::new();
    for (name, service) in compose["services"].as_object().expect("services") {
        let mut report = |problem: String| bypasses.push(format!("{name}: {problem}"));
        for key in ["privileged", "cap_add", "devices", "pid", "ipc", "userns_mode", "extra_hosts", "links", "external_links"] {
            if !service[key].is_null() {
                report(format!("sets `{key}`"));
            }
        }
        if texts(&service["cap_drop"]) != ["ALL"] || texts(&service["security_opt"]) != ["no-new-privileges:true"] {
            report("keeps capabilities or may gain them".to_owned());
        }
        for volume in texts(&service["volumes"]) {
            let source = volume.split(':').next().unwrap_or_default();
            let is_known = compose["volumes"].get(source).is_some() || (source.starts_with("./") && !source.contains(".."));
            if !is_known {
                report(format!("mounts `{volume}` of the host"));
            }
        }
        if name == "coldframe" {
            continue;
        }
        let networks = texts(&service["networks"]);
        let is_apart = service["network_mode"] == "none" && networks.is_empty();
        if !(is_apart || service["network_mode"].is_null() && networks == ["inside"]) {
            report(format!("is on more than the internal network: {} {networks:?}", service["network_mode"]));
        }
        if !service["ports"].is_null() {
            report("publishes ports".to_owned());
        }
        if !is_apart && texts(&service["dns"]) != ["127.0.0.1"] {
            report("can resolve outside names".to_owned());
        }
        if !is_apart && texts(&service["volumes"]).iter().any(|volume| volume.starts_with("data:")) {
            report("sees the authority's key".to_owned());
        }
    }
    let inside = &compose["networks"]["inside"];
    if inside["internal"] != "true" {
        bypasses.push("inside: is not internal".to_owned());
    }
    if inside["driver_opts"]["com.docker.network.bridge.gateway_mode_ipv4"] != "isolated" || !inside["enable_ipv6"].is_null() {
        bypasses.push("inside: the host has an address on it".to_owned());
    }
    if compose["services"]["coldframe"]["sysctls"]["net.ipv4.ip_forward"] != "0" {
        bypasses.push("coldframe: may forward packets".to_owned());
    }
    bypasses
}

#[test]
fn compose_file_gives_the_application_no_bypass() {
    let compose = yaml(COMPOSE);
    assert_eq!(bypasses(&compose), [""; 0]);
    let coldframe_service = &compose["services"]["coldframe"];
    assert_eq!(texts(&coldframe_service["networks"]), ["inside", "outside"]);
    for service in ["coldframe", "authority"] {
        let service = &compose["services"][service];
        assert_eq!((&service["read_only"], &service["user"]), (&"true".into(), &"65532:65532".into()));
    }
    let gateway = coldframe_service["environment"]["COLDFRAME_GATEWAY"].as_str().unwrap();
    let (_, port) = gateway.rsplit_once(':').unwrap();
    for (name, value) in compose["services"]["app"]["environment"].as_object().unwrap() {
        let is_proxy = name.to_ascii_uppercase().contains("PROXY");
        let certificate = texts(&compose["services"]["authority"]["command"]).last().unwrap().to_string();
        let wanted = if is_proxy { format!("http://coldframe:{port}") } else { certificate };
        assert_eq!(*value, wanted.as_str(), "{name}");
    }
}

#[test]
fn every_bypass_is_detected() {
    let holes = [
        ("more than the internal network", "services.app.networks", json!(["inside", "outside"])),
        ("more than the internal network", "services.app.networks", Value::Null),
        ("more than the internal network", "services.app.network_mode", json!("host")),
        ("is not internal", "networks.inside.internal", json!("false")),
        ("host has an address on it", "networks.inside.driver_opts", Value::Null),
        ("forward packets", "services.coldframe.sysctls", Value::Null),
        ("`cap_add`", "services.app.cap_add", json!(["NET_ADMIN"])),
        ("`privileged`", "services.app.privileged", json!("true")),
        ("keeps capabilities", "services.app.cap_drop", Value::Null),
        ("outside names", "services.app.dns", Value::Null),
        ("authority's key", "services.app.volumes", json!(["data:/data:ro"])),
        ("of the host", "services.app.volumes", json!(["/var/run/docker.sock:/var/run/docker.sock"])),
    ];
    for (wanted, at, hole) in holes {
        let mut compose = yaml(COMPOSE);
        *at.split('.').fold(&mut compose, |value, key| &mut value[key]) = hole;
        let found = bypasses(&compose);
        assert!(found.iter().any(|report| report.contains(wanted)), "{wanted}: {found:?}");
    }
}

/// All files below `docker/` with their text.
fn recipes() -> Vec<(PathBuf, String)> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("docker")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    found
}

#[test]
fn recipes_use_only_existing_settings() {
    let is_word = |letter: char| letter.is_ascii_uppercase() || letter == '_';
    let mut known: BTreeSet<String> = SETTINGS.iter().map(coldframe::config::settings::Setting::variable).collect();
    // Kubernetes sets the second one for services named `coldframe`.
    known.extend([FILE_VARIABLE.to_owned(), format!("{PREFIX}SERVICE_HOST")]);
    let mut seen = BTreeSet::new();
    for (path, text) in recipes() {
        for (at, _) in text.match_indices(PREFIX) {
            let name = &text[at..at + text[at..].find(|letter| !is_word(letter)).unwrap_or(text.len() - at)];
            assert!(known.contains(name), "{}: unknown setting `{name}`", path.display());
            seen.insert(name.to_owned());
        }
    }
    assert!(seen.len() > 5, "{seen:?}");
}

#[test]
fn recipes_use_only_existing_commands_and_flags() {
    let home = TempDir::new().unwrap();
    let help = |words: &[&str]| run(coldframe(home.path()).args(words).arg("--help"));
    let (_, output, _) = help(&[]);
    let table = output.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // Descriptions stand to the right of a command and may wrap onto indented lines.
    let command_name =
        |line: &str| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' '))?.split(' ').next().map(str::to_owned);
    let commands: BTreeSet<String> = table.filter_map(command_name).collect();
    let is_command = |word: &str| commands.contains(word);
    let mut used = BTreeSet::new();
    let mut lines: Vec<String> = Vec::new();
    for (_, text) in recipes() {
        // YAML and Dockerfiles write commands as lists.
        lines.extend(text.lines().map(|line| line.replace(['[', ']', ',', '"', '`'], " ")));
    }
    let exported = texts(&yaml(COMPOSE)["services"]["authority"]["command"]).join(" ");
    lines.push(format!("coldframe {exported}"));
    for line in &lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        for at in 0..words.len() {
            let is_program = words[at] == "coldframe" || words[at].ends_with("/coldframe");
            let rest = words[at + 1..].iter().take_while(|word| !["|", ">", "&&", ";"].contains(*word));
            let rest: Vec<&str> = rest.copied().collect();
            if !is_program || !rest.first().is_some_and(|word| is_command(word)) {
                continue;
            }
            let depth = if ["ca", "feed", "policy", "decisions", "config", "user"].contains(&rest[0]) { 2 } else { 1 };
            let command = rest.get(..depth).unwrap_or_default();
            let (code, output, errors) = help(command);
            assert_eq!(code, 0, "{line}\n{errors}");
            for flag in rest[depth..].iter().filter_map(|word| word.strip_prefix("--")) {
                let listed = output.contains(&format!("--{flag} ")) || output.contains(&format!("--{flag}\n"));
                assert!(listed || SettingKey::named(flag).is_some(), "unknown flag `--{flag}` of `{command:?}`: {line}");
            }
            used.insert(command.join(" "));
        }
    }
    for wanted in ["serve", "healthcheck", "ca export"] {
        assert!(used.contains(wanted), "{used:?}");
    }
}
