//! Configured routes and endpoints, made ready to run.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{FileStores, StartError};
use crate::config::{AuthMode, Config, Rate, Target as TargetConfig};
use crate::endpoints::Endpoint;
use crate::files::Files;
use crate::limits::{FleetLimiter, Limiter, RateLimiter};
use crate::metrics::Metrics;
use crate::route::{HostPattern, Methods, Pattern, Table};
use crate::store::RateLimits;
use crate::target::{HeaderEdits, Route, Routes, Target};
use crate::tokens::FileTokens;
use crate::upstream::Upstream;

/// Configured routes and endpoints, ready to run.
pub fn routes(
    config: &Config,
    upstreams: &BTreeMap<String, Arc<Upstream>>,
    files: &FileStores,
    file_tokens: &Arc<FileTokens>,
    metrics: &Metrics,
    rate_limits: Option<Arc<dyn RateLimits>>,
) -> Result<Routes, StartError> {
    let mut configured = Vec::new();
    for policy in &config.routes {
        let target = match &policy.target {
            TargetConfig::Upstream(name) => {
                let upstream =
                    upstreams.get(name).ok_or_else(|| format!("no upstream is called {name:?}"))?;
                Target::Upstream(upstream.clone())
            }
            TargetConfig::Echo => Target::Echo,
            TargetConfig::Files(files_policy) => {
                let store = files.by_name.get(&files_policy.store);
                let store =
                    store.ok_or_else(|| format!("no file store is called {:?}", files_policy.store))?;
                let needs_token = policy.auth != AuthMode::None;
                let (store, tokens) = (store.clone(), file_tokens.clone());
                let root = policy.path.literal_prefix();
                Target::Files(Box::new(Files::new(files_policy, root, needs_token, store, tokens, metrics)))
            }
            TargetConfig::Respond { status, body, content_type } => {
                Target::respond(*status, body, content_type)
            }
            TargetConfig::Redirect { status, to } => Target::redirect(*status, to),
        };
        let route = Route {
            target,
            limiter: policy.rate_limit.map(|rate| limiter(policy, rate, rate_limits.clone())),
            metrics: metrics.route(&label(&policy.host, &policy.path)),
            edits: HeaderEdits::new(policy),
            policy: policy.clone(),
        };
        configured.push((policy.host.clone(), policy.path.clone(), policy.methods.clone(), Arc::new(route)));
    }
    let mut endpoints = Vec::new();
    for endpoint in Endpoint::ALL {
        let (method, path) = endpoint.address(&config.endpoints.prefix);
        let policy = endpoint_policy(endpoint, method, &path)?;
        let route = Route {
            target: Target::Endpoint(endpoint),
            limiter: None,
            metrics: metrics.route(&path),
            edits: HeaderEdits::default(),
            policy: policy.clone(),
        };
        endpoints.push((HostPattern::Any, policy.path, policy.methods, Arc::new(route)));
    }
    // The configuration was checked: a conflict here is a mistake of ours.
    let build =
        |entries| Table::build(entries).map_err(|conflicts| format!("routes conflict: {conflicts:?}"));
    Ok(Routes::new(build(endpoints)?, build(configured)?))
}

/// The limit of a route: of the fleet where there is one.
fn limiter(policy: &crate::config::Route, rate: Rate, fleet: Option<Arc<dyn RateLimits>>) -> Limiter {
    let Some(fleet) = fleet else {
        return Limiter::Local(Box::new(RateLimiter::new(rate.requests, rate.per)));
    };
    // Whoever changes the rate begins to count anew.
    let name = format!(
        "{} {} {:?} {}/{:?}",
        policy.host,
        policy.path.as_str(),
        policy.methods,
        rate.requests,
        rate.per
    );
    Limiter::Fleet(Box::new(FleetLimiter::new(fleet, name, rate.requests, rate.per)))
}

fn label(host: &HostPattern, path: &Pattern) -> String {
    match host {
        HostPattern::Any => path.as_str().to_owned(),
        named => format!("{named}{}", path.as_str()),
    }
}

fn endpoint_policy(endpoint: Endpoint, method: &str, path: &str) -> Result<crate::config::Route, StartError> {
    Ok(crate::config::Route {
        line: 0,
        path: Pattern::parse(path)?,
        host: HostPattern::Any,
        methods: Methods::parse(&[method.to_owned()])?,
        target: TargetConfig::Echo,
        auth: endpoint.auth(),
        require: Default::default(),
        strip_prefix: None,
        rate_limit: None,
        max_body: None,
        request_headers: Default::default(),
        response_headers: Default::default(),
    })
}
