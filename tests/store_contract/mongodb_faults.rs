//! What may happen to a MongoDB and to the way there. Every call either decides or says that the store is
//! unavailable, within the time limit; and all is well within five seconds of the server's return.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use portcullis::store::mongodb::MongoDbUsers;
use portcullis::store::settings::{IdType, MongoDbSettings, Secret};
use portcullis::store::{CreateError, Email, Result, Unavailable, User, UserChange, Users};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::mongodb::{Program, settings, uri_of};
use crate::servers::{Server, free_port};
use crate::support::{MS, SECOND, user, within};

const TIMEOUT: Duration = Duration::from_millis(800);

/// A MongoDB for one test, which may do to it what it likes.
struct Own {
    program: Program,
    port: u16,
    data: TempDir,
    running: Option<Server>,
}

impl Own {
    fn stopped() -> Self {
        let program = Program::find().expect(
            "these tests stop and kill a MongoDB of their own: install mongod, or run tests/servers/build",
        );
        Self { program, port: free_port(), data: tempfile::tempdir().unwrap(), running: None }
    }

    fn started() -> Self {
        let mut own = Self::stopped();
        own.start();
        own
    }

    fn start(&mut self) {
        let command = self.program.command(self.port, self.data.path());
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        self.running = Some(Server::start_on_data(self.port, self.data.path(), &command));
    }

    fn kill(&mut self) {
        self.running = None;
    }

    /// Stops every thread of the server, and waits until they have.
    async fn hang(&self) {
        let server = self.running.as_ref().unwrap();
        server.signal(libc::SIGSTOP);
        let stat = format!("/proc/{}/stat", server.pid);
        within(SECOND, "the server has stopped", || std::fs::read_to_string(&stat).unwrap().contains(") T "))
            .await;
    }

    fn go_on(&self) {
        self.running.as_ref().unwrap().signal(libc::SIGCONT);
    }

    fn settings(&self) -> MongoDbSettings {
        impatient(self.port)
    }
}

fn impatient(port: u16) -> MongoDbSettings {
    MongoDbSettings { timeout: TIMEOUT, ..settings(&uri_of(port), IdType::String) }
}

fn ann() -> User {
    user("u1", "ann@example.com")
}

fn rename(name: &str) -> UserChange {
    UserChange { name: Some(Some(name.into())), ..UserChange::default() }
}

/// What every call of a store that cannot be reached answers. Nothing about users is in it.
async fn all_unavailable(users: &MongoDbUsers, says: &str) {
    let email = Email::parse("bob.secret@example.com").unwrap();
    let began = Instant::now();
    let (by_id, by_email, list, update, delete, create) = tokio::join!(
        users.by_id("u1"),
        users.by_email(&email),
        users.list(None, 10),
        users.update("u1", UserChange { password_hash: Some("$hash$".into()), ..UserChange::default() }),
        users.delete("u2"),
        users.create(user("u3", "bob.secret@example.com")),
    );
    let took = began.elapsed();
    assert!(took < SECOND, "{took:?}");
    let Err(CreateError::Unavailable(create)) = create else { panic!("created or taken: {create:?}") };
    let refused = [by_id.err(), by_email.err(), list.err(), update.err(), delete.err(), Some(create)];
    for refused in refused {
        let Unavailable { store, cause } = refused.expect("answered without a server");
        assert_eq!(store, "mongodb");
        assert!(cause.contains(says), "{cause}");
        for secret in ["bob", "hash", "u1"] {
            assert!(!cause.contains(secret), "{cause}");
        }
    }
}

/// Asks until there is an answer, at most five seconds.
async fn recovered(users: &MongoDbUsers) -> Option<User> {
    let began = Instant::now();
    loop {
        match users.by_id("u1").await {
            Ok(user) => {
                eprintln!("recovered after {:?}", began.elapsed());
                return user;
            }
            Err(refused) => assert!(began.elapsed() < 5 * SECOND, "{refused}"),
        }
        tokio::time::sleep(10 * MS).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_later_is_found() {
    let mut own = Own::stopped();
    let users = MongoDbUsers::open(&own.settings()).await.unwrap();
    for _ in 0..3 {
        all_unavailable(&users, "refused").await;
    }
    own.start();
    assert!(recovered(&users).await.is_none());
    users.create(ann()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_holds_nobody_up() {
    let own = Own::started();
    let settings = own.settings();
    let users = MongoDbUsers::open(&settings).await.unwrap();
    recovered(&users).await;
    users.create(ann()).await.unwrap();
    own.hang().await;
    let began = Instant::now();
    while began.elapsed() < 6 * SECOND {
        all_unavailable(&users, "").await;
    }
    // Nor one that hangs from the beginning.
    let late = MongoDbUsers::open(&settings).await.unwrap();
    all_unavailable(&late, "").await;
    own.go_on();
    let kept = recovered(&users).await.unwrap();
    // What nobody heard an answer to may have been done, or not.
    assert!(kept.password_hash == ann().password_hash || kept.password_hash == "$hash$");
    assert!(recovered(&late).await.is_some());
    assert!(users.update("u1", rename("Ann")).await.unwrap().is_some());
}

/// The server is soon back, before the driver's monitor has looked: nothing but the callers has noticed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_gave_up_stand_in_nobodys_way() {
    let own = Own::started();
    let mut settings = own.settings();
    settings.uri = Secret::new(format!("{}?heartbeatFrequencyMS=60000", uri_of(own.port)));
    let users = MongoDbUsers::open(&settings).await.unwrap();
    recovered(&users).await;
    users.create(ann()).await.unwrap();
    own.hang().await;
    let mut tasks = JoinSet::new();
    for _ in 0..500 {
        let users = users.clone();
        tasks.spawn(async move { users.by_id("u1").await });
    }
    assert!(tasks.join_all().await.iter().all(Result::is_err));
    own.go_on();
    assert!(recovered(&users).await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_has_kept_what_was_answered() {
    let mut own = Own::started();
    let users = MongoDbUsers::open(&own.settings()).await.unwrap();
    recovered(&users).await;
    users.create(ann()).await.unwrap();
    for round in 0..3 {
        let name = format!("Ann {round}");
        users.update("u1", rename(&name)).await.unwrap();
        own.kill();
        all_unavailable(&users, "").await;
        all_unavailable(&users, "refused").await;
        own.start();
        assert_eq!(recovered(&users).await.unwrap().name, Some(name));
    }
}

/// What a relay does to the replies that pass it.
#[derive(Clone, Copy)]
enum Replies {
    Pass,
    /// Ends the connection with a reset after so many bytes of a reply.
    ResetAfter(usize),
    /// Each reply comes so much later.
    Delay(Duration),
    /// Something else than MongoDB answers.
    Garbage,
}

struct Relay {
    port: u16,
    replies: Arc<Mutex<Replies>>,
}

impl Relay {
    async fn to(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let replies = Arc::new(Mutex::new(Replies::Pass));
        let now = replies.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, server, now.clone()));
            }
        });
        Self { port, replies }
    }

    fn set(&self, replies: Replies) {
        *self.replies.lock() = replies;
    }
}

async fn carry(client: TcpStream, server: u16, replies: Arc<Mutex<Replies>>) -> std::io::Result<()> {
    // A connection that is dropped is reset, whatever was on its way.
    client.set_zero_linger()?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) =
        TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await?.into_split();
    let requests = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let mut buffer = vec![0; 65536];
    let done = loop {
        let length = match from_server.read(&mut buffer).await {
            Ok(0) | Err(_) => break Ok(()),
            Ok(length) => length,
        };
        let now = *replies.lock();
        let sent = match now {
            Replies::Pass => to_client.write_all(&buffer[..length]).await,
            Replies::Delay(time) => {
                tokio::time::sleep(time).await;
                to_client.write_all(&buffer[..length]).await
            }
            Replies::Garbage => to_client.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await,
            Replies::ResetAfter(bytes) => {
                to_client.write_all(&buffer[..length.min(bytes)]).await?;
                // Long enough for it to be read before the reset overtakes it.
                tokio::time::sleep(5 * MS).await;
                break Ok(());
            }
        };
        if sent.is_err() {
            break sent;
        }
    };
    requests.abort();
    let _ = requests.await;
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_in_the_middle_of_a_reply_is_unavailable_and_over_at_once() {
    let own = Own::started();
    let relay = Relay::to(own.port).await;
    let users = MongoDbUsers::open(&impatient(relay.port)).await.unwrap();
    recovered(&users).await;
    users.create(ann()).await.unwrap();
    let mut cut = 0;
    for bytes in [0, 1, 15, 16, 21, 40, 80] {
        relay.set(Replies::ResetAfter(bytes));
        let answers: [Result<()>; 3] = [
            users.by_id("u1").await.map(|found| assert!(found.is_some(), "a user is lost")),
            users.update("u1", rename("Ann")).await.map(|found| assert!(found.is_some())),
            users.delete("nobody").await.map(|deleted| assert!(!deleted)),
        ];
        cut += answers.iter().filter(|answer| answer.is_err()).count();
        let (id, email) = (format!("cut{bytes}"), format!("cut{bytes}@example.com"));
        let created = users.create(user(&id, &email)).await;
        assert!(matches!(created, Err(CreateError::Unavailable(_))), "{created:?}");
        relay.set(Replies::Pass);
        assert!(recovered(&users).await.is_some());
        // In doubt, and so it is there or not; to ask again says which.
        let again = users.create(user(&id, &email)).await;
        assert!(matches!(again, Ok(()) | Err(CreateError::IdTaken)), "{again:?}");
        assert!(users.by_id(&id).await.unwrap().is_some());
    }
    assert_eq!(cut, 21, "every reply was to be cut");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_way_and_a_wrong_answer_are_unavailable_in_time() {
    let own = Own::started();
    let relay = Relay::to(own.port).await;
    let users = MongoDbUsers::open(&impatient(relay.port)).await.unwrap();
    recovered(&users).await;
    users.create(ann()).await.unwrap();
    relay.set(Replies::Delay(100 * MS));
    assert!(users.by_id("u1").await.unwrap().is_some(), "slow, but in time");
    for replies in [Replies::Delay(3 * SECOND), Replies::Garbage] {
        relay.set(replies);
        for _ in 0..4 {
            all_unavailable(&users, "").await;
        }
        relay.set(Replies::Pass);
        assert!(recovered(&users).await.is_some());
    }
}
