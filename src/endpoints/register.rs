//! POST /register.
//!
//! While addresses are not verified by mail, a taken address cannot be hidden: the answer is 409. It takes as
//! long as a registration that succeeds.

use serde::Deserialize;

use super::session::busy;
use super::{Endpoints, Request, json, login};
use crate::fault::Fault;
use crate::passwords;
use crate::reply::Reply;
use crate::store::{CreateError, Email, User, is_display_name};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    email: String,
    password: String,
    name: Option<String>,
}

impl Endpoints {
    /// 201 with a token pair.
    pub(super) async fn register(&self, request: Request<'_>) -> Result<Reply, Fault> {
        if !self.config.registration {
            return Err(Fault::not_found());
        }
        self.secret_is_confirmed()?;
        let Body { email, password, name } = json::body(&request)?;
        let email =
            Email::parse(&email).ok_or_else(|| Fault::invalid_field("email is not an e-mail address."))?;
        if !name.as_deref().is_none_or(is_display_name) {
            return Err(Fault::invalid_field("name is too long or holds control characters."));
        }
        login::check_length(&password)?;
        check_new(&password, &email, self.min_password_length)?;
        let hash = self.hasher.hash(password.as_bytes()).await.map_err(|b| busy(b.retry_after))?;
        let user = User {
            id: self.users.new_id(),
            email,
            name,
            roles: self.config.default_roles.clone(),
            scopes: Vec::new(),
            password_hash: hash,
            disabled: false,
            created_at: request.now,
            sessions_cut: None,
        };
        match self.users.create(user.clone()).await {
            Ok(()) => self.begin_session(&user, &request, 201).await,
            Err(CreateError::AddressTaken) => Err(Fault::new(
                409,
                "address_taken",
                "This e-mail address is already registered. Log in instead.",
            )),
            Err(CreateError::IdTaken) => Err(Fault::internal("a fresh user id was already in use")),
            Err(CreateError::Unavailable(e)) => Err(e.into()),
        }
    }
}

/// Holds a new password against the policy.
pub fn check_new(password: &str, email: &Email, min_length: usize) -> Result<(), Fault> {
    passwords::check_new(password, email, min_length)
        .map_err(|problem| Fault::bad_request("weak_password", problem.to_string()))
}
