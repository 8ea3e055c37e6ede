//! The output of each client if Coldframe holds the requested version.

use expect_test::{Expect, expect};

use crate::harness::Scene;
use crate::package::{Package, days, hours};
use crate::package_manager::{Project, Tool};

/// Publishes left-pad with an old 1.0.0 and a held 1.1.0 and 2.0.0, and a new package.
pub fn publish_packages(scene: &Scene) {
    scene.publish(Package::new("left-pad", "1.0.0").aged(days(100)));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(5)));
    scene.publish(Package::new("left-pad", "2.0.0").aged(hours(1)));
    scene.publish(Package::new("newborn", "1.0.0").aged(hours(2)));
    // pnpm checks for updates of itself.
    scene.registry.absent("pnpm");
}

/// Asserts that a client cannot install a package, and its output.
pub async fn assert_fails(scene: &Scene, tool: Tool, name: &str, range: &str, expected: &Expect) {
    let project = Project::new(tool, &[(name, range)]);
    let output = project.run(scene, &["install"]).await;
    assert_ne!(output.code, 0, "{tool:?} should fail:\n{}", output.text);
    assert_eq!(project.installed(name), None);
    expected.assert_eq(&output.text);
}

/// Runs [`assert_fails`] for all clients in turn, with the same server.
async fn assert_all_fail(scene: &Scene, name: &str, range: &str, expected: &[(&[Tool], Expect)]) {
    assert_eq!(tools_of(expected), Tool::ALL);
    for (tools, expected) in expected {
        for tool in *tools {
            assert_fails(scene, *tool, name, range, expected).await;
        }
    }
}

/// The clients in a table of expected outputs.
pub fn tools_of(expected: &[(&[Tool], Expect)]) -> Vec<Tool> {
    expected.iter().flat_map(|(tools, _)| *tools).copied().collect()
}

#[tokio::test]
async fn clients_fail_on_a_held_exact_version() {
    let scene = Scene::open().await;
    publish_packages(&scene);
    let expected: [(&[Tool], Expect); 8] = [
        (
            &Tool::NPM[..],
            expect![[r#"
            npm error code E403
            npm error 403 Could not download left-pad@1.1.0 due to policy violations:
            npm error 403 coldframe holds back 2 versions of left-pad:
            npm error 403 left-pad@2.0.0: published 2026-04-03 11:00 UTC, minimum release age 72 h (rule minimum-age), opens 2026-04-06 11:00 UTC, newest allowed: 1.0.0
            npm error 403 left-pad@1.1.0: published 2026-04-03 07:00 UTC, minimum release age 72 h (rule minimum-age), opens 2026-04-06 07:00 UTC, newest allowed: 1.0.0
            npm error 403 why: http://coldframe/-/coldframe/explain/left-pad@2.0.0
        "#]],
        ),
        (
            &[Tool::Pnpm9],
            expect![[r#"
             ERR_PNPM_NO_MATCHING_VERSION  No matching version found for left-pad@1.1.0
            This error happened while installing a direct dependency of .
            The latest release of left-pad is "1.0.0".
            If you need the full list of all 1 published versions run "$ pnpm view left-pad versions".
        "#]],
        ),
        (
            &[Tool::Pnpm10],
            expect![[r#"
         ERR_PNPM_NO_MATCHING_VERSION  No matching version found for left-pad@1.1.0 while fetching it from http://coldframe/
        This error happened while installing a direct dependency of .
        The latest release of left-pad is "1.0.0". Published at 12/24/2025
        If you need the full list of all 1 published versions run "pnpm view left-pad versions".
    "#]],
        ),
        (
            &[Tool::Pnpm12],
            expect![[r#"
        Error: ERR_PNPM_NO_MATCHING_VERSION
          × installing dependencies
          ├─▶ Failed to resolve dependency tree: No matching version found for left-
          │   pad@1.1.0 while fetching it from http://coldframe/
          │
          │   Failed to resolve left-pad@1.1.0
          ╰─▶ No matching version found for left-pad@1.1.0 while fetching it from
              http://coldframe/
          help: The latest release of left-pad is "1.0.0". Published at 12/24/2025
                If you need the full list of all 1 published versions run "pnpm view
                left-pad versions".
    "#]],
        ),
        (
            &[Tool::Yarn1],
            expect![[r#"
        yarn install v1.22.22
        info No lockfile found.
        [1/4] Resolving packages...
        error Couldn't find any versions for "left-pad" that matches "1.1.0"
    "#]],
        ),
        (
            &[Tool::Yarn4],
            expect![[r#"
        ➤ YN0000: · Yarn 4.18.1
        ➤ YN0000: ┌ Resolution step
        ➤ YN0082: │ left-pad@npm:1.1.0: No candidates found
        ➤ YN0000: · Failed with errors in N N
    "#]],
        ),
        (
            &[Tool::Bun],
            expect![[r#"
        bun install v1.4.5 (a7733435c)
        error: No version matching "1.1.0" found for specifier "left-pad" (but package exists)
        error: left-pad@1.1.0 failed to resolve
    "#]],
        ),
        (
            &[Tool::Deno],
            expect![[r#"
            error: Could not find npm package 'left-pad' matching '1.1.0'.
        "#]],
        ),
    ];
    assert_all_fail(&scene, "left-pad", "1.1.0", &expected).await;
}

#[tokio::test]
async fn clients_fail_on_a_range_without_visible_versions() {
    let scene = Scene::open().await;
    publish_packages(&scene);
    let expected: [(&[Tool], Expect); 8] = [
        (
            &Tool::NPM[..],
            expect![[r#"
            npm error code E403
            npm error 403 Could not download left-pad@^2.0.0 due to policy violations:
            npm error 403 coldframe holds back 2 versions of left-pad:
            npm error 403 left-pad@2.0.0: published 2026-04-03 11:00 UTC, minimum release age 72 h (rule minimum-age), opens 2026-04-06 11:00 UTC, newest allowed: 1.0.0
            npm error 403 left-pad@1.1.0: published 2026-04-03 07:00 UTC, minimum release age 72 h (rule minimum-age), opens 2026-04-06 07:00 UTC, newest allowed: 1.0.0
            npm error 403 why: http://coldframe/-/coldframe/explain/left-pad@2.0.0
        "#]],
        ),
        (
            &[Tool::Pnpm9],
            expect![[r#"
             ERR_PNPM_NO_MATCHING_VERSION  No matching version found for left-pad@^2.0.0
            This error happened while installing a direct dependency of .
            The latest release of left-pad is "1.0.0".
            If you need the full list of all 1 published versions run "$ pnpm view left-pad versions".
        "#]],
        ),
        (
            &[Tool::Pnpm10],
            expect![[r#"
         ERR_PNPM_NO_MATCHING_VERSION  No matching version found for left-pad@^2.0.0 while fetching it from http://coldframe/
        This error happened while installing a direct dependency of .
        The latest release of left-pad is "1.0.0". Published at 12/24/2025
        If you need the full list of all 1 published versions run "pnpm view left-pad versions".
    "#]],
        ),
        (
            &[Tool::Pnpm12],
            expect![[r#"
        Error: ERR_PNPM_NO_MATCHING_VERSION
          × installing dependencies
          ├─▶ Failed to resolve dependency tree: No matching version found for left-
          │   pad@^2.0.0 while fetching it from http://coldframe/
          │
          │   Failed to resolve left-pad@^2.0.0
          ╰─▶ No matching version found for left-pad@^2.0.0 while fetching it from
              http://coldframe/
          help: The latest release of left-pad is "1.0.0". Published at 12/24/2025
                If you need the full list of all 1 published versions run "pnpm view
                left-pad versions".
    "#]],
        ),
        (
            &[Tool::Yarn1],
            expect![[r#"
        yarn install v1.22.22
        info No lockfile found.
        [1/4] Resolving packages...
        error Couldn't find any versions for "left-pad" that matches "^2.0.0"
    "#]],
        ),
        (
            &[Tool::Yarn4],
            expect![[r#"
        ➤ YN0000: · Yarn 4.18.1
        ➤ YN0000: ┌ Resolution step
        ➤ YN0082: │ left-pad@npm:^2.0.0: No candidates found
        ➤ YN0000: · Failed with errors in N N
    "#]],
        ),
        (
            &[Tool::Bun],
            expect![[r#"
        bun install v1.4.5 (a7733435c)
        error: No version matching "^2.0.0" found for specifier "left-pad" (but package exists)
        error: left-pad@^2.0.0 failed to resolve
    "#]],
        ),
        (
            &[Tool::Deno],
            expect![[r#"
            error: Could not find npm package 'left-pad' matching '^2.0.0'.
        "#]],
        ),
    ];
    assert_all_fail(&scene, "left-pad", "^2.0.0", &expected).await;
}

#[tokio::test]
async fn clients_fail_on_a_new_package() {
    let scene = Scene::open().await;
    publish_packages(&scene);
    let expected: [(&[Tool], Expect); 8] = [
        (
            &Tool::NPM[..],
            expect![[r#"
            npm notice newborn is held: its only version; newborn@1.0.0: published 2026-04-03 10:00 UTC, the package... (rule new-package); opens 2026-04-17 10:00 UTC; why: http://coldframe/-/coldframe/explain/newborn
            npm error code E403
            npm error 403 403 newborn is held: its only version; newborn@1.0.0: published 2026-04-03 10:00 UTC, the package... (rule new-package); opens 2026-04-17 10:00 UTC; why: http://coldframe/-/coldframe/explain/newborn - GET http://coldframe/newborn - newborn is held by coldframe: its only version; newborn@1.0.0: published 2026-04-03 10:00 UTC, the package is new, its package was first published 2026-04-03 10:00 UTC, new packages wait 14 d (rule new-package); opens 2026-04-17 10:00 UTC; why: http://coldframe/-/coldframe/explain/newborn
        "#]],
        ),
        (
            &[Tool::Pnpm9],
            expect![[r#"
             ERR_PNPM_FETCH_403  GET http://coldframe/newborn: newborn is held: its only version; newborn@1.0.0: published 2026-04-03 10:00 UTC, the package... (rule new-package); opens 2026-04-17 10:00 UTC; why: http://coldframe/-/coldframe/explain/newborn - 403
            This error happened while installing a direct dependency of .
            No authorization header was set for the request.
            Try to log in to the registry by running "pnpm login"
            or add the auth tokens manually to the ~/.npmrc file.
        "#]],
        ),
        (
            &[Tool::Pnpm10],
            expect![[r#"
         ERR_PNPM_FETCH_403  GET http://coldframe/newborn: newborn is held: its only version; newborn@1.0.0: published 2026-04-03 10:00 UTC, the package... (rule new-package); opens 2026-04-17 10:00 UTC; why: http://coldframe/-/coldframe/explain/newborn - 403
        This error happened while installing a direct dependency of .
        No authorization header was set for the request.
    "#]],
        ),
        (
            &[Tool::Pnpm12],
            expect![[r#"
        Error: ERR_PNPM_FETCH_403
          × installing dependencies
          ├─▶ Failed to resolve dependency tree: GET http://coldframe/newborn:
          │   Forbidden - 403
          │
          │   Failed to resolve newborn@*
          ╰─▶ GET http://coldframe/newborn: Forbidden - 403
          help: No authorization header was set for the request.
    "#]],
        ),
        (
            &[Tool::Yarn1],
            expect![[r#"
        yarn install v1.22.22
        info No lockfile found.
        [1/4] Resolving packages...
        error Error: http://coldframe/newborn: newborn is held by coldframe: its only version; newborn@1.0.0: published 2026-04-03 10:00 UTC, the package is new, its package was first published 2026-04-03 10:00 UTC, new packages wait 14 d (rule new-package); opens 2026-04-17 10:00 UTC; why: http://coldframe/-/coldframe/explain/newborn
    "#]],
        ),
        (
            &[Tool::Yarn4],
            expect![[r#"
        ➤ YN0000: · Yarn 4.18.1
        ➤ YN0000: ┌ Resolution step
        ➤ YN0035: │ newborn@npm:*: The remote server failed to provide the requested resource
        ➤ YN0035: │   Response Code: 403 (newborn is held: its only version; newborn@1.0.0: published 2026-04-03 10:00 UTC, the package... (rule new-package); opens 2026-04-17 10:00 UTC; why: http://coldframe/-/coldframe/explain/newborn)
        ➤ YN0035: │   Request Method: GET
        ➤ YN0035: │   Request URL: http://coldframe/newborn
        ➤ YN0035: │   Request Retry Count: 0 (can be increased via httpRetry)
        ➤ YN0000: · Failed with errors in N N
    "#]],
        ),
        (
            &[Tool::Bun],
            expect![[r#"
        bun install v1.4.5 (a7733435c)
        error: GET http://coldframe/newborn - 403
        error: newborn@* failed to resolve
    "#]],
        ),
        (
            &[Tool::Deno],
            expect![[r#"
            error: Failed loading http://coldframe/newborn for package "newborn"
            Caused by:
                Bad response: 403
                {"error":"newborn is held by coldframe: its only version; newborn@1.0.0: published 2026-04-03 10:00 UTC, the package is new, its package was first published 2026-04-03 10:00 UTC, new packages wait 14 d (rule new-package); opens 2026-04-17 10:00 UTC; why: http://coldframe/-/coldframe/explain/newborn"}
        "#]],
        ),
    ];
    assert_all_fail(&scene, "newborn", "*", &expected).await;
}
