//! What each client prints when Coldframe holds something back.

use std::net::TcpListener;

use expect_test::{Expect, expect};

use crate::package::{Package, days, hours};
use crate::scene::Scene;
use crate::tool::{Project, Tool};

/// left-pad with an old 1.0.0 and a young 1.1.0 and 2.0.0, and a newborn package.
pub fn fill(scene: &Scene) {
    scene.publish(Package::new("left-pad", "1.0.0").aged(days(100)));
    scene.publish(Package::new("left-pad", "1.1.0").aged(hours(5)));
    scene.publish(Package::new("left-pad", "2.0.0").aged(hours(1)));
    scene.publish(Package::new("newborn", "1.0.0").aged(hours(2)));
    // pnpm looks for a newer self.
    scene.registry.absent("pnpm");
}

/// A client cannot install a package, and this is what its user reads.
pub async fn fails(scene: &Scene, tool: Tool, name: &str, range: &str, expected: Expect) {
    let project = Project::new(tool, &[(name, range)]);
    let said = project.run(scene, &["install"]).await;
    assert_ne!(said.code, 0, "{tool:?} should fail:\n{}", said.text);
    assert_eq!(project.installed(name), None);
    expected.assert_eq(&said.text);
}

#[tokio::test]
async fn an_exact_pin_that_is_hidden() {
    let scene = Scene::open().await;
    fill(&scene);
    let fails = |tool, expected: Expect| fails(&scene, tool, "left-pad", "1.1.0", expected);
    fails(
        Tool::Npm10,
        expect![[r#"
            npm error code E403
            npm error 403 Could not download left-pad@1.1.0 due to policy violations:
            npm error 403 coldframe holds back 2 versions of left-pad:
            npm error 403 left-pad@2.0.0: published 2026-04-03 11:00 UTC, minimum release age 72 h (rule minimum-release-age), opens 2026-04-06 11:00 UTC
            npm error 403 left-pad@1.1.0: published 2026-04-03 07:00 UTC, minimum release age 72 h (rule minimum-release-age), opens 2026-04-06 07:00 UTC
            npm error 403 newest allowed: left-pad@1.0.0
            npm error 403 In most cases, you or one of your dependencies are requesting
            npm error 403 a package version that is forbidden by your security policy, or
            npm error 403 on a server you do not have access to.
        "#]],
    ).await;
    fails(
        Tool::Npm11,
        expect![[r#"
            npm error code E403
            npm error 403 Could not download left-pad@1.1.0 due to policy violations:
            npm error 403 coldframe holds back 2 versions of left-pad:
            npm error 403 left-pad@2.0.0: published 2026-04-03 11:00 UTC, minimum release age 72 h (rule minimum-release-age), opens 2026-04-06 11:00 UTC
            npm error 403 left-pad@1.1.0: published 2026-04-03 07:00 UTC, minimum release age 72 h (rule minimum-release-age), opens 2026-04-06 07:00 UTC
            npm error 403 newest allowed: left-pad@1.0.0
            npm error 403 In most cases, you or one of your dependencies are requesting a package version that is forbidden by your security policy, or on a server you do not have access to.
        "#]],
    ).await;
    fails(
        Tool::Pnpm10,
        expect![[r#"
         ERR_PNPM_NO_MATCHING_VERSION  No matching version found for left-pad@1.1.0 while fetching it from http://coldframe/
        This error happened while installing a direct dependency of .
        The latest release of left-pad is "1.0.0". Published at 12/24/2025
        If you need the full list of all 1 published versions run "pnpm view left-pad versions".
    "#]],
    )
    .await;
    fails(
        Tool::Pnpm12,
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
    )
    .await;
    fails(
        Tool::Yarn1,
        expect![[r#"
        yarn install v1.22.22
        info No lockfile found.
        [1/4] Resolving packages...
        error Couldn't find any versions for "left-pad" that matches "1.1.0"
    "#]],
    )
    .await;
    fails(
        Tool::Yarn4,
        expect![[r#"
        ➤ YN0000: · Yarn 4.18.1
        ➤ YN0000: ┌ Resolution step
        ➤ YN0082: │ left-pad@npm:1.1.0: No candidates found
        ➤ YN0000: · Failed with errors in N N
    "#]],
    )
    .await;
    fails(
        Tool::Bun,
        expect![[r#"
        bun install v1.4.5 (a7733435c)
        error: No version matching "1.1.0" found for specifier "left-pad" (but package exists)
        error: left-pad@1.1.0 failed to resolve
    "#]],
    )
    .await;
}

#[tokio::test]
async fn a_range_with_nothing_visible() {
    let scene = Scene::open().await;
    fill(&scene);
    let fails = |tool, expected: Expect| fails(&scene, tool, "left-pad", "^2.0.0", expected);
    fails(
        Tool::Npm10,
        expect![[r#"
            npm error code E403
            npm error 403 Could not download left-pad@^2.0.0 due to policy violations:
            npm error 403 coldframe holds back 2 versions of left-pad:
            npm error 403 left-pad@2.0.0: published 2026-04-03 11:00 UTC, minimum release age 72 h (rule minimum-release-age), opens 2026-04-06 11:00 UTC
            npm error 403 left-pad@1.1.0: published 2026-04-03 07:00 UTC, minimum release age 72 h (rule minimum-release-age), opens 2026-04-06 07:00 UTC
            npm error 403 newest allowed: left-pad@1.0.0
            npm error 403 In most cases, you or one of your dependencies are requesting
            npm error 403 a package version that is forbidden by your security policy, or
            npm error 403 on a server you do not have access to.
        "#]],
    ).await;
    fails(
        Tool::Npm11,
        expect![[r#"
            npm error code E403
            npm error 403 Could not download left-pad@^2.0.0 due to policy violations:
            npm error 403 coldframe holds back 2 versions of left-pad:
            npm error 403 left-pad@2.0.0: published 2026-04-03 11:00 UTC, minimum release age 72 h (rule minimum-release-age), opens 2026-04-06 11:00 UTC
            npm error 403 left-pad@1.1.0: published 2026-04-03 07:00 UTC, minimum release age 72 h (rule minimum-release-age), opens 2026-04-06 07:00 UTC
            npm error 403 newest allowed: left-pad@1.0.0
            npm error 403 In most cases, you or one of your dependencies are requesting a package version that is forbidden by your security policy, or on a server you do not have access to.
        "#]],
    ).await;
    fails(
        Tool::Pnpm10,
        expect![[r#"
         ERR_PNPM_NO_MATCHING_VERSION  No matching version found for left-pad@^2.0.0 while fetching it from http://coldframe/
        This error happened while installing a direct dependency of .
        The latest release of left-pad is "1.0.0". Published at 12/24/2025
        If you need the full list of all 1 published versions run "pnpm view left-pad versions".
    "#]],
    )
    .await;
    fails(
        Tool::Pnpm12,
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
    )
    .await;
    fails(
        Tool::Yarn1,
        expect![[r#"
        yarn install v1.22.22
        info No lockfile found.
        [1/4] Resolving packages...
        error Couldn't find any versions for "left-pad" that matches "^2.0.0"
    "#]],
    )
    .await;
    fails(
        Tool::Yarn4,
        expect![[r#"
        ➤ YN0000: · Yarn 4.18.1
        ➤ YN0000: ┌ Resolution step
        ➤ YN0082: │ left-pad@npm:^2.0.0: No candidates found
        ➤ YN0000: · Failed with errors in N N
    "#]],
    )
    .await;
    fails(
        Tool::Bun,
        expect![[r#"
        bun install v1.4.5 (a7733435c)
        error: No version matching "^2.0.0" found for specifier "left-pad" (but package exists)
        error: left-pad@^2.0.0 failed to resolve
    "#]],
    )
    .await;
}

#[tokio::test]
async fn a_whole_package_that_is_young() {
    let scene = Scene::open().await;
    fill(&scene);
    let fails = |tool, expected: Expect| fails(&scene, tool, "newborn", "*", expected);
    fails(
        Tool::Npm10,
        expect![[r#"
        npm notice newborn is held by coldframe: its only version; newborn@1.0.0: published 2026-04-03 10:00 UTC, minimum release age 72 h (rule minimum-release-age); opens 2026-04-06 10:00 UTC
        npm error code E403
        npm error 403 403 newborn is held by coldframe: its only version; newborn@1.0.0: published 2026-04-03 10:00 UTC, minimum release age 72 h (rule minimum-release-age); opens 2026-04-06 10:00 UTC - GET http://coldframe/newborn - newborn is held by coldframe: its only version; newborn@1.0.0: published 2026-04-03 10:00 UTC, minimum release age 72 h (rule minimum-release-age); opens 2026-04-06 10:00 UTC
        npm error 403 In most cases, you or one of your dependencies are requesting
        npm error 403 a package version that is forbidden by your security policy, or
        npm error 403 on a server you do not have access to.
    "#]],
    ).await;
    fails(
        Tool::Npm11,
        expect![[r#"
        npm notice newborn is held by coldframe: its only version; newborn@1.0.0: published 2026-04-03 10:00 UTC, minimum release age 72 h (rule minimum-release-age); opens 2026-04-06 10:00 UTC
        npm error code E403
        npm error 403 403 newborn is held by coldframe: its only version; newborn@1.0.0: published 2026-04-03 10:00 UTC, minimum release age 72 h (rule minimum-release-age); opens 2026-04-06 10:00 UTC - GET http://coldframe/newborn - newborn is held by coldframe: its only version; newborn@1.0.0: published 2026-04-03 10:00 UTC, minimum release age 72 h (rule minimum-release-age); opens 2026-04-06 10:00 UTC
        npm error 403 In most cases, you or one of your dependencies are requesting a package version that is forbidden by your security policy, or on a server you do not have access to.
    "#]],
    ).await;
    fails(
        Tool::Pnpm10,
        expect![[r#"
         ERR_PNPM_FETCH_403  GET http://coldframe/newborn: newborn is held by coldframe: its only version; newborn@1.0.0: published 2026-04-03 10:00 UTC, minimum release age 72 h (rule minimum-release-age); opens 2026-04-06 10:00 UTC - 403
        This error happened while installing a direct dependency of .
        No authorization header was set for the request.
    "#]],
    ).await;
    fails(
        Tool::Pnpm12,
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
    )
    .await;
    fails(
        Tool::Yarn1,
        expect![[r#"
        yarn install v1.22.22
        info No lockfile found.
        [1/4] Resolving packages...
        error Error: http://coldframe/newborn: newborn is held by coldframe: its only version; newborn@1.0.0: published 2026-04-03 10:00 UTC, minimum release age 72 h (rule minimum-release-age); opens 2026-04-06 10:00 UTC
    "#]],
    ).await;
    fails(
        Tool::Yarn4,
        expect![[r#"
        ➤ YN0000: · Yarn 4.18.1
        ➤ YN0000: ┌ Resolution step
        ➤ YN0035: │ newborn@npm:*: The remote server failed to provide the requested resource
        ➤ YN0035: │   Response Code: 403 (newborn is held by coldframe: its only version; newborn@1.0.0: published 2026-04-03 10:00 UTC, minimum release age 72 h (rule minimum-release-age); opens 2026-04-06 10:00 UTC)
        ➤ YN0035: │   Request Method: GET
        ➤ YN0035: │   Request URL: http://coldframe/newborn
        ➤ YN0035: │   Request Retry Count: 0 (can be increased via httpRetry)
        ➤ YN0000: · Failed with errors in N N
    "#]],
    ).await;
    fails(
        Tool::Bun,
        expect![[r#"
        bun install v1.4.5 (a7733435c)
        error: GET http://coldframe/newborn - 403
        error: newborn@* failed to resolve
    "#]],
    )
    .await;
}

#[tokio::test]
async fn a_young_tarball_from_a_lockfile() {
    // A lockfile names the address it was written before, so the second Coldframe stands where the first one stood.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut scene = Scene::open().set("listen", &free).set("min-release-age", "0s").await;
    fill(&scene);
    let mut projects = Vec::new();
    for tool in Tool::ALL {
        let project = Project::new(tool, &[("left-pad", "1.1.0")]);
        let said = project.run(&scene, &["install"]).await;
        assert_eq!((said.code, project.installed("left-pad").as_deref()), (0, Some("1.1.0")), "{tool:?}: {}", said.text);
        projects.push((tool, project.elsewhere()));
    }
    scene.restart_with("min-release-age", "72h").await;
    let expected = [
        expect![[r#"
        npm notice left-pad@1.1.0 is held by coldframe: published 2026-04-03 07:00 UTC, minimum release age 72 h (rule minimum-release-age); opens 2026-04-06 07:00 UTC; newest allowed: 1.0.0
        npm error code E403
        npm error 403 403 left-pad@1.1.0 is held by coldframe: published 2026-04-03 07:00 UTC, minimum release age 72 h (rule minimum-release-age); opens 2026-04-06 07:00 UTC; newest allowed: 1.0.0 - GET http://coldframe/left-pad/-/left-pad-1.1.0.tgz - left-pad@1.1.0 is held by coldframe: published 2026-04-03 07:00 UTC, minimum release age 72 h (rule minimum-release-age); opens 2026-04-06 07:00 UTC; newest allowed: 1.0.0
        npm error 403 In most cases, you or one of your dependencies are requesting
        npm error 403 a package version that is forbidden by your security policy, or
        npm error 403 on a server you do not have access to.
    "#]],
        expect![[r#"
        npm notice left-pad@1.1.0 is held by coldframe: published 2026-04-03 07:00 UTC, minimum release age 72 h (rule minimum-release-age); opens 2026-04-06 07:00 UTC; newest allowed: 1.0.0
        npm error code E403
        npm error 403 403 left-pad@1.1.0 is held by coldframe: published 2026-04-03 07:00 UTC, minimum release age 72 h (rule minimum-release-age); opens 2026-04-06 07:00 UTC; newest allowed: 1.0.0 - GET http://coldframe/left-pad/-/left-pad-1.1.0.tgz - left-pad@1.1.0 is held by coldframe: published 2026-04-03 07:00 UTC, minimum release age 72 h (rule minimum-release-age); opens 2026-04-06 07:00 UTC; newest allowed: 1.0.0
        npm error 403 In most cases, you or one of your dependencies are requesting a package version that is forbidden by your security policy, or on a server you do not have access to.
    "#]],
        expect![[r#"
        Lockfile is up to date, resolution step is skipped
        Packages: +1
        +
         ERR_PNPM_FETCH_403  GET http://coldframe/left-pad/-/left-pad-1.1.0.tgz: left-pad@1.1.0 is held by coldframe: published 2026-04-03 07:00 UTC, minimum release age 72 h (rule minimum-release-age); opens 2026-04-06 07:00 UTC; newest allowed: 1.0.0 - 403
        No authorization header was set for the request.
    "#]],
        expect![[r#"
        ? Verifying lockfile against supply-chain policies (1 entry)...
        ✓ Lockfile passes supply-chain policies (1 entry in N)
        Lockfile is up to date, resolution step is skipped
        Error: ERR_PNPM_TARBALL_HTTP_STATUS
          × installing dependencies
          ╰─▶ Tarball server returned HTTP 403 for http://coldframe/left-pad/-/
              left-pad-1.1.0.tgz
    "#]],
        expect![[r#"
        yarn install v1.22.22
        [1/4] Resolving packages...
        [2/4] Fetching packages...
        error Error: http://coldframe/left-pad/-/left-pad-1.1.0.tgz: Request failed "403 Forbidden"
    "#]],
        expect![[r#"
        ➤ YN0000: · Yarn 4.18.1
        ➤ YN0000: ┌ Resolution step
        ➤ YN0000: ┌ Fetch step
        ➤ YN0035: │ left-pad@npm:1.1.0: The remote server failed to provide the requested resource
        ➤ YN0035: │   Response Code: 403 (left-pad@1.1.0 is held by coldframe: published 2026-04-03 07:00 UTC, minimum release age 72 h (rule minimum-release-age); opens 2026-04-06 07:00 UTC; newest allowed: 1.0.0)
        ➤ YN0035: │   Request Method: GET
        ➤ YN0035: │   Request URL: http://coldframe/left-pad/-/left-pad-1.1.0.tgz
        ➤ YN0035: │   Request Retry Count: 0 (can be increased via httpRetry)
        ➤ YN0000: · Failed with errors in N N
    "#]],
        expect![[r#"
        bun install v1.4.5 (a7733435c)
        error: GET http://coldframe/left-pad/-/left-pad-1.1.0.tgz - 403
    "#]],
    ];
    for ((tool, project), expected) in projects.into_iter().zip(expected) {
        let said = project.run(&scene, tool.frozen()).await;
        assert_ne!(said.code, 0, "{tool:?} should fail:\n{}", said.text);
        assert_eq!(project.installed("left-pad"), None, "{tool:?}");
        expected.assert_eq(&said.text);
    }
}
