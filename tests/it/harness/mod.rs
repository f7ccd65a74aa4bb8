//! Owns what the tests stand on: a running relay, senders, scripted upstreams, certificates, and waiting.

mod authority;
mod browser;
mod relay;
mod sender;
mod upstream;

use std::{thread, time::Duration};

use stagepost::clock::Clock;

pub use authority::{Authority, Identity};
pub use browser::{Browser, Scripts};
pub use relay::{BINARY, Output, Relay, cli, cli_with_input};
pub use sender::{Connection, Request, Response, exchange, sign, signed};
pub use upstream::{Answer, Received, Upstream};

/// How long anything may take on a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Waits until `probe` gives something; `what` says in the failure what did not happen.
pub fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let clock = Clock::system();
    let start = clock.elapsed();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(clock.elapsed() - start < PATIENCE, "waited in vain: {what}");
        thread::park_timeout(LOOK_EVERY);
    }
}

/// Waits until `condition` holds.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()));
}

/// A port nobody listens on at the moment.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Bytes that differ everywhere and compress badly.
pub fn distinct_bytes(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(length).collect()
}

/// Everything that comes goes to one upstream named `app`, tried again after a second.
pub fn all_to(upstream: &Upstream) -> String {
    let url = upstream.url();
    format!(
        r#"
        [source.app]
        path = "/*"
        to = ["app"]

        [upstream.app]
        url = "{url}"
        retry = {{ schedule = ["100ms"], jitter = 0.0, give_up_after = "1h" }}
        "#
    )
}
