//! Before the first user is read or written: is the collection one that we understand, and are addresses unique?
//!
//! One task a store tries until it succeeds; callers see how far it is. Any number of gateways may do this at once:
//! every step finds done what another one did. The version of the schema stands in the collection
//! `portcullis_schema`, one document for each collection of users: `{_id: "users", version: 1}`.

use std::sync::Arc;
use std::time::Duration;

use mongodb::bson::raw::cstr;
use mongodb::bson::{Bson, Document, Regex, doc};
use mongodb::error::Error;
use mongodb::options::{IndexOptions, ReadPreference};
use mongodb::{Client, Database, IndexModel};
use tokio::sync::watch;

use super::Collection;
use super::calls::{Calls, Failure};
use super::connect::{self, Silent};
use super::document::Form;
use super::fault;
use crate::store::settings::{IdType, MongoDbSettings};

/// What this program writes and understands.
const VERSION: i32 = 1;
const SCHEMA: &str = "portcullis_schema";

/// A server that is back is noticed by the second.
const AGAIN: Duration = Duration::from_millis(500);
/// What an operator has to change is not tried so often: an index that fails costs a scan of the collection.
const AGAIN_AFTER_REMEDY: Duration = Duration::from_secs(15);
/// An index of many millions of addresses takes its time; the server goes on building should we have to ask again.
const INDEX: Duration = Duration::from_secs(60);
/// Looking for addresses nobody can log in with is not worth more.
const COUNT: Duration = Duration::from_secs(5);
const NAMESPACE_NOT_FOUND: i32 = 26;

#[derive(Clone)]
pub enum Progress {
    /// The first attempt is under way.
    Preparing,
    Ready(Collection),
    /// The last attempt failed; the next one follows by itself.
    Failed(String),
}

/// Why an attempt failed; with a remedy when time alone will not heal it.
struct Setback {
    cause: String,
    remedy: Option<&'static str>,
}

impl Setback {
    fn needs(cause: impl Into<String>, remedy: &'static str) -> Self {
        Self { cause: cause.into(), remedy: Some(remedy) }
    }
}

pub struct Preparation {
    pub settings: MongoDbSettings,
    pub form: Arc<Form>,
    pub silent: Arc<Silent>,
    pub calls: Calls,
    /// `None` until the DNS has named the servers.
    pub client: Option<Client>,
}

impl Preparation {
    /// Tries until it succeeds, and says so.
    pub async fn run(mut self, progress: watch::Sender<Progress>) {
        let MongoDbSettings { database, collection, .. } = self.settings.clone();
        let mut said = String::new();
        loop {
            let Setback { cause, remedy } = match self.attempt().await {
                Ok(users) => {
                    tracing::info!(database, collection, "users are kept in MongoDB");
                    progress.send_replace(Progress::Ready(users.clone()));
                    return self.count_unreachable(&users).await;
                }
                Err(setback) => setback,
            };
            if said != cause {
                match remedy {
                    Some(remedy) => {
                        tracing::error!(database, collection, cause, remedy, "users cannot be served")
                    }
                    None => tracing::warn!(database, collection, cause, "users cannot be served yet"),
                }
                said.clone_from(&cause);
            }
            progress.send_replace(Progress::Failed(cause));
            tokio::time::sleep(if remedy.is_some() { AGAIN_AFTER_REMEDY } else { AGAIN }).await;
        }
    }

    async fn attempt(&mut self) -> Result<Collection, Setback> {
        let client = match &self.client {
            Some(client) => client,
            None => {
                let (uri, timeout, silent) =
                    (self.settings.uri.clone(), self.settings.timeout, self.silent.clone());
                let client = self.step(async move { connect::client(&uri, timeout, silent).await }).await?;
                self.client.insert(client)
            }
        };
        let database = client.database(&self.settings.database);
        let users: Collection = database.collection(&self.settings.collection);
        let recorded = self.version(&database).await?;
        self.same_ids(&users).await?;
        self.unique_addresses(&database, &users).await?;
        if !recorded {
            self.record(&database).await?;
        }
        Ok(users)
    }

    /// Whether the collection's version is on record. A newer one is not touched.
    async fn version(&self, database: &Database) -> Result<bool, Setback> {
        let schema = database.collection::<Document>(SCHEMA);
        let filter = doc! { "_id": &self.settings.collection };
        let record = self.step(async move { schema.find_one(filter).await }).await?;
        let Some(record) = record else { return Ok(false) };
        let version = record.get("version").and_then(Bson::as_i32);
        if version.is_some_and(|version| (1..=VERSION).contains(&version)) {
            return Ok(true);
        }
        let version = version.map_or("unknown".into(), |version| version.to_string());
        Err(Setback::needs(
            format!("the schema has version {version}, this program knows versions up to {VERSION}"),
            "run the newer portcullis that wrote it, or restore the backup from before the upgrade",
        ))
    }

    async fn record(&self, database: &Database) -> Result<(), Setback> {
        let schema = database.collection::<Document>(SCHEMA);
        let record = doc! { "_id": &self.settings.collection, "version": VERSION };
        self.step(async move {
            match schema.insert_one(record).await {
                // Another gateway was faster.
                Err(error) if fault::is_duplicate(&error) => Ok(()),
                done => done.map(drop),
            }
        })
        .await
    }

    /// A wrong `users.mongodb.id` would make every account invisible, and each address free to be registered again.
    async fn same_ids(&self, users: &Collection) -> Result<(), Setback> {
        let users = users.clone();
        let any = async move { users.find_one(doc! {}).projection(doc! { "_id": 1 }).await };
        let Some(document) = self.step(any).await? else { return Ok(()) };
        if self.form.user_id(document.get("_id").ok().flatten()).is_ok() {
            return Ok(());
        }
        let (cause, remedy) = match self.form.id {
            IdType::String => {
                ("the documents have an _id that is no string", "set users.mongodb.id = \"objectid\"")
            }
            IdType::ObjectId => {
                ("the documents have an _id that is no ObjectId", "set users.mongodb.id = \"string\"")
            }
        };
        Err(Setback::needs(cause, remedy))
    }

    /// Makes the index, or waits for the gateway that is making it; an equal one is good under any name. Name and
    /// options are those that mongoose gives to `unique: true`, so that neither refuses the other's.
    async fn unique_addresses(&self, database: &Database, users: &Collection) -> Result<(), Setback> {
        let index = IndexModel::builder()
            .keys(doc! { &self.form.fields.email: 1 })
            .options(IndexOptions::builder().unique(true).build())
            .build();
        let users = users.clone();
        let made = self.calls.run(INDEX, async move { users.create_index(index).await }).await;
        let refused = match made {
            Ok(_) => None,
            Err(Failure::Driver(error)) if fault::is_duplicate(&error) => {
                return Err(Setback::needs(
                    "several documents have the same e-mail address, or none",
                    "keep one of each; docs/mongodb.md has the query that lists them, and the index for accounts \
                     without address",
                ));
            }
            Err(Failure::Driver(error)) if fault::is_index_conflict(&error) => None,
            // Without the right to make it: an operator may have.
            Err(Failure::Driver(error)) if fault::is_refused_access(&error) => {
                Some(self.setback(Failure::Driver(error)))
            }
            Err(failure) => return Err(self.setback(failure)),
        };
        if self.has_unique_index(database).await? {
            return Ok(());
        }
        Err(refused.unwrap_or_else(|| {
            Setback::needs(
                "there is an index on the e-mail address that does not make it unique, or not for all",
                "drop that index; a unique one is made in its place",
            )
        }))
    }

    /// The driver's own type for an index fails on kinds it does not know; an application may have made any.
    async fn has_unique_index(&self, database: &Database) -> Result<bool, Setback> {
        let (database, list) = (database.clone(), doc! { "listIndexes": &self.settings.collection });
        let email = self.form.fields.email.clone();
        self.step(async move {
            let mut indexes = match database.run_cursor_command(list).await {
                Err(error) if fault::code(&error) == Some(NAMESPACE_NOT_FOUND) => return Ok(false),
                indexes => indexes?,
            };
            let mut found = false;
            while indexes.advance().await? {
                found |= makes_unique(&indexes.deserialize_current()?, &email);
            }
            Ok(found)
        })
        .await
    }

    /// An address that is not in the one form we look for is an account nobody can log in to.
    async fn count_unreachable(&self, users: &Collection) {
        let odd = Regex { pattern: cstr!(r"[\p{Lu}\s]").into(), options: cstr!("").into() };
        let filter = doc! { &self.form.fields.email: odd };
        // Whichever server is idle: the count decides nothing.
        let preference = ReadPreference::SecondaryPreferred { options: None };
        let users = users.clone();
        let count = async move {
            users.count_documents(filter).max_time(COUNT).selection_criteria(preference.into()).await
        };
        match self.calls.run(COUNT + self.settings.timeout, count).await {
            Ok(0) => {}
            Ok(count) => tracing::warn!(
                count,
                collection = self.settings.collection,
                "e-mail addresses with capitals or white space: nobody can log in with them; docs/mongodb.md says how to rewrite them"
            ),
            Err(_) => tracing::info!("too many addresses to look for capitals in them"),
        }
    }

    async fn step<T: Send + 'static>(
        &self,
        step: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Setback> {
        self.calls.run(self.settings.timeout, step).await.map_err(|failure| self.setback(failure))
    }

    fn setback(&self, failure: Failure) -> Setback {
        let (cause, remedy) = match failure {
            Failure::Driver(error) => {
                let remedy = fault::is_refused_access(&error).then_some(
                    "give the user of `users.uri` the role readWrite on the database, and see that authSource is right",
                );
                (self.silent.describe(&error), remedy)
            }
            Failure::Late(limit) => (format!("no answer within {limit:?}"), None),
            Failure::Ended => ("its task has ended".into(), None),
        };
        Setback { cause, remedy }
    }
}

/// Whether `index` lets no address occur twice. A partial one leaves some documents out; one with a collation is not
/// used by our queries.
fn makes_unique(index: &Document, email: &str) -> bool {
    let unique = match index.get("unique") {
        Some(Bson::Boolean(unique)) => *unique,
        Some(Bson::Int32(unique)) => *unique != 0,
        _ => false,
    };
    let of_email = index.get_document("key").is_ok_and(|key| key.len() == 1 && key.contains_key(email));
    let for_all = !index.contains_key("partialFilterExpression") && !index.contains_key("collation");
    unique && of_email && for_all
}
