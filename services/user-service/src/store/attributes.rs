//! The schema of attributes, and attributes as they are kept.

use kronos_common::problem::Result;
use sqlx::{PgConnection, PgExecutor, PgPool, types::Json};
use uuid::Uuid;

use crate::{attributes::Schema, sealing::Kept};

/// The schema, and its version.
pub(crate) async fn schema(executor: impl PgExecutor<'_>) -> Result<(Schema, i64)> {
    let (Json(attributes), version) =
        sqlx::query_as("select attributes, version from attribute_schema").fetch_one(executor).await?;
    Ok((Schema { attributes }, version))
}

/// The schema, which stays as it is until the transaction ends.
pub(crate) async fn share_schema(connection: &mut PgConnection) -> Result<Schema> {
    let Json(attributes) =
        sqlx::query_scalar("select attributes from attribute_schema for share").fetch_one(connection).await?;
    Ok(Schema { attributes })
}

/// The schema and its version, locked until the transaction ends: nobody's attributes change.
pub(crate) async fn lock_schema(connection: &mut PgConnection) -> Result<(Schema, i64)> {
    let (Json(attributes), version) =
        sqlx::query_as("select attributes, version from attribute_schema for update").fetch_one(connection).await?;
    Ok((Schema { attributes }, version))
}

/// Writes the schema, and gives its version.
pub(crate) async fn put_schema(connection: &mut PgConnection, schema: &Schema) -> Result<i64> {
    Ok(sqlx::query_scalar(
        "update attribute_schema set attributes = $1, version = version + 1, updated_at = now() returning version",
    )
    .bind(Json(&schema.attributes))
    .fetch_one(connection)
    .await?)
}

/// Whether somebody has this attribute.
pub(crate) async fn in_use(connection: &mut PgConnection, name: &str, sealed: bool) -> Result<bool> {
    let sql = if sealed {
        "select exists (select from users where blind @> array[$1])"
    } else {
        "select exists (select from users where attributes ? $1)"
    };
    Ok(sqlx::query_scalar(sql).bind(name).fetch_one(connection).await?)
}

/// Writes somebody's attributes.
pub(crate) async fn put(connection: &mut PgConnection, id: Uuid, kept: &Kept) -> Result<()> {
    sqlx::query("update users set attributes = $2, sealed = $3, blind = $4 where id = $1")
        .bind(id)
        .bind(Json(&kept.plain))
        .bind(&kept.sealed)
        .bind(&kept.blind)
        .execute(connection)
        .await?;
    Ok(())
}

/// Some people after the id `after` whose attributes are sealed under another key than this one.
pub(crate) async fn under_other_keys(pool: &PgPool, key: &str, after: Uuid, count: i64) -> Result<Vec<Uuid>> {
    // The id of the key stands in the envelope after its own length.
    Ok(sqlx::query_scalar(
        "select id from users
         where id > $1 and sealed is not null and substring(sealed from 3 for get_byte(sealed, 1)) <> $2
         order by id limit $3",
    )
    .bind(after)
    .bind(key.as_bytes())
    .bind(count)
    .fetch_all(pool)
    .await?)
}
