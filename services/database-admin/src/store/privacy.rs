//! What the record of queries says of a person: what they asked, and statements of others that have their name or address in
//! them. Backups hold what there was when they were made; they are not looked into.

use kronos_common::{
    privacy::{Erased, Holder, Person},
    problem::Result,
};
use serde_json::Value;

use crate::App;

impl Holder for App {
    async fn held(&self, person: &Person) -> Result<Value> {
        Ok(sqlx::query_scalar(
            r#"select jsonb_build_object('queries', coalesce(jsonb_agg(t), '[]')) from (
                select id, at, client_id as "clientId", outcome, sql, row_count as "rowCount"
                from query_audit where subject = $1::text order by at) t"#,
        )
        .bind(person.user_id)
        .fetch_one(&self.pool)
        .await?)
    }

    async fn erase(&self, person: &Person) -> Result<Erased> {
        let gone = sqlx::query(
            "update query_audit set sql = '-- erased'
             where sql <> '-- erased'
             and (subject = $1::text or position(lower($2) in lower(sql)) > 0 or position($1::text in sql) > 0)",
        )
        .bind(person.user_id)
        .bind(&person.email)
        .execute(&self.pool)
        .await?
        .rows_affected();
        Ok(Erased::default()
            .with("statements", gone)
            .keeping("queries: that the id asked something, and when, which names nobody now")
            .keeping("backups: as they were made, until they are removed"))
    }
}
