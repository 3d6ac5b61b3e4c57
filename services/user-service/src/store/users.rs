//! People.

use kronos_common::{
    name,
    problem::{OnConstraint as _, Problem, Result},
};
use sqlx::{AssertSqlSafe, PgConnection, PgPool};
use uuid::Uuid;

use crate::users::{NewUser, Order, Position, User, search_text};

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

/// People in an order, after a position in it; with `text`, those who have it in their username, address or display name
/// (of one or two characters: at the beginning of a word).
pub(crate) async fn list(
    pool: &PgPool,
    text: Option<&str>,
    order: Order,
    after: Option<&Position>,
    count: i64,
) -> Result<Vec<User>> {
    let pattern = text.map(name::key).map(|text| match text.chars().count() {
        // Too short for the index, but for the beginnings of words.
        ..=2 => format!("% {}%", escape_like(&text)),
        _ => format!("%{}%", escape_like(&text)),
    });
    let (key, direction, comparison) = match order {
        Order::Username => ("username_key", "asc", ">"),
        Order::UsernameDescending => ("username_key", "desc", "<"),
        Order::Created => ("id", "asc", ">"),
        Order::CreatedDescending => ("id", "desc", "<"),
    };
    // Only conditions that are needed, so that each question gets the plan that suits it.
    let beyond = after.map_or(String::new(), |_| format!("and {key} {comparison} $2"));
    let found = pattern.as_ref().map_or("", |_| r"and search like $3 escape '\'");
    let statement = format!(
        "select id, username, email, display_name, disabled, created_at, updated_at, version, epoch
         from users where true {beyond} {found} order by {key} {direction} limit $1"
    );
    // Made of the words above. Not kept: whether a text is frequent or rare decides on the plan.
    let query = sqlx::query_as::<_, User>(AssertSqlSafe(statement)).persistent(pattern.is_none()).bind(count);
    let query = match after {
        Some(Position::Key(key)) => query.bind(key.as_str()),
        Some(Position::Id(id)) => query.bind(id),
        None => query.bind(None::<String>),
    };
    Ok(query.bind(pattern).fetch_all(pool).await?)
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

fn escape_like(text: &str) -> String {
    text.replace('\\', r"\\").replace('%', r"\%").replace('_', r"\_")
}
