//! Chooses an instance of an upstream, without those that are left out or unhealthy: the policies `balance`, `hash` and
//! `slowStartMs`. What is known of each instance is `instance`'s; no I/O and no clock.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use http::{HeaderMap, HeaderName, header};
use kronos_common::problem::FieldError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{hash, instance::Instance, outlier::Rules};

/// With `hash`, an instance takes at most so much more than its fair part of what is under way (bounded loads: Mirrokni,
/// Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2016).
const MOST_LOAD: f64 = 1.25;

/// How an instance is chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Of two that are drawn, the one with the lower latency × (requests under way + 1).
    #[default]
    P2c,
    /// The one with the fewest requests under way, relative to its weight.
    LeastRequests,
    /// One after the other, whatever they weigh.
    RoundRobin,
    /// One after the other, each as often as it weighs, spread evenly.
    Weighted,
    /// Always the same one for the same value of `hash`, for as long as it is there and not overloaded.
    Hash,
}

/// What `hash` looks at. A request without it goes by its address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum HashBy {
    /// The client's address.
    #[default]
    Ip,
    /// A header's value.
    Header(String),
    /// A cookie's value.
    Cookie(String),
}

impl HashBy {
    /// Everything that is wrong with it.
    pub fn check(&self, errors: &mut Vec<FieldError>) {
        let (field, good) = match self {
            Self::Ip => return,
            Self::Header(name) => ("/hash/header", name.len() <= 100 && HeaderName::try_from(name).is_ok()),
            Self::Cookie(name) => (
                "/hash/cookie",
                (1..=100).contains(&name.len())
                    && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"=;,\"".contains(&byte)),
            ),
        };
        if !good {
            errors.push(FieldError::new(field, "invalid", "this is no name"));
        }
    }

    /// The hash of a request.
    pub fn of(&self, headers: &HeaderMap, address: IpAddr) -> u64 {
        let value = match self {
            Self::Ip => None,
            Self::Header(name) => headers.get(name.as_str()).map(http::HeaderValue::as_bytes),
            Self::Cookie(name) => cookie(headers, name),
        };
        match (value, address) {
            (Some(value), _) => hash::of(value),
            (None, IpAddr::V4(address)) => hash::of(&address.octets()),
            (None, IpAddr::V6(address)) => hash::of(&address.octets()),
        }
    }
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let pairs = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = pairs.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(known, _)| *known == name).map(|(_, value)| value.as_bytes())
}

/// An upstream's instance and its part of the requests.
#[derive(Debug, Clone)]
pub struct Member {
    pub weight: u32,
    pub instance: Arc<Instance>,
}

/// The members of one upstream, all of which have a weight above zero, and how one is chosen.
#[derive(Debug)]
pub struct Balancer {
    pub members: Vec<Member>,
    pub rules: Rules,
    pub method: Method,
    pub hash_by: HashBy,
    /// An instance that begins gets its whole share after so long; 0: at once.
    pub slow_us: u64,
    /// Whose turn it is.
    turn: AtomicUsize,
    /// What each member has saved up, for `weighted`.
    credit: Mutex<Vec<f64>>,
}

/// What is asked of a choice.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub now: u64,
    /// Of the request; only `hash` looks at it.
    pub hash: u64,
    /// Those that were tried already: none of them again.
    pub except: &'a [Arc<Instance>],
}

impl Balancer {
    pub fn new(members: Vec<Member>, rules: Rules, method: Method, hash_by: HashBy, slow_us: u64) -> Self {
        // Tables come and go: not each of them begins with the first member.
        let turn = AtomicUsize::new(rand::random_range(0..members.len().max(1)));
        let credit = Mutex::new(vec![0.0; members.len()]);
        Self { members, rules, method, hash_by, slow_us, turn, credit }
    }

    /// One that is neither ejected, unhealthy nor tried already. `None`: there is none, not even if it is bad.
    pub fn pick(&self, asked: &Asked<'_>, random: impl FnMut(u32) -> u32) -> Option<&Arc<Instance>> {
        match (self.members.as_slice(), asked.except) {
            ([], _) => None,
            ([only], []) => Some(&only.instance),
            // A second try goes only to one that is well: when all fail, asking more often makes nothing better.
            (_, except) => self.choose(asked, except.is_empty(), random),
        }
    }

    fn choose(&self, asked: &Asked<'_>, may_panic: bool, mut random: impl FnMut(u32) -> u32) -> Option<&Arc<Instance>> {
        let usable = |member: &Member| {
            member.instance.is_available(asked.now)
                && !asked.except.iter().any(|tried| Arc::ptr_eq(tried, &member.instance))
        };
        if self.method == Method::P2c {
            // Mostly two that are drawn are well: then the others need not be looked at.
            let (a, b) = two(&self.members, |member| member.weight, &mut random);
            if usable(a) && usable(b) {
                return Some(self.cheaper(a, b, asked.now));
            }
        }
        let mut left: Vec<usize> = (0..self.members.len()).filter(|index| usable(&self.members[*index])).collect();
        let is_scarce = left.len() * 100 < self.rules.panic_percent as usize * self.members.len();
        if may_panic && (left.is_empty() || is_scarce) && self.rules.panic_percent > 0 {
            left = (0..self.members.len()).collect();
        }
        let index = match (left.as_slice(), self.method) {
            ([], _) => return None,
            ([only], _) => *only,
            (several, Method::P2c) => {
                let (a, b) = two(several, |index| self.members[*index].weight, &mut random);
                return Some(self.cheaper(&self.members[*a], &self.members[*b], asked.now));
            }
            (several, Method::LeastRequests) => self.least(several, asked.now, &mut random),
            (several, Method::RoundRobin) => self.next(several, asked.now, &mut random),
            (several, Method::Weighted) => self.smooth(several, asked.now),
            (several, Method::Hash) => self.hashed(several, asked),
        };
        Some(&self.members[index].instance)
    }

    fn readiness(&self, member: &Member, now: u64) -> f64 {
        member.instance.readiness(now, self.slow_us)
    }

    fn cheaper<'a>(&self, a: &'a Member, b: &'a Member, now: u64) -> &'a Arc<Instance> {
        let cost = |member: &Member| member.instance.cost(now) / self.readiness(member, now);
        if cost(b) < cost(a) { &b.instance } else { &a.instance }
    }

    /// Of several with as few, any.
    fn least(&self, left: &[usize], now: u64, random: &mut impl FnMut(u32) -> u32) -> usize {
        let load = |index: &usize| {
            let member = &self.members[*index];
            let share = f64::from(member.weight) * self.readiness(member, now);
            f64::from(member.instance.in_flight() + 1) / share
        };
        let from = random(u32::try_from(left.len()).unwrap_or(u32::MAX)) as usize;
        let (before, after) = left.split_at(from.min(left.len()));
        let turned = after.iter().chain(before);
        turned.copied().min_by(|a, b| load(a).total_cmp(&load(b))).unwrap_or(left[0])
    }

    fn next(&self, left: &[usize], now: u64, random: &mut impl FnMut(u32) -> u32) -> usize {
        for _ in 0..left.len() {
            let turn = self.turn.fetch_add(1, Relaxed);
            let index = left[turn % left.len()];
            // Who has just begun lets most of its turns go by.
            let readiness = self.readiness(&self.members[index], now);
            if readiness >= 1.0 || f64::from(random(1000)) < readiness * 1000.0 {
                return index;
            }
        }
        left[self.turn.fetch_add(1, Relaxed) % left.len()]
    }

    /// Smooth weighted round robin, as nginx does it: each is credited its weight, the richest is chosen and pays for all.
    fn smooth(&self, left: &[usize], now: u64) -> usize {
        let mut credit = self.credit.lock().unwrap_or_else(PoisonError::into_inner);
        let mut total = 0.0;
        let mut richest = left[0];
        for index in left {
            let member = &self.members[*index];
            let weight = f64::from(member.weight) * self.readiness(member, now);
            total += weight;
            credit[*index] += weight;
            if credit[*index] > credit[richest] {
                richest = *index;
            }
        }
        credit[richest] -= total;
        richest
    }

    /// Weighted rendezvous hashing: each member draws a number for this value, the best draw has it. When one goes, only
    /// its own values move, and no ring has to be kept; at most 256 draws. One that is full passes it on to the next best.
    fn hashed(&self, left: &[usize], asked: &Asked<'_>) -> usize {
        let share = |index: &usize| f64::from(self.members[*index].weight);
        let (mut weights, mut load) = (0.0, 1.0);
        for index in left {
            weights += share(index);
            load += f64::from(self.members[*index].instance.in_flight());
        }
        let score = |index: &usize| {
            let member = &self.members[*index];
            let drawn = hash::unit(hash::pair(asked.hash, member.instance.hash));
            share(index) * self.readiness(member, asked.now) / -drawn.ln()
        };
        let has_room = |index: &&usize| {
            let most = (MOST_LOAD * load * share(index) / weights).ceil();
            f64::from(self.members[**index].instance.in_flight()) < most
        };
        let best = |a: &&usize, b: &&usize| score(a).total_cmp(&score(b));
        left.iter().filter(has_room).max_by(best).or_else(|| left.iter().max_by(best)).copied().unwrap_or(left[0])
    }
}

/// Two to choose from: different ones if all weigh the same; else each by weight, perhaps the same one twice, so that a
/// heavy one is not only as likely as its neighbour.
fn two<'a, T>(list: &'a [T], weight: impl Fn(&T) -> u32, random: &mut impl FnMut(u32) -> u32) -> (&'a T, &'a T) {
    let count = u32::try_from(list.len()).expect("an upstream has at most 256 instances");
    let first_weight = weight(&list[0]);
    if list.iter().all(|item| weight(item) == first_weight) {
        let a = random(count);
        let b = (a + 1 + random(count - 1)) % count;
        return (&list[a as usize], &list[b as usize]);
    }
    let total: u32 = list.iter().map(&weight).sum();
    let mut by_weight = || {
        let mut at = random(total.max(1));
        list.iter().find(|item| at.checked_sub(weight(item)).map(|rest| at = rest).is_none()).unwrap_or(&list[0])
    };
    (by_weight(), by_weight())
}
