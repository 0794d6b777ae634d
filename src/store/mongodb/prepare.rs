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
                let client = connect::client(&self.settings.uri, self.settings.timeout, self.silent.clone());
                self.client.insert(self.within(self.settings.timeout, client).await?)
            }
        };
        let database = client.database(&self.settings.database);
        let users: Collection = database.collection(&self.settings.collection);
        let recorded = self.version(&database).await?;
        self.same_ids(&users).await?;
        if !self.has_unique_index(&database).await? {
            self.make_index(&users).await?;
        }
        if !recorded {
            self.record(&database).await?;
        }
        Ok(users)
    }

    /// Whether the collection's version is on record. A newer one is not touched.
    async fn version(&self, database: &Database) -> Result<bool, Setback> {
        let schema = database.collection::<Document>(SCHEMA);
        let filter = doc! { "_id": &self.settings.collection };
        let find = async { schema.find_one(filter).await };
        let Some(record) = self.within(self.settings.timeout, find).await? else { return Ok(false) };
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
        let insert = async {
            match schema.insert_one(record).await {
                // Another gateway was faster.
                Err(error) if fault::is_duplicate(&error) => Ok(()),
                done => done.map(drop),
            }
        };
        self.within(self.settings.timeout, insert).await
    }

    /// A wrong `users.mongodb.id` would make every account invisible, and each address free to be registered again.
    async fn same_ids(&self, users: &Collection) -> Result<(), Setback> {
        let any = async { users.find_one(doc! {}).projection(doc! { "_id": 1 }).await };
        let Some(document) = self.within(self.settings.timeout, any).await? else { return Ok(()) };
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

    /// Whether addresses are unique already, by an index of whatever name. The driver's own type for an index fails
    /// on kinds it does not know; an application may have made any.
    async fn has_unique_index(&self, database: &Database) -> Result<bool, Setback> {
        let list = async {
            let mut found = false;
            let mut indexes =
                match database.run_cursor_command(doc! { "listIndexes": &self.settings.collection }).await {
                    Err(error) if fault::code(&error) == Some(NAMESPACE_NOT_FOUND) => return Ok(false),
                    indexes => indexes?,
                };
            while indexes.advance().await? {
                found |= self.makes_unique(&indexes.deserialize_current()?);
            }
            Ok(found)
        };
        self.within(self.settings.timeout, list).await
    }

    /// A partial index leaves some documents out; one with a collation is not used by our queries.
    fn makes_unique(&self, index: &Document) -> bool {
        let unique = index.get("unique").is_some_and(|unique| match unique {
            Bson::Boolean(unique) => *unique,
            Bson::Int32(unique) => *unique != 0,
            _ => false,
        });
        let key = index.get_document("key").ok();
        let of_email = key.is_some_and(|key| key.len() == 1 && key.contains_key(&self.form.fields.email));
        unique
            && of_email
            && !index.contains_key("partialFilterExpression")
            && !index.contains_key("collation")
    }

    /// The name and options are those that mongoose gives to `unique: true`, so that neither refuses the other's.
    async fn make_index(&self, users: &Collection) -> Result<(), Setback> {
        let index = IndexModel::builder()
            .keys(doc! { &self.form.fields.email: 1 })
            .options(IndexOptions::builder().unique(true).build())
            .build();
        let create = async { users.create_index(index).await };
        let error = match tokio::time::timeout(INDEX, create).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => {
                return Err(Setback {
                    cause: "the index on addresses is under construction".into(),
                    remedy: None,
                });
            }
        };
        if fault::is_duplicate(&error) {
            return Err(Setback::needs(
                "several documents have the same e-mail address, or none",
                "keep one of each; docs/mongodb.md has the query that lists them, and the index for accounts without address",
            ));
        }
        if fault::is_index_conflict(&error) {
            return Err(Setback::needs(
                "there is an index on the e-mail address that does not make it unique, or not for all",
                "drop that index; a unique one is made in its place",
            ));
        }
        Err(self.setback(&error))
    }

    /// An address that is not in the one form we look for is an account nobody can log in to.
    async fn count_unreachable(&self, users: &Collection) {
        let odd = Regex { pattern: cstr!(r"[\p{Lu}\s]").into(), options: cstr!("").into() };
        let filter = doc! { &self.form.fields.email: odd };
        // Whichever server is idle: the count decides nothing.
        let preference = ReadPreference::SecondaryPreferred { options: None };
        let count = users.count_documents(filter).max_time(COUNT).selection_criteria(preference.into());
        match tokio::time::timeout(COUNT + self.settings.timeout, count).await {
            Ok(Ok(0)) => {}
            Ok(Ok(count)) => tracing::warn!(
                count,
                collection = self.settings.collection,
                "e-mail addresses with capitals or white space: nobody can log in with them; docs/mongodb.md says how to rewrite them"
            ),
            Ok(Err(_)) | Err(_) => tracing::info!("too many addresses to look for capitals in them"),
        }
    }

    async fn within<T>(
        &self,
        limit: Duration,
        step: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Setback> {
        match tokio::time::timeout(limit, step).await {
            Ok(done) => done.map_err(|error| self.setback(&error)),
            Err(_) => Err(Setback { cause: format!("no answer within {limit:?}"), remedy: None }),
        }
    }

    fn setback(&self, error: &Error) -> Setback {
        let remedy = fault::is_refused_access(error).then_some(
            "give the user of `users.uri` the role readWrite on the database, and see that authSource is right",
        );
        Setback { cause: self.silent.describe(error), remedy }
    }
}
