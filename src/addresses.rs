//! One `host:port`, and the addresses it stands for at the moment. Names are looked up in the background, never for a
//! request.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

pub struct Addresses {
    name: String,
    known: ArcSwap<Vec<SocketAddr>>,
}

impl Addresses {
    pub fn new(name: &str) -> Self {
        let literal = name.parse::<SocketAddr>().ok();
        Self { name: name.to_owned(), known: ArcSwap::from_pointee(literal.into_iter().collect()) }
    }

    /// One of them, another one with every `turn`; `None` until the name was found.
    pub fn get(&self, turn: usize) -> Option<SocketAddr> {
        let known = self.known.load();
        known.get(turn % known.len().max(1)).copied()
    }

    pub fn is_resolved(&self) -> bool {
        !self.known.load().is_empty()
    }

    /// Looks the name up again. A failed look-up keeps the last good addresses.
    pub async fn resolve(&self) {
        if self.name.parse::<SocketAddr>().is_ok() {
            return;
        }
        match tokio::net::lookup_host(&self.name).await {
            Ok(found) => {
                let mut found: Vec<SocketAddr> = found.collect();
                found.sort();
                found.dedup();
                if !found.is_empty() && found != **self.known.load() {
                    tracing::info!(server = %self.name, addresses = ?found, "server resolved");
                    self.known.store(Arc::new(found));
                }
            }
            Err(e) => tracing::warn!(server = %self.name, error = %e, "name of a server not resolved"),
        }
    }
}
