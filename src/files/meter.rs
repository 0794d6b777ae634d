//! Operations on files, counted by how they end.

use std::time::Instant;

use prometheus::{Histogram, IntCounter, IntCounterVec};

use super::error::FileError;
use crate::metrics::Metrics;

/// The counters of one store.
pub struct Meters {
    store: String,
    operations: IntCounterVec,
    first_byte: [Histogram; KINDS.len()],
    bytes_in: IntCounter,
    bytes_out: IntCounter,
}

const KINDS: [Kind; 5] = [Kind::Read, Kind::Write, Kind::Delete, Kind::List, Kind::Share];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Read,
    Write,
    Delete,
    List,
    Share,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Delete => "delete",
            Self::List => "list",
            Self::Share => "share",
        }
    }
}

impl Meters {
    pub fn new(store: &str, metrics: &Metrics) -> Self {
        let bytes = |direction| metrics.file_bytes.with_label_values(&[store, direction]);
        Self {
            store: store.to_owned(),
            operations: metrics.file_operations.clone(),
            first_byte: KINDS.map(|kind| metrics.file_first_byte.with_label_values(&[store, kind.name()])),
            bytes_in: bytes("in"),
            bytes_out: bytes("out"),
        }
    }

    pub fn begin(&self, kind: Kind) -> Operation {
        Operation {
            store: self.store.clone(),
            kind,
            operations: self.operations.clone(),
            first_byte: self.first_byte[kind as usize].clone(),
            bytes_out: self.bytes_out.clone(),
            started: Instant::now(),
            outcome: "aborted",
        }
    }

    pub fn received(&self, bytes: u64) {
        self.bytes_in.inc_by(bytes);
    }
}

/// One operation. It counts as aborted by the client unless it is said how it ended.
pub struct Operation {
    store: String,
    kind: Kind,
    operations: IntCounterVec,
    first_byte: Histogram,
    bytes_out: IntCounter,
    started: Instant,
    outcome: &'static str,
}

impl Operation {
    /// The store began to answer.
    pub fn answered(&self) {
        self.first_byte.observe(self.started.elapsed().as_secs_f64());
    }

    pub fn sent(&self, bytes: usize) {
        self.bytes_out.inc_by(bytes as u64);
    }

    pub fn succeeded(&mut self) {
        self.outcome = "ok";
    }

    /// The store broke off in the middle of an object.
    pub fn broke_off(&mut self) {
        self.outcome = "broken";
    }

    pub fn failed(&mut self, e: &FileError) {
        self.outcome = e.outcome();
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        self.operations.with_label_values(&[self.store.as_str(), self.kind.name(), self.outcome]).inc();
    }
}
