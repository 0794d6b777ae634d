//! The MongoDB store: the server it is tried on, its deployment for the suite, and what holds for it alone.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use async_trait::async_trait;
use mongodb::Client;
use mongodb::bson::{Document, doc};
use portcullis::store::embedded::Embedded;
use portcullis::store::mongodb::MongoDbUsers;
use portcullis::store::settings::{IdType, MongoDbSettings, Secret, UserFields};
use portcullis::store::{CreateError, Email, User, UserChange, Users};
use tempfile::TempDir;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::servers::{Server, free_port};
use crate::support::{Deployment, Gateway, Heard, MS, user};

/// A program that serves MongoDB's protocol.
#[derive(Clone)]
pub enum Program {
    Mongod,
    FerretDb(PathBuf),
}

impl Program {
    pub fn find() -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        if std::env::split_paths(&path).any(|folder| folder.join("mongod").is_file()) {
            return Some(Self::Mongod);
        }
        let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers/bin/mongodb-server");
        built.is_file().then_some(Self::FerretDb(built))
    }

    /// Its command line to serve `data` on `port`.
    pub fn command(&self, port: u16, data: &Path) -> Vec<String> {
        let (port, data) = (port.to_string(), data.to_str().unwrap().to_owned());
        match self {
            Self::Mongod => {
                ["mongod", "--quiet", "--bind_ip", "127.0.0.1", "--port", &port, "--dbpath", &data]
                    .map(str::to_owned)
                    .to_vec()
            }
            Self::FerretDb(program) => {
                let listen = format!("127.0.0.1:{port}");
                let program = program.to_str().unwrap();
                [program, "--listen", &listen, "--data", &data].map(str::to_owned).to_vec()
            }
        }
    }
}

/// The server that all cases share.
pub fn shared_uri() -> &'static str {
    static SHARED: OnceLock<(String, Option<Server>)> = OnceLock::new();
    let (uri, _) = SHARED.get_or_init(|| {
        if let Ok(uri) = std::env::var("TEST_MONGODB_URI") {
            eprintln!("MongoDB of the tests: the one of $TEST_MONGODB_URI");
            return (uri, None);
        }
        let program = Program::find().expect(
            "no MongoDB for the tests: set $TEST_MONGODB_URI, install mongod, or run tests/servers/build",
        );
        match &program {
            Program::Mongod => eprintln!("MongoDB of the tests: mongod on the PATH"),
            Program::FerretDb(path) => eprintln!("MongoDB of the tests: FerretDB, {}", path.display()),
        }
        let (port, data) = (free_port(), tempfile::tempdir().unwrap().keep());
        let command = program.command(port, &data);
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let server = Server::start(port, &data, &command);
        (uri_of(port), Some(server))
    });
    uri
}

pub fn uri_of(port: u16) -> String {
    format!("mongodb://127.0.0.1:{port}/")
}

pub fn settings(uri: &str, id: IdType) -> MongoDbSettings {
    MongoDbSettings {
        uri: Secret::new(uri),
        database: format!("test_{}", Uuid::new_v4().simple()),
        collection: "users".into(),
        id,
        fields: UserFields::default(),
        // Long enough for a loaded machine: most cases are not about time limits.
        timeout: 10_000 * MS,
    }
}

/// The collection of users, as another program sees it.
pub async fn documents(settings: &MongoDbSettings) -> mongodb::Collection<Document> {
    let client = Client::with_uri_str(settings.uri.expose()).await.unwrap();
    client.database(&settings.database).collection(&settings.collection)
}

/// Users in a database of their own, which is dropped in the end; the rest in a file.
pub struct OneDatabase {
    folder: TempDir,
    pub settings: MongoDbSettings,
}

impl OneDatabase {
    pub fn new(id: IdType) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), settings: settings(shared_uri(), id) }
    }

    pub async fn users(&self) -> Arc<MongoDbUsers> {
        MongoDbUsers::open(&self.settings).await.unwrap()
    }

    pub async fn documents(&self) -> mongodb::Collection<Document> {
        documents(&self.settings).await
    }
}

impl Drop for OneDatabase {
    fn drop(&mut self) {
        let (uri, database) = (self.settings.uri.clone(), self.settings.database.clone());
        let drop_it = async move {
            if let Ok(client) = Client::with_uri_str(uri.expose()).await {
                let _ = client.database(&database).drop().await;
            }
        };
        // A runtime of its own: the one of the test cannot be waited on here.
        let _ = std::thread::spawn(|| {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(drop_it);
        })
        .join();
    }
}

#[async_trait]
impl Deployment for OneDatabase {
    async fn gateway(&self) -> Gateway {
        let heard = Arc::new(Heard::default());
        let rest = Embedded::open(self.folder.path(), heard.clone()).unwrap();
        Gateway { users: self.users().await, sessions: rest.clone(), throttle: rest, heard }
    }
}

fn with_id(users: &dyn Users, email: &str) -> User {
    User { id: users.new_id(), ..user("", email) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn object_ids_are_ids_like_others() {
    let on = OneDatabase::new(IdType::ObjectId);
    let users = on.users().await;
    let mut made = vec![];
    for i in 0..5 {
        let ann = with_id(&*users, &format!("a{i}@example.com"));
        users.create(ann.clone()).await.unwrap();
        made.push(ann);
    }
    let ann = made[0].clone();
    assert_eq!(ann.id.len(), 24);
    assert!(users.by_id(&ann.id).await.unwrap() == Some(ann.clone()));
    assert!(users.by_email(&ann.email).await.unwrap() == Some(ann.clone()));
    assert!(users.list(None, 9).await.unwrap() == made);
    assert!(users.list(Some(&made[1].id), 2).await.unwrap() == made[2..4]);
    assert!(users.list(Some("zzz"), 2).await.unwrap().is_empty());
    let renamed = UserChange { name: Some(Some("Ann".into())), ..UserChange::default() };
    assert!(users.update(&ann.id, renamed.clone()).await.unwrap().unwrap().name == Some("Ann".into()));
    assert!(matches!(users.create(ann.clone()).await, Err(CreateError::IdTaken)));

    for no_id in ["", "u1", "xyz", &ann.id.to_uppercase(), &format!("{}0", ann.id), "{\"$ne\":null}"] {
        if *no_id == ann.id {
            continue;
        }
        assert!(users.by_id(no_id).await.unwrap().is_none(), "{no_id}");
        assert!(users.update(no_id, renamed.clone()).await.unwrap().is_none(), "{no_id}");
        assert!(!users.delete(no_id).await.unwrap(), "{no_id}");
    }
    let foreign = users.create(user("u1", "new@example.com")).await;
    assert!(matches!(foreign, Err(CreateError::Unavailable(e)) if e.cause.contains("ObjectId")));
    assert!(users.delete(&ann.id).await.unwrap());
    assert!(users.by_id(&ann.id).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_gateways_prepare_one_empty_database_at_once() {
    let on = OneDatabase::new(IdType::String);
    let mut tasks = JoinSet::new();
    for i in 0..20 {
        let settings = on.settings.clone();
        tasks.spawn(async move {
            let users = MongoDbUsers::open(&settings).await.unwrap();
            users.create(user(&format!("u{i}"), &format!("a{}@example.com", i / 2))).await
        });
    }
    let answers = tasks.join_all().await;
    let taken = answers.iter().filter(|answer| matches!(answer, Err(CreateError::AddressTaken))).count();
    assert_eq!((answers.iter().filter(|answer| answer.is_ok()).count(), taken), (10, 10), "{answers:?}");
    let documents = on.documents().await;
    let names = documents.list_index_names().await.unwrap();
    assert_eq!(names, ["_id_", "email_1"]);
    let client = documents.client();
    let schema = client.database(&on.settings.database).collection::<Document>("portcullis_schema");
    let record = schema.find_one(doc! {}).await.unwrap();
    assert_eq!(record, Some(doc! { "_id": "users", "version": 1 }));
}

/// Pingora gives each service a runtime of its own; connections made for one are used by others, and outlive them.
#[test]
fn any_runtime_may_call_and_end() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let on = OneDatabase::new(IdType::String);
    let background = runtime();
    let users = background.block_on(on.users());
    for i in 0..4 {
        let (one, two) = (runtime(), runtime());
        let (id, email) = (format!("u{i}"), format!("a{i}@example.com"));
        one.block_on(users.create(user(&id, &email))).unwrap();
        // Ends in the middle of calls.
        for _ in 0..20 {
            let (users, id) = (users.clone(), id.clone());
            one.spawn(async move { users.by_id(&id).await });
        }
        drop(one);
        assert!(two.block_on(users.by_id(&id)).unwrap().is_some());
    }
    drop(background);
    let refused = runtime().block_on(users.by_id("u1"));
    assert!(refused.is_err(), "without its tasks the driver cannot be used");
}

/// Not a test of right and wrong: prints what the operations cost on the server at hand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure() {
    let on = OneDatabase::new(IdType::String);
    let users = on.users().await;
    const USERS: usize = 200;
    let mut ids = vec![];
    let began = Instant::now();
    for i in 0..USERS {
        let ann = User {
            id: users.new_id(),
            name: Some("Ann Example".into()),
            roles: vec!["user".into()],
            password_hash: "-".repeat(87),
            ..user("", &format!("ann.example{i}@example.com"))
        };
        ids.push(ann.id.clone());
        users.create(ann).await.unwrap();
    }
    println!("create: {:?} each", began.elapsed() / USERS as u32);
    let raw = on.documents().await.clone_with_type::<mongodb::bson::RawDocumentBuf>();
    let document = raw.find_one(doc! {}).await.unwrap().unwrap();
    println!("bytes of a document: {}", document.as_bytes().len());

    let rename = |i| UserChange { name: Some(Some(format!("Ann {i}"))), ..UserChange::default() };
    let known = Email::parse("ann.example7@example.com").unwrap();
    let unknown = Email::parse("ann.exampleX@example.com").unwrap();
    for what in ["by_id", "by_email, known", "by_email, unknown", "update"] {
        let mut times = vec![];
        for i in 0..500 {
            let began = Instant::now();
            match what {
                "by_id" => drop(users.by_id(&ids[i % USERS]).await.unwrap().unwrap()),
                "by_email, known" => drop(users.by_email(&known).await.unwrap().unwrap()),
                "by_email, unknown" => assert!(users.by_email(&unknown).await.unwrap().is_none()),
                _ => drop(users.update(&ids[i % USERS], rename(i)).await.unwrap().unwrap()),
            }
            times.push(began.elapsed());
        }
        times.sort();
        println!("{what}: p50 {:?}, p99 {:?}", times[250], times[495]);
    }
    for callers in [1, 8, 32] {
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        for c in 0..callers {
            let (users, ids) = (users.clone(), ids.clone());
            tasks.spawn(async move {
                for i in 0..500 / callers {
                    users.by_id(&ids[(c + i) % USERS]).await.unwrap().unwrap();
                }
            });
        }
        tasks.join_all().await;
        println!("by_id, {callers} callers: {:.0}/s", 500.0 / began.elapsed().as_secs_f64());
    }
}
