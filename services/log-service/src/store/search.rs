//! The query tree in SQL: search in PostgreSQL, for when Elasticsearch is away. Slower, and as exact.

use sqlx::{PgPool, Postgres, QueryBuilder};

use super::{Order, Search, lines::Row};
use crate::{
    line::{Level, Line},
    query::{Leaf, Query},
};

/// Finds lines.
///
/// # Errors
/// Of the database; a search that takes longer than `postgres.statement_timeout_ms` is one.
pub async fn find(pool: &PgPool, search: &Search) -> sqlx::Result<Vec<Line>> {
    let mut sql = QueryBuilder::new(
        "select seq, key, id, occurred_at, received_at, service, level, message, attributes, trace_id, terms from lines where ",
    );
    push_query(&mut sql, &search.filter.query);
    if let Some(from) = search.filter.from {
        sql.push(" and occurred_at >= ").push_bind(from);
    }
    if let Some(to) = search.filter.to {
        sql.push(" and occurred_at < ").push_bind(to);
    }
    let (comparison, direction) = match search.order {
        Order::Newest => ("<", "desc"),
        Order::Oldest => (">", "asc"),
    };
    if let Some(after) = search.after {
        sql.push(" and (occurred_at, seq) ").push(comparison).push(" (");
        sql.push_bind(after.occurred_at).push(", ").push_bind(after.seq).push(")");
    }
    sql.push(" order by occurred_at ").push(direction).push(", seq ").push(direction);
    sql.push(" limit ").push_bind(i64::try_from(search.limit).unwrap_or(i64::MAX));
    let rows: Vec<Row> = sql.build_query_as().fetch_all(pool).await?;
    rows.into_iter().map(Line::try_from).collect()
}

fn push_query(sql: &mut QueryBuilder<Postgres>, query: &Query) {
    match query {
        Query::All => {
            sql.push("true");
        }
        Query::Leaf(leaf) => push_leaf(sql, leaf),
        Query::Not(inner) => {
            sql.push("not coalesce(");
            push_query(sql, inner);
            sql.push(", false)");
        }
        Query::And(parts) => push_joined(sql, parts, " and "),
        Query::Or(parts) => push_joined(sql, parts, " or "),
    }
}

fn push_joined(sql: &mut QueryBuilder<Postgres>, parts: &[Query], operator: &'static str) {
    for (index, part) in parts.iter().enumerate() {
        sql.push(if index == 0 { "(" } else { operator });
        push_query(sql, part);
    }
    sql.push(")");
}

fn push_leaf(sql: &mut QueryBuilder<Postgres>, leaf: &Leaf) {
    match leaf {
        Leaf::Words { .. } | Leaf::Attribute { .. } => {
            // A needle holds nothing that `like` reads as a pattern.
            let needle = leaf.needle().unwrap_or_default();
            sql.push("terms like ").push_bind(format!("%{needle}%"));
        }
        Leaf::Service(service) => {
            sql.push("service = ").push_bind(service.clone());
        }
        Leaf::Level(level) => {
            sql.push("level = ").push_bind(level.as_str());
        }
        Leaf::AtLeast(least) => {
            let levels: Vec<&str> =
                Level::ALL.iter().filter(|level| *level >= least).map(|level| level.as_str()).collect();
            sql.push("level = any(").push_bind(levels).push(")");
        }
        Leaf::TraceId(trace_id) => {
            sql.push("trace_id = ").push_bind(trace_id.clone());
        }
        Leaf::Id(id) => {
            sql.push("id = ").push_bind(id.clone());
        }
    }
}
