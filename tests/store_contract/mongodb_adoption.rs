//! A collection that another application has filled is taken over, or refused with what to do about it.

use std::io::Write;
use std::sync::Arc;

use mongodb::IndexModel;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{DateTime, Document, doc};
use mongodb::options::IndexOptions;
use parking_lot::Mutex;
use portcullis::clock::Timestamp;
use portcullis::passwords::{Hasher, Verdict};
use portcullis::store::settings::{IdType, UserFields};
use portcullis::store::{CreateError, Email, SessionsCut, User, UserChange, Users};
use tracing_subscriber::fmt::MakeWriter;
use uuid::Uuid;

use crate::mongodb::OneDatabase;
use crate::support::{SECOND, user, within};

/// As `bcryptjs` makes it, of `correct horse`.
fn bcrypt_hash() -> String {
    bcrypt::hash_with_salt("correct horse", 4, [7; 16]).unwrap().format_for_version(bcrypt::Version::TwoB)
}

/// What an application with `timestamps: true` and a single `role` keeps.
fn of_express(mut on: OneDatabase) -> OneDatabase {
    on.settings.fields = UserFields {
        roles: "role".into(),
        name: "fullName".into(),
        created_at: "createdAt".into(),
        disabled: "deletedAt".into(),
        ..UserFields::default()
    };
    on
}

fn by_mongoose(email: &str) -> Document {
    doc! {
        "_id": ObjectId::new(),
        "email": email,
        "password": bcrypt_hash(),
        "fullName": "Ann Example",
        "role": "admin",
        "profile": { "avatar": "https://example.com/a.png", "tags": [1, 2.5, "x"] },
        "createdAt": DateTime::from_millis(1_600_000_000_123),
        "updatedAt": DateTime::from_millis(1_600_000_000_456),
        "__v": 0,
    }
}

fn email(text: &str) -> Email {
    Email::parse(text).unwrap()
}

/// Log lines of this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).unwrap()
    }

    fn listen(&self) -> tracing::subscriber::DefaultGuard {
        let subscriber = tracing_subscriber::fmt().with_writer(self.clone()).with_ansi(false).finish();
        tracing::subscriber::set_default(subscriber)
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_users_of_an_express_application_log_in_and_keep_their_profiles() {
    let on = of_express(OneDatabase::new(IdType::ObjectId));
    let documents = on.documents().await;
    // As mongoose does at start for `unique: true`.
    let unique = IndexOptions::builder().unique(true).build();
    let index = IndexModel::builder().keys(doc! { "email": 1 }).options(unique).build();
    documents.create_index(index.clone()).await.unwrap();
    let ann = by_mongoose("ann@example.com");
    documents.insert_one(&ann).await.unwrap();
    let mut bob = by_mongoose("bob@example.com");
    bob.insert("deletedAt", DateTime::now());
    documents.insert_one(&bob).await.unwrap();
    documents.insert_one(doc! { "email": 7, "name": "no account" }).await.unwrap();
    documents.insert_one(doc! { "email": "eve@example.com", "googleId": "1" }).await.unwrap();

    let users = on.users().await;
    let id = ann.get_object_id("_id").unwrap().to_hex();
    let read = users.by_email(&email("ann@example.com")).await.unwrap().unwrap();
    let expected = User {
        name: Some("Ann Example".into()),
        roles: vec!["admin".into()],
        password_hash: bcrypt_hash(),
        created_at: Timestamp(1_600_000_000_123),
        ..user(&id, "ann@example.com")
    };
    assert!(read == expected);
    assert!(users.by_email(&email("bob@example.com")).await.unwrap().unwrap().disabled);
    let hasher = Hasher::start(4, 1, 8).unwrap();
    let right = hasher.verify(Some(&read.password_hash), b"correct horse").await.unwrap();
    assert_eq!(right, Verdict::Right { upgrade: true });
    let eve = users.by_email(&email("eve@example.com")).await.unwrap().unwrap();
    for guess in ["", "null", "undefined"] {
        assert_eq!(hasher.verify(Some(&eve.password_hash), guess.as_bytes()).await.unwrap(), Verdict::Wrong);
    }
    let listed: Vec<String> =
        users.list(None, 3).await.unwrap().into_iter().map(|user| user.email.as_str().to_owned()).collect();
    assert_eq!(listed, ["ann@example.com", "bob@example.com", "eve@example.com"], "others are passed over");

    let cut = SessionsCut { at: Timestamp(5), keep: Some(Uuid::now_v7()) };
    let change = UserChange {
        password_hash: Some("$new".into()),
        if_password_hash: Some(bcrypt_hash()),
        sessions_cut: Some(cut),
        ..UserChange::default()
    };
    let after = users.update(&id, change).await.unwrap().unwrap();
    assert!(after == User { password_hash: "$new".into(), sessions_cut: Some(cut), ..expected });
    let mut kept = documents.find_one(doc! { "email": "ann@example.com" }).await.unwrap().unwrap();
    for ours in ["sessions_valid_after", "sessions_keep"] {
        assert!(kept.remove(ours).is_some());
    }
    let mut unchanged = ann.clone();
    unchanged.insert("password", "$new");
    assert_eq!(kept, unchanged);

    // New users stand beside the old ones, and the application's own index is no offence.
    users.create(User { id: users.new_id(), ..user("", "new@example.com") }).await.unwrap();
    let taken = users.create(User { id: users.new_id(), ..user("", "ann@example.com") }).await;
    assert!(matches!(taken, Err(CreateError::AddressTaken)));
    documents.create_index(index).await.unwrap();
    assert_eq!(documents.list_index_names().await.unwrap(), ["_id_", "email_1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_documents_that_are_no_accounts_is_not_the_end() {
    let on = OneDatabase::new(IdType::String);
    let documents = on.documents().await;
    for i in 0..20 {
        documents.insert_one(doc! { "_id": format!("a{i:02}"), "email": i }).await.unwrap();
    }
    let users = on.users().await;
    for i in 0..3 {
        users.create(user(&format!("b{i}"), &format!("b{i}@example.com"))).await.unwrap();
    }
    let ids = |list: Vec<User>| list.into_iter().map(|user| user.id).collect::<Vec<_>>();
    assert_eq!(ids(users.list(None, 2).await.unwrap()), ["b0", "b1"]);
    assert_eq!(ids(users.list(Some("b1"), 2).await.unwrap()), ["b2"]);
}

/// What the store says when it was refused, and the log of that.
async fn refusal(on: &OneDatabase) -> (String, String) {
    let log = Log::default();
    let _guard = log.listen();
    let users = on.users().await;
    let cause = users.list(None, 1).await.err().expect("it was taken over").cause;
    let created = users.create(User { id: users.new_id(), ..user("", "new@example.com") }).await;
    assert!(matches!(created, Err(CreateError::Unavailable(_))));
    let text = log.text();
    assert!(text.contains("users cannot be served") && text.contains("remedy="), "{text}");
    assert!(!text.contains('@') && !cause.contains('@'), "an address is in the log: {text}");
    (cause, text)
}

#[tokio::test]
async fn duplicate_addresses_are_refused_until_they_are_gone() {
    let on = OneDatabase::new(IdType::ObjectId);
    let documents = on.documents().await;
    for _ in 0..2 {
        documents.insert_one(by_mongoose("ann@example.com")).await.unwrap();
    }
    let (cause, log) = refusal(&on).await;
    assert!(cause.contains("same e-mail address") && log.contains("docs/mongodb.md"), "{cause} {log}");
    documents.delete_one(doc! {}).await.unwrap();
    assert!(on.users().await.by_email(&email("ann@example.com")).await.unwrap().is_some());
}

#[tokio::test]
async fn a_newer_schema_is_left_alone() {
    let on = OneDatabase::new(IdType::String);
    on.users().await.create(user("u1", "ann@example.com")).await.unwrap();
    let documents = on.documents().await;
    let schema =
        documents.client().database(&on.settings.database).collection::<Document>("portcullis_schema");
    for (version, said) in
        [(doc! { "version": 2 }, "version 2"), (doc! { "version": "x" }, "version unknown")]
    {
        schema.update_one(doc! { "_id": "users" }, doc! { "$set": version }).await.unwrap();
        let (cause, log) = refusal(&on).await;
        assert!(cause.contains(said) && log.contains("run the newer portcullis"), "{cause} {log}");
    }
}

#[tokio::test]
async fn ids_of_another_type_than_configured_are_refused() {
    let on = OneDatabase::new(IdType::String);
    on.documents().await.insert_one(by_mongoose("ann@example.com")).await.unwrap();
    let (_, log) = refusal(&on).await;
    assert!(log.contains("objectid"), "{log}");
    let on = OneDatabase::new(IdType::ObjectId);
    on.documents().await.insert_one(doc! { "_id": "u1", "email": "ann@example.com" }).await.unwrap();
    let (_, log) = refusal(&on).await;
    assert!(log.contains("string"), "{log}");
}

#[tokio::test]
async fn an_index_that_allows_duplicates_is_refused_and_one_of_another_name_is_not() {
    let on = OneDatabase::new(IdType::ObjectId);
    let documents = on.documents().await;
    documents.create_index(IndexModel::builder().keys(doc! { "email": 1 }).build()).await.unwrap();
    let (cause, log) = refusal(&on).await;
    assert!(cause.contains("does not make it unique") && log.contains("drop that index"), "{cause} {log}");

    let on = OneDatabase::new(IdType::ObjectId);
    let documents = on.documents().await;
    let named = IndexOptions::builder().unique(true).name("one_mail".to_owned()).build();
    let index = IndexModel::builder().keys(doc! { "email": 1 }).options(named).build();
    documents.create_index(index).await.unwrap();
    documents.insert_one(by_mongoose("ann@example.com")).await.unwrap();
    assert!(on.users().await.by_email(&email("ann@example.com")).await.unwrap().is_some());
}

#[tokio::test]
async fn addresses_in_capitals_are_counted_in_the_log() {
    let on = OneDatabase::new(IdType::ObjectId);
    let documents = on.documents().await;
    for text in
        ["Ann@Example.com", "ann@example.com", " bob@example.com", "Émile@example.com", "eve@example.com"]
    {
        documents.insert_one(by_mongoose(text)).await.unwrap();
    }
    let log = Log::default();
    let _guard = log.listen();
    let users = on.users().await;
    // The one in the normal form is the account; the other cannot be looked up, only listed.
    let ann = users.by_email(&email("ANN@example.com")).await.unwrap().unwrap();
    let lower = documents.find_one(doc! { "email": "ann@example.com" }).await.unwrap().unwrap();
    assert_eq!(ann.id, lower.get_object_id("_id").unwrap().to_hex());
    assert!(users.by_email(&email("bob@example.com")).await.unwrap().is_none());
    assert_eq!(users.list(None, 10).await.unwrap().len(), 5);
    within(5 * SECOND, "they are counted", || log.text().contains("count=3")).await;
    assert!(log.text().contains("docs/mongodb.md") && !log.text().contains('@'), "{}", log.text());
}
