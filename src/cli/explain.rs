//! `portcullis explain`: the stages of a request, without sending it.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use http::Uri;
use tokio::runtime::Handle;

use super::{argument_or_stdin, block_on};
use crate::auth::IdentityHeaders;
use crate::auth::policy::unmet;
use crate::clock::Timestamp;
use crate::config::{AuthMode, Config, Require};
use crate::metrics::Metrics;
use crate::route::{CleanPath, Host, NoMatch};
use crate::server::{self, FileStores, StartError};
use crate::target::{Route, Target};
use crate::tokens::{Claims, FileTokens};

#[derive(Args)]
pub struct Explain {
    method: String,
    /// http://host/path, or a path
    url: String,
    /// Explain for the bearer of this token; `-` reads it from standard input
    #[arg(long, conflicts_with = "roles")]
    token: Option<String>,
    /// Explain for a user of ours with these roles, comma-separated
    #[arg(long)]
    roles: Option<String>,
}

/// Where the way of the request ends.
enum Verdict {
    Allowed,
    Refused(u16, String),
}

impl Explain {
    /// Exit code 0 when the request would be let through, 1 when refused.
    pub fn run(self, config: &Config) -> Result<ExitCode, StartError> {
        let (authority, target) = split_url(&self.url)?;
        say("request", format_args!("{} {} for host {authority}", self.method, target));
        let verdict = self.stages(config, &authority, &target)?;
        match verdict {
            Verdict::Allowed => {
                say("verdict", format_args!("allowed"));
                Ok(ExitCode::SUCCESS)
            }
            Verdict::Refused(status, why) => {
                say("verdict", format_args!("refused with {status}: {why}"));
                Ok(ExitCode::FAILURE)
            }
        }
    }

    fn stages(&self, config: &Config, authority: &str, target: &str) -> Result<Verdict, StartError> {
        let host = match Host::parse(authority) {
            Ok(host) => host,
            Err(e) => return Ok(Verdict::Refused(400, e.to_string())),
        };
        let path = match CleanPath::parse(target) {
            Ok(path) => path,
            Err(e) => return Ok(Verdict::Refused(400, e.to_string())),
        };
        say("path", format_args!("{} (as matched and forwarded)", path.as_str()));

        let upstreams = BTreeMap::from_iter(
            config
                .upstreams
                .iter()
                .map(|(n, u)| (n.clone(), Arc::new(crate::upstream::Upstream::new(n, u, 0)))),
        );
        let metrics = Metrics::new()?;
        let files = block_on(async { FileStores::open(config, &metrics, &Handle::current()).await })?;
        let file_tokens = Arc::new(FileTokens::ephemeral()?);
        let routes = server::routes(config, &upstreams, &files, &file_tokens, &metrics, None)?;
        let route = match routes.find(&host, &path, &self.method) {
            Ok(route) => route.clone(),
            Err(NoMatch::NotFound) => {
                return Ok(Verdict::Refused(404, "no route has this host and path".into()));
            }
            Err(NoMatch::MethodNotAllowed { allow }) => {
                return Ok(Verdict::Refused(405, format!("routes with this path allow {allow}")));
            }
        };
        say("route", format_args!("{}", describe(&route)));
        say("target", format_args!("{}", route.target.describe()));

        if route.policy.auth == AuthMode::None {
            say("identity", format_args!("not looked at: auth = \"none\""));
            return Ok(self.object(&route, &path, None).unwrap_or(Verdict::Allowed));
        }
        let claims = match self.claims(config)? {
            Ok(claims) => claims,
            Err(reason) => return Ok(Verdict::Refused(401, format!("the token is refused: {reason}"))),
        };
        Ok(match judge(config, &route, claims.as_ref()) {
            Verdict::Allowed => self.object(&route, &path, claims.as_ref()).unwrap_or(Verdict::Allowed),
            refused => refused,
        })
    }

    /// Names the object of a file route; a verdict when there can be none.
    fn object(&self, route: &Route, path: &CleanPath, claims: Option<&Claims>) -> Option<Verdict> {
        let Target::Files(files) = &route.target else { return None };
        match files.explain(&self.method, path.as_str(), claims) {
            Ok(key) => {
                say("object", format_args!("{key}"));
                None
            }
            Err(fault) => {
                let why = fault.cause.unwrap_or_else(|| fault.detail.into_owned());
                Some(Verdict::Refused(fault.status, why))
            }
        }
    }

    /// The claims to explain for: none, a token's, or made up from `--roles`.
    fn claims(&self, config: &Config) -> Result<Result<Option<Claims>, String>, StartError> {
        let now = Timestamp::now();
        if let Some(roles) = &self.roles {
            let roles =
                roles.split(',').map(str::trim).filter(|r| !r.is_empty()).map(str::to_owned).collect();
            return Ok(Ok(Some(Claims::assumed(&config.tokens.issuer, "explained-user", roles, now))));
        }
        let Some(token) = &self.token else { return Ok(Ok(None)) };
        let token = argument_or_stdin(token)?;
        let parts = server::token_parts(config, now)?;
        let verdict = block_on(async {
            let stores = server::Stores::open(config, parts.revocations.clone()).await?;
            stores.catch_up(server::CATCH_UP).await;
            Ok(parts.verifier.verify_or_refetch(&token, now).await)
        })?;
        Ok(verdict.map(Some).map_err(|r| r.to_string()))
    }
}

fn judge(config: &Config, route: &Route, claims: Option<&Claims>) -> Verdict {
    let Some(claims) = claims else {
        say("identity", format_args!("anonymous"));
        return match route.policy.auth {
            AuthMode::Required => {
                Verdict::Refused(401, "the route needs a bearer access token (auth = \"required\")".into())
            }
            AuthMode::None | AuthMode::Optional => Verdict::Allowed,
        };
    };
    say("identity", format_args!("{} of {}, roles {:?}", claims.subject, claims.issuer, claims.roles));
    say("require", format_args!("{}", describe_require(&route.policy.require)));
    if let Some(missing) = unmet(&route.policy.require, claims) {
        return Verdict::Refused(403, missing);
    }
    if matches!(route.target, Target::Upstream(_) | Target::Echo) {
        for (name, value) in IdentityHeaders::new(&config.identity.headers).render(claims) {
            say("sends", format_args!("{name}: {}", value.to_str().unwrap_or_default()));
        }
    }
    Verdict::Allowed
}

fn describe(route: &Route) -> String {
    let policy = &route.policy;
    let place = match policy.line {
        0 => "built in".to_owned(),
        line => format!("line {line}"),
    };
    let auth = match policy.auth {
        AuthMode::None => "none",
        AuthMode::Optional => "optional",
        AuthMode::Required => "required",
    };
    format!("{} ({place}), auth = \"{auth}\"", policy.path.as_str())
}

fn describe_require(require: &Require) -> String {
    if require.is_empty() {
        return "nothing beyond a valid token".into();
    }
    let mut demands = Vec::new();
    if !require.roles.is_empty() {
        demands.push(format!("one of the roles {:?}", require.roles));
    }
    if !require.scopes.is_empty() {
        demands.push(format!("all of the scopes {:?}", require.scopes));
    }
    demands.extend(require.claims.iter().map(|(path, value)| format!("{path} = {value:?}")));
    demands.join(", ")
}

/// Authority and origin-form target of `url`.
fn split_url(url: &str) -> Result<(String, String), StartError> {
    if url.starts_with('/') {
        return Ok(("localhost".into(), url.into()));
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(format!("{url:?} is neither a path nor an http:// or https:// URL").into());
    };
    if !matches!(scheme, "http" | "https") || url.parse::<Uri>().is_err() && rest.is_empty() {
        return Err(format!("{url:?} is not an http:// or https:// URL").into());
    }
    // Kept byte for byte: the stages judge what a client would send, not a tidied form of it.
    let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(at);
    let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
    Ok((authority.to_owned(), target))
}

fn say(stage: &str, what: std::fmt::Arguments<'_>) {
    println!("{stage:9} {what}");
}
