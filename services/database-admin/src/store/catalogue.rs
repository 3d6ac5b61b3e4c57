//! What the server's catalogue says of functions and of the reader's rights: the ground on which statements are judged.

use sqlx::{FromRow, PgConnection};

use crate::query::{Known, allowed};

/// A column that may be read through `/db/query`.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Readable {
    pub schema: String,
    pub table_name: String,
    pub column_name: String,
    pub type_name: String,
}

/// What the reader may read, by its rights on this very connection.
pub async fn readable(reader: &mut PgConnection) -> sqlx::Result<Vec<Readable>> {
    sqlx::query_as(
        "select n.nspname::text as schema, c.relname::text as table_name, a.attname::text as column_name,
             format_type(a.atttypid, a.atttypmod) as type_name
         from pg_class c
         join pg_namespace n on n.oid = c.relnamespace
         join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
         where n.nspname not in ('pg_catalog', 'information_schema') and n.nspname not like 'pg\\_%'
             and c.relkind in ('r', 'p') and has_schema_privilege(n.oid, 'usage')
             and has_column_privilege(c.oid, a.attnum, 'select')
         order by 1, 2, a.attnum",
    )
    .fetch_all(reader)
    .await
}

/// Everything that a verdict depends on. `readable` is what [`readable`] found.
pub async fn known(reader: &mut PgConnection, readable: &[Readable]) -> sqlx::Result<Known> {
    // On our list, and harmless in every variant by the server's own word.
    let mut functions: Vec<String> = sqlx::query_scalar(
        "select p.proname::text from pg_proc p
         where p.pronamespace = 'pg_catalog'::regnamespace and p.proname = any($1)
         group by p.proname
         having bool_and(p.provolatile <> 'v' or p.proname = any($2)) and not bool_or(p.prosecdef)",
    )
    .bind(allowed::FUNCTIONS)
    .bind(allowed::VOLATILE_BUT_HARMLESS)
    .fetch_all(&mut *reader)
    .await?;
    functions.extend(allowed::GRAMMAR.iter().map(|&name| name.to_owned()));
    // What `alias.name` could call: takes one argument, is not on the list, and is neither immutable nor a cast.
    let called_as_columns: Vec<String> = sqlx::query_scalar(
        "select distinct p.proname::text from pg_proc p
         where p.pronamespace = 'pg_catalog'::regnamespace and p.pronargs >= 1
             and p.pronargs - p.pronargdefaults <= 1 and p.proname <> all($1)
             and (p.provolatile <> 'i' or p.prosecdef)
             and not exists (select from pg_cast where castfunc = p.oid)",
    )
    .bind(&functions)
    .fetch_all(&mut *reader)
    .await?;
    Ok(Known {
        functions: functions.into_iter().collect(),
        called_as_columns: called_as_columns.into_iter().collect(),
        tables: readable.iter().map(|column| (column.schema.clone(), column.table_name.clone())).collect(),
    })
}

/// Whether this connection's role is as weak as it must be: not a superuser, past no row security, a member of nothing.
pub async fn is_weak(reader: &mut PgConnection) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "select not (r.rolsuper or r.rolbypassrls or r.rolreplication or r.rolcreaterole or r.rolcreatedb
                 or exists (select from pg_auth_members m where m.member = r.oid))
             and session_user = current_user
         from pg_roles r where r.rolname = current_user",
    )
    .fetch_one(reader)
    .await
}
