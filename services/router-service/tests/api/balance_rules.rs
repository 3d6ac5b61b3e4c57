//! Which instance is chosen, breakers and bounds: rules that need no server.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use router_service::{
    balance::{Asked, Balancer, HashBy, Member, Method},
    breaker::{Breaker, BreakerSpec, Position},
    concurrency::{Adaptive, Concurrency, MaxConcurrent},
    hash,
    instance::Instance,
    outlier::Rules,
    upstream_spec::Address,
};

const RULES: Rules = Rules { failures: 3, base_us: 1_000_000, max_us: 60_000_000, panic_percent: 20 };

fn balancer(method: Method, weights: &[u32]) -> Balancer {
    starting(method, weights, 0)
}

fn starting(method: Method, weights: &[u32], slow_us: u64) -> Balancer {
    let member = |(index, weight): (usize, &u32)| {
        let address = Address::read(&format!("http://h:{}", index + 1)).unwrap();
        Member { weight: *weight, instance: Arc::new(Instance::new(address)) }
    };
    Balancer::new(weights.iter().enumerate().map(member).collect(), RULES, method, HashBy::Ip, slow_us)
}

fn random(below: u32) -> u32 {
    rand::random_range(0..below)
}

fn at(now: u64) -> Asked<'static> {
    Asked { now, hash: 0, except: &[] }
}

fn index(balancer: &Balancer, picked: &Arc<Instance>) -> usize {
    balancer.members.iter().position(|member| Arc::ptr_eq(&member.instance, picked)).unwrap()
}

/// How often each of the members is chosen.
fn shares(balancer: &Balancer, asked: &Asked<'_>) -> Vec<f64> {
    let mut hits = vec![0.0; balancer.members.len()];
    for _ in 0..2000 {
        hits[index(balancer, balancer.pick(asked, random).unwrap())] += 1.0 / 2000.0;
    }
    hits
}

#[test]
fn the_faster_and_the_freer_instance_gets_more() {
    let balancer = balancer(Method::P2c, &[1, 1, 1]);
    let now = 1_000_000;
    for (index, member) in balancer.members.iter().enumerate() {
        member.instance.succeeded(now, if index == 0 { 100_000 } else { 1_000 });
    }
    assert!(shares(&balancer, &at(now))[0] < 0.01, "the slow one loses every comparison");
    let _busy: Vec<_> = (0..200).map(|_| balancer.members[1].instance.enter()).collect();
    assert!(shares(&balancer, &at(now))[2] > 0.6);
}

#[test]
fn a_fast_failure_attracts_nothing() {
    let balancer = balancer(Method::P2c, &[1, 1]);
    balancer.members[0].instance.succeeded(1000, 5_000);
    balancer.members[1].instance.failed(1000, &RULES);
    assert!(shares(&balancer, &at(1000))[1] < 0.01);
}

#[test]
fn an_instance_that_fails_is_left_out_ever_longer() {
    for method in [Method::P2c, Method::LeastRequests, Method::RoundRobin, Method::Weighted, Method::Hash] {
        let balancer = balancer(method, &[1, 1]);
        let bad = &balancer.members[0].instance;
        let mut now = 1_000_000;
        assert!(!bad.failed(now, &RULES) && !bad.failed(now, &RULES) && bad.failed(now, &RULES));
        for pause in [1_000_000, 2_000_000, 4_000_000] {
            assert!(!bad.is_available(now + pause - 1));
            assert_eq!(shares(&balancer, &at(now))[0], 0.0, "{method:?}");
            now += pause;
            assert!(bad.is_available(now));
            let probe = bad.enter();
            assert!(!bad.is_available(now), "one request tries it");
            drop(probe);
            assert!(bad.failed(now, &RULES), "one failure is enough now");
        }
        now += 60_000_000;
        bad.succeeded(now, 1000);
        let _one = bad.enter();
        assert!(bad.is_available(now));
    }
}

#[test]
fn when_all_are_left_out_all_are_used_but_not_for_a_second_try() {
    let balancer = balancer(Method::P2c, &[1, 1, 1, 1]);
    for member in &balancer.members {
        for _ in 0..3 {
            member.instance.failed(1000, &RULES);
        }
    }
    assert!(shares(&balancer, &at(1000)).iter().all(|share| *share > 0.1));
    let tried = [Arc::clone(&balancer.members[0].instance)];
    let again = Asked { now: 1000, hash: 0, except: &tried };
    assert!(balancer.pick(&again, random).is_none(), "asking more often makes nothing better");
    let later = Asked { now: 2_000_000, hash: 0, except: &tried };
    assert_eq!(shares(&balancer, &later)[0], 0.0, "it was tried");
    assert!(self::balancer(Method::P2c, &[]).pick(&at(1), random).is_none());
}

#[test]
fn an_instance_whose_health_check_fails_is_left_out() {
    let balancer = balancer(Method::RoundRobin, &[1, 1, 1]);
    let complaint = balancer.members[1].instance.complain();
    let shares_now = shares(&balancer, &at(1000));
    assert_eq!(shares_now[1], 0.0);
    assert!((shares_now[0] - 0.5).abs() < 0.01, "{shares_now:?}");
    drop(complaint);
    assert!(shares(&balancer, &at(1000))[1] > 0.3);
}

#[test]
fn weights_are_kept_among_equals() {
    for method in [Method::P2c, Method::Weighted] {
        let share = shares(&balancer(method, &[9, 1]), &at(1000))[0];
        assert!((0.85..0.999).contains(&share), "{method:?} {share}");
    }
    let exact = shares(&balancer(Method::Weighted, &[3, 1]), &at(1000));
    assert!((exact[0] - 0.75).abs() < 0.001, "{exact:?}");
}

#[test]
fn a_weighted_turn_is_spread_evenly() {
    let balancer = balancer(Method::Weighted, &[5, 1, 1]);
    let turns: Vec<usize> = (0..7).map(|_| index(&balancer, balancer.pick(&at(1000), random).unwrap())).collect();
    assert_eq!(turns, [0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn round_robin_takes_turns_and_least_requests_looks_at_what_is_under_way() {
    let turns = shares(&balancer(Method::RoundRobin, &[1, 9, 1, 1]), &at(1000));
    assert!(turns.iter().all(|share| (share - 0.25).abs() < 0.001), "{turns:?}");
    let least = balancer(Method::LeastRequests, &[1, 1, 2]);
    let _busy = (least.members[0].instance.enter(), least.members[1].instance.enter());
    assert!(shares(&least, &at(1000))[2] > 0.999);
    let _more: Vec<_> = (0..8).map(|_| least.members[2].instance.enter()).collect();
    assert_eq!(shares(&least, &at(1000))[2], 0.0, "twice the weight does not bear nine requests");
}

#[test]
fn a_value_stays_with_its_instance_and_few_move_when_one_goes() {
    let balancer = balancer(Method::Hash, &[1, 1, 1, 1, 1]);
    let chosen = |value: u32| {
        let asked = Asked { now: 1000, hash: hash::of(&value.to_be_bytes()), except: &[] };
        index(&balancer, balancer.pick(&asked, random).unwrap())
    };
    let before: Vec<usize> = (0..2000).map(chosen).collect();
    for member in 0..5 {
        let count = before.iter().filter(|chosen| **chosen == member).count();
        assert!((300..500).contains(&count), "{member}: {count}");
    }
    let _gone = balancer.members[3].instance.complain();
    for (value, before) in (0..).zip(&before) {
        let now = chosen(value);
        assert!(if *before == 3 { now != 3 } else { now == *before }, "only those of the one that is gone move");
    }
}

#[test]
fn a_hashed_instance_that_is_full_passes_requests_on() {
    let balancer = balancer(Method::Hash, &[1, 1, 1, 1]);
    let asked = at(1000);
    let first = index(&balancer, balancer.pick(&asked, random).unwrap());
    let _busy: Vec<_> = (0..8).map(|_| balancer.members[first].instance.enter()).collect();
    assert_ne!(index(&balancer, balancer.pick(&asked, random).unwrap()), first, "it has twice its fair part");
}

#[test]
fn hashing_goes_by_what_the_upstream_names() {
    let mut headers = HeaderMap::new();
    headers.insert("x-user", HeaderValue::from_static("7"));
    headers.insert("cookie", HeaderValue::from_static("a=b; session=7; c=d"));
    let (one, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
    let header = HashBy::Header("x-user".into());
    let cookie = HashBy::Cookie("session".into());
    assert_eq!(header.of(&headers, one), cookie.of(&headers, other), "the value counts");
    assert_ne!(HashBy::Ip.of(&headers, one), HashBy::Ip.of(&headers, other));
    assert_eq!(HashBy::Header("x-none".into()).of(&headers, one), HashBy::Ip.of(&headers, one));
}

#[test]
fn an_instance_that_begins_gets_more_and_more() {
    for method in [Method::P2c, Method::RoundRobin, Method::Weighted, Method::LeastRequests] {
        let balancer = starting(method, &[1, 1], 10_000_000);
        // The first has been there for long.
        balancer.members[0].instance.readiness(1, 10_000_000);
        let now = 20_000_000;
        balancer.members.iter().for_each(|member| member.instance.succeeded(now, 1000));
        let early = shares(&balancer, &at(now))[1];
        assert!(early < 0.2, "{method:?} {early}");
        let late = shares(&balancer, &at(now + 10_000_000))[1];
        assert!(late > 0.3 || method == Method::LeastRequests, "{method:?} {late}");
    }
}

fn breaker() -> Arc<Breaker> {
    Arc::new(Breaker::new(BreakerSpec {
        failure_percent: 50,
        min_requests: 10,
        window_ms: 1000,
        open_ms: 500,
        trials: 2,
    }))
}

#[test]
fn a_breaker_opens_tries_and_closes() {
    let breaker = breaker();
    let mut now = 5_000_000;
    for attempt in 0..9 {
        assert!(!breaker.enter(now).unwrap().note(now, attempt % 2 == 0), "too few attempts yet");
    }
    assert!(breaker.enter(now).unwrap().note(now, true), "six of ten failed");
    assert_eq!(breaker.position(now), Position::Open);
    assert_eq!(breaker.enter(now).unwrap_err().as_millis(), 500);
    now += 500_000;
    assert_eq!(breaker.position(now), Position::HalfOpen);
    let (one, two) = (breaker.enter(now).unwrap(), breaker.enter(now).unwrap());
    assert!(breaker.enter(now).is_err(), "two try it");
    assert!(!one.note(now, false) && two.note(now, true), "one failure opens it again");
    drop((one, two));
    now += 500_000;
    for _ in 0..2 {
        breaker.enter(now).unwrap().note(now, false);
    }
    assert_eq!(breaker.position(now), Position::Closed);
    assert_eq!(breaker.counted(now), (0, 0), "what was before is forgotten");
}

#[test]
fn a_breaker_forgets_what_is_old() {
    let breaker = breaker();
    for _ in 0..9 {
        breaker.enter(1_000_000).unwrap().note(1_000_000, true);
    }
    assert!(!breaker.enter(3_000_000).unwrap().note(3_000_000, true), "nine of them were long ago");
    assert_eq!(breaker.counted(3_000_000), (1, 1));
}

#[test]
fn a_bound_is_kept_and_an_adaptive_one_follows_the_latency() {
    let fixed = Arc::new(Concurrency::new(MaxConcurrent::Fixed(2)));
    let (one, _two) = (fixed.enter().unwrap(), fixed.enter().unwrap());
    assert!(fixed.enter().is_none());
    drop(one);
    assert!(fixed.enter().is_some());

    let adaptive = Arc::new(Concurrency::new(MaxConcurrent::Adaptive(Adaptive { min: 2, max: 200 })));
    let first = adaptive.most();
    let fill = || -> Vec<_> { std::iter::from_fn(|| adaptive.enter()).collect() };
    for _ in 0..200 {
        let seats = fill();
        seats[0].answered(1000);
    }
    let grown = adaptive.most();
    assert!(grown > first * 3, "{first} {grown}");
    for _ in 0..40 {
        let seats = fill();
        seats[0].answered(20_000);
    }
    assert!(adaptive.most() < grown / 2, "{grown} {}", adaptive.most());
}
