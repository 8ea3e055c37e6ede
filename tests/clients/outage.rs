//! What each client prints while upstream is down.

use expect_test::{Expect, expect};

use crate::held_back::{fails, fill};
use crate::scene::Scene;
use crate::tool::Tool;

/// So many failures in a row, and upstream is left alone.
const FAILURES_OF_AN_OUTAGE: usize = 5;

#[tokio::test]
async fn an_upstream_that_is_down() {
    // Each client has an outage of its own: how often one asks is not to change what the next one reads.
    let fails = |tool, expected: Expect| async move {
        let scene = Scene::open().await;
        fill(&scene);
        scene.registry.goes_down();
        fails(&scene, tool, "left-pad", "1.0.0", expected).await;
    };
    fails(
        Tool::Npm10,
        expect![[r#"
        npm notice upstream `upstream` sent a broken answer: the connection ended before the answer was complete
        npm error code E502
        npm error 502 upstream `upstream` sent a broken answer: the connection ended before the answer was complete - GET http://coldframe/left-pad - upstream `upstream` sent a broken answer: the connection ended before the answer was complete
    "#]],
    ).await;
    fails(
        Tool::Npm11,
        expect![[r#"
        npm notice upstream `upstream` sent a broken answer: the connection ended before the answer was complete
        npm error code E502
        npm error 502 upstream `upstream` sent a broken answer: the connection ended before the answer was complete - GET http://coldframe/left-pad - upstream `upstream` sent a broken answer: the connection ended before the answer was complete
    "#]],
    ).await;
    fails(
        Tool::Pnpm10,
        expect![[r#"
         ERR_PNPM_FETCH_502  GET http://coldframe/left-pad: upstream `upstream` sent a broken answer: the connection ended before the answer was complete - 502
        This error happened while installing a direct dependency of .
    "#]],
    ).await;
    fails(
        Tool::Pnpm12,
        expect![[r#"
        Error: ERR_PNPM_FETCH_502
          × installing dependencies
          ├─▶ Failed to resolve dependency tree: GET http://coldframe/left-pad:
          │   Bad Gateway - 502
          │
          │   Failed to resolve left-pad@1.0.0
          ╰─▶ GET http://coldframe/left-pad: Bad Gateway - 502
    "#]],
    )
    .await;
    fails(Tool::Yarn1, expect![[r#"
        yarn install v1.22.22
        info No lockfile found.
        [1/4] Resolving packages...
        info There appears to be trouble with the npm registry (returned undefined). Retrying...
        info There appears to be trouble with the npm registry (returned undefined). Retrying...
        info There appears to be trouble with the npm registry (returned undefined). Retrying...
        info There appears to be trouble with the npm registry (returned undefined). Retrying...
        clients/node_modules/yarn1/lib/cli.js:66658
                    throw new (_errors || _load_errors()).ResponseError(_this3.reporter.lang('requestFailed', description), res.statusCode);
                    ^
        ResponseError: Request failed "502 Bad Gateway"
          responseCode: 502
        }
    "#]]).await;
    fails(
        Tool::Yarn4,
        expect![[r#"
        ➤ YN0000: · Yarn 4.18.1
        ➤ YN0000: ┌ Resolution step
        ➤ YN0035: │ left-pad@npm:1.0.0: The registry appears to be down (using a local cache might have protected you against such outages)
        ➤ YN0035: │   Response Code: 502 (upstream `upstream` sent a broken answer: the connection ended before the answer was complete)
        ➤ YN0035: │   Request Method: GET
        ➤ YN0035: │   Request URL: http://coldframe/left-pad
        ➤ YN0035: │   Request Retry Count: 0 (can be increased via httpRetry)
        ➤ YN0000: · Failed with errors in N N
    "#]],
    ).await;
    fails(
        Tool::Bun,
        expect![[r#"
        bun install v1.4.5 (a7733435c)
        error: GET http://coldframe/left-pad - 502
        error: left-pad@1.0.0 failed to resolve
    "#]],
    )
    .await;
}

#[tokio::test]
async fn an_upstream_that_has_been_down_for_a_while() {
    let scene = Scene::open().await;
    fill(&scene);
    scene.registry.goes_down();
    for number in 0..FAILURES_OF_AN_OUTAGE {
        scene.get(&format!("/unknown-{number}")).await.is(502);
    }
    // Nobody tries again while time stands still, and it does as long as a client runs.
    tokio::time::pause();
    let fails = |tool, expected: Expect| fails(&scene, tool, "left-pad", "1.0.0", expected);
    fails(Tool::Npm10, expect![[r#"
        npm notice upstream `upstream` is down (the connection ended before the answer was complete) and is asked again in 1 s
        npm error code E502
        npm error 502 upstream `upstream` is down (the connection ended before the answer was complete) and is asked again in 1 s - GET http://coldframe/left-pad - upstream `upstream` is down (the connection ended before the answer was complete) and is asked again in 1 s
    "#]]).await;
    fails(Tool::Npm11, expect![[r#"
        npm notice upstream `upstream` is down (the connection ended before the answer was complete) and is asked again in 1 s
        npm error code E502
        npm error 502 upstream `upstream` is down (the connection ended before the answer was complete) and is asked again in 1 s - GET http://coldframe/left-pad - upstream `upstream` is down (the connection ended before the answer was complete) and is asked again in 1 s
    "#]]).await;
    fails(Tool::Pnpm10, expect![[r#"
         ERR_PNPM_FETCH_502  GET http://coldframe/left-pad: upstream `upstream` is down (the connection ended before the answer was complete) and is asked again in 1 s - 502
        This error happened while installing a direct dependency of .
    "#]]).await;
    fails(
        Tool::Pnpm12,
        expect![[r#"
        Error: ERR_PNPM_FETCH_502
          × installing dependencies
          ├─▶ Failed to resolve dependency tree: GET http://coldframe/left-pad:
          │   Bad Gateway - 502
          │
          │   Failed to resolve left-pad@1.0.0
          ╰─▶ GET http://coldframe/left-pad: Bad Gateway - 502
    "#]],
    )
    .await;
    // Yarn 1 tries for twelve seconds and shows no more than above.
    fails(Tool::Yarn4, expect![[r#"
        ➤ YN0000: · Yarn 4.18.1
        ➤ YN0000: ┌ Resolution step
        ➤ YN0035: │ left-pad@npm:1.0.0: The registry appears to be down (using a local cache might have protected you against such outages)
        ➤ YN0035: │   Response Code: 502 (upstream `upstream` is down (the connection ended before the answer was complete) and is asked again in 1 s)
        ➤ YN0035: │   Request Method: GET
        ➤ YN0035: │   Request URL: http://coldframe/left-pad
        ➤ YN0035: │   Request Retry Count: 0 (can be increased via httpRetry)
        ➤ YN0000: · Failed with errors in N N
    "#]]).await;
    fails(
        Tool::Bun,
        expect![[r#"
        bun install v1.4.5 (a7733435c)
        error: GET http://coldframe/left-pad - 502
        error: left-pad@1.0.0 failed to resolve
    "#]],
    )
    .await;
}
