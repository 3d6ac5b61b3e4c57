//! Which route takes a path: the tree against a naive model that reads the rules aloud.

use http::HeaderMap;
use proptest::prelude::*;
use router_service::{
    condition::Asked,
    matcher::{Found, Matcher, Methods},
    route::{Authentication, Match, Method, Name, PathMatch, RouteSpec, covers},
};

fn spec(index: usize, path: PathMatch, methods: Option<Vec<Method>>, priority: i32) -> RouteSpec {
    let name = |text: String| Name::try_from(text).unwrap();
    let matches = Match { methods, ..Match::path(path) };
    RouteSpec {
        authentication: vec![Authentication::None],
        priority,
        ..RouteSpec::new(name(format!("r{index:03}")), matches, name("u".into()))
    }
}

/// A request that no condition looks at.
fn anybody(headers: &HeaderMap) -> Asked<'_> {
    Asked { host: None, headers, query: None }
}

/// The rules, one after the other, over all routes.
fn model(routes: &[RouteSpec], path: &str, method: &str) -> (Option<usize>, bool) {
    let takes_path = |route: &RouteSpec| match &route.matches.path {
        PathMatch::Exact(exact) => exact == path,
        PathMatch::Template(template) => {
            template.split('/').count() == path.split('/').count()
                && template
                    .split('/')
                    .zip(path.split('/'))
                    .all(|(wanted, segment)| wanted == segment || (wanted.starts_with('{') && !segment.is_empty()))
        }
        PathMatch::Prefix(prefix) => prefix == "/" || path == prefix || path.starts_with(&format!("{prefix}/")),
    };
    let takes_method = |route: &RouteSpec| {
        route.matches.methods.as_ref().is_none_or(|methods| {
            methods.iter().any(|known| known.as_str() == method) || (method == "HEAD" && methods.contains(&Method::Get))
        })
    };
    let on_path: Vec<usize> = (0..routes.len()).filter(|index| takes_path(&routes[*index])).collect();
    let mut best: Option<usize> = None;
    for index in on_path.iter().copied().filter(|index| takes_method(&routes[*index])) {
        let key = |index: usize| {
            let route = &routes[index];
            let exact = match route.matches.path {
                PathMatch::Exact(_) => 2,
                PathMatch::Template(_) => 1,
                PathMatch::Prefix(_) => 0,
            };
            let length = route.matches.path.text().len();
            (route.priority, exact, length, route.matches.methods.is_some(), std::cmp::Reverse(route.name.clone()))
        };
        if best.is_none_or(|best| key(index) > key(best)) {
            best = Some(index);
        }
    }
    (best, !on_path.is_empty())
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec("[ab]{1,2}", 0..4).prop_map(|segments| format!("/{}", segments.join("/")))
}

fn asked() -> impl Strategy<Value = String> {
    prop_oneof![path(), path().prop_map(|path| format!("{path}/")), "(/[ab]{0,2}){1,4}"]
}

fn routes() -> impl Strategy<Value = Vec<RouteSpec>> {
    let methods = prop::option::of(prop::sample::subsequence(Method::ALL.to_vec(), 1..4));
    let matched = prop_oneof![
        path().prop_map(PathMatch::Prefix),
        path().prop_map(PathMatch::Exact),
        prop::collection::vec("[ab]{1,2}|\\{[xy]\\}", 1..4)
            .prop_map(|segments| PathMatch::Template(format!("/{}", segments.join("/")))),
    ];
    let one = (matched, methods, -1..2_i32);
    prop::collection::vec(one, 0..12).prop_map(|list| {
        let spec = |(index, (path, methods, priority))| spec(index, path, methods, priority);
        list.into_iter().enumerate().map(spec).collect()
    })
}

proptest! {
    #[test]
    fn the_tree_finds_what_the_rules_say(routes in routes(), path in asked(), method in "GET|HEAD|POST|DELETE|PURGE") {
        let matcher = Matcher::new(&routes);
        let asked = Methods::of(&method.parse().unwrap());
        let (expected, any_on_path) = model(&routes, &path, &method);
        match (matcher.find(&path, asked, &anybody(&HeaderMap::new())), expected) {
            (Found::Route(found), Some(expected)) => prop_assert_eq!(found, expected),
            (Found::OtherMethods(_), None) => prop_assert!(any_on_path),
            (Found::Nothing, None) => prop_assert!(!any_on_path),
            (found, expected) => prop_assert!(false, "{found:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn a_prefix_covers_whole_segments(prefix in path(), path in asked()) {
        let expected = prefix == "/" || path == prefix || path.starts_with(&format!("{prefix}/"));
        prop_assert_eq!(covers(&prefix, &path), expected);
    }
}

#[test]
fn a_prefix_is_not_a_part_of_a_word() {
    let routes = [
        spec(0, PathMatch::Prefix("/users".into()), None, 0),
        spec(1, PathMatch::Exact("/users/me".into()), Some(vec![Method::Get]), 0),
        spec(2, PathMatch::Prefix("/".into()), None, -1),
        spec(3, PathMatch::Prefix("/late".into()), Some(vec![Method::Post]), 0),
    ];
    let matcher = Matcher::new(&routes);
    let find = |path: &str, method: &str| {
        matcher.find(path, Methods::of(&method.parse().unwrap()), &anybody(&HeaderMap::new()))
    };
    for (path, method, expected) in [
        ("/users", "GET", 0),
        ("/users/", "GET", 0),
        ("/users/7/roles", "GET", 0),
        ("/usersx", "GET", 2),
        ("/Users", "GET", 2),
        ("/users/me", "GET", 1),
        ("/users/me", "HEAD", 1),
        ("/users/me", "PUT", 0),
        ("/users/me/", "GET", 0),
        ("/", "GET", 2),
        ("/late", "GET", 2),
        ("/late", "POST", 3),
    ] {
        assert_eq!(find(path, method), Found::Route(expected), "{method} {path}");
    }
    let alone = Matcher::new(&routes[3..]);
    match alone.find("/late/x", Methods::of(&http::Method::GET), &anybody(&HeaderMap::new())) {
        Found::OtherMethods(methods) => assert_eq!(methods.allow(), "POST"),
        found => panic!("{found:?}"),
    }
}
