//! Between a user and his document.
//!
//! A collection may have been written by another application for years: whatever is missing or odd gets the
//! meaning that grants the least, and what is none of our business is neither read nor touched. Every value in a
//! filter or a change is BSON of a type chosen here, so that no input of a caller can become an operator.

use mongodb::bson::oid::ObjectId;
use mongodb::bson::raw::RawDocument;
use mongodb::bson::{Bson, DateTime, Document, RawBsonRef, doc};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::store::settings::{IdType, UserFields};
use crate::store::{Email, SessionsCut, User, UserChange};

/// The fields of a cut are ours in any collection.
const CUT_AT: &str = "sessions_valid_after";
const CUT_KEEP: &str = "sessions_keep";

/// Why a document is nobody's account. Never shows what the document holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error(
        "its _id is of another type than `users.mongodb.id` says, or no identifier of at most 64 visible ASCII"
    )]
    Id,
    #[error("its e-mail address is missing or none")]
    Email,
    #[error("its `sessions_valid_after` or `sessions_keep` was not written by portcullis")]
    Cut,
}

/// How users are written down.
pub struct Form {
    pub id: IdType,
    pub fields: UserFields,
}

impl Form {
    /// `_id` of the user `id`; `None` when no user can have that id.
    pub fn id(&self, id: &str) -> Option<Bson> {
        match self.id {
            IdType::String => Some(Bson::String(id.to_owned())),
            // Upper-case digits would be a second name for the same user.
            IdType::ObjectId => {
                ObjectId::parse_str(id).ok().filter(|parsed| parsed.to_hex() == id).map(Bson::ObjectId)
            }
        }
    }

    /// The user id that `_id` stands for.
    pub fn user_id(&self, id: Option<RawBsonRef<'_>>) -> Result<String, Unusable> {
        let text = match (self.id, id) {
            (IdType::String, Some(RawBsonRef::String(text))) => text.to_owned(),
            (IdType::ObjectId, Some(RawBsonRef::ObjectId(id))) => id.to_hex(),
            _ => return Err(Unusable::Id),
        };
        let plain = (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        plain.then_some(text).ok_or(Unusable::Id)
    }

    pub fn by_id(id: &Bson) -> Document {
        doc! { "_id": id.clone() }
    }

    pub fn by_email(&self, email: &Email) -> Document {
        doc! { &self.fields.email: Bson::String(email.as_str().to_owned()) }
    }

    pub fn by_id_and_hash(&self, id: &Bson, hash: &str) -> Document {
        doc! { "_id": id.clone(), &self.fields.password: Bson::String(hash.to_owned()) }
    }

    /// What is read of a document; an application may keep megabytes in the rest.
    pub fn projection(&self) -> Document {
        let UserFields { email, password, name, roles, scopes, disabled, created_at } = &self.fields;
        let ours = [email, password, name, roles, scopes, disabled, created_at].map(String::as_str);
        ours.into_iter().chain([CUT_AT, CUT_KEEP]).map(|field| (field.to_owned(), Bson::Int32(1))).collect()
    }

    /// The document of a new user; `None` when the id is not of the kind kept here.
    pub fn encode(&self, user: &User) -> Option<Document> {
        let mut document = Self::by_id(&self.id(&user.id)?);
        let fields = &self.fields;
        let mut put = |field: &str, value: Bson| drop(document.insert(field, value));
        put(&fields.email, Bson::String(user.email.as_str().to_owned()));
        put(&fields.password, Bson::String(user.password_hash.clone()));
        if let Some(name) = &user.name {
            put(&fields.name, Bson::String(name.clone()));
        }
        put(&fields.roles, strings(&user.roles));
        put(&fields.scopes, strings(&user.scopes));
        put(&fields.disabled, Bson::Boolean(user.disabled));
        put(&fields.created_at, date(user.created_at));
        if let Some(cut) = user.sessions_cut {
            put(CUT_AT, date(cut.at));
            if let Some(keep) = cut.keep {
                put(CUT_KEEP, Bson::String(keep.to_string()));
            }
        }
        Some(document)
    }

    /// The update that makes `change`; empty when nothing is to be changed. `if_password_hash` belongs to the filter.
    pub fn change(&self, change: UserChange) -> Document {
        let UserChange { name, roles, scopes, password_hash, if_password_hash: _, disabled, sessions_cut } =
            change;
        let fields = &self.fields;
        let (mut set, mut unset, mut max) = (Document::new(), Document::new(), Document::new());
        match name {
            Some(Some(name)) => drop(set.insert(&fields.name, Bson::String(name))),
            Some(None) => drop(unset.insert(&fields.name, "")),
            None => {}
        }
        if let Some(roles) = roles {
            set.insert(&fields.roles, strings(&roles));
        }
        if let Some(scopes) = scopes {
            set.insert(&fields.scopes, strings(&scopes));
        }
        if let Some(hash) = password_hash {
            set.insert(&fields.password, Bson::String(hash));
        }
        if let Some(disabled) = disabled {
            set.insert(&fields.disabled, Bson::Boolean(disabled));
        }
        if let Some(cut) = sessions_cut {
            max.insert(CUT_AT, date(cut.at));
            match cut.keep {
                Some(keep) => set.insert(CUT_KEEP, Bson::String(keep.to_string())),
                None => unset.insert(CUT_KEEP, ""),
            };
        }
        // The server refuses an operator without fields.
        let operators = [("$set", set), ("$unset", unset), ("$max", max)];
        operators
            .into_iter()
            .filter(|(_, fields)| !fields.is_empty())
            .map(|(operator, fields)| (operator.to_owned(), Bson::Document(fields)))
            .collect()
    }

    pub fn decode(&self, document: &RawDocument) -> Result<User, Unusable> {
        let fields = &self.fields;
        let id = get(document, "_id");
        let email = get(document, &fields.email).and_then(RawBsonRef::as_str);
        Ok(User {
            id: self.user_id(id)?,
            email: email.and_then(Email::parse).ok_or(Unusable::Email)?,
            name: get(document, &fields.name).and_then(RawBsonRef::as_str).map(str::to_owned),
            roles: list(get(document, &fields.roles)),
            scopes: list(get(document, &fields.scopes)),
            // An account without a password, as those of a social login: no hash is empty, so that nothing
            // matches it, and the time of comparing is that of a decoy.
            password_hash: get(document, &fields.password)
                .and_then(RawBsonRef::as_str)
                .unwrap_or_default()
                .to_owned(),
            disabled: disabled(get(document, &fields.disabled)),
            created_at: created_at(get(document, &fields.created_at), id),
            sessions_cut: cut(document)?,
        })
    }
}

fn get<'a>(document: &'a RawDocument, field: &str) -> Option<RawBsonRef<'a>> {
    document.get(field).ok().flatten()
}

fn strings(list: &[String]) -> Bson {
    list.iter().cloned().map(Bson::String).collect::<Vec<_>>().into()
}

fn date(at: Timestamp) -> Bson {
    Bson::DateTime(DateTime::from_millis(at.0))
}

/// One string, or the strings of an array.
fn list(value: Option<RawBsonRef<'_>>) -> Vec<String> {
    match value {
        Some(RawBsonRef::String(one)) if !one.is_empty() => vec![one.to_owned()],
        Some(RawBsonRef::Array(many)) => {
            many.into_iter().flatten().filter_map(RawBsonRef::as_str).map(str::to_owned).collect()
        }
        _ => vec![],
    }
}

/// Only what plainly says no, or nothing at all, leaves an account open: a date in `deleted_at` closes it.
fn disabled(value: Option<RawBsonRef<'_>>) -> bool {
    !matches!(
        value,
        None | Some(
            RawBsonRef::Null | RawBsonRef::Undefined | RawBsonRef::Boolean(false) | RawBsonRef::Int32(0)
        )
    )
}

/// As the document says; else the second in which its ObjectId was made; else 1970.
fn created_at(value: Option<RawBsonRef<'_>>, id: Option<RawBsonRef<'_>>) -> Timestamp {
    let said = value.and_then(RawBsonRef::as_datetime);
    let made = || id.and_then(RawBsonRef::as_object_id).map(|id| id.timestamp());
    Timestamp(said.or_else(made).map_or(0, DateTime::timestamp_millis))
}

/// A cut that cannot be read is no reason to believe that there was none.
fn cut(document: &RawDocument) -> Result<Option<SessionsCut>, Unusable> {
    let keep = match get(document, CUT_KEEP) {
        None | Some(RawBsonRef::Null) => None,
        Some(RawBsonRef::String(keep)) => Some(Uuid::try_parse(keep).map_err(|_| Unusable::Cut)?),
        Some(_) => return Err(Unusable::Cut),
    };
    match get(document, CUT_AT) {
        None | Some(RawBsonRef::Null) => Ok(None),
        Some(RawBsonRef::DateTime(at)) => {
            Ok(Some(SessionsCut { at: Timestamp(at.timestamp_millis()), keep }))
        }
        Some(_) => Err(Unusable::Cut),
    }
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
