//! Imports: their lines, how far they are, and what is wrong with them.

use kronos_common::{
    name,
    problem::{Problem, Result},
};
use serde_json::Value;
use sqlx::{PgConnection, PgPool, types::Json};
use uuid::Uuid;

use crate::{
    imports::{Import, Imported, LineProblem, MOST_PROBLEMS},
    sealing::Kept,
    users::search_text,
};

/// An instance that has said nothing for so many seconds works at it no more.
const CLAIM_SECONDS: f64 = 10.0;
/// Whoever sends a file and pauses for so many seconds has gone.
const PATIENCE_SECONDS: f64 = 600.0;
/// So many days one can ask how an import went.
const KEEP_DAYS: f64 = 7.0;

/// A new one.
pub(crate) async fn begin(pool: &PgPool, id: Uuid, mode: &str, by: &Value) -> Result<()> {
    sqlx::query("insert into imports (id, mode, by) values ($1, $2, $3)")
        .bind(id)
        .bind(mode)
        .bind(Json(by))
        .execute(pool)
        .await?;
    Ok(())
}

/// An import.
pub(crate) async fn find(pool: &PgPool, id: Uuid) -> Result<Import> {
    sqlx::query_as::<_, Import>(
        "select id, mode, state, lines, created, refused, created_at, finished_at from imports where id = $1",
    )
    .bind(id)
    .fetch_optional(pool)
    .await?
    .ok_or_else(|| Problem::not_found("import"))
}

/// What is wrong with its lines.
pub(crate) async fn problems(pool: &PgPool, id: Uuid) -> Result<Vec<LineProblem>> {
    Ok(sqlx::query_as::<_, LineProblem>(
        "select line, pointer, code, detail from import_problems where import_id = $1 order by line limit $2",
    )
    .bind(id)
    .bind(MOST_PROBLEMS)
    .fetch_all(pool)
    .await?)
}

/// Lines of a file: people to be, and what is wrong with others.
#[derive(Default)]
pub(crate) struct Lines {
    pub(crate) good: Vec<(i64, Imported, Uuid, Kept)>,
    pub(crate) problems: Vec<LineProblem>,
    pub(crate) refused: i64,
}

/// Keeps lines, and says that there is life.
pub(crate) async fn keep(pool: &PgPool, id: Uuid, lines: &Lines) -> Result<()> {
    let mut transaction = pool.begin().await?;
    let good = &lines.good;
    let each = |get: fn(&Imported) -> String| good.iter().map(|(_, person, ..)| get(person)).collect::<Vec<_>>();
    sqlx::query(
        "insert into import_lines (import_id, line, id, username, username_key, email, email_key, display_name, search,
                                   disabled, external_id, attributes, sealed, blind)
         select $1, line, id, username, username_key, email, email_key, display_name, search, disabled, external_id,
                attributes, sealed, array(select jsonb_array_elements_text(blind))
         from unnest($2::bigint[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
                     $10::boolean[], $11::text[], $12::jsonb[], $13::bytea[], $14::jsonb[])
              as t (line, id, username, username_key, email, email_key, display_name, search, disabled, external_id,
                    attributes, sealed, blind)",
    )
    .bind(id)
    .bind(good.iter().map(|(line, ..)| *line).collect::<Vec<_>>())
    .bind(good.iter().map(|(_, _, id, _)| *id).collect::<Vec<_>>())
    .bind(each(|person| person.username.as_str().to_owned()))
    .bind(each(|person| name::key(person.username.as_str())))
    .bind(each(|person| person.email.as_str().to_owned()))
    .bind(each(|person| name::key(person.email.as_str())))
    .bind(each(|person| person.display_name.as_str().to_owned()))
    .bind(each(|person| search_text(person.username.as_str(), person.email.as_str(), person.display_name.as_str())))
    .bind(good.iter().map(|(_, person, ..)| person.disabled).collect::<Vec<_>>())
    .bind(good.iter().map(|(_, person, ..)| person.external_id.clone()).collect::<Vec<_>>())
    .bind(good.iter().map(|(.., kept)| Json(kept.plain.clone())).collect::<Vec<_>>())
    .bind(good.iter().map(|(.., kept)| kept.sealed.clone()).collect::<Vec<_>>())
    .bind(good.iter().map(|(.., kept)| Json(kept.blind.clone())).collect::<Vec<_>>())
    .execute(&mut *transaction)
    .await?;
    note(&mut transaction, id, &lines.problems).await?;
    sqlx::query("update imports set lines = lines + $2 + $3, refused = refused + $3, updated_at = now() where id = $1")
        .bind(id)
        .bind(i64::try_from(good.len()).unwrap_or(i64::MAX))
        .bind(lines.refused)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(())
}

/// Notes what is wrong with lines, as long as there is room.
pub(crate) async fn note(connection: &mut PgConnection, id: Uuid, problems: &[LineProblem]) -> sqlx::Result<()> {
    if problems.is_empty() {
        return Ok(());
    }
    let each = |get: fn(&LineProblem) -> &str| problems.iter().map(get).collect::<Vec<_>>();
    sqlx::query(
        "insert into import_problems (import_id, line, pointer, code, detail)
         select $1, line, pointer, code, detail
         from unnest($2::bigint[], $3::text[], $4::text[], $5::text[]) as t (line, pointer, code, detail)
         limit greatest($6 - (select count(*) from import_problems where import_id = $1), 0)",
    )
    .bind(id)
    .bind(problems.iter().map(|problem| problem.line).collect::<Vec<_>>())
    .bind(each(|problem| &problem.pointer))
    .bind(each(|problem| &problem.code))
    .bind(each(|problem| &problem.detail))
    .bind(MOST_PROBLEMS)
    .execute(connection)
    .await?;
    Ok(())
}

/// The whole file is there.
pub(crate) async fn received(pool: &PgPool, id: Uuid) -> Result<()> {
    sqlx::query("update imports set state = 'waiting', updated_at = now() where id = $1")
        .bind(id)
        .execute(pool)
        .await?;
    Ok(())
}

/// An import that is carried out.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct Claimed {
    pub(crate) id: Uuid,
    pub(crate) mode: String,
    pub(crate) by: Json<Value>,
    pub(crate) refused: i64,
    pub(crate) created: i64,
    pub(crate) done_line: i64,
}

/// Takes the oldest import that is there and that nobody works at.
pub(crate) async fn claim(pool: &PgPool) -> Result<Option<Claimed>> {
    Ok(sqlx::query_as::<_, Claimed>(
        "update imports set claimed_until = now() + make_interval(secs => $1)
         where id in (select id from imports
                      where state = 'waiting' and (claimed_until is null or claimed_until < now())
                      order by created_at limit 1 for update skip locked)
         returning id, mode, by, refused, created, done_line",
    )
    .bind(CLAIM_SECONDS)
    .fetch_optional(pool)
    .await?)
}

/// What became of some lines.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    pub(crate) created: i64,
    pub(crate) refused: Vec<LineProblem>,
    /// `None`: there were no lines left.
    pub(crate) last_line: Option<i64>,
}

#[derive(sqlx::FromRow)]
struct Outcome {
    line: i64,
    made: bool,
    name_taken: bool,
}

/// A thousand people reach many indexes: longer than other statements may take.
pub(crate) async fn take_time(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query("set local statement_timeout = '60s'").execute(connection).await?;
    Ok(())
}

/// Makes people of the next `count` lines after the line `after`.
pub(crate) async fn apply(connection: &mut PgConnection, id: Uuid, after: i64, count: i64) -> Result<Applied> {
    // What stands here sees the names as they were before it: a name that stands twice in the file is nobody's yet.
    let outcomes = sqlx::query_as::<_, Outcome>(
        "with batch as materialized (
             select * from import_lines where import_id = $1 and line > $2 order by line limit $3
         ), made as (
             insert into users (id, username, username_key, email, email_key, display_name, search, disabled, external_id,
                                attributes, sealed, blind)
             select id, username, username_key, email, email_key, display_name, search, disabled, external_id, attributes,
                    sealed, blind
             from batch order by line
             on conflict do nothing returning id
         )
         select b.line, m.id is not null as made,
                case when m.id is null then
                    exists (select from users u where u.username_key = b.username_key)
                    or exists (select from batch e where e.username_key = b.username_key and e.line < b.line)
                else false end as name_taken
         from batch b left join made m on m.id = b.id order by b.line",
    )
    .bind(id)
    .bind(after)
    .bind(count)
    .fetch_all(connection)
    .await?;
    let mut applied = Applied { last_line: outcomes.last().map(|outcome| outcome.line), ..Applied::default() };
    for outcome in outcomes {
        if outcome.made {
            applied.created += 1;
            continue;
        }
        let (pointer, code, what) = match outcome.name_taken {
            true => ("/username", "username_taken", "this username"),
            false => ("/email", "email_taken", "this e-mail address"),
        };
        let detail = format!("{what} is taken, perhaps in another case or Unicode form, or by an earlier line");
        applied.refused.push(LineProblem { line: outcome.line, pointer: pointer.into(), code: code.into(), detail });
    }
    Ok(applied)
}

/// Says how far it is, and goes on holding it.
pub(crate) async fn progress(
    connection: &mut PgConnection,
    id: Uuid,
    created: i64,
    refused: i64,
    done_line: i64,
) -> sqlx::Result<()> {
    sqlx::query(
        "update imports set created = $2, refused = $3, done_line = $4, updated_at = now(),
                            claimed_until = now() + make_interval(secs => $5)
         where id = $1",
    )
    .bind(id)
    .bind(created)
    .bind(refused)
    .bind(done_line)
    .bind(CLAIM_SECONDS)
    .execute(connection)
    .await?;
    Ok(())
}

/// Ends it.
pub(crate) async fn finish(connection: &mut PgConnection, id: Uuid, state: &str, created: i64) -> sqlx::Result<()> {
    sqlx::query(
        "update imports set state = $2, created = $3, finished_at = now(), updated_at = now(), claimed_until = null
         where id = $1",
    )
    .bind(id)
    .bind(state)
    .bind(created)
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes away some lines of imports that are over; gives whether there may be more.
pub(crate) async fn clean(pool: &PgPool, count: i64) -> Result<bool> {
    let gone = sqlx::query(
        "delete from import_lines where (import_id, line) in (
             select l.import_id, l.line from import_lines l join imports i on i.id = l.import_id
             where i.state in ('done', 'failed') limit $1)",
    )
    .bind(count)
    .execute(pool)
    .await?
    .rows_affected();
    Ok(gone > 0)
}

/// Ends what nobody sends any more, and forgets what is long over.
pub(crate) async fn forget(pool: &PgPool) -> Result<()> {
    sqlx::query(
        "with silent as (
             update imports set state = 'failed', finished_at = now()
             where state = 'receiving' and updated_at < now() - make_interval(secs => $1) returning id, lines)
         insert into import_problems (import_id, line, pointer, code, detail)
         select id, lines, '', 'incomplete_body', 'the body ended before it was complete' from silent",
    )
    .bind(PATIENCE_SECONDS)
    .execute(pool)
    .await?;
    sqlx::query(
        "delete from imports where finished_at < now() - make_interval(secs => $1 * 86400)
         and not exists (select from import_lines l where l.import_id = imports.id)",
    )
    .bind(KEEP_DAYS)
    .execute(pool)
    .await?;
    Ok(())
}
