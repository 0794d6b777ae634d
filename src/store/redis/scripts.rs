//! The Lua scripts: one for each decision, so that Redis makes it in one step.
//!
//! Sent by their digest; a server that does not know one (new, or flushed) is given the text and asked again.

use redis::Script;

macro_rules! script {
    ($($part:literal),+) => {
        Script::new(concat!($(include_str!(concat!("lua/", $part, ".lua"))),+))
    };
}

pub struct Scripts {
    pub open: Script,
    pub rotate: Script,
    pub end: Script,
    pub end_all: Script,
    pub announced: Script,
    pub run: Script,
    pub run_undo: Script,
    pub window: Script,
    pub window_undo: Script,
    pub lease: Script,
}

impl Scripts {
    pub fn new() -> Self {
        Self {
            open: script!("clock", "session", "open"),
            rotate: script!("clock", "session", "rotate"),
            end: script!("clock", "session", "end"),
            end_all: script!("clock", "session", "end_all"),
            announced: script!("clock", "session", "announced"),
            run: script!("clock", "run"),
            run_undo: script!("clock", "run_undo"),
            window: script!("clock", "window"),
            window_undo: script!("clock", "window_undo"),
            lease: script!("clock", "lease"),
        }
    }
}
