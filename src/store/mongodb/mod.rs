//! Users in a collection of MongoDB (6 or later), for a fleet: any number of gateways may open it at once.
//!
//! What was answered is held by a majority of the servers, and what is read cannot be taken back by the loss of one;
//! reads are the primary's. A call waits `users.timeout` in total and then says that it does not know: a change may
//! still have been made. `document` maps fields, so that a collection of another application can be taken over;
//! `prepare` makes the index and keeps the schema's version; `connect` bounds the driver; `fault` keeps what the
//! driver says out of the log where it could hold an address. Only commands and operators that FerretDB 1.24 knows
//! as well are used. Absent: transactions (a change of a user is one document), change streams, sharding by anything
//! but what the operator chooses.

mod calls;
mod connect;
mod document;
mod fault;
mod prepare;
mod users;

use std::sync::Arc;
use std::time::{Duration, Instant};

use mongodb::bson::raw::RawDocumentBuf;
use mongodb::error::Error;
use tokio::sync::watch;
use tokio::task::AbortHandle;

pub use connect::OpenError;

use self::calls::{Calls, Failure};
use self::connect::{Address, Silent};
use self::document::Form;
use self::prepare::{Preparation, Progress};
use crate::clock::Timestamp;
use crate::store::settings::{IdType, MongoDbSettings};
use crate::store::{Email, Result, Unavailable, User};

const ENDED: &str = "the runtime it was opened in has ended";

type Collection = mongodb::Collection<RawDocumentBuf>;

pub struct MongoDbUsers {
    form: Arc<Form>,
    timeout: Duration,
    progress: watch::Receiver<Progress>,
    preparation: AbortHandle,
    silent: Arc<Silent>,
    calls: Calls,
    /// What is decoded where there is no document.
    decoy: RawDocumentBuf,
}

impl MongoDbUsers {
    /// Begins to prepare the collection, in tasks of the runtime this is called in, and does not wait for any server.
    /// The store may be called from other runtimes, and works as long as this one.
    ///
    /// # Errors
    /// Only for a connection string that can never be used.
    pub async fn open(settings: &MongoDbSettings) -> Result<Arc<Self>, OpenError> {
        let silent = Arc::new(Silent::default());
        let Address { in_dns, connections } = connect::address(&settings.uri)?;
        let client = if in_dns {
            None
        } else {
            let client = connect::client(&settings.uri, settings.timeout, silent.clone()).await;
            Some(client.map_err(|error| connect::unusable(&settings.uri, &error))?)
        };
        let form = Arc::new(Form { id: settings.id, fields: settings.fields.clone() });
        let calls = Calls::new(connections as usize);
        let decoy = decoy(&form).unwrap_or_default();
        let (progress, told) = watch::channel(Progress::Preparing);
        let preparation = Preparation {
            settings: settings.clone(),
            form: form.clone(),
            silent: silent.clone(),
            calls: calls.clone(),
            client,
        };
        let preparation = tokio::spawn(preparation.run(progress)).abort_handle();
        Ok(Arc::new(Self {
            form,
            timeout: settings.timeout,
            progress: told,
            preparation,
            silent,
            calls,
            decoy,
        }))
    }

    /// Runs `work` on the collection, once that is prepared. No call takes longer than the timeout in total.
    async fn call<T, F>(&self, work: impl FnOnce(Collection) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let late = || unavailable(format!("no answer within {:?}", self.timeout));
        let end = Instant::now() + self.timeout;
        let users = tokio::time::timeout_at(end.into(), self.prepared()).await.map_err(|_| late())??;
        let left = end.saturating_duration_since(Instant::now());
        self.calls.run(left, work(users)).await.map_err(|failure| match failure {
            Failure::Driver(error) => unavailable(self.silent.describe(&error)),
            Failure::Late(_) => late(),
            Failure::Ended => unavailable(ENDED),
        })
    }

    /// Waits for the first attempt; a later one goes on beside the callers, who hear at once why the last one failed.
    async fn prepared(&self) -> Result<Collection> {
        let mut progress = self.progress.clone();
        let ended = |_| unavailable(ENDED);
        let known = progress.wait_for(|p| !matches!(p, Progress::Preparing)).await.map_err(ended)?;
        match &*known {
            Progress::Ready(users) => Ok(users.clone()),
            Progress::Failed(cause) => Err(unavailable(cause)),
            Progress::Preparing => Err(unavailable("it is being prepared")),
        }
    }
}

impl Drop for MongoDbUsers {
    fn drop(&mut self) {
        self.preparation.abort();
    }
}

/// A document as most are.
fn decoy(form: &Form) -> Option<RawDocumentBuf> {
    let id = match form.id {
        IdType::String => "00000000-0000-7000-8000-000000000000",
        IdType::ObjectId => "000000000000000000000000",
    };
    let nobody = User {
        id: id.into(),
        email: Email::parse("nobody@example.com")?,
        name: Some("Nobody Nowhere".into()),
        roles: vec!["user".into()],
        scopes: vec![],
        password_hash: "-".repeat(90),
        disabled: false,
        created_at: Timestamp(0),
        sessions_cut: None,
    };
    RawDocumentBuf::try_from(&form.encode(&nobody)?).ok()
}

fn unavailable(cause: impl Into<String>) -> Unavailable {
    Unavailable { store: "mongodb", cause: cause.into() }
}
