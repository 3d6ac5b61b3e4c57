//! The compiled table: what a request is served by, made whole from a snapshot of the stored routes and never changed after.
//! What outlives a table (instances' health, retry budgets) is in the [`Registry`]. Loading and swapping is `live`'s work.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use kronos_common::problem::FieldError;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    balance::{Balancer, Member},
    breaker::Breaker,
    budget::Budget,
    canary::Canary,
    concurrency::Concurrency,
    condition::Asked,
    edge::Edge,
    health::HealthCheckSpec,
    instance::Instance,
    limit::{Quota, Rule},
    matcher::{Found, Matcher, Methods},
    mirror::Mirror,
    outlier::Rules,
    quota::{CompiledQuota, QuotaSpec},
    route::{self, Authentication, By, Limit, RouteSpec},
    scope::Scope,
    telemetry::{Metrics, RouteSeconds},
    upstream_spec::{Address, Protocol, UpstreamSpec},
};

/// All routes and upstreams at one version: what is stored, and what is kept on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    pub version: i64,
    pub routes: Vec<Identified<RouteSpec>>,
    pub upstreams: Vec<Identified<UpstreamSpec>>,
    #[serde(default)]
    pub quotas: Vec<Identified<QuotaSpec>>,
}

/// A stored thing with its id.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Identified<T> {
    pub id: Uuid,
    pub spec: T,
}

impl Snapshot {
    /// Everything that is wrong between routes; the pointers are those of the route `changed`, if it is one of them.
    pub fn check(&self, changed: Option<Uuid>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let upstreams: HashMap<&str, ()> =
            self.upstreams.iter().map(|upstream| (upstream.spec.name.as_str(), ())).collect();
        let mut matches: BTreeMap<_, &Identified<RouteSpec>> = BTreeMap::new();
        for route in &self.routes {
            let spec = &route.spec;
            for (pointer, name) in spec.upstreams().filter(|(_, name)| !upstreams.contains_key(name.as_str())) {
                let detail = format!("there is no upstream {} for {}", name.as_str(), spec.name.as_str());
                errors.push(FieldError::new(pointer, "unknown_upstream", detail));
            }
            let mut methods: Vec<Option<route::Method>> = match &spec.matches.methods {
                Some(methods) => methods.iter().copied().map(Some).collect(),
                None => vec![None],
            };
            methods.sort();
            for method in methods {
                let matched = &spec.matches;
                let key =
                    (matched.path.shape(), method, spec.priority, &matched.host, &matched.headers, &matched.query);
                let Some(other) = matches.insert(key, route) else { continue };
                let (own, other) = if changed == Some(other.id) { (other, route) } else { (route, other) };
                let detail = format!(
                    "{} matches the same as {}: change the match or the priority",
                    own.spec.name.as_str(),
                    other.spec.name.as_str()
                );
                errors.push(FieldError::new("/match", "match_taken", detail));
            }
        }
        errors.dedup();
        errors
    }
}

/// What applies where a route says nothing.
#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    pub timeout: Duration,
    pub body_limit: u64,
    pub rules: Rules,
}

/// What outlives a table, by its key.
#[derive(Debug, Default)]
pub struct Registry {
    instances: Mutex<HashMap<String, Weak<Instance>>>,
    budgets: Mutex<HashMap<String, Weak<Budget>>>,
    breakers: Mutex<HashMap<String, Weak<Breaker>>>,
    concurrencies: Mutex<HashMap<String, Weak<Concurrency>>>,
}

impl Registry {
    fn instance(&self, url: &str) -> Option<Arc<Instance>> {
        let address = Address::read(url).ok()?;
        let scheme = if address.is_tls { "https" } else { "http" };
        let key = format!("{scheme}://{}", address.authority.as_str().to_ascii_lowercase());
        Some(keep(&self.instances, key, |_| true, || Instance::new(address)))
    }

    fn budget(&self, upstream: &str) -> Arc<Budget> {
        keep(&self.budgets, upstream.to_owned(), |_| true, Budget::default)
    }

    /// What was counted is kept as long as the policy is the same.
    fn breaker(&self, spec: &UpstreamSpec) -> Option<Arc<Breaker>> {
        let wanted = spec.breaker.as_ref()?;
        let key = spec.name.as_str().to_owned();
        Some(keep(&self.breakers, key, |known| known.spec == *wanted, || Breaker::new(wanted.clone())))
    }

    fn concurrency(&self, spec: &UpstreamSpec) -> Option<Arc<Concurrency>> {
        let wanted = spec.max_concurrent.as_ref()?;
        let key = spec.name.as_str().to_owned();
        Some(keep(&self.concurrencies, key, |known| known.spec == *wanted, || Concurrency::new(wanted.clone())))
    }
}

fn keep<T>(
    known: &Mutex<HashMap<String, Weak<T>>>,
    key: String,
    is_same: impl Fn(&T) -> bool,
    new: impl FnOnce() -> T,
) -> Arc<T> {
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = known.get(&key).and_then(Weak::upgrade)
        && is_same(&found)
    {
        return found;
    }
    known.retain(|_, weak| weak.strong_count() > 0);
    let made = Arc::new(new());
    known.insert(key, Arc::downgrade(&made));
    made
}

/// An upstream, ready to choose from.
#[derive(Debug)]
pub struct Upstream {
    pub name: Arc<str>,
    pub protocol: Protocol,
    /// Over the instances with a weight.
    pub balancer: Balancer,
    pub budget: Arc<Budget>,
    pub breaker: Option<Arc<Breaker>>,
    pub concurrency: Option<Arc<Concurrency>>,
    pub health_check: Option<HealthCheckSpec>,
}

/// A limit and what it counts.
#[derive(Debug)]
pub struct CompiledLimit {
    pub rule: Arc<Rule>,
    pub by_address: bool,
    pub by_subject: bool,
    pub by_client: bool,
}

/// A route, ready to serve.
#[derive(Debug)]
pub struct Route {
    pub name: Arc<str>,
    /// `None`: it redirects.
    pub upstream: Option<Arc<Upstream>>,
    /// As it is written.
    pub spec: RouteSpec,
    /// A good token lets in.
    pub takes_token: bool,
    /// So does none.
    pub takes_anonymous: bool,
    /// All ways, if there are others than tokens.
    pub ways: Option<Box<[Authentication]>>,
    pub permission: Option<Box<str>>,
    pub scopes: Box<[Scope]>,
    /// Policies that most routes don't name.
    pub edge: Option<Box<Edge>>,
    pub quotas: Vec<Arc<CompiledQuota>>,
    /// Asked before the token is looked at: those by address alone.
    pub early_limits: Vec<CompiledLimit>,
    pub late_limits: Vec<CompiledLimit>,
    pub timeout: Duration,
    pub body_limit: u64,
    /// Further tries.
    pub retries: u32,
    pub hedge: Option<Duration>,
    pub canary: Option<Box<Canary>>,
    pub mirror: Option<Box<Mirror>>,
    pub seconds: Arc<RouteSeconds>,
}

/// What became of a request's path and method.
#[derive(Debug)]
pub enum Lookup {
    Route(Arc<Route>),
    OtherMethods(Methods),
    Nothing,
}

/// One version of all routes.
#[derive(Debug)]
pub struct Table {
    pub version: i64,
    matcher: Matcher,
    routes: Vec<Arc<Route>>,
    upstreams: HashMap<Arc<str>, Arc<Upstream>>,
}

impl Table {
    /// The version of a table that is not from the database.
    pub const UNKNOWN: i64 = -1;

    /// Serves nothing.
    pub fn empty() -> Self {
        Self { version: Self::UNKNOWN, matcher: Matcher::default(), routes: Vec::new(), upstreams: HashMap::new() }
    }

    /// Compiles a snapshot, whole or not at all; `before` gives the histograms of routes that stay.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn compile(
        snapshot: &Snapshot,
        before: &Self,
        registry: &Registry,
        defaults: Defaults,
        metrics: &Metrics,
    ) -> Result<Self, Vec<FieldError>> {
        let mut errors = snapshot.check(None);
        for route in &snapshot.routes {
            errors.extend(route.spec.check());
        }
        for upstream in &snapshot.upstreams {
            errors.extend(upstream.spec.check());
        }
        for quota in &snapshot.quotas {
            errors.extend(quota.spec.check());
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let upstreams: HashMap<Arc<str>, Arc<Upstream>> = snapshot
            .upstreams
            .iter()
            .map(|upstream| {
                let upstream = compile_upstream(&upstream.spec, registry, defaults);
                (Arc::clone(&upstream.name), Arc::new(upstream))
            })
            .collect();
        let quotas: Vec<(&QuotaSpec, Arc<CompiledQuota>)> = snapshot
            .quotas
            .iter()
            .map(|quota| (&quota.spec, Arc::new(CompiledQuota::new(quota.id, &quota.spec))))
            .collect();
        let known: HashMap<&str, &Arc<Route>> = before.routes.iter().map(|route| (&*route.name, route)).collect();
        let mut routes = Vec::with_capacity(snapshot.routes.len());
        for Identified { id, spec } in &snapshot.routes {
            let name = spec.name.as_str();
            let seconds = known.get(name).map(|route| Arc::clone(&route.seconds));
            let (early_limits, late_limits) = spec
                .limits
                .iter()
                .map(|limit| compile_limit(*id, limit))
                .partition(|limit| !limit.by_subject && !limit.by_client);
            routes.push(Arc::new(Route {
                name: name.into(),
                upstream: spec.upstream.as_ref().and_then(|name| upstreams.get(name.as_str()).cloned()),
                spec: spec.clone(),
                takes_token: spec.authentication.contains(&Authentication::Jwt),
                takes_anonymous: spec.authentication.contains(&Authentication::None),
                ways: spec
                    .authentication
                    .iter()
                    .any(|way| !matches!(way, Authentication::Jwt | Authentication::None))
                    .then(|| spec.authentication.clone().into()),
                permission: spec.permission.as_deref().map(Into::into),
                scopes: spec.scopes.clone().into(),
                edge: Edge::compile(spec),
                quotas: quotas
                    .iter()
                    .filter(|(spec_of, _)| spec_of.counts(&spec.name))
                    .map(|(_, quota)| Arc::clone(quota))
                    .collect(),
                early_limits,
                late_limits,
                timeout: spec.timeout_ms.map_or(defaults.timeout, Duration::from_millis),
                body_limit: spec.body_limit_bytes.unwrap_or(defaults.body_limit),
                retries: spec.retries.unwrap_or(1),
                hedge: spec.hedge_after_ms.map(Duration::from_millis),
                canary: spec.canary.as_ref().and_then(|canary| {
                    let upstream = upstreams.get(canary.upstream.as_str())?;
                    Some(Box::new(Canary::new(canary, Arc::clone(upstream), name)))
                }),
                mirror: spec.mirror.as_ref().and_then(|mirror| {
                    let upstream = Arc::clone(upstreams.get(mirror.upstream.as_str())?);
                    Some(Box::new(Mirror { upstream, spec: mirror.clone() }))
                }),
                seconds: seconds.unwrap_or_else(|| Arc::new(metrics.route(name))),
            }));
        }
        let matcher = Matcher::new(snapshot.routes.iter().map(|route| &route.spec));
        Ok(Self { version: snapshot.version, matcher, routes, upstreams })
    }

    /// The route for a request whose path is in normal form.
    pub fn find(&self, path: &str, method: &http::Method, asked: &Asked<'_>) -> Lookup {
        match self.matcher.find(path, Methods::of(method), asked) {
            Found::Route(index) => Lookup::Route(Arc::clone(&self.routes[index])),
            Found::OtherMethods(methods) => Lookup::OtherMethods(methods),
            Found::Nothing => Lookup::Nothing,
        }
    }

    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.upstreams.values()
    }

    pub fn upstream(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.upstreams.get(name)
    }

    /// Every route whose path takes this one, in the order in which they are tried, and what else it refuses.
    pub fn candidates(&self, path: &str, method: &http::Method, asked: &Asked<'_>) -> Vec<(&Route, Option<String>)> {
        let candidates = self.matcher.candidates(path, Methods::of(method), asked);
        candidates.into_iter().map(|found| (&*self.routes[found.index], found.refuses)).collect()
    }

    /// Whether a route's requests are passed on later.
    pub fn has_async(&self) -> bool {
        self.routes.iter().any(|route| route.spec.asynchronous.is_some())
    }

    /// Names of all routes.
    pub fn route_names(&self) -> impl Iterator<Item = &str> {
        self.routes.iter().map(|route| &*route.name)
    }
}

fn compile_upstream(spec: &UpstreamSpec, registry: &Registry, defaults: Defaults) -> Upstream {
    let weighing = spec.instances.iter().filter(|instance| instance.weight > 0);
    let members = weighing
        .filter_map(|instance| Some(Member { weight: instance.weight, instance: registry.instance(&instance.url)? }));
    let rules = defaults.rules.with(spec.outlier.as_ref());
    let slow_us = spec.slow_start_ms.unwrap_or(0) * 1000;
    let hash_by = spec.hash.clone().unwrap_or_default();
    Upstream {
        name: spec.name.as_str().into(),
        protocol: spec.protocol,
        balancer: Balancer::new(members.collect(), rules, spec.balance, hash_by, slow_us),
        budget: registry.budget(spec.name.as_str()),
        breaker: registry.breaker(spec),
        concurrency: registry.concurrency(spec),
        health_check: spec.health_check.clone(),
    }
}

fn compile_limit(route: Uuid, limit: &Limit) -> CompiledLimit {
    let by = |what| limit.by.contains(&what);
    let (by_address, by_client, by_subject) = (by(By::Ip), by(By::Client), by(By::Token));
    let named = [(by(By::Route), "route"), (by_address, "ip"), (by_client, "client"), (by_subject, "token")];
    let label = named.iter().filter(|(is, _)| *is).map(|(_, name)| *name).collect::<Vec<_>>().join("-");
    let Limit { requests, per_seconds, .. } = *limit;
    let burst = limit.burst.unwrap_or(requests);
    let quota = Quota { requests, period_us: u64::from(per_seconds) * 1_000_000, burst };
    let rule = Rule::new(format!("{}:{label}:{requests}/{per_seconds}/{burst}", route.simple()), &label, quota);
    CompiledLimit { rule: Arc::new(rule), by_address, by_subject, by_client }
}
