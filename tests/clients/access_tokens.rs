//! Every client with an access token where one is required: what it installs, and what it prints without one.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coldframe::app::standalone::tokens::{self, TokenRequest};
use coldframe::clock::Clock as _;
use coldframe::policy::decisions::Signature;
use coldframe::policy::{PackageScope, Principal, Role};
use tempfile::TempDir;

use crate::harness::Scene;
use crate::package::{Package, days};
use crate::package_manager::{Project, Tool};
use crate::process::{Program, coldframe, run};
use crate::run::start_registry;

async fn scene() -> (Scene, String) {
    let scene = Scene::open().set("require-auth", "true").await;
    scene.publish(Package::new("left-pad", "1.0.0").aged(days(100)));
    scene.publish(Package::new("@acme/core", "3.0.0").aged(days(100)));
    scene.registry.absent("pnpm");
    let by = Signature { who: "ada".to_owned(), at: scene.clock.now() };
    let owner = Principal::Machine("ada".into());
    let request =
        TokenRequest { label: "ci-web".to_owned(), role: Role::Client, scope: PackageScope::default(), expires: None, owner };
    let data = scene.data().to_owned();
    let created = tokio::task::spawn_blocking(move || tokens::create(&data, request, by)).await.unwrap().unwrap();
    (scene, created.secret.reveal().to_owned())
}

/// Writes the token as docs/identities.md says.
fn configure(project: &Project, tool: Tool, scene: &Scene, token: &str) {
    let address = scene.coldframe.address;
    match tool {
        Tool::Yarn4 | Tool::Yarn3 => {
            project.configure(".yarnrc.yml", &format!("npmAuthToken: {token}\nnpmAlwaysAuth: true\n"));
        }
        Tool::Yarn1 => project.configure(".npmrc", &format!("//{address}/:_authToken={token}\nalways-auth=true\n")),
        _ => project.configure(".npmrc", &format!("//{address}/:_authToken={token}\n")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_installs_with_a_token_and_fails_without_one() {
    let (scene, token) = scene().await;
    for tool in Tool::ALL {
        let project = Project::new(tool, &[("left-pad", "^1.0.0"), ("@acme/core", "^3.0.0")]);
        let output = project.run(&scene, &["install"]).await;
        assert_ne!(output.code, 0, "{tool:?}:\n{}", output.text);
        if Tool::NPM.contains(&tool) {
            assert!(output.text.contains(":_authToken=TOKEN"), "{tool:?}:\n{}", output.text);
        }
        configure(&project, tool, &scene, &token);
        let output = project.run(&scene, &["install"]).await;
        assert_eq!(output.code, 0, "{tool:?}:\n{}", output.text);
        assert_eq!(project.installed("@acme/core").as_deref(), Some("3.0.0"), "{tool:?}");
        let project = project.fresh_checkout();
        let output = project.run(&scene, tool.frozen()).await;
        assert_eq!(output.code, 0, "{tool:?}:\n{}", output.text);
        assert_eq!(project.installed("left-pad").as_deref(), Some("1.0.0"), "{tool:?}");
    }
    for request in scene.registry.requests() {
        assert!(request.headers.first("authorization").is_none(), "{}", request.target);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn password_forms_of_npmrc_work_too() {
    let (scene, token) = scene().await;
    let address = scene.coldframe.address;
    let password = STANDARD.encode(&token);
    let auth = STANDARD.encode(format!("any:{token}"));
    for tool in [Tool::Npm10, Tool::Npm11, Tool::Npm12, Tool::Pnpm9, Tool::Pnpm10, Tool::Yarn1] {
        for lines in [
            format!("//{address}/:_auth={auth}\nalways-auth=true\n"),
            format!("//{address}/:username=any\n//{address}/:_password={password}\nalways-auth=true\n"),
        ] {
            let project = Project::new(tool, &[("left-pad", "^1.0.0")]);
            project.configure(".npmrc", &lines);
            let output = project.run(&scene, &["install"]).await;
            assert_eq!(output.code, 0, "{tool:?} {lines}:\n{}", output.text);
            assert_eq!(project.installed("left-pad").as_deref(), Some("1.0.0"), "{tool:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_installs_through_a_gateway_with_a_token_as_password() {
    let registry = start_registry().await;
    let data = TempDir::new().unwrap();
    let program = Program::serve(data.path(), data.path(), &registry.url, &["--gateway", "127.0.0.1:0", "--require-auth"]);
    let command = |words: &[&str]| {
        let mut command = coldframe(data.path());
        command.args(words).args(["--upstream", &registry.url, "--data-dir"]).arg(data.path());
        let (code, output, errors) = run(&mut command);
        assert_eq!(code, 0, "{errors}");
        output
    };
    let trusted = data.path().join("trusted.pem");
    std::fs::write(&trusted, command(&["ca", "export"])).unwrap();
    let token = command(&["token", "create", "--label", "ci-web"]);
    let gateway =
        program.greeting.lines().find_map(|line| line.trim_start().strip_prefix("gateway")?.trim_start().split(',').next());
    let place = gateway.unwrap().trim().trim_start_matches("http://").trim_end_matches('/').to_owned();
    let install = async |tool: Tool, proxy: &str, trusted: &Path| {
        let project = Project::new(tool, &[("left-pad", "^1.0.0")]);
        let output = project.run_through_proxy(Some(proxy), trusted, &["install"]).await;
        (output.code, project.installed("left-pad"), output.text)
    };
    for tool in Tool::ALL {
        let (code, installed, text) = install(tool, &format!("http://any:{}@{place}", token.trim()), &trusted).await;
        assert_eq!((code, installed.as_deref()), (0, Some("1.0.0")), "{tool:?}:\n{text}");
    }
    let (code, installed, text) = install(Tool::Npm11, &format!("http://{place}"), &trusted).await;
    assert!(code != 0 && installed.is_none(), "{text}");
}
