//! What becomes of a request to a route that keeps answers: given from what is kept, checked with the upstream, or fetched
//! and kept. Of several that want the same, one fetches. `Cache-Status` (RFC 9211) says which.

use std::{
    fmt::Write as _,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use kronos_common::problem::Problem;

use super::{
    CacheSpec,
    entry::{CACHE_TAGS, Entry, tags, vary},
    freshness::{Directives, has_validator, initial_age, is_unchanged, times},
    keep::{Flight, Kept},
};
use crate::{
    attempts::{Prepared, attempts},
    background::{Leave, Spare},
    body::ResponseBody,
    exchange::Exchange,
    forward::{Told, pass_on},
    proxy::{Core, finish, refuse_with},
    table::{Route, Upstream},
    upstream::{Content, Reply},
};

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
/// A refresh that nobody waits for has so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A request and where its answer would be kept.
struct Wish<'a> {
    core: &'a Rc<Core>,
    kept: &'a Arc<Kept>,
    route: &'a Route,
    upstream: &'a Arc<Upstream>,
    spec: &'a CacheSpec,
    key: String,
    url: String,
    says: Directives,
    /// The client's own conditions, which it is answered by.
    conditions: HeaderMap,
}

/// Answers a request, whatever happens.
pub async fn serve(
    core: &Rc<Core>,
    route: &Route,
    upstream: &Arc<Upstream>,
    spec: &CacheSpec,
    mut prepared: Prepared,
    mut exchange: Box<Exchange>,
    told: Told,
) -> Response<ResponseBody> {
    let (method, headers) = (&prepared.parts.method, &prepared.parts.headers);
    let host = prepared.host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default().to_ascii_lowercase();
    let scheme = if prepared.origin.is_https { "https" } else { "http" };
    let target = prepared.parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let url = format!("{scheme}://{host}{target}");
    let mut wish = Wish {
        core,
        kept: &core.gateway.kept,
        route,
        upstream,
        spec,
        key: format!("{} {url}", route.name),
        url,
        says: Directives::of(headers),
        conditions: HeaderMap::new(),
    };
    let is_whole = [header::RANGE, header::IF_MATCH, header::IF_UNMODIFIED_SINCE, header::IF_RANGE]
        .iter()
        .all(|name| !headers.contains_key(name));
    if !matches!(*method, Method::GET | Method::HEAD) || !is_whole || prepared.source.is_some() {
        let (is_safe, reason) = match *method {
            Method::GET | Method::HEAD => (true, "bypass"),
            Method::OPTIONS => (true, "method"),
            _ => (false, "method"),
        };
        return wish.pass(&prepared, exchange, told, is_safe, reason).await;
    }
    for name in [header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE] {
        for value in headers.get_all(&name) {
            wish.conditions.append(&name, value.clone());
        }
    }
    let mut waited = false;
    loop {
        let generation = wish.kept.generation();
        let (found, now) = (wish.find(&prepared).await, unix_s());
        if let Some(entry) = &found {
            let wants_new = wish.says.no_cache || wish.says.max_age.is_some_and(|most| entry.age(now) > most);
            if !wants_new && entry.is_fresh(now) {
                let note = if waited { "fwd=uri-miss; collapsed" } else { "hit" };
                return wish.give(entry, now, note, &prepared.parts.method, exchange, told);
            }
            if !wants_new && entry.may_wait(now) {
                let method = prepared.parts.method.clone();
                wish.refresh_later(entry, generation, prepared, &exchange);
                return wish.give(entry, now, "hit; detail=stale-while-revalidate", &method, exchange, told);
            }
        }
        if wish.says.only_if_cached {
            let problem = Problem::new(StatusCode::GATEWAY_TIMEOUT, "not_cached", "only a kept answer was wanted");
            return refuse_with(exchange, told.as_ref(), problem, false);
        }
        if prepared.parts.method == Method::HEAD {
            return wish.pass(&prepared, exchange, told, true, "uri-miss").await;
        }
        let flight = if waited || wish.says.no_store {
            None
        } else {
            match wish.kept.fly(&wish.key) {
                Ok(flight) => Some(flight),
                Err(mut waiting) => {
                    // Its end is the channel's: an error.
                    let _ = tokio::time::timeout(route.timeout, waiting.changed()).await;
                    waited = true;
                    continue;
                }
            }
        };
        return wish.fetch(found, generation, flight, &mut prepared, &mut exchange).await.answer(&wish, exchange, told);
    }
}

/// What a fetch came to.
enum Fetched {
    /// It is passed on, and perhaps kept while it is.
    New(Box<Reply>, Option<Box<Storing>>, &'static str),
    Kept(Arc<Entry>, &'static str),
    Failed(Problem),
}

impl Fetched {
    fn answer(self, wish: &Wish<'_>, exchange: Box<Exchange>, told: Told) -> Response<ResponseBody> {
        match self {
            Self::New(mut reply, storing, reason) => {
                let mut note = format!("{reason}; fwd-status={}", reply.status.as_u16());
                if storing.is_some() {
                    note.push_str("; stored");
                }
                mark(&mut reply.headers, &note);
                pass_on(wish.core, *reply, exchange, told, storing)
            }
            Self::Kept(entry, note) => wish.give(&entry, unix_s(), note, &Method::GET, exchange, told),
            Self::Failed(problem) => refuse_with(exchange, told.as_ref(), problem, false),
        }
    }
}

impl Wish<'_> {
    async fn find(&self, prepared: &Prepared) -> Option<Arc<Entry>> {
        let headers = &prepared.parts.headers;
        if let Some(entry) = self.kept.near(&self.key, headers) {
            return Some(entry);
        }
        if !self.spec.shared {
            return None;
        }
        // On the runtime where the connections live.
        let (kept, key, headers) = (Arc::clone(self.kept), self.key.clone(), headers.clone());
        self.core.gateway.main.spawn(async move { kept.far(&key, &headers).await }).await.ok().flatten()
    }

    /// Sends the request on as it is. What may have changed something makes what is kept useless (RFC 9111 section 4.4).
    async fn pass(
        &self,
        prepared: &Prepared,
        mut exchange: Box<Exchange>,
        told: Told,
        is_safe: bool,
        reason: &str,
    ) -> Response<ResponseBody> {
        match attempts(self.core, self.route, self.upstream, prepared, &mut exchange).await {
            Ok(mut reply) => {
                if !is_safe && (reply.status.is_success() || reply.status.is_redirection()) {
                    let (kept, tag) = (Arc::clone(self.kept), Kept::tag_of_key(&self.url));
                    self.core.gateway.main.spawn(async move {
                        if let Err(error) = kept.purge(&[tag]).await {
                            tracing::debug!(error = format!("{error:#}"), "a changed answer could not be purged");
                        }
                    });
                }
                mark(&mut reply.headers, &format!("fwd={reason}"));
                pass_on(self.core, reply, exchange, told, None)
            }
            Err(problem) => refuse_with(exchange, told.as_ref(), problem, prepared.is_unread()),
        }
    }

    /// Asks the upstream: whether what is kept still holds, or for something new.
    async fn fetch(
        &self,
        found: Option<Arc<Entry>>,
        generation: i64,
        flight: Option<Flight>,
        prepared: &mut Prepared,
        exchange: &mut Exchange,
    ) -> Fetched {
        let is_private = exchange.subject.is_some() || prepared.parts.headers.contains_key(header::AUTHORIZATION);
        ask_whether(&mut prepared.parts.headers, found.as_deref());
        let sent = attempts(self.core, self.route, self.upstream, prepared, exchange).await;
        let now = unix_s();
        let instead = found.as_ref().filter(|entry| entry.may_replace_an_error(now));
        match (sent, found.as_ref(), instead) {
            (Ok(reply), Some(entry), _) if reply.status == StatusCode::NOT_MODIFIED => {
                let fresh = Arc::new(renewed(entry, &reply.headers, self.spec, generation, now));
                self.kept.keep(&self.key, Entry::clone(&fresh), self.spec.shared, now, &self.core.gateway.main);
                exchange.leave();
                Fetched::Kept(fresh, "fwd=stale; fwd-status=304; stored")
            }
            (Ok(reply), _, Some(entry)) if reply.status.is_server_error() => {
                exchange.leave();
                Fetched::Kept(Arc::clone(entry), "hit; detail=stale-if-error")
            }
            (Ok(reply), found, _) => {
                let reason = if found.is_some() { "fwd=stale" } else { "fwd=uri-miss" };
                let storing = (!self.says.no_store).then(|| self.store(&reply, generation, is_private, prepared, now));
                let storing = storing.flatten().map(|entry| {
                    let (kept, key, main) = (Arc::clone(self.kept), self.key.clone(), self.core.gateway.main.clone());
                    let (most, shared) = (self.spec.object_limit_bytes as usize, self.spec.shared);
                    Box::new(Storing { kept, key, main, entry, data: Vec::new(), most, shared, _flight: flight })
                });
                Fetched::New(Box::new(reply), storing, reason)
            }
            (Err(problem), _, Some(entry)) if problem.status().is_server_error() => {
                Fetched::Kept(Arc::clone(entry), "hit; detail=stale-if-error")
            }
            (Err(problem), _, _) => Fetched::Failed(problem),
        }
    }

    /// What would be kept of an answer, but for its body.
    fn store(&self, reply: &Reply, generation: i64, is_private: bool, prepared: &Prepared, now: u64) -> Option<Entry> {
        let request = &prepared.parts.headers;
        made(self.route, self.spec, &self.url, reply, generation, is_private, request, now)
    }

    /// Fetches a new one that nobody waits for, if nobody does already.
    fn refresh_later(&self, entry: &Arc<Entry>, generation: i64, mut prepared: Prepared, exchange: &Exchange) {
        let Ok(flight) = self.kept.fly(&self.key) else { return };
        let is_private = exchange.subject.is_some() || prepared.parts.headers.contains_key(header::AUTHORIZATION);
        prepared.parts.method = Method::GET;
        ask_whether(&mut prepared.parts.headers, Some(entry));
        let Some(spare) = Spare::of(prepared, exchange) else { return };
        let Some(leave) = Leave::of(self.upstream, self.core.now_us()) else { return };
        let (core, kept, key, url) = (Rc::clone(self.core), Arc::clone(self.kept), self.key.clone(), self.url.clone());
        let (upstream, spec, entry) = (Arc::clone(self.upstream), self.spec.clone(), Arc::clone(entry));
        let crate::exchange::Served::Route(route) = &exchange.served else { return };
        let route = Arc::clone(route);
        self.core.tasks.spawn_local(async move {
            let _flight = flight;
            let refreshed = tokio::time::timeout(PATIENCE, async {
                let reply = spare.send(&core, &upstream, &leave, PATIENCE).await?;
                let (now, main) = (unix_s(), &core.gateway.main);
                if reply.status == StatusCode::NOT_MODIFIED {
                    let fresh = renewed(&entry, &reply.headers, &spec, generation, now);
                    kept.keep(&key, fresh, spec.shared, now, main);
                    return anyhow::Ok(());
                }
                let request = &spare.prepared.parts.headers;
                let entry = made(&route, &spec, &url, &reply, generation, is_private, request, now);
                if let (Some(mut entry), Content::Body(body)) = (entry, reply.content) {
                    let body = Limited::new(body, spec.object_limit_bytes as usize).collect().await;
                    entry.body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
                    kept.keep(&key, entry, spec.shared, now, main);
                }
                Ok(())
            });
            if let Ok(Err(error)) = refreshed.await {
                tracing::debug!(error = format!("{error:#}"), "a stale answer could not be refreshed");
            }
        });
    }

    /// Gives a kept answer, or tells the client that its copy is the same.
    fn give(
        &self,
        entry: &Entry,
        now: u64,
        note: &str,
        method: &Method,
        mut exchange: Box<Exchange>,
        told: Told,
    ) -> Response<ResponseBody> {
        let mut headers = entry.headers.clone();
        headers.insert(header::AGE, entry.age(now).into());
        let mut note = note.to_owned();
        // Writing to a string can't fail.
        let _ = write!(note, "; ttl={}", entry.times.fresh.cast_signed() - entry.age(now).cast_signed());
        mark(&mut headers, &note);
        let is_unchanged = entry.status == StatusCode::OK && is_unchanged(&self.conditions, &entry.headers);
        let status = if is_unchanged { StatusCode::NOT_MODIFIED } else { entry.status };
        let body = if is_unchanged || method == Method::HEAD { Bytes::new() } else { entry.body.clone() };
        if is_unchanged {
            headers.remove(header::CONTENT_TYPE);
        } else if status != StatusCode::NO_CONTENT {
            headers.insert(header::CONTENT_LENGTH, entry.body.len().into());
        }
        finish(&mut headers, &mut exchange, status, told.as_ref());
        let mut response = Response::new(ResponseBody::own(body.into(), exchange));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}

/// An answer that is kept when its last byte has come.
#[derive(Debug)]
pub struct Storing {
    kept: Arc<Kept>,
    key: String,
    main: tokio::runtime::Handle,
    entry: Entry,
    data: Vec<u8>,
    most: usize,
    shared: bool,
    /// Who waits for it goes on when this is dropped.
    _flight: Option<Flight>,
}

impl Storing {
    /// Takes a part of the body. False: it is too large to be kept.
    pub fn add(&mut self, data: &[u8]) -> bool {
        self.data.extend_from_slice(data);
        self.data.len() <= self.most
    }

    /// That was all.
    pub fn keep(mut self: Box<Self>) {
        self.entry.body = std::mem::take(&mut self.data).into();
        let Self { kept, key, main, entry, shared, _flight, .. } = *self;
        kept.keep(&key, entry, shared, unix_s(), &main);
    }
}

#[expect(clippy::too_many_arguments, reason = "all that makes an answer what it is")]
fn made(
    route: &Route,
    spec: &CacheSpec,
    url: &str,
    reply: &Reply,
    generation: i64,
    is_private: bool,
    request: &HeaderMap,
    now: u64,
) -> Option<Entry> {
    let times = times(reply.status, &reply.headers, spec, is_private, now)?;
    let mut headers = reply.headers.clone();
    let mut tags = tags(&headers);
    tags.extend([Kept::tag_of_key(url), Kept::tag_of_route(&route.name)]);
    for name in [CACHE_TAGS, header::AGE, header::CONTENT_LENGTH] {
        headers.remove(name);
    }
    let born = now.saturating_sub(initial_age(&reply.headers, now));
    let vary = vary(&headers, request);
    let status = reply.status;
    Some(Entry { status, headers, body: Bytes::new(), vary, tags, generation, born, times })
}

/// A kept answer that still holds (RFC 9111 section 4.3.4).
fn renewed(entry: &Entry, said: &HeaderMap, spec: &CacheSpec, generation: i64, now: u64) -> Entry {
    let mut fresh = entry.clone();
    let stays = [header::CONTENT_LENGTH, header::CONTENT_TYPE, header::CONTENT_ENCODING, header::AGE, CACHE_TAGS];
    for name in said.keys().filter(|name| !stays.contains(name)) {
        fresh.headers.remove(name);
        for value in said.get_all(name) {
            fresh.headers.append(name, value.clone());
        }
    }
    // It was allowed to be kept before, and nothing that a 304 says makes it private to somebody else.
    if let Some(times) = times(fresh.status, &fresh.headers, spec, false, now) {
        fresh.times = times;
    }
    fresh.born = now.saturating_sub(initial_age(said, now));
    fresh.generation = generation;
    fresh
}

/// Makes the request one for a new answer, or for the word that the kept one still holds.
fn ask_whether(headers: &mut HeaderMap, entry: Option<&Entry>) {
    headers.remove(header::IF_NONE_MATCH);
    headers.remove(header::IF_MODIFIED_SINCE);
    let Some(entry) = entry.filter(|entry| has_validator(&entry.headers)) else { return };
    if let Some(tag) = entry.headers.get(header::ETAG) {
        headers.insert(header::IF_NONE_MATCH, tag.clone());
    }
    if let Some(modified) = entry.headers.get(header::LAST_MODIFIED) {
        headers.insert(header::IF_MODIFIED_SINCE, modified.clone());
    }
}

fn mark(headers: &mut HeaderMap, note: &str) {
    headers.remove(CACHE_TAGS);
    if let Ok(value) = HeaderValue::try_from(format!("kronos; {note}")) {
        headers.append(CACHE_STATUS, value);
    }
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
