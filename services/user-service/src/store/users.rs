//! People.

use kronos_common::{
    name,
    problem::{OnConstraint as _, Problem, Result},
};
use sqlx::{PgConnection, PgPool, Postgres, QueryBuilder, types::Json};
use uuid::Uuid;

use super::{attribute_filter::Attributes, scim};
use crate::{
    scim::filter::Filter,
    users::{NewUser, Order, Position, User, search_text},
};

/// Makes a person; their rights begin at epoch 1.
pub(crate) async fn insert(connection: &mut PgConnection, id: Uuid, new: &NewUser) -> Result<User> {
    let (username, email, display_name) = (new.username.as_str(), new.email.as_str(), new.display_name.as_str());
    sqlx::query_as::<_, User>(
        "insert into users (id, username, username_key, email, email_key, display_name, search, disabled, profile, external_id)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         returning id, username, email, display_name, disabled, created_at, updated_at, version, epoch, profile, external_id, attributes, sealed",
    )
    .bind(id)
    .bind(username)
    .bind(name::key(username))
    .bind(email)
    .bind(name::key(email))
    .bind(display_name)
    .bind(search_text(username, email, display_name))
    .bind(new.disabled)
    .bind(Json(&new.profile))
    .bind(&new.external_id)
    .fetch_one(connection)
    .await
    .on_constraint("users_username_key_key", username_taken())
    .on_constraint("users_email_key_key", email_taken())
}

/// Writes what `user` says now and makes the next version of it.
pub(crate) async fn update(connection: &mut PgConnection, user: &User) -> Result<User> {
    sqlx::query_as::<_, User>(
        "update users
         set username = $2, username_key = $3, email = $4, email_key = $5, display_name = $6, search = $7, disabled = $8,
             profile = $9, external_id = $10, version = version + 1, updated_at = now()
         where id = $1
         returning id, username, email, display_name, disabled, created_at, updated_at, version, epoch, profile, external_id, attributes, sealed",
    )
    .bind(user.id)
    .bind(&user.username)
    .bind(name::key(&user.username))
    .bind(&user.email)
    .bind(name::key(&user.email))
    .bind(&user.display_name)
    .bind(search_text(&user.username, &user.email, &user.display_name))
    .bind(user.disabled)
    .bind(&user.profile)
    .bind(&user.external_id)
    .fetch_one(connection)
    .await
    .on_constraint("users_username_key_key", username_taken())
    .on_constraint("users_email_key_key", email_taken())
}

/// A person, locked until the transaction ends.
pub(crate) async fn lock(connection: &mut PgConnection, id: Uuid) -> Result<User> {
    sqlx::query_as::<_, User>(
        "select id, username, email, display_name, disabled, created_at, updated_at, version, epoch, profile, external_id,
                attributes, sealed
         from users where id = $1 for update",
    )
    .bind(id)
    .fetch_optional(connection)
    .await?
    .ok_or_else(no_user)
}

/// Locks people until the transaction ends, in the order of their ids; gives those who exist.
pub(crate) async fn lock_all(connection: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<Uuid>> {
    Ok(sqlx::query_scalar("select id from users where id = any($1) order by id for update")
        .bind(ids)
        .fetch_all(connection)
        .await?)
}

/// People of these ids, in no order.
pub(crate) async fn find_all(pool: &PgPool, ids: &[Uuid]) -> Result<Vec<User>> {
    Ok(sqlx::query_as::<_, User>(
        "select id, username, email, display_name, disabled, created_at, updated_at, version, epoch, profile, external_id,
                attributes, sealed
         from users where id = any($1)",
    )
    .bind(ids)
    .fetch_all(pool)
    .await?)
}

/// A person.
pub(crate) async fn find(pool: &PgPool, id: Uuid) -> Result<User> {
    sqlx::query_as::<_, User>(
        "select id, username, email, display_name, disabled, created_at, updated_at, version, epoch, profile, external_id,
                attributes, sealed
         from users where id = $1",
    )
    .bind(id)
    .fetch_optional(pool)
    .await?
    .ok_or_else(no_user)
}

/// Which people are listed.
#[derive(Default)]
pub(crate) struct Wanted<'a> {
    /// They have it in their username, address or display name (of one or two characters: at the beginning of a word).
    pub(crate) text: Option<&'a str>,
    /// With what it may name.
    pub(crate) filter: Option<(&'a Filter, Attributes<'a>)>,
}

/// People in an order, after a position in it.
pub(crate) async fn list(
    pool: &PgPool,
    wanted: &Wanted<'_>,
    order: Order,
    after: Option<&Position>,
    count: i64,
) -> Result<Vec<User>> {
    let pattern = wanted.text.map(name::key).map(|text| match text.chars().count() {
        // Too short for the index, but for the beginnings of words.
        ..=2 => format!("% {}%", scim::escape_like(&text)),
        _ => format!("%{}%", scim::escape_like(&text)),
    });
    let (key, direction, comparison) = match order {
        Order::Username => ("username_key", "asc", ">"),
        Order::UsernameDescending => ("username_key", "desc", "<"),
        Order::Created => ("id", "asc", ">"),
        Order::CreatedDescending => ("id", "desc", "<"),
    };
    // Only conditions that are needed, so that each question gets the plan that suits it.
    let mut query = QueryBuilder::<Postgres>::new(
        "select id, username, email, display_name, disabled, created_at, updated_at, version, epoch, profile, external_id,
                attributes, sealed
         from users r where true",
    );
    match after {
        Some(Position::Key(position)) => {
            query.push(format!(" and {key} {comparison} ")).push_bind(position.clone());
        }
        Some(Position::Id(position)) => {
            query.push(format!(" and {key} {comparison} ")).push_bind(*position);
        }
        None => {}
    }
    // Not kept: whether a text is frequent or rare decides on the plan.
    let keep = pattern.is_none() && wanted.filter.is_none();
    if let Some(pattern) = pattern {
        query.push(" and search like ").push_bind(pattern).push(r" escape '\'");
    }
    if let Some((filter, attributes)) = &wanted.filter {
        query.push(" and ");
        scim::push_people(&mut query, filter, attributes)?;
    }
    query.push(format!(" order by {key} {direction} limit ")).push_bind(count);
    Ok(query.build_query_as::<User>().persistent(keep).fetch_all(pool).await?)
}

/// Removes a person and what hangs on them.
pub(crate) async fn delete(connection: &mut PgConnection, id: Uuid) -> Result<()> {
    sqlx::query("delete from users where id = $1").bind(id).execute(&mut *connection).await?;
    sqlx::query("delete from bulk_epochs where user_id = $1").bind(id).execute(connection).await?;
    Ok(())
}

/// 404.
pub(crate) fn no_user() -> Problem {
    Problem::not_found("user")
}

fn username_taken() -> Problem {
    Problem::conflict("username_taken", "this username is taken, perhaps in another case or Unicode form")
}

fn email_taken() -> Problem {
    Problem::conflict("email_taken", "this e-mail address is taken, perhaps in another case or Unicode form")
}
