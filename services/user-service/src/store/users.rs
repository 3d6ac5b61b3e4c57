//! People.

use kronos_common::{
    name,
    problem::{OnConstraint as _, Problem, Result},
};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::users::{NewUser, User, search_text};

/// Makes a person; their rights begin at epoch 1.
pub(crate) async fn insert(connection: &mut PgConnection, id: Uuid, new: &NewUser) -> Result<User> {
    let (username, email, display_name) = (new.username.as_str(), new.email.as_str(), new.display_name.as_str());
    sqlx::query_as::<_, User>(
        "insert into users (id, username, username_key, email, email_key, display_name, search)
         values ($1, $2, $3, $4, $5, $6, $7)
         returning id, username, email, display_name, disabled, created_at, updated_at, version, epoch",
    )
    .bind(id)
    .bind(username)
    .bind(name::key(username))
    .bind(email)
    .bind(name::key(email))
    .bind(display_name)
    .bind(search_text(username, email, display_name))
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
             version = version + 1, updated_at = now()
         where id = $1
         returning id, username, email, display_name, disabled, created_at, updated_at, version, epoch",
    )
    .bind(user.id)
    .bind(&user.username)
    .bind(name::key(&user.username))
    .bind(&user.email)
    .bind(name::key(&user.email))
    .bind(&user.display_name)
    .bind(search_text(&user.username, &user.email, &user.display_name))
    .bind(user.disabled)
    .fetch_one(connection)
    .await
    .on_constraint("users_username_key_key", username_taken())
    .on_constraint("users_email_key_key", email_taken())
}

/// A person, locked until the transaction ends.
pub(crate) async fn lock(connection: &mut PgConnection, id: Uuid) -> Result<User> {
    sqlx::query_as::<_, User>(
        "select id, username, email, display_name, disabled, created_at, updated_at, version, epoch
         from users where id = $1 for update",
    )
    .bind(id)
    .fetch_optional(connection)
    .await?
    .ok_or_else(no_user)
}

/// A person.
pub(crate) async fn find(pool: &PgPool, id: Uuid) -> Result<User> {
    sqlx::query_as::<_, User>(
        "select id, username, email, display_name, disabled, created_at, updated_at, version, epoch
         from users where id = $1",
    )
    .bind(id)
    .fetch_optional(pool)
    .await?
    .ok_or_else(no_user)
}

/// People in the order of their usernames' keys, after the key `after`; with `text`, those who have it in their username,
/// address or display name. Gives each with its key.
pub(crate) async fn list(pool: &PgPool, text: Option<&str>, after: Option<&str>, count: i64) -> Result<Vec<User>> {
    let pattern = text.map(|text| format!("%{}%", escape_like(&name::key(text))));
    Ok(sqlx::query_as::<_, User>(
        r"select id, username, email, display_name, disabled, created_at, updated_at, version, epoch
          from users
          where ($1::text is null or username_key > $1) and ($2::text is null or search like $2 escape '\')
          order by username_key
          limit $3",
    )
    .bind(after)
    .bind(pattern)
    .bind(count)
    .fetch_all(pool)
    .await?)
}

/// Removes a person and what hangs on them.
pub(crate) async fn delete(connection: &mut PgConnection, id: Uuid) -> Result<()> {
    sqlx::query("delete from users where id = $1").bind(id).execute(connection).await?;
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

fn escape_like(text: &str) -> String {
    text.replace('\\', r"\\").replace('%', r"\%").replace('_', r"\_")
}
