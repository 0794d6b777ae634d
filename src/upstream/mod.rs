//! Groups of servers behind a route: peers in turn, time limits, names resolved in the background.
//!
//! Not here yet: health checks, weighting, retries beyond a failed connection, TLS to the upstream.

mod echo;
pub mod forwarded;

use std::sync::atomic::{AtomicUsize, Ordering};

use pingora_core::upstreams::peer::HttpPeer;

use crate::addresses::Addresses;
use crate::config;

pub use echo::echo_peer;

/// One configured upstream.
pub struct Upstream {
    pub name: String,
    pub forward_token: bool,
    servers: Vec<Addresses>,
    next: AtomicUsize,
    peer: HttpPeer,
}

/// What became of a request's attempts so far, so that a retry goes elsewhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attempts {
    /// Index of the server tried last.
    last: Option<usize>,
    /// Servers that could not be reached, a bit each. Those beyond the 64th share bits: a retry may then pass over one
    /// too many, never come back to a dead one.
    unreachable: u64,
}

impl Attempts {
    /// The server tried last could not be reached. (A pooled connection that turned out dead is no such thing: its
    /// server may be tried again.)
    pub fn failed(&mut self) {
        if let Some(last) = self.last {
            self.unreachable |= 1 << (last & 63);
        }
    }

    fn may_try(&self, index: usize) -> bool {
        self.unreachable & (1 << (index & 63)) == 0
    }
}

impl Upstream {
    /// `group` keeps this upstream's pooled connections apart from all others'.
    pub fn new(name: &str, config: &config::Upstream, group: u64) -> Self {
        let servers = config.servers.iter().map(|s| Addresses::new(s)).collect();
        // The address is a placeholder: `peer` sets the real one. A literal is parsed without DNS.
        let mut peer = HttpPeer::new("127.0.0.1:0", false, String::new());
        peer.group_key = group;
        let options = &mut peer.options;
        options.connection_timeout = Some(config.timeouts.connect);
        options.total_connection_timeout = Some(config.timeouts.connect);
        options.read_timeout = Some(config.timeouts.read);
        options.write_timeout = Some(config.timeouts.write);
        options.idle_timeout = Some(config.timeouts.idle);
        Self {
            name: name.to_owned(),
            forward_token: config.forward_token,
            servers,
            next: AtomicUsize::new(0),
            peer,
        }
    }

    /// The next server's peer, in turn, passing over unreachable ones and those without an address. A retry goes on
    /// from the server before; it does not use up a turn.
    pub fn peer(&self, attempts: &mut Attempts) -> Option<Box<HttpPeer>> {
        let start = match attempts.last {
            Some(last) => last + 1,
            None => self.next.fetch_add(1, Ordering::Relaxed),
        };
        let count = self.servers.len();
        (0..count).map(|i| (start.wrapping_add(i)) % count).find_map(|index| {
            if !attempts.may_try(index) {
                return None;
            }
            let address = self.servers[index].get(start)?;
            attempts.last = Some(index);
            let mut peer = Box::new(self.peer.clone());
            peer._address = pingora_core::protocols::l4::socket::SocketAddr::Inet(address);
            Some(peer)
        })
    }

    /// Whether a server is left to try.
    pub fn has_another(&self, attempts: Attempts) -> bool {
        (0..self.servers.len()).any(|index| attempts.may_try(index))
    }

    /// Whether at least one server has an address.
    pub fn is_resolved(&self) -> bool {
        self.servers.iter().any(Addresses::is_resolved)
    }

    /// Looks every name up again. A failed look-up keeps the last good addresses.
    pub async fn resolve(&self) {
        for server in &self.servers {
            server.resolve().await;
        }
    }
}
