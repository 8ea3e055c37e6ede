//! The output of each client if its lockfile pins a held release.

use std::net::TcpListener;

use expect_test::{Expect, expect};

use crate::harness::Scene;
use crate::held_versions::{publish_packages, tools_of};
use crate::package_manager::{Project, Tool};

#[tokio::test]
async fn clients_fail_on_a_held_version_in_the_lockfile() {
    // Lockfiles contain the server's address, so the restarted server needs the same port.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut scene = Scene::open().set("listen", &address).set("min-release-age", "0s").await;
    publish_packages(&scene);
    let mut projects = Vec::new();
    for tool in Tool::ALL {
        let project = Project::new(tool, &[("left-pad", "1.1.0")]);
        let output = project.run(&scene, &["install"]).await;
        assert_eq!((output.code, project.installed("left-pad").as_deref()), (0, Some("1.1.0")), "{tool:?}: {}", output.text);
        projects.push(project.fresh_checkout());
    }
    scene.restart_with("min-release-age", "72h").await;
    let expected: [(&[Tool], Expect); 8] = [
        (
            &Tool::NPM[..],
            expect![[r#"
            npm notice left-pad@1.1.0 is held: published 2026-04-03 07:00 UTC, minimum age 72 h (rule minimum-age); opens 2026-04-06 07:00 UTC; use 1.0.0; why: http://coldframe/-/coldframe/explain/left-pad@1.1.0
            npm error code E403
            npm error 403 403 left-pad@1.1.0 is held: published 2026-04-03 07:00 UTC, minimum age 72 h (rule minimum-age); opens 2026-04-06 07:00 UTC; use 1.0.0; why: http://coldframe/-/coldframe/explain/left-pad@1.1.0 - GET http://coldframe/left-pad/-/left-pad-1.1.0.tgz - left-pad@1.1.0 is held by coldframe: published 2026-04-03 07:00 UTC, minimum release age 72 h (rule minimum-age); opens 2026-04-06 07:00 UTC; newest allowed: 1.0.0; why: http://coldframe/-/coldframe/explain/left-pad@1.1.0
        "#]],
        ),
        (
            &[Tool::Pnpm9],
            expect![[r#"
            Lockfile is up to date, resolution step is skipped
            Packages: +1
            +
             ERR_PNPM_FETCH_403  GET http://coldframe/left-pad/-/left-pad-1.1.0.tgz: left-pad@1.1.0 is held: published 2026-04-03 07:00 UTC, minimum age 72 h (rule minimum-age); opens 2026-04-06 07:00 UTC; use 1.0.0; why: http://coldframe/-/coldframe/explain/left-pad@1.1.0 - 403
            No authorization header was set for the request.
            Try to log in to the registry by running "pnpm login"
            or add the auth tokens manually to the ~/.npmrc file.
        "#]],
        ),
        (
            &[Tool::Pnpm10],
            expect![[r#"
        Lockfile is up to date, resolution step is skipped
        Packages: +1
        +
         ERR_PNPM_FETCH_403  GET http://coldframe/left-pad/-/left-pad-1.1.0.tgz: left-pad@1.1.0 is held: published 2026-04-03 07:00 UTC, minimum age 72 h (rule minimum-age); opens 2026-04-06 07:00 UTC; use 1.0.0; why: http://coldframe/-/coldframe/explain/left-pad@1.1.0 - 403
        No authorization header was set for the request.
    "#]],
        ),
        (
            &[Tool::Pnpm12],
            expect![[r#"
        ? Verifying lockfile against supply-chain policies (1 entry)...
        ✓ Lockfile passes supply-chain policies (1 entry in N)
        Lockfile is up to date, resolution step is skipped
        Error: ERR_PNPM_TARBALL_HTTP_STATUS
          × installing dependencies
          ╰─▶ Tarball server returned HTTP 403 for http://coldframe/left-pad/-/
              left-pad-1.1.0.tgz
    "#]],
        ),
        (
            &[Tool::Yarn1],
            expect![[r#"
        yarn install v1.22.22
        [1/4] Resolving packages...
        [2/4] Fetching packages...
        error Error: http://coldframe/left-pad/-/left-pad-1.1.0.tgz: Request failed "403 Forbidden"
    "#]],
        ),
        (
            &[Tool::Yarn4],
            expect![[r#"
        ➤ YN0000: · Yarn 4.18.1
        ➤ YN0000: ┌ Resolution step
        ➤ YN0000: ┌ Fetch step
        ➤ YN0035: │ left-pad@npm:1.1.0: The remote server failed to provide the requested resource
        ➤ YN0035: │   Response Code: 403 (left-pad@1.1.0 is held: published 2026-04-03 07:00 UTC, minimum age 72 h (rule minimum-age); opens 2026-04-06 07:00 UTC; use 1.0.0; why: http://coldframe/-/coldframe/explain/left-pad@1.1.0)
        ➤ YN0035: │   Request Method: GET
        ➤ YN0035: │   Request URL: http://coldframe/left-pad/-/left-pad-1.1.0.tgz
        ➤ YN0035: │   Request Retry Count: 0 (can be increased via httpRetry)
        ➤ YN0000: · Failed with errors in N N
    "#]],
        ),
        (
            &[Tool::Bun],
            expect![[r#"
        bun install v1.4.5 (a7733435c)
        error: GET http://coldframe/left-pad/-/left-pad-1.1.0.tgz - 403
    "#]],
        ),
        (
            &[Tool::Deno],
            expect![[r#"
            error: Failed caching npm package 'left-pad@1.1.0'
            Caused by:
                Bad response: 403
                {"error":"left-pad@1.1.0 is held by coldframe: published 2026-04-03 07:00 UTC, minimum release age 72 h (rule minimum-age); opens 2026-04-06 07:00 UTC; newest allowed: 1.0.0; why: http://coldframe/-/coldframe/explain/left-pad@1.1.0","request":"coldframe request left-pad@1.1.0 --server http://coldframe --reason TEXT"}
        "#]],
        ),
    ];
    assert_eq!(tools_of(&expected), Tool::ALL);
    let expected = expected.iter().flat_map(|(tools, expected)| tools.iter().map(move |tool| (*tool, expected)));
    for (project, (tool, expected)) in projects.into_iter().zip(expected) {
        let output = project.run(&scene, tool.frozen()).await;
        assert_ne!(output.code, 0, "{tool:?} should fail:\n{}", output.text);
        assert_eq!(project.installed("left-pad"), None, "{tool:?}");
        expected.assert_eq(&output.text);
    }
}
