//! Rules that need no server: GCRA, the retry budget, paths, origins, heads, merged documents.

use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;
use router_service::{
    budget::Budget,
    headers,
    limit::{Gcra, Quota, counted},
    openapi,
    origin::{TrustedHeader, origin_of},
    sniff::{Sniffer, Verdict},
};
use serde_json::json;

proptest! {
    /// However requests come, no span admits more than one full allowance and what the span brings back.
    #[test]
    fn no_span_admits_more_than_the_quota(
        requests in 1..50_u32,
        burst in 1..50_u32,
        period_ms in 1..5_000_u64,
        gaps in prop::collection::vec(0..200_000_u64, 1..400),
    ) {
        let quota = Quota { requests, period_us: period_ms * 1000, burst };
        let mut gcra = Gcra::default();
        let (mut now, mut admitted) = (1_000_000_u64, Vec::new());
        for gap in gaps {
            now += gap;
            let left = gcra.remaining(quota, now);
            match gcra.take(quota, now) {
                Ok(()) => {
                    prop_assert!(left >= 1);
                    admitted.push(now);
                }
                Err(wait) => {
                    prop_assert_eq!(left, 0);
                    prop_assert!(wait > 0);
                    let mut later = gcra;
                    prop_assert!(later.take(quota, now + wait).is_ok(), "the wait was told true");
                }
            }
        }
        for (first, from) in admitted.iter().enumerate() {
            for (last, to) in admitted.iter().enumerate().skip(first) {
                let count = (last - first + 1) as u128;
                let brought = u128::from(to - from) * u128::from(requests) / u128::from(quota.period_us);
                prop_assert!(count <= u128::from(burst) + brought + 1, "{count} in {} us", to - from);
            }
        }
    }

    #[test]
    fn a_full_allowance_is_there_in_one_go(requests in 1..1000_u32, period_us in 1..10_000_000_u64) {
        let quota = Quota { requests, period_us, burst: requests };
        let mut gcra = Gcra::default();
        for _ in 0..requests {
            prop_assert!(gcra.take(quota, 5).is_ok());
        }
        prop_assert!(gcra.take(quota, 5).is_err());
    }

    /// The verdicts do not depend on how the bytes were cut.
    #[test]
    fn heads_are_seen_however_they_are_cut(cuts in prop::collection::vec(1..40_usize, 0..20)) {
        let heads = "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\nX: y\r\n\r\n\
                     POST /c HTTP/1.1\r\nContent-LENGTH : 3\r\nHost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
        let mut sniffer = Sniffer::default();
        let mut rest = heads.as_bytes();
        for cut in cuts {
            let (now, later) = rest.split_at(cut.min(rest.len()));
            sniffer.feed(now);
            rest = later;
        }
        sniffer.feed(rest);
        let verdicts: Vec<_> = std::iter::from_fn(|| sniffer.verdict()).collect();
        prop_assert_eq!(verdicts, vec![Verdict::Good, Verdict::BareLineFeed, Verdict::TwoLengths]);
    }

    #[test]
    fn no_bytes_make_the_sniffer_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut sniffer = Sniffer::default();
        sniffer.feed(&bytes);
        sniffer.resume();
        sniffer.feed(&bytes);
    }

    #[test]
    fn a_normal_path_stays_as_it_is(path in "(/[a-zA-Z0-9._~%/-]{0,8}){1,4}") {
        if let Ok(normal) = headers::normal_path(&path) {
            let normal = normal.into_owned();
            prop_assert!(normal.starts_with('/') && !normal.split('/').any(|part| part == "." || part == ".."));
            prop_assert_eq!(&*headers::normal_path(&normal).unwrap(), &*normal);
        }
    }
}

#[test]
fn paths_have_one_spelling() {
    for (path, expected) in [
        ("/users/7", Some("/users/7")),
        ("/%75sers/%37", Some("/users/7")),
        ("/a%2fb", Some("/a%2Fb")),
        ("/a%20b", Some("/a%20b")),
        ("/a%2520", Some("/a%2520")),
        ("/...", Some("/...")),
        ("/.well-known/x", Some("/.well-known/x")),
        ("/a/../b", None),
        ("/a/%2e%2E/b", None),
        ("/a/.", None),
        ("/a%00", None),
        ("/a%5cb", None),
        ("/a\\b", None),
        ("/a%", None),
        ("/a%zz", None),
        ("/a%2", None),
        ("*", None),
    ] {
        assert_eq!(headers::normal_path(path).ok().as_deref(), expected, "{path}");
    }
}

#[test]
fn only_a_trusted_proxy_is_believed() {
    let headers = |chain: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", HeaderValue::from_static(chain));
        headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
        headers
    };
    let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
    for (peer, chain, address, sent, https) in [
        ("192.0.2.1", "203.0.113.9", "192.0.2.1", "192.0.2.1", false),
        ("10.0.0.1", "203.0.113.9", "203.0.113.9", "203.0.113.9, 10.0.0.1", true),
        ("10.0.0.1", "6.6.6.6, 203.0.113.9, 10.0.0.2", "203.0.113.9", "203.0.113.9, 10.0.0.2, 10.0.0.1", true),
        ("10.0.0.1", "junk", "10.0.0.1", "10.0.0.1", true),
        ("10.0.0.1", "6.6.6.6, junk, 10.0.0.2", "10.0.0.2", "10.0.0.2, 10.0.0.1", true),
        ("fd00::1", "2001:db8::5", "2001:db8::5", "2001:db8::5, fd00::1", true),
    ] {
        let said = (&headers(chain), &trusted, TrustedHeader::XForwardedFor);
        let origin = origin_of(peer.parse().unwrap(), &peer.parse().unwrap(), false, said.0, said.1, said.2);
        assert_eq!(origin.address.to_string(), address, "{peer} {chain}");
        assert_eq!(origin.chain.to_str().unwrap(), sent, "{peer} {chain}");
        assert_eq!(origin.is_https, https, "{peer} {chain}");
    }
}

#[test]
fn forwarded_is_read_where_the_configuration_says_so() {
    let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
    for (said, address, sent, https) in [
        ("for=203.0.113.9;proto=https", "203.0.113.9", "203.0.113.9, 10.0.0.1", true),
        ("For=\"203.0.113.9:4711\" ; Proto=HTTP", "203.0.113.9", "203.0.113.9, 10.0.0.1", false),
        ("for=\"[2001:db8::5]:80\"", "2001:db8::5", "2001:db8::5, 10.0.0.1", false),
        (
            "for=6.6.6.6;proto=http, for=203.0.113.9, for=\"[fd00::2]\";proto=https",
            "203.0.113.9",
            "203.0.113.9, fd00::2, 10.0.0.1",
            true,
        ),
        ("for=6.6.6.6, for=unknown, for=10.0.0.2", "10.0.0.2", "10.0.0.2, 10.0.0.1", false),
        ("for=6.6.6.6, for=_hidden", "10.0.0.1", "10.0.0.1", false),
        ("for=6.6.6.6, for=\"x, for=7.7.7.7", "10.0.0.1", "10.0.0.1", false),
        ("for=\"6.6.6.6\\\"\"", "10.0.0.1", "10.0.0.1", false),
        ("junk", "10.0.0.1", "10.0.0.1", false),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert("forwarded", HeaderValue::from_static(said));
        // A proxy that writes the other one passes this on as it came.
        headers.insert("x-forwarded-for", HeaderValue::from_static("6.6.6.6"));
        let peer = "10.0.0.1";
        let of = |peer: &str| {
            let text = peer.parse().unwrap();
            origin_of(peer.parse().unwrap(), &text, false, &headers, &trusted, TrustedHeader::Forwarded)
        };
        let origin = of(peer);
        assert_eq!((origin.address.to_string().as_str(), origin.chain.to_str().unwrap()), (address, sent), "{said}");
        assert_eq!(origin.is_https, https, "{said}");
        assert_eq!(of("192.0.2.1").address.to_string(), "192.0.2.1", "nobody else is believed");
    }
}

#[test]
fn an_ipv6_client_counts_with_its_network() {
    for (address, expected) in [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::1", "2001:db8:1:2::"),
    ] {
        assert_eq!(counted(address.parse().unwrap()).to_string(), expected);
    }
}

#[test]
fn retries_are_a_part_of_the_requests() {
    let budget = Budget::default();
    let mut retries = 0;
    for _ in 0..10_000 {
        budget.deposit(20);
        retries += u32::from(budget.withdraw());
    }
    assert!((2000..=2101).contains(&retries), "{retries}");
}

#[test]
fn documents_are_merged_without_a_clash() {
    let one = json!({"paths": {"/a": {"get": {"r": {"$ref": "#/components/schemas/Thing"}}}},
        "components": {"schemas": {"Thing": {"type": "string"}, "Same": {"type": "null"}}}});
    let two = json!({"paths": {"/b": {"get": {"r": {"$ref": "#/components/schemas/Thing"}}}, "/a": {"post": {}, "get": {}}},
        "components": {"schemas": {"Thing": {"type": "integer"}, "Same": {"type": "null"}}}});
    let merged = openapi::merge(vec![("auth-service".into(), one), ("log-service".into(), two)]);
    assert_eq!(merged["paths"]["/a"]["get"]["r"]["$ref"], "#/components/schemas/Thing");
    assert_eq!(merged["paths"]["/b"]["get"]["r"]["$ref"], "#/components/schemas/LogServiceThing");
    assert!(merged["paths"]["/a"]["post"].is_object());
    let schemas = merged["components"]["schemas"].as_object().unwrap();
    assert_eq!(schemas.len(), 3);
    assert_eq!(schemas["Thing"]["type"], "string");
    assert_eq!(schemas["LogServiceThing"]["type"], "integer");
}
