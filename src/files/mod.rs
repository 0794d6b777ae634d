//! Files: objects of a store, below the caller's own prefix.
//!
//! `store` says what a store can do; `s3` and `directory` do it. Nothing here knows pingora's sessions: what comes from
//! the client is a [`store::Content`], what goes to it a [`store::Body`].

pub mod checksum;
pub mod conditions;
pub mod directory;
pub mod error;
pub mod key;
pub mod range;
pub mod store;
