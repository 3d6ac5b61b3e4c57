//! A million people with five roles each, written past the service, because they are only what it is measured on.

use std::time::Instant;

use anyhow::Context as _;
use sqlx::PgPool;

pub(super) const PEOPLE: u32 = 1_000_000;
pub(super) const POPULAR: &str = "bench-popular";
pub(super) const POPULAR_HOLDERS: u32 = 100_000;
const ROLES: u32 = 1_000;

/// Of the person with a number.
pub(super) fn id_of(person: u32) -> String {
    format!("00000000-0000-7000-8000-{person:012x}")
}

/// One that the person has, everywhere.
pub(super) fn permission_of(person: u32) -> String {
    format!("bench:act-{}", person % ROLES)
}

/// Statements with what they do, in order; each is one transaction.
const SEED: [(&str, &str); 7] = [
    (
        "roles",
        "insert into users.roles (name, permissions)
         select 'bench-' || i, array['bench:act-' || i, 'bench:see-' || i, 'bench-' || i || ':*'] from generate_series(0, 999) i
         union all select 'bench-popular', array['bench-popular:use']",
    ),
    (
        "permissions",
        "insert into users.permissions (name, service)
         select 'bench-popular:' || a, 'bench' from unnest(array['use', 'turn-0', 'turn-1', 'turn-2', 'turn-3', 'turn-4']) a",
    ),
    // Chains of ten, each role inheriting the one before.
    (
        "inheritance",
        "insert into users.role_inherits (role, inherits)
         select 'bench-' || i, 'bench-' || i - 1 from generate_series(0, 999) i where i % 10 > 0",
    ),
    (
        "closure",
        "insert into users.role_closure (role, includes, path)
         select 'bench-' || i, 'bench-' || i - j, array(select 'bench-' || i - k from generate_series(0, j) k order by k)
         from generate_series(0, 999) i, generate_series(0, 9) j where j <= i % 10
         union all select 'bench-popular', 'bench-popular', array['bench-popular']",
    ),
    (
        "a million people",
        "insert into users.users (id, username, username_key, email, email_key, display_name, search)
         select id, username, username, username || '@example.com', username || '@example.com', name,
             ' ' || username || ' ' || username || '@example.com ' || lower(name)
         from (select ('00000000-0000-7000-8000-' || lpad(to_hex(i), 12, '0'))::uuid as id, 'person-' || i as username,
                   (array['Camille', 'Noé', 'Inès', 'Hugo', 'Zoé', 'Adam', 'Lina', 'Louis', 'Emma', 'Jules'])[1 + i % 10]
                   || (array['', '-Marie', '-Anne', '-Paul'])[1 + i / 10 % 4] || ' '
                   || (array['Ba', 'Do', 'Ke', 'Li', 'Mu', 'No', 'Pa', 'Ri', 'Su', 'Oz'])[1 + i / 40 % 10]
                   || (array['ban', 'dor', 'kel', 'lim', 'mun', 'nor', 'pas', 'rik', 'sul', 'im'])[1 + i / 400 % 10]
                   || (array['bek', 'dan', 'kov', 'lek', 'mez', 'nic', 'per', 'rot', 'set', 'tin'])[1 + i / 4000 % 10] as name
               from generate_series(0, 999999) i) people",
    ),
    (
        "five million assignments",
        "insert into users.assignments (user_id, role, resource)
         select ('00000000-0000-7000-8000-' || lpad(to_hex(i), 12, '0'))::uuid,
             case when j = 1 and i < 100000 then 'bench-popular' else 'bench-' || (i + j * 137) % 1000 end,
             case when j < 2 then null else 'robot:R-' || (i * 5 + j) % 200000 end
         from generate_series(0, 999999) i, generate_series(0, 4) j",
    ),
    // As autovacuum leaves them, sooner.
    ("statistics", "vacuum (analyze) users.users, users.assignments, users.role_closure"),
];

/// Makes them.
pub(super) async fn seed(pool: &PgPool) -> anyhow::Result<()> {
    remove(pool).await?;
    for (what, statement) in SEED {
        let begun = Instant::now();
        sqlx::query(statement).execute(pool).await.with_context(|| format!("make {what}"))?;
        println!("  made {what:<28} {:.1} s", begun.elapsed().as_secs_f64());
    }
    Ok(())
}

/// Takes them away.
pub(super) async fn remove(pool: &PgPool) -> anyhow::Result<()> {
    for statement in [
        "delete from users.assignments where user_id in (select id from users.users where username_key like 'person-%')",
        "delete from users.users where username_key like 'person-%'",
        "delete from users.role_inherits where role like 'bench-%'",
        "delete from users.roles where name like 'bench-%'",
        "delete from users.permissions where service = 'bench'",
    ] {
        sqlx::query(statement).execute(pool).await.context("remove the people")?;
    }
    Ok(())
}
