//! The query tree in Elasticsearch's query language. Filters only: the order is time, not relevance.

use serde_json::{Value, json};

use super::{Attributes, document::SOURCE_FIELDS};
use crate::{
    line::Level,
    query::{Leaf, Query},
    store::{Order, Search},
    terms,
};

/// How many words the last one of a phrase may become.
const MAX_EXPANSIONS: u32 = 1024;

/// The body of a search request.
pub(super) fn body(search: &Search, attributes: Attributes) -> Value {
    let mut filters = vec![query(&search.filter.query, attributes)];
    if let Some(from) = search.filter.from {
        filters.push(json!({ "range": { "micros": { "gte": from.timestamp_micros() } } }));
    }
    if let Some(to) = search.filter.to {
        filters.push(json!({ "range": { "micros": { "lt": to.timestamp_micros() } } }));
    }
    let direction = match search.order {
        Order::Newest => "desc",
        Order::Oldest => "asc",
    };
    let mut body = json!({
        "size": search.limit,
        "query": { "bool": { "filter": filters } },
        "sort": [
            { "micros": { "order": direction, "unmapped_type": "long" } },
            { "seq": { "order": direction, "unmapped_type": "long" } },
        ],
        "_source": SOURCE_FIELDS,
        "track_total_hits": false,
    });
    if let Some(after) = search.after {
        body["search_after"] = json!([after.occurred_at.timestamp_micros(), after.seq]);
    }
    body
}

fn query(tree: &Query, attributes: Attributes) -> Value {
    let all = |parts: &[Query]| parts.iter().map(|part| query(part, attributes)).collect::<Vec<_>>();
    match tree {
        Query::All => json!({ "match_all": {} }),
        Query::Leaf(found) => leaf(found, attributes),
        Query::Not(inner) => json!({ "bool": { "must_not": [query(inner, attributes)] } }),
        Query::And(parts) => json!({ "bool": { "filter": all(parts) } }),
        Query::Or(parts) => json!({ "bool": { "should": all(parts), "minimum_should_match": 1 } }),
    }
}

fn leaf(leaf: &Leaf, attributes: Attributes) -> Value {
    match leaf {
        Leaf::Words { words, prefix } => match (words.as_slice(), *prefix) {
            ([word], false) => json!({ "term": { "terms": word } }),
            ([word], true) => json!({ "prefix": { "terms": word } }),
            (_, false) => json!({ "match_phrase": { "terms": words.join(" ") } }),
            (_, true) => json!({ "match_phrase_prefix": {
                "terms": { "query": words.join(" "), "max_expansions": MAX_EXPANSIONS } } }),
        },
        Leaf::Service(service) => json!({ "term": { "service": service } }),
        Leaf::Level(level) => json!({ "term": { "level": level } }),
        Leaf::AtLeast(least) => {
            let levels: Vec<&Level> = Level::ALL.iter().filter(|level| *level >= least).collect();
            json!({ "terms": { "level": levels } })
        }
        Leaf::TraceId(trace_id) => json!({ "term": { "traceId": trace_id } }),
        Leaf::Id(id) => json!({ "term": { "id": id } }),
        Leaf::Attribute { path, value } => match attributes {
            Attributes::Flattened => json!({ "term": { (format!("attributes.{path}")): value } }),
            Attributes::Pairs => json!({ "term": { "pairs": terms::pair(path, value) } }),
        },
    }
}
