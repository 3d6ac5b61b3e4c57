//! Finds a request's route: a tree of segments, built once per table, with the other conditions at its leaves. What a route
//! does is not its business.

use crate::{
    condition::{Asked, Conditions},
    rewrite::is_parameter,
    route::{Method, PathMatch, RouteSpec},
};

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

#[derive(Debug)]
struct Entry {
    /// Smaller wins.
    rank: u32,
    methods: Methods,
    conditions: Option<Box<Conditions>>,
    index: usize,
}

#[derive(Debug, Default)]
struct Node {
    /// Sorted by segment.
    children: Vec<(Box<str>, Node)>,
    /// For any segment that is not empty.
    any: Option<Box<Node>>,
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
    /// Of two routes that match, the higher priority wins; then the host over the pattern over none; the exact path over the
    /// template over the prefix; the longer over the shorter; more conditions over fewer; methods over none; last the name, so
    /// that the order is total.
    pub fn new<'a>(routes: impl IntoIterator<Item = &'a RouteSpec>) -> Self {
        let mut routes: Vec<(usize, &RouteSpec)> = routes.into_iter().enumerate().collect();
        routes.sort_by_key(|(_, route)| {
            let matches = &route.matches;
            let host = matches.host.as_ref().map_or(2, |host| u8::from(host.starts_with('*')));
            let kind = match matches.path {
                PathMatch::Exact(_) => 0,
                PathMatch::Template(_) => 1,
                PathMatch::Prefix(_) => 2_u8,
            };
            let (length, conditions) = (matches.path.text().len(), matches.headers.len() + matches.query.len());
            let specific = (usize::MAX - length, usize::MAX - conditions);
            (-route.priority, host, kind, specific, matches.methods.is_none(), &route.name)
        });
        let mut matcher = Self::default();
        for (rank, (index, route)) in routes.into_iter().enumerate() {
            let entry = Entry {
                rank: u32::try_from(rank).unwrap_or(u32::MAX),
                methods: Methods::from_list(route.matches.methods.as_deref()),
                conditions: Conditions::compile(&route.matches),
                index,
            };
            let is_template = matches!(route.matches.path, PathMatch::Template(_));
            let node = matcher.root.descend(segments(route.matches.path.text()), is_template);
            match route.matches.path {
                PathMatch::Prefix(_) => node.prefix.push(entry),
                PathMatch::Exact(_) | PathMatch::Template(_) => node.exact.push(entry),
            }
        }
        matcher
    }

    /// The route for a path that begins with `/` and is in normal form.
    pub fn find(&self, path: &str, method: Methods, asked: &Asked<'_>) -> Found {
        let mut best: Option<&Entry> = None;
        let mut others = Methods::NONE;
        self.root.walk(segments(path), &mut |entries| {
            for entry in entries {
                if best.is_some_and(|best| best.rank < entry.rank) && entry.methods.takes(method) {
                    break;
                }
                if entry.conditions.as_ref().is_some_and(|conditions| !conditions.hold(asked)) {
                    continue;
                }
                if entry.methods.takes(method) {
                    best = Some(entry);
                    break;
                }
                if entry.methods.is_limited() {
                    others = Methods(others.0 | entry.methods.0);
                }
            }
        });
        match best {
            Some(entry) => Found::Route(entry.index),
            None if others != Methods::NONE => Found::OtherMethods(others),
            None => Found::Nothing,
        }
    }
}

/// A route whose path takes a request's.
#[derive(Debug)]
pub struct Candidate {
    pub index: usize,
    /// What else of the request it does not take.
    pub refuses: Option<String>,
}

impl Matcher {
    /// Every route whose path takes this one, the first that refuses nothing being the one that [`find`](Self::find) finds.
    pub fn candidates(&self, path: &str, method: Methods, asked: &Asked<'_>) -> Vec<Candidate> {
        let mut entries: Vec<&Entry> = Vec::new();
        self.root.walk(segments(path), &mut |list| entries.extend(list));
        entries.sort_by_key(|entry| entry.rank);
        let refuses = |entry: &Entry| {
            let broken = entry.conditions.as_ref().and_then(|conditions| conditions.broken(asked));
            broken.or_else(|| (!entry.methods.takes(method)).then(|| "method".to_owned()))
        };
        entries.into_iter().map(|entry| Candidate { index: entry.index, refuses: refuses(entry) }).collect()
    }
}

impl Node {
    fn descend<'a>(&mut self, segments: impl Iterator<Item = &'a str>, is_template: bool) -> &mut Self {
        let mut node = self;
        for segment in segments {
            if is_template && is_parameter(segment) {
                node = node.any.get_or_insert_default();
                continue;
            }
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

    /// Shows every list of entries whose path takes these segments.
    fn walk<'n, 'p, S>(&'n self, mut segments: S, consider: &mut impl FnMut(&'n [Entry]))
    where
        S: Iterator<Item = &'p str> + Clone,
    {
        consider(&self.prefix);
        let Some(segment) = segments.next() else { return consider(&self.exact) };
        if let Some(any) = self.any.as_ref().filter(|_| !segment.is_empty()) {
            any.walk(segments.clone(), consider);
        }
        if let Ok(at) = self.children.binary_search_by(|(name, _)| (**name).cmp(segment)) {
            self.children[at].1.walk(segments, consider);
        }
    }
}

/// `/` has no segment, `/a/` has two: `a` and an empty one.
fn segments(path: &str) -> impl Iterator<Item = &str> + Clone {
    let rest = path.strip_prefix('/').unwrap_or(path);
    let mut split = rest.split('/');
    if rest.is_empty() {
        split.next();
    }
    split
}
