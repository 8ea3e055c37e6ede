//! The output of each client during an upstream outage.

use std::sync::mpsc;

use expect_test::{Expect, expect};

use crate::harness::Scene;
use crate::held_versions::{assert_fails, publish_packages, tools_of};
use crate::package_manager::Tool;

#[tokio::test]
async fn clients_print_the_upstream_error() {
    let expected: [(&[Tool], Expect); 8] = [
        (
            &Tool::NPM[..],
            expect![[r#"
            npm notice upstream `upstream` sent an invalid response: connection closed before the response was complete
            npm error code E502
            npm error 502 upstream `upstream` sent an invalid response: connection closed before the response was complete - GET http://coldframe/left-pad - upstream `upstream` sent an invalid response: connection closed before the response was complete
        "#]],
        ),
        (
            &[Tool::Pnpm9],
            expect![[r#"
             ERR_PNPM_FETCH_502  GET http://coldframe/left-pad: upstream `upstream` sent an invalid response: connection closed before the response was complete - 502
            This error happened while installing a direct dependency of .
        "#]],
        ),
        (
            &[Tool::Pnpm10],
            expect![[r#"
         ERR_PNPM_FETCH_502  GET http://coldframe/left-pad: upstream `upstream` sent an invalid response: connection closed before the response was complete - 502
        This error happened while installing a direct dependency of .
    "#]],
        ),
        (
            &[Tool::Pnpm12],
            expect![[r#"
        Error: ERR_PNPM_FETCH_502
          × installing dependencies
          ├─▶ Failed to resolve dependency tree: GET http://coldframe/left-pad:
          │   Bad Gateway - 502
          │
          │   Failed to resolve left-pad@1.0.0
          ╰─▶ GET http://coldframe/left-pad: Bad Gateway - 502
    "#]],
        ),
        (
            &[Tool::Yarn1],
            expect![[r#"
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
    "#]],
        ),
        (
            &[Tool::Yarn4],
            expect![[r#"
        ➤ YN0000: · Yarn 4.18.1
        ➤ YN0000: ┌ Resolution step
        ➤ YN0035: │ left-pad@npm:1.0.0: The registry appears to be down (using a local cache might have protected you against such outages)
        ➤ YN0035: │   Response Code: 502 (upstream `upstream` sent an invalid response: connection closed before the response was complete)
        ➤ YN0035: │   Request Method: GET
        ➤ YN0035: │   Request URL: http://coldframe/left-pad
        ➤ YN0035: │   Request Retry Count: 0 (can be increased via httpRetry)
        ➤ YN0000: · Failed with errors in N N
    "#]],
        ),
        (
            &[Tool::Bun],
            expect![[r#"
        bun install v1.4.5 (a7733435c)
        error: GET http://coldframe/left-pad - 502
        error: left-pad@1.0.0 failed to resolve
    "#]],
        ),
        (
            &[Tool::Deno],
            expect![[r#"
            error: Failed loading http://coldframe/left-pad for package "left-pad"
            Caused by:
                Bad response: 502
                {"error":"upstream `upstream` sent an invalid response: connection closed before the response was complete"}
        "#]],
        ),
    ];
    assert_eq!(tools_of(&expected), Tool::ALL);
    for (tool, expected) in expected.iter().flat_map(|(tools, expected)| tools.iter().map(move |tool| (*tool, expected))) {
        // Each client gets its own server: the number of its retries would change the next client's output.
        let scene = Scene::open().await;
        publish_packages(&scene);
        scene.registry.go_down();
        assert_fails(&scene, tool, "left-pad", "1.0.0", expected).await;
    }
}

#[tokio::test]
async fn clients_print_the_next_attempt_while_the_circuit_is_open() {
    let scene = Scene::open().await;
    publish_packages(&scene);
    scene.registry.go_down();
    // The second pause of the circuit breaker lasts long enough to stop time before it ends.
    while !scene.get("/newborn").await.is(502).error().contains("next attempt in 2 s") {}
    // No retry starts while time is stopped.
    let _stopped = stop_time();
    // Without yarn 1, which retries for 12 s and prints the same as above.
    let expected: [(&[Tool], Expect); 7] = [
        (
            &Tool::NPM[..],
            expect![[r#"
            npm notice upstream `upstream` is down (connection closed before the response was complete); next attempt in 2 s
            npm error code E502
            npm error 502 upstream `upstream` is down (connection closed before the response was complete); next attempt in 2 s - GET http://coldframe/left-pad - upstream `upstream` is down (connection closed before the response was complete); next attempt in 2 s
        "#]],
        ),
        (
            &[Tool::Pnpm9],
            expect![[r#"
             ERR_PNPM_FETCH_502  GET http://coldframe/left-pad: upstream `upstream` is down (connection closed before the response was complete); next attempt in 2 s - 502
            This error happened while installing a direct dependency of .
        "#]],
        ),
        (
            &[Tool::Pnpm10],
            expect![[r#"
         ERR_PNPM_FETCH_502  GET http://coldframe/left-pad: upstream `upstream` is down (connection closed before the response was complete); next attempt in 2 s - 502
        This error happened while installing a direct dependency of .
    "#]],
        ),
        (
            &[Tool::Pnpm12],
            expect![[r#"
        Error: ERR_PNPM_FETCH_502
          × installing dependencies
          ├─▶ Failed to resolve dependency tree: GET http://coldframe/left-pad:
          │   Bad Gateway - 502
          │
          │   Failed to resolve left-pad@1.0.0
          ╰─▶ GET http://coldframe/left-pad: Bad Gateway - 502
    "#]],
        ),
        (
            &[Tool::Yarn4],
            expect![[r#"
        ➤ YN0000: · Yarn 4.18.1
        ➤ YN0000: ┌ Resolution step
        ➤ YN0035: │ left-pad@npm:1.0.0: The registry appears to be down (using a local cache might have protected you against such outages)
        ➤ YN0035: │   Response Code: 502 (upstream `upstream` is down (connection closed before the response was complete); next attempt in 2 s)
        ➤ YN0035: │   Request Method: GET
        ➤ YN0035: │   Request URL: http://coldframe/left-pad
        ➤ YN0035: │   Request Retry Count: 0 (can be increased via httpRetry)
        ➤ YN0000: · Failed with errors in N N
    "#]],
        ),
        (
            &[Tool::Bun],
            expect![[r#"
        bun install v1.4.5 (a7733435c)
        error: GET http://coldframe/left-pad - 502
        error: left-pad@1.0.0 failed to resolve
    "#]],
        ),
        (
            &[Tool::Deno],
            expect![[r#"
            error: Failed loading http://coldframe/left-pad for package "left-pad"
            Caused by:
                Bad response: 502
                {"error":"upstream `upstream` is down (connection closed before the response was complete); next attempt in 2 s"}
        "#]],
        ),
    ];
    for (tool, expected) in expected.iter().flat_map(|(tools, expected)| tools.iter().map(move |tool| (*tool, expected))) {
        assert_fails(&scene, tool, "left-pad", "1.0.0", expected).await;
    }
}

/// Stops all timers until the returned guard is dropped. A paused tokio clock skips to the next timer when the runtime is idle,
/// unless a blocking task runs.
fn stop_time() -> mpsc::SyncSender<()> {
    tokio::time::pause();
    let (end, ended) = mpsc::sync_channel(1);
    tokio::task::spawn_blocking(move || ended.recv());
    end
}
