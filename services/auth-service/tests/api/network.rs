//! The rule of whose address counts.

use auth_service::network::{Network, Networks, client_address};

fn networks(text: &str) -> Networks {
    Networks::try_from(text.to_owned()).unwrap()
}

#[test]
fn only_trusted_proxies_are_believed() {
    let trusted = networks("127.0.0.0/8, 10.0.0.0/8, fc00::/7");
    for (peer, forwarded, expected) in [
        ("203.0.113.1", vec!["198.51.100.1"], "203.0.113.1"),
        ("127.0.0.1", vec![], "127.0.0.1"),
        ("127.0.0.1", vec!["198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", vec!["1.1.1.1, 198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", vec!["1.1.1.1", "198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", vec!["198.51.100.1, 10.1.2.3"], "198.51.100.1"),
        ("127.0.0.1", vec!["198.51.100.1:1234"], "198.51.100.1"),
        ("127.0.0.1", vec!["[2001:db8::1]:1234"], "2001:db8::1"),
        ("127.0.0.1", vec!["[2001:db8::1]"], "2001:db8::1"),
        ("::ffff:127.0.0.1", vec!["198.51.100.1"], "198.51.100.1"),
        ("127.0.0.1", vec!["nonsense"], "127.0.0.1"),
        ("127.0.0.1", vec!["198.51.100.1, nonsense"], "127.0.0.1"),
        ("10.0.0.1", vec!["10.0.0.2, 10.0.0.3"], "10.0.0.2"),
    ] {
        let found = client_address(peer.parse().unwrap(), &forwarded, &trusted);
        assert_eq!(found, expected.parse::<std::net::IpAddr>().unwrap(), "{peer} {forwarded:?}");
    }
}

#[test]
fn neighbours_share_a_network() {
    let network = |text: &str| Network::of(text.parse().unwrap());
    assert_eq!(network("203.0.113.1"), network("203.0.113.255"));
    assert_eq!(network("203.0.113.1"), network("::ffff:203.0.113.9"));
    assert_ne!(network("203.0.113.1"), network("203.0.112.1"));
    assert_eq!(network("2001:db8:0:1::1"), network("2001:db8:0:1:ffff::"));
    assert_ne!(network("2001:db8:0:1::1"), network("2001:db8:0:2::1"));
    assert_eq!(network("2001:db8:0:1::1").site(), network("2001:db8:0:ff:ffff::").site());
    assert_ne!(network("2001:db8:0:1::1").site(), network("2001:db8:0:100::1").site());
    assert_eq!(network("203.0.113.1").site(), network("203.0.113.255"));
}

#[test]
fn a_network_that_is_none_is_refused() {
    for bad in ["127.0.0.1", "127.0.0.1/33", "::/129", "localhost/8", "1.2.3.4/x"] {
        assert!(Networks::try_from(bad.to_owned()).is_err(), "{bad}");
    }
    let all = networks("0.0.0.0/0, ::/0");
    assert!(all.contains("8.8.8.8".parse().unwrap()) && all.contains("2001::1".parse().unwrap()));
    assert!(!networks("").contains("127.0.0.1".parse().unwrap()));
}
