//! Who is calling and what they may do: `authenticate`, `policy`, and the identity headers a backend gets.

mod authenticate;
mod bearer;
pub mod headers;
mod identity;
mod links;
pub mod policy;

pub use authenticate::Authenticator;
pub use headers::IdentityHeaders;
pub use identity::Identity;
pub use links::Links;
pub use policy::{Authenticated, Permitted, authorize};
