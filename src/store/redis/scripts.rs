//! The Lua scripts: one for each decision, so that Redis makes it in one step.
//!
//! Sent by their digest; a server that does not know one (new, or flushed) is sent the text.

use redis::{Cmd, ErrorKind, FromRedisValue, RedisResult, ServerErrorKind, ToRedisArgs};

use super::connection::Connection;

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
    pub announce: Script,
    pub announced: Script,
    pub follow: Script,
    pub run: Script,
    pub run_undo: Script,
    pub window: Script,
    pub window_undo: Script,
    pub lease: Script,
}

impl Scripts {
    pub fn new() -> Self {
        Self {
            open: script!("clock", "stream", "session", "open"),
            rotate: script!("clock", "stream", "session", "rotate"),
            end: script!("clock", "stream", "session", "end"),
            end_all: script!("clock", "stream", "session", "end_all"),
            announce: script!("clock", "stream", "announce"),
            announced: script!("clock", "stream", "session", "announced"),
            follow: script!("clock", "follow"),
            run: script!("clock", "deadline", "run"),
            run_undo: script!("clock", "run_undo"),
            window: script!("clock", "deadline", "window"),
            window_undo: script!("clock", "window_undo"),
            lease: script!("clock", "lease"),
        }
    }
}

pub struct Script {
    text: &'static str,
    digest: String,
}

impl Script {
    fn new(text: &'static str) -> Self {
        Self { text, digest: redis::Script::new(text).get_hash().to_owned() }
    }

    /// A call of this script with `argument` as its first one.
    pub fn arg(&self, argument: impl ToRedisArgs) -> Call<'_> {
        let mut call = Call { script: self, keys: vec![], arguments: vec![] };
        call.arg(argument);
        call
    }
}

pub struct Call<'s> {
    script: &'s Script,
    keys: Vec<Vec<u8>>,
    arguments: Vec<Vec<u8>>,
}

impl Call<'_> {
    pub fn arg(&mut self, argument: impl ToRedisArgs) -> &mut Self {
        argument.write_redis_args(&mut self.arguments);
        self
    }

    pub fn key(&mut self, key: impl ToRedisArgs) -> &mut Self {
        key.write_redis_args(&mut self.keys);
        self
    }

    pub async fn invoke<T: FromRedisValue>(&self, connection: &mut Connection) -> RedisResult<T> {
        match self.command("EVALSHA", &self.script.digest).query_async(connection).await {
            // The text goes to the server that asked for it: SCRIPT LOAD would need every node of a cluster.
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                self.command("EVAL", self.script.text).query_async(connection).await
            }
            outcome => outcome,
        }
    }

    fn command(&self, name: &str, script: &str) -> Cmd {
        let mut command = redis::cmd(name);
        command.arg(script).arg(self.keys.len()).arg(&self.keys).arg(&self.arguments);
        command
    }
}
