//! `docker/`: the composition leaves its application no way around, and recipes use words that the program knows. Whether packets
//! agree is tried in `tests/netns`, whether the image does by `just image`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use coldframe::config::SettingKey;
use coldframe::config::settings::{FILE_VARIABLE, PREFIX, SETTINGS};
use granit_parser::{Event, Parser};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::program::{coldframe, run};

const COMPOSE: &str = include_str!("../../docker/compose.yaml");

/// What a plain reading of YAML gives; anchors, aliases and tags are not used here, so that what is read is what stands there.
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
            Event::SequenceEnd | Event::MappingEnd => open.pop().expect("it was opened").0,
            Event::StreamStart | Event::StreamEnd | Event::DocumentStart(..) | Event::DocumentEnd => continue,
            other => panic!("written more plainly, please: {other:?}"),
        };
        match open.last_mut() {
            None => whole = value,
            Some((Value::Array(elements), _)) => elements.push(value),
            Some((Value::Object(members), key)) => match key.take() {
                None => *key = Some(value.as_str().expect("a key is a text").to_owned()),
                Some(key) => assert!(members.insert(key.clone(), value).is_none(), "`{key}` stands there twice"),
            },
            Some(open) => panic!("only collections are open: {open:?}"),
        }
    }
    whole
}

fn texts(value: &Value) -> Vec<&str> {
    let list = |value: &Value| matches!(value, Value::Array(_) | Value::Null);
    assert!(list(value), "a list of names: {value}");
    value.as_array().into_iter().flatten().map(|text| text.as_str().expect("a text")).collect()
}

/// Every way by which what runs in a service that is not Coldframe could reach more than Coldframe.
fn ways_around(compose: &Value) -> Vec<String> {
    let mut ways = Vec::new();
    for (name, service) in compose["services"].as_object().expect("services") {
        let mut way = |wrong: String| ways.push(format!("{name}: {wrong}"));
        for key in ["privileged", "cap_add", "devices", "pid", "ipc", "userns_mode", "extra_hosts", "links", "external_links"] {
            if !service[key].is_null() {
                way(format!("it has `{key}`"));
            }
        }
        if texts(&service["cap_drop"]) != ["ALL"] || texts(&service["security_opt"]) != ["no-new-privileges:true"] {
            way("it keeps capabilities, or a way to gain them".to_owned());
        }
        for volume in texts(&service["volumes"]) {
            let source = volume.split(':').next().unwrap_or_default();
            let is_known = compose["volumes"].get(source).is_some() || (source.starts_with("./") && !source.contains(".."));
            if !is_known {
                way(format!("it sees the host's `{volume}`"));
            }
        }
        if name == "coldframe" {
            continue;
        }
        let networks = texts(&service["networks"]);
        let is_apart = service["network_mode"] == "none" && networks.is_empty();
        if !(is_apart || service["network_mode"].is_null() && networks == ["inside"]) {
            way(format!("it is on more than the internal network: {} {networks:?}", service["network_mode"]));
        }
        if !service["ports"].is_null() {
            way("it is published".to_owned());
        }
        if !is_apart && texts(&service["dns"]) != ["127.0.0.1"] {
            way("it can ask for names outside".to_owned());
        }
        if !is_apart && texts(&service["volumes"]).iter().any(|volume| volume.starts_with("data:")) {
            way("it sees the authority's key".to_owned());
        }
    }
    let inside = &compose["networks"]["inside"];
    if inside["internal"] != "true" {
        ways.push("inside: it leads outside".to_owned());
    }
    if inside["driver_opts"]["com.docker.network.bridge.gateway_mode_ipv4"] != "isolated" || !inside["enable_ipv6"].is_null() {
        ways.push("inside: the host stands on it".to_owned());
    }
    if compose["services"]["coldframe"]["sysctls"]["net.ipv4.ip_forward"] != "0" {
        ways.push("coldframe: it may forward packets".to_owned());
    }
    ways
}

#[test]
fn beside_coldframe_an_application_has_no_way_around() {
    let compose = yaml(COMPOSE);
    assert_eq!(ways_around(&compose), [""; 0]);
    let of_coldframe = &compose["services"]["coldframe"];
    assert_eq!(texts(&of_coldframe["networks"]), ["inside", "outside"]);
    for service in ["coldframe", "authority"] {
        let service = &compose["services"][service];
        assert_eq!((&service["read_only"], &service["user"]), (&"true".into(), &"65532:65532".into()));
    }
    let gateway = of_coldframe["environment"]["COLDFRAME_GATEWAY"].as_str().unwrap();
    let (_, port) = gateway.rsplit_once(':').unwrap();
    for (name, value) in compose["services"]["app"]["environment"].as_object().unwrap() {
        let is_proxy = name.to_ascii_uppercase().contains("PROXY");
        let certificate = texts(&compose["services"]["authority"]["command"]).last().unwrap().to_string();
        let wanted = if is_proxy { format!("http://coldframe:{port}") } else { certificate };
        assert_eq!(*value, wanted.as_str(), "{name}");
    }
}

#[test]
fn a_way_around_is_seen() {
    let holes = [
        ("more than the internal network", "services.app.networks", json!(["inside", "outside"])),
        ("more than the internal network", "services.app.networks", Value::Null),
        ("more than the internal network", "services.app.network_mode", json!("host")),
        ("leads outside", "networks.inside.internal", json!("false")),
        ("host stands on it", "networks.inside.driver_opts", Value::Null),
        ("forward packets", "services.coldframe.sysctls", Value::Null),
        ("`cap_add`", "services.app.cap_add", json!(["NET_ADMIN"])),
        ("`privileged`", "services.app.privileged", json!("true")),
        ("keeps capabilities", "services.app.cap_drop", Value::Null),
        ("names outside", "services.app.dns", Value::Null),
        ("authority's key", "services.app.volumes", json!(["data:/data:ro"])),
        ("sees the host's", "services.app.volumes", json!(["/var/run/docker.sock:/var/run/docker.sock"])),
    ];
    for (wanted, at, hole) in holes {
        let mut compose = yaml(COMPOSE);
        *at.split('.').fold(&mut compose, |value, key| &mut value[key]) = hole;
        let ways = ways_around(&compose);
        assert!(ways.iter().any(|way| way.contains(wanted)), "{wanted}: {ways:?}");
    }
}

/// Every file below `docker/`, with its text.
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
fn recipes_set_what_can_be_set() {
    let is_word = |letter: char| letter.is_ascii_uppercase() || letter == '_';
    let mut known: BTreeSet<String> = SETTINGS.iter().map(coldframe::config::settings::Setting::variable).collect();
    // The second is written by Kubernetes, for others.
    known.extend([FILE_VARIABLE.to_owned(), format!("{PREFIX}SERVICE_HOST")]);
    let mut seen = BTreeSet::new();
    for (path, text) in recipes() {
        for (at, _) in text.match_indices(PREFIX) {
            let name = &text[at..at + text[at..].find(|letter| !is_word(letter)).unwrap_or(text.len() - at)];
            assert!(known.contains(name), "{}: there is no setting `{name}`", path.display());
            seen.insert(name.to_owned());
        }
    }
    assert!(seen.len() > 5, "{seen:?}");
}

#[test]
fn recipes_say_what_can_be_said() {
    let home = TempDir::new().unwrap();
    let help = |words: &[&str]| run(coldframe(home.path()).args(words).arg("--help"));
    let (_, told, _) = help(&[]);
    let table = told.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // What a command is is told at its side, and goes on below that.
    let named = |line: &str| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' '))?.split(' ').next().map(str::to_owned);
    let commands: BTreeSet<String> = table.filter_map(named).collect();
    let is_command = |word: &str| commands.contains(word);
    let mut said = BTreeSet::new();
    let mut lines: Vec<String> = Vec::new();
    for (_, text) in recipes() {
        // Lists of words, as YAML and Dockerfiles have commands, are words.
        lines.extend(text.lines().map(|line| line.replace(['[', ']', ',', '"', '`'], " ")));
    }
    let exported = texts(&yaml(COMPOSE)["services"]["authority"]["command"]).join(" ");
    lines.push(format!("coldframe {exported}"));
    for line in &lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        for at in 0..words.len() {
            let names_it = words[at] == "coldframe" || words[at].ends_with("/coldframe");
            let behind = words[at + 1..].iter().take_while(|word| !["|", ">", "&&", ";"].contains(*word));
            let behind: Vec<&str> = behind.copied().collect();
            if !names_it || !behind.first().is_some_and(|word| is_command(word)) {
                continue;
            }
            let depth = if ["ca", "feed", "policy", "decisions", "config", "user"].contains(&behind[0]) { 2 } else { 1 };
            let command = behind.get(..depth).unwrap_or_default();
            let (code, told, errors) = help(command);
            assert_eq!(code, 0, "{line}\n{errors}");
            for flag in behind[depth..].iter().filter_map(|word| word.strip_prefix("--")) {
                let listed = told.contains(&format!("--{flag} ")) || told.contains(&format!("--{flag}\n"));
                assert!(listed || SettingKey::named(flag).is_some(), "`--{flag}` is no flag of `{command:?}`: {line}");
            }
            said.insert(command.join(" "));
        }
    }
    for wanted in ["serve", "healthcheck", "ca export"] {
        assert!(said.contains(wanted), "{said:?}");
    }
}
