//! Whatever a client asks: the parser never panics, and a name it takes is a name.
#![no_main]

use coldframe::npm::Endpoint;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|target: &str| {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    for method in ["GET", "PUT", "POST"] {
        let _ = Endpoint::parse(method, path, query);
    }
});
