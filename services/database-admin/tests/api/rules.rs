//! The verdict as a function of text and knowledge: no server, so many more cases.

use std::collections::HashSet;

use database_admin::query::{Known, allowed, judge};
use kronos_testkit::TestDatabase;

fn known() -> Known {
    Known {
        functions: allowed::FUNCTIONS.iter().chain(allowed::GRAMMAR).map(|&name| name.to_owned()).collect(),
        called_as_columns: HashSet::from(["pg_sleep".to_owned()]),
        tables: HashSet::from([("users".to_owned(), "probe".to_owned())]),
    }
}

#[test]
fn what_runs_is_written_anew() {
    for (sql, written) in [
        ("select/**/1 -- x", "SELECT 1"),
        ("select 'it''s'", "SELECT $k$it's$k$"),
        ("select 'a\\'", "SELECT $k$a\\$k$"),
        ("select 'plain'", "SELECT 'plain'"),
        ("SeLeCt Id FROM Users.Probe;", "SELECT Id FROM Users.Probe"),
    ] {
        assert_eq!(judge(sql, &known()).unwrap().sql, written);
    }
}

#[test]
fn a_string_cannot_end_its_own_quotes() {
    for text in ["$k$", "a$k$ || pg_sleep(1) || $k$'", "'$", "\\$"] {
        let sql = format!("select '{}'", text.replace('\'', "''"));
        match judge(&sql, &known()) {
            Ok(judged) => assert_eq!(judged.sql, format!("SELECT '{text}'"), "only what needs no dollar quotes"),
            Err(refusal) => assert_eq!(refusal.rule, "string_form", "{text}"),
        }
    }
}

#[test]
fn no_cut_or_doubled_attack_is_read_as_harmless() {
    // Every prefix of statements that write: none may be judged fit to run while it holds a forbidden word.
    for sql in [
        "with x as (delete from users.probe returning *) select * from x",
        "select 1 from users.probe where pg_sleep(1) is null for update",
        "explain analyze select pg_sleep(1)",
        "select s.pg_sleep from users.probe s; delete from users.probe",
    ] {
        for end in 0..=sql.len() {
            let prefix = &sql[..end];
            if let Ok(judged) = judge(prefix, &known()) {
                let written = judged.sql.to_lowercase();
                let bad = ["delete from", "pg_sleep", "for update", "analyze", ";"];
                // A forbidden name may stand where it calls nothing: as a bare column or an alias.
                let calls = written.contains("pg_sleep(") || written.contains(".pg_sleep");
                let harmless = bad.iter().all(|word| !written.contains(word))
                    || (!calls
                        && !written.contains("delete from")
                        && !written.contains("for update")
                        && !written.contains(';'));
                assert!(harmless, "{prefix} became {written}");
            }
        }
    }
}

#[tokio::test]
async fn the_server_knows_every_function_on_the_list_and_holds_it_for_harmless() {
    let database = TestDatabase::create().await;
    let pool = database.pool("kronos_reader").await;
    let mut connection = pool.acquire().await.unwrap();
    let readable = database_admin::store::catalogue::readable(&mut connection).await.unwrap();
    let known = database_admin::store::catalogue::known(&mut connection, &readable).await.unwrap();
    let dropped: Vec<&&str> = allowed::FUNCTIONS.iter().filter(|name| !known.functions.contains(**name)).collect();
    assert!(dropped.is_empty(), "volatile or unknown: {dropped:?}");
    for dangerous in
        ["pg_sleep", "pg_advisory_lock", "lo_create", "pg_read_file", "ts_stat", "nextval", "pg_terminate_backend"]
    {
        assert!(known.called_as_columns.contains(dangerous), "{dangerous}");
    }
    // Names that columns have.
    for name in ["id", "name", "date", "time", "timestamp", "text", "version", "count", "state", "level", "service"] {
        assert!(!known.called_as_columns.contains(name), "{name}");
    }
    for column in &readable {
        assert!(!known.called_as_columns.contains(&column.column_name), "{column:?} could not be read");
    }
    drop(connection);
    pool.close().await;
}
