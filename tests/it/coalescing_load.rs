//! Two hundred concurrent installs of one tree with a cold cache: each packument and tarball is fetched once.

use std::sync::Arc;

use crate::harness::Scene;
use crate::package::Package;

const INSTALLS: usize = 200;
const PACKAGES: usize = 30;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_installs_fetch_each_resource_once() {
    let scene = Arc::new(Scene::open().await);
    for number in 0..PACKAGES {
        scene.publish(Package::new(&format!("package-{number}"), "1.0.0").sized(20_000));
    }
    let installs: Vec<_> = (0..INSTALLS)
        .map(|install| {
            let scene = Arc::clone(&scene);
            tokio::spawn(async move {
                // Each install has its own order; one third of them use a lockfile.
                for step in 0..PACKAGES {
                    let number = (step * 7 + install) % PACKAGES;
                    let packument = format!("/package-{number}");
                    match install % 3 {
                        0 => scene.get(&packument).npm("11.0.0").gzip().await.is(200),
                        1 => scene.get(&packument).abbreviated().gzip().await.is(200),
                        _ => scene.get(&format!("{packument}/-/package-{number}-1.0.0.tgz")).await.is(200),
                    };
                    scene.get(&format!("{packument}/-/package-{number}-1.0.0.tgz")).await.is(200);
                }
            })
        })
        .collect();
    for install in installs {
        install.await.expect("an install that works");
    }
    for number in 0..PACKAGES {
        assert_eq!(scene.registry.count(&format!("/package-{number}")), 1);
        assert_eq!(scene.registry.count(&format!("/package-{number}/-/package-{number}-1.0.0.tgz")), 1);
    }
}
