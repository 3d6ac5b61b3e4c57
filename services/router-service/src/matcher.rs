//! Finds a path's route: a tree of segments, built once per table. What a route does is not its business.

use crate::route::{Method, PathMatch, RouteSpec};

/// Methods as bits: those of [`Method::ALL`] in their order, and one bit for every other method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Methods(u8);

impl Methods {
    /// Every method, unknown ones too.
    pub const ALL: Self = Self(u8::MAX);
    const NONE: Self = Self(0);

    /// The bit of one request's method.
    pub fn of(method: &http::Method) -> Self {
        let known = Method::ALL.iter().position(|known| known.as_str() == method.as_str());
        Self(1 << known.unwrap_or(Method::ALL.len()))
    }

    fn from_list(list: Option<&[Method]>) -> Self {
        let Some(list) = list else { return Self::ALL };
        let bit = |method: Method| 1 << (method as u8);
        let head = if list.contains(&Method::Get) { bit(Method::Head) } else { 0 };
        Self(list.iter().fold(head, |bits, method| bits | bit(*method)))
    }

    fn takes(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    fn is_limited(self) -> bool {
        self != Self::ALL
    }

    /// For the header `Allow`.
    pub fn allow(self) -> String {
        let names = Method::ALL.iter().filter(|method| self.0 & (1 << (**method as u8)) != 0);
        names.map(|method| method.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The route's index in the list that the matcher was built from.
    Route(usize),
    /// Routes take this path, but not with this method.
    OtherMethods(Methods),
    Nothing,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Smaller wins.
    rank: u32,
    methods: Methods,
    index: usize,
}

#[derive(Debug, Default)]
struct Node {
    /// Sorted by segment.
    children: Vec<(Box<str>, Node)>,
    /// Sorted by rank, both.
    prefix: Vec<Entry>,
    exact: Vec<Entry>,
}

/// The tree.
#[derive(Debug, Default)]
pub struct Matcher {
    root: Node,
}

impl Matcher {
    /// Of two routes that match, the higher priority wins; then the exact path over the prefix, the longer over the
    /// shorter, the one with methods over the one without; last the name, so that the order is total.
    pub fn new<'a>(routes: impl IntoIterator<Item = &'a RouteSpec>) -> Self {
        let mut routes: Vec<(usize, &RouteSpec)> = routes.into_iter().enumerate().collect();
        routes.sort_by_key(|(_, route)| {
            let path = route.matches.path.text();
            let prefix = matches!(route.matches.path, PathMatch::Prefix(_));
            (-route.priority, prefix, usize::MAX - path.len(), route.matches.methods.is_none(), &route.name)
        });
        let mut matcher = Self::default();
        for (rank, (index, route)) in routes.into_iter().enumerate() {
            let methods = Methods::from_list(route.matches.methods.as_deref());
            let entry = Entry { rank: u32::try_from(rank).unwrap_or(u32::MAX), methods, index };
            let node = matcher.root.descend(segments(route.matches.path.text()));
            match route.matches.path {
                PathMatch::Prefix(_) => node.prefix.push(entry),
                PathMatch::Exact(_) => node.exact.push(entry),
            }
        }
        matcher
    }

    /// The route for a path that begins with `/` and is in normal form.
    pub fn find(&self, path: &str, method: Methods) -> Found {
        let mut best: Option<Entry> = None;
        let mut others = Methods::NONE;
        let mut consider = |entries: &[Entry]| {
            for entry in entries {
                if entry.methods.takes(method) {
                    if best.is_none_or(|best| entry.rank < best.rank) {
                        best = Some(*entry);
                    }
                    break;
                }
                if entry.methods.is_limited() {
                    others = Methods(others.0 | entry.methods.0);
                }
            }
        };
        let mut node = &self.root;
        consider(&node.prefix);
        let mut complete = true;
        for segment in segments(path) {
            match node.children.binary_search_by(|(name, _)| (**name).cmp(segment)) {
                Ok(at) => node = &node.children[at].1,
                Err(_) => {
                    complete = false;
                    break;
                }
            }
            consider(&node.prefix);
        }
        if complete {
            consider(&node.exact);
        }
        match best {
            Some(entry) => Found::Route(entry.index),
            None if others != Methods::NONE => Found::OtherMethods(others),
            None => Found::Nothing,
        }
    }
}

impl Node {
    fn descend<'a>(&mut self, segments: impl Iterator<Item = &'a str>) -> &mut Self {
        let mut node = self;
        for segment in segments {
            let at = match node.children.binary_search_by(|(name, _)| (**name).cmp(segment)) {
                Ok(at) => at,
                Err(at) => {
                    node.children.insert(at, (segment.into(), Self::default()));
                    at
                }
            };
            node = &mut node.children[at].1;
        }
        node
    }
}

/// `/` has no segment, `/a/` has two: `a` and an empty one.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    let rest = path.strip_prefix('/').unwrap_or(path);
    let mut split = rest.split('/');
    if rest.is_empty() {
        split.next();
    }
    split
}
