//! How the doors behave, and what a connection may cost. Refuses to know which addresses they are at.

use url::Url;

use super::read::{self, Reader};
use super::settings::Key;
use crate::net::Limits;
use crate::proxy;

/// The doors of what is written; `None` when something is wrong, which is noted.
pub(super) fn read(reader: &mut Reader<'_>, public_url: Option<Url>) -> Option<proxy::Config> {
    let trusted_proxies = reader.several(Key::TrustedProxy, read::network);
    let allow_writes = reader.one(Key::AllowWrites, read::truth);
    let limits = limits(reader);
    let body_timeout = reader.one(Key::BodyTimeout, read::some_duration);
    let body_limit = reader.one(Key::BodyLimit, read::size_from(1_000));
    let write_limit = reader.one(Key::WriteLimit, read::size_from(1_000));
    Some(proxy::Config {
        public_url,
        trusted_proxies,
        allow_writes: allow_writes?,
        body_limit: body_limit?,
        write_limit: write_limit?,
        body_timeout: body_timeout?,
        limits: limits?,
    })
}

fn limits(reader: &mut Reader<'_>) -> Option<Limits> {
    let connections = reader.one(Key::MaxConnections, read::count);
    let head_timeout = reader.one(Key::HeadTimeout, read::some_duration);
    let head_bytes = reader.one(Key::HeadLimit, read::size_within(8 << 10, 1 << 20));
    let head_lines = reader.one(Key::HeadLines, read::count_to(1_000));
    let idle_timeout = reader.one(Key::IdleTimeout, read::some_duration);
    let send_timeout = reader.one(Key::SendTimeout, read::some_duration);
    let drain = reader.one(Key::DrainTimeout, read::duration);
    Some(Limits {
        connections: connections?,
        head_timeout: head_timeout?,
        idle_timeout: idle_timeout?,
        head_bytes: head_bytes?,
        head_lines: head_lines?,
        send_timeout: send_timeout?,
        drain: drain?,
    })
}
