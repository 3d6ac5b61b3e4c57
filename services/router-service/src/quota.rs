//! Quotas: how much somebody may ask in a day or a month, kept in PostgreSQL. A gateway takes leave for a few requests at a time and
//! spends it here, so that most requests ask nobody; a restart loses nothing, and a crash at most what was not spent.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use chrono::{DateTime, Datelike as _, Days, Months, NaiveDate, NaiveTime, Utc};
use kronos_common::problem::{FieldError, Problem};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    clock,
    limit::Client,
    route::{By, Name},
    store::Store,
};

/// Unspent leave goes back after so long, in milliseconds.
const IDLE_MS: u64 = 30_000;
/// After PostgreSQL failed it is left alone for so long, in milliseconds; requests pass meanwhile.
const REST_MS: u64 = 1_000;
/// Whoever is refused is looked up again after so long, in milliseconds: the quota may have been raised.
const REFUSED_MS: u64 = 1_000;
const MOST_LEASED: i64 = 100;

/// How long a quota runs before it begins anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Per {
    /// From midnight to midnight, UTC.
    Day,
    /// From the first of the month, UTC.
    Month,
}

impl Per {
    /// The first day of the period that `now` is in.
    pub fn begin(self, now: DateTime<Utc>) -> NaiveDate {
        let day = now.date_naive();
        match self {
            Self::Day => day,
            Self::Month => day.with_day(1).unwrap_or(day),
        }
    }

    /// When it begins anew.
    pub fn end(self, now: DateTime<Utc>) -> DateTime<Utc> {
        let begin = self.begin(now);
        let next = match self {
            Self::Day => begin.checked_add_days(Days::new(1)),
            Self::Month => begin.checked_add_months(Months::new(1)),
        };
        next.unwrap_or(begin).and_time(NaiveTime::MIN).and_utc()
    }
}

/// A quota as a caller writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QuotaSpec {
    pub name: Name,
    /// The routes whose requests count, by name. Absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1, max_items = 256)]
    pub routes: Option<Vec<Name>>,
    /// Whom it counts, as in a route's limits; several: each combination. `route` alone: everybody together.
    #[schema(min_items = 1, max_items = 4)]
    pub by: Vec<By>,
    #[schema(minimum = 1, maximum = 1_000_000_000_000_i64)]
    pub requests: i64,
    pub per: Per,
}

impl QuotaSpec {
    /// Everything that is wrong with it.
    pub fn check(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let twins = |list: &[By]| list.iter().enumerate().any(|(index, item)| list[..index].contains(item));
        if self.by.is_empty() || twins(&self.by) {
            errors.push(FieldError::new("/by", "invalid", "name at least one, each once"));
        }
        if !(1..=1_000_000_000_000).contains(&self.requests) {
            errors.push(FieldError::new("/requests", "out_of_range", "from 1 to 1000000000000"));
        }
        if self.routes.as_ref().is_some_and(|routes| !(1..=256).contains(&routes.len())) {
            errors.push(FieldError::new("/routes", "invalid", "from 1 to 256 routes, or none of this"));
        }
        errors
    }

    /// Whether requests of a route count.
    pub fn counts(&self, route: &Name) -> bool {
        self.routes.as_ref().is_none_or(|routes| routes.contains(route))
    }
}

/// A quota, ready to be spent.
#[derive(Debug)]
pub struct CompiledQuota {
    pub id: Uuid,
    pub name: Name,
    pub requests: i64,
    pub per: Per,
    pub by_route: bool,
    pub by_address: bool,
    pub by_subject: bool,
    pub by_client: bool,
}

impl CompiledQuota {
    pub fn new(id: Uuid, spec: &QuotaSpec) -> Self {
        let by = |what| spec.by.contains(&what);
        Self {
            id,
            name: spec.name.clone(),
            requests: spec.requests,
            per: spec.per,
            by_route: by(By::Route),
            by_address: by(By::Ip),
            by_subject: by(By::Token),
            by_client: by(By::Client),
        }
    }
}

/// What one client may still ask here.
#[derive(Debug, Default)]
struct Leave {
    period: Option<NaiveDate>,
    /// The quota as it was when leave was taken.
    requests: i64,
    tokens: i64,
    used_ms: u64,
    /// There was nothing left; a moment of [`clock`].
    refused_ms: u64,
}

type Account = (Uuid, String);

/// All leave of this process.
#[derive(Debug)]
pub struct Quotas {
    store: Store,
    main: tokio::runtime::Handle,
    accounts: Mutex<HashMap<Account, Arc<Slot>>>,
    most: usize,
    rest_until: AtomicU64,
}

#[derive(Debug, Default)]
struct Slot {
    leave: Mutex<Leave>,
    /// Held while leave is taken, so that one takes it for all who wait.
    asking: tokio::sync::Mutex<()>,
}

impl Quotas {
    /// `main`: where the store's connections live. `most`: clients that are told apart.
    pub fn new(store: Store, main: tokio::runtime::Handle, most: usize) -> Self {
        Self { store, main, accounts: Mutex::default(), most, rest_until: AtomicU64::new(0) }
    }

    /// Counts one request.
    ///
    /// # Errors
    /// 429 `quota_exhausted`, with the time until the period ends.
    pub async fn take(&self, quota: &CompiledQuota, route: &str, client: Client<'_>) -> Result<(), Problem> {
        let key = if quota.by_route { format!("route:{route};{client}") } else { client.to_string() };
        let now = Utc::now();
        let (key, slot) = {
            let mut accounts = lock(&self.accounts);
            let account = (quota.id, key);
            let known = accounts.len() < self.most || accounts.contains_key(&account);
            // More clients than are told apart share what is nobody's.
            let account = if known { account } else { (quota.id, String::new()) };
            (account.1.clone(), Arc::clone(accounts.entry(account).or_default()))
        };
        if let Some(decided) = spend(&slot, quota, now) {
            return decided;
        }
        let _turn = slot.asking.lock().await;
        if let Some(decided) = spend(&slot, quota, now) {
            return decided;
        }
        if clock::exact_ms() < self.rest_until.load(Relaxed) {
            return Ok(());
        }
        let (store, id, period, requests) = (self.store.clone(), quota.id, quota.per.begin(now), quota.requests);
        let want = (requests / 100).clamp(1, MOST_LEASED);
        let asked = self.main.spawn(async move {
            tokio::time::timeout(Duration::from_secs(1), store.take_quota(id, period, &key, requests, want)).await
        });
        match asked.await {
            Ok(Ok(Ok(granted))) => {
                let mut leave = lock(&slot.leave);
                let (ms, refused) = (clock::exact_ms(), granted == 0);
                *leave = Leave {
                    period: Some(period),
                    requests,
                    tokens: granted,
                    used_ms: ms,
                    refused_ms: if refused { ms } else { 0 },
                };
            }
            // Better too much than nothing: without its database the gateway does not refuse.
            Ok(Ok(Err(_)) | Err(_)) | Err(_) => {
                self.rest_until.store(clock::exact_ms() + REST_MS, Relaxed);
                return Ok(());
            }
        }
        spend(&slot, quota, now).unwrap_or(Ok(()))
    }

    /// Gives unspent leave of clients that are gone back, or at the end of all.
    pub async fn give_back(&self, all: bool) {
        let now = clock::exact_ms();
        let mut unspent = Vec::new();
        lock(&self.accounts).retain(|(id, client), slot| {
            let mut leave = lock(&slot.leave);
            let gone = all || now.saturating_sub(leave.used_ms) > IDLE_MS;
            if gone && leave.tokens > 0 {
                let tokens = std::mem::take(&mut leave.tokens);
                unspent.extend(leave.period.map(|period| (*id, period, client.clone(), tokens)));
            }
            !gone || Arc::strong_count(slot) > 1
        });
        for (id, period, client, tokens) in unspent {
            if let Err(error) = self.store.give_quota_back(id, period, &client, tokens).await {
                tracing::debug!(%error, "unspent leave of a quota is lost");
                return;
            }
        }
    }
}

/// Decides from what is here; `None` if the store must be asked.
fn spend(slot: &Slot, quota: &CompiledQuota, now: DateTime<Utc>) -> Option<Result<(), Problem>> {
    let mut leave = lock(&slot.leave);
    let ms = clock::exact_ms();
    leave.used_ms = ms;
    if leave.period != Some(quota.per.begin(now)) {
        return None;
    }
    if leave.tokens > 0 {
        leave.tokens -= 1;
        return Some(Ok(()));
    }
    if leave.refused_ms == 0 || leave.requests != quota.requests || ms.saturating_sub(leave.refused_ms) > REFUSED_MS {
        return None;
    }
    let left = (quota.per.end(now) - now).to_std().unwrap_or_default();
    let detail = format!("the quota {} of {} requests is used up", quota.name.as_str(), quota.requests);
    Some(Err(Problem::new(http::StatusCode::TOO_MANY_REQUESTS, "quota_exhausted", detail).with_retry_after(left)))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
