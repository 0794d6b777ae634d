//! `Users` on the collection.

use async_trait::async_trait;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::raw::{RawDocument, RawDocumentBuf};
use mongodb::bson::{Bson, Document, doc};
use mongodb::error::Error;
use mongodb::options::{ReadConcern, ReturnDocument};
use uuid::Uuid;

use super::document::Form;
use super::{Collection, MongoDbUsers, connect, fault, unavailable};
use crate::store::settings::IdType;
use crate::store::{CreateError, Email, Result, User, UserChange, UserId, Users};

/// Documents of one reply, at most.
const PAGE: usize = 1000;

#[async_trait]
impl Users for MongoDbUsers {
    fn new_id(&self) -> UserId {
        match self.form.id {
            IdType::String => Uuid::now_v7().to_string(),
            IdType::ObjectId => ObjectId::new().to_hex(),
        }
    }

    async fn create(&self, user: User) -> Result<(), CreateError> {
        let Some(document) = self.form.encode(&user) else {
            return Err(unavailable("the id is no ObjectId, and users.mongodb.id says that all are").into());
        };
        let (by_id, by_email) = (doc! { "_id": document.get("_id") }, self.form.by_email(&user.email));
        let raw = RawDocumentBuf::try_from(&document).map_err(|_| unavailable("the user is no document"))?;
        self.call(|users| async move { insert(&users, &raw, by_id, by_email).await }).await?
    }

    async fn by_id(&self, id: &str) -> Result<Option<User>> {
        let Some(id) = self.form.id(id) else { return Ok(None) };
        let found = self.find_one(Form::by_id(&id)).await?;
        Ok(found.and_then(|document| self.account(&document)))
    }

    async fn by_email(&self, email: &Email) -> Result<Option<User>> {
        let found = self.find_one(self.form.by_email(email)).await?;
        // A miss decodes a document like a hit does: at login the difference would tell who has an account.
        let user = self.account(found.as_deref().unwrap_or(&self.decoy));
        Ok(user.filter(|user| user.email == *email && found.is_some()))
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<User>> {
        let after = match after.map(|after| self.form.id(after)) {
            // Nothing comes after what cannot be an id.
            Some(None) => return Ok(vec![]),
            Some(after) => after,
            None => None,
        };
        let (form, time) = (self.form.clone(), connect::below(self.timeout));
        self.call(|users| async move {
            let mut after = after;
            let mut list = vec![];
            // Documents that are nobody's account are passed over: a page of them is not the end.
            while list.len() < limit {
                let filter = after.map_or_else(Document::new, |after| doc! { "_id": { "$gt": after } });
                let page = (limit - list.len()).min(PAGE);
                let mut documents = users
                    .find(filter)
                    .sort(doc! { "_id": 1 })
                    .limit(i64::try_from(page).unwrap_or(i64::MAX))
                    .projection(form.projection())
                    .max_time(time)
                    .await?;
                let (mut count, mut last) = (0, None);
                while documents.advance().await? {
                    let document = documents.current();
                    count += 1;
                    last = document.get("_id").ok().flatten().and_then(|id| Bson::try_from(id).ok());
                    list.extend(account(&form, document));
                }
                if count < page || last.is_none() {
                    break;
                }
                after = last;
            }
            Ok(list)
        })
        .await
    }

    async fn update(&self, id: &str, mut change: UserChange) -> Result<Option<User>> {
        let Some(id) = self.form.id(id) else { return Ok(None) };
        let filter = match change.if_password_hash.take() {
            Some(hash) => self.form.by_id_and_hash(&id, &hash),
            None => Form::by_id(&id),
        };
        let change = self.form.change(change);
        let changed = if change.is_empty() {
            self.find_one(filter).await?
        } else {
            let time = connect::below(self.timeout);
            self.call(|users| async move {
                users
                    .find_one_and_update(filter, change)
                    .return_document(ReturnDocument::After)
                    .max_time(time)
                    .await
            })
            .await?
        };
        Ok(changed.and_then(|document| self.account(&document)))
    }

    async fn delete(&self, id: &str) -> Result<bool> {
        let Some(id) = self.form.id(id) else { return Ok(false) };
        let deleted = self.call(|users| async move { users.delete_one(Form::by_id(&id)).await }).await?;
        Ok(deleted.deleted_count == 1)
    }
}

impl MongoDbUsers {
    async fn find_one(&self, filter: Document) -> Result<Option<RawDocumentBuf>> {
        let projection = self.form.projection();
        let time = connect::below(self.timeout);
        self.call(|users| async move { users.find_one(filter).projection(projection).max_time(time).await })
            .await
    }

    fn account(&self, document: &RawDocument) -> Option<User> {
        account(&self.form, document)
    }
}

/// `None`, and a line in the log, for a document that is nobody's account.
fn account(form: &Form, document: &RawDocument) -> Option<User> {
    let unusable = match form.decode(document) {
        Ok(user) => return Some(user),
        Err(unusable) => unusable,
    };
    let id = document.get("_id").ok().flatten();
    let id = id.and_then(|id| Bson::try_from(id).ok()).map_or_else(String::new, |id| id.to_string());
    tracing::debug!(id, cause = %unusable, "a document of the users' collection is no account");
    None
}

/// The outer error is the store's, the inner one the caller's.
///
/// A reply that is lost is in doubt, and its caller hears so. A retry by the driver is no second insert: the server
/// knows it by its number, and repeats the first answer. Whether a document that equals ours is ours could not be
/// told otherwise: another caller may have created the very same user.
async fn insert(
    users: &Collection,
    document: &RawDocumentBuf,
    by_id: Document,
    by_email: Document,
) -> Result<Result<(), CreateError>, Error> {
    let mut retried = false;
    loop {
        match users.insert_one(document).await {
            Ok(_) => return Ok(Ok(())),
            Err(error) if fault::is_duplicate(&error) => {}
            Err(error) => return Err(error),
        }
        // Which index refused is looked up: what an error says about it differs from server to server. The other
        // document need not have reached a majority yet.
        if exists(users, by_id.clone()).await? {
            return Ok(Err(CreateError::IdTaken));
        }
        if exists(users, by_email.clone()).await? {
            return Ok(Err(CreateError::AddressTaken));
        }
        // It has been deleted in between.
        if retried {
            let cause = "a unique index other than those of _id and the e-mail address refuses new users";
            return Ok(Err(unavailable(cause).into()));
        }
        retried = true;
    }
}

async fn exists(users: &Collection, filter: Document) -> Result<bool, Error> {
    let only_id = doc! { "_id": 1 };
    Ok(users.find_one(filter).projection(only_id).read_concern(ReadConcern::local()).await?.is_some())
}
