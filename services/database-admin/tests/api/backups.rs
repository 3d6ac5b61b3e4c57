//! `/db/backup` and `/db/backups`.

use std::process::{Command, Stdio};

use database_admin::vault;
use kronos_common::seal::Keyring;
use kronos_testkit::{Stores, TestClient, unique, wait_up_to};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use uuid::Uuid;

use crate::harness::Harness;

async fn begin(client: &TestClient) -> String {
    let response = client.request(reqwest::Method::POST, "/db/backup").await.expect(202);
    let id = response.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(response.header("location"), Some(format!("/db/backups/{id}").as_str()));
    id
}

async fn ended(client: &TestClient, id: &str) -> Value {
    let mut last = Value::Null;
    wait_up_to(std::time::Duration::from_secs(30), "the backup has ended", async || {
        last = client.get(&format!("/db/backups/{id}")).await.expect(200).json();
        last["state"] != "running"
    })
    .await;
    last
}

/// Every row of every table of the seven schemas, as one text.
async fn content(url: &str) -> String {
    let mut admin = PgConnection::connect(url).await.unwrap();
    let tables: Vec<String> = sqlx::query_scalar(
        "select format('%I.%I', schemaname, tablename) from pg_tables
         where schemaname in ('auth', 'users', 'logs', 'cache', 'router', 'messaging', 'dbadmin')
             and (schemaname, tablename) not in (('dbadmin', 'backups'), ('dbadmin', 'idempotency_keys'))
         order by 1",
    )
    .fetch_all(&mut admin)
    .await
    .unwrap();
    assert!(tables.len() > 20, "{tables:?}");
    let mut content = String::new();
    for table in tables {
        let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!("select t::text from {table} t order by 1")))
            .fetch_all(&mut admin)
            .await
            .unwrap();
        content += &format!("{table}: {}\n{}\n", rows.len(), rows.join("\n"));
    }
    content
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_holds_the_same_rows() {
    let harness = Harness::start().await;
    let owner = harness.probe().await;
    sqlx::query("insert into probe select i, md5(i::text), now(), to_jsonb(i), repeat(md5(i::text), 8) from generate_series(10, 20000) i")
        .execute(&owner)
        .await
        .unwrap();
    let client = harness.client();
    let id = begin(&client).await;
    let backup = ended(&client, &id).await;
    assert_eq!(backup["state"], "completed", "{backup}");
    assert_eq!(backup["progress"]["fraction"], 1.0);
    assert_eq!(backup["progress"]["tablesDone"], backup["progress"]["tablesTotal"]);
    assert!(backup["progress"]["tablesTotal"].as_i64().unwrap() > 20);
    assert_eq!(backup["sealed"], true);

    // The file is what the record says, and nobody else's to read.
    let path = harness.directory.join(backup["file"].as_str().unwrap());
    let file = std::fs::read(&path).unwrap();
    assert_eq!(backup["bytes"], file.len());
    assert_eq!(backup["sha256"], hex::encode(Sha256::digest(&file)));
    assert!(!file.windows(5).any(|window| window == b"PGDMP"), "the dump is not sealed");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    let left: Vec<_> = std::fs::read_dir(&harness.directory).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing unfinished is left");

    // Open it, restore it beside the original, and compare.
    let dump = harness.directory.join("opened.dump");
    let keyring = Keyring::new(&harness.config.sealing).unwrap();
    vault::open(file.as_slice(), Some(&keyring), std::fs::File::create(&dump).unwrap()).unwrap();
    let scratch = unique("kronos_restore");
    let admin_url = Stores::get().postgres.url.clone();
    let mut admin = PgConnection::connect(&admin_url).await.unwrap();
    sqlx::query(AssertSqlSafe(format!("create database {scratch}"))).execute(&mut admin).await.unwrap();
    let mut url = reqwest::Url::parse(&admin_url).unwrap();
    url.set_path(&scratch);
    let restored = Command::new("pg_restore")
        .args(["--exit-on-error", "--dbname", url.as_str()])
        .arg(&dump)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    let (original, copy) = (content(&harness.database.admin_url()).await, content(url.as_str()).await);
    sqlx::query(AssertSqlSafe(format!("drop database {scratch} with (force)"))).execute(&mut admin).await.unwrap();
    assert!(original == copy, "the copy differs");
    assert!(original.contains("users.probe: 19994"), "the rows are there at all");

    let status = client.get("/db/status").await.expect(200).json();
    assert_eq!(status["lastBackup"]["id"], id.as_str());
    harness.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_are_listed_the_newest_first_page_by_page() {
    let harness = Harness::start_with(|config| config.sealing.active = String::new()).await;
    let client = harness.client();
    let mut made = Vec::new();
    for _ in 0..3 {
        let id = begin(&client).await;
        let backup = ended(&client, &id).await;
        assert_eq!((&backup["state"], &backup["sealed"]), (&json!("completed"), &json!(false)), "{backup}");
        made.insert(0, id);
    }
    let mut seen = Vec::new();
    let mut path = "/db/backups?limit=2".to_owned();
    loop {
        let page = client.get(&path).await.expect(200).json();
        seen.extend(page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        let Some(cursor) = page["nextCursor"].as_str() else { break };
        path = format!("/db/backups?limit=2&cursor={cursor}");
    }
    assert_eq!(seen, made);
    harness.stop().await;
}

/// A `pg_dump` that never ends.
fn stuck(harness_directory: &std::path::Path) -> std::path::PathBuf {
    std::fs::create_dir_all(harness_directory).unwrap();
    let script = harness_directory.join("stuck");
    std::fs::write(&script, "#!/bin/sh\necho 'pg_dump: dumping contents of table \"a.b\"' >&2\nexec sleep 60\n")
        .unwrap();
    let mut permissions = std::fs::metadata(&script).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
    std::fs::set_permissions(&script, permissions).unwrap();
    script
}

#[tokio::test(flavor = "multi_thread")]
async fn one_backup_runs_at_a_time_and_a_stopped_service_marks_its_own_failed() {
    let harness = Harness::start_with(|config| config.backup.pg_dump = stuck(&config.backup.directory)).await;
    let client = harness.client();
    let id = begin(&client).await;
    client.request(reqwest::Method::POST, "/db/backup").await.expect_problem(409, "backup_running");
    let running = client.get(&format!("/db/backups/{id}")).await.expect(200).json();
    assert_eq!(running["state"], "running");
    let pool = harness.database.pool("kronos_dbadmin").await;
    harness.running.stop().await;
    let (state, failure): (String, String) =
        sqlx::query_as("select state, failure from backups").fetch_one(&pool).await.unwrap();
    assert_eq!((state.as_str(), failure.as_str()), ("failed", "the service was stopped"));
    let left: Vec<_> = std::fs::read_dir(&harness.directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(left, ["stuck"], "no unfinished file is left");
    let _ = std::fs::remove_dir_all(&harness.directory);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_whose_process_died_is_marked_failed_by_the_next() {
    let harness = Harness::start().await;
    let pool = harness.database.pool("kronos_dbadmin").await;
    let id = Uuid::now_v7();
    sqlx::query(
        "insert into backups (id, subject, client_id, sealed, heartbeat_at)
         values ($1, 'tester', 'tests', true, now() - interval '1 minute')",
    )
    .bind(id)
    .execute(&pool)
    .await
    .unwrap();
    std::fs::create_dir_all(&harness.directory).unwrap();
    let unfinished = harness.directory.join(format!("{id}.part"));
    std::fs::write(&unfinished, "half").unwrap();
    let dead = ended(&harness.client(), &id.to_string()).await;
    assert_eq!(dead["state"], "failed");
    assert_eq!(dead["failure"], "the process that made it ended");
    kronos_testkit::wait_until("the unfinished file is gone", async || !unfinished.exists()).await;
    // And does not stand in the way of another.
    let id = begin(&harness.client()).await;
    assert_eq!(ended(&harness.client(), &id).await["state"], "completed");
    harness.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_fails_says_why_and_leaves_no_file() {
    let harness = Harness::start_with(|config| {
        // A role that may not read the others' tables.
        config.backup.url = config.postgres.url.clone();
    })
    .await;
    let client = harness.client();
    let id = begin(&client).await;
    let backup = ended(&client, &id).await;
    assert_eq!(backup["state"], "failed", "{backup}");
    assert!(backup["failure"].as_str().unwrap().contains("permission denied"), "{backup}");
    assert_eq!(std::fs::read_dir(&harness.directory).unwrap().count(), 0);
    let status = client.get("/db/status").await.expect(200).json();
    assert!(status["lastBackup"].is_null());
    assert!(status["schemas"][0]["migrations"].is_null(), "what can't be read is not invented: {status}");
    harness.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_can_be_followed_to_its_end() {
    let harness = Harness::start().await;
    let client = harness.client();
    let id = begin(&client).await;
    let response = client.get(&format!("/db/backups/{id}/events")).stream().await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    // The stream ends by itself.
    let text = response.text().await.unwrap();
    let states: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str::<Value>(data).unwrap()["state"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(states.last().map(String::as_str), Some("completed"), "{text}");
    client.get(&format!("/db/backups/{}/events", Uuid::now_v7())).await.expect_problem(404, "not_found");
    harness.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_with_the_same_key_begins_one_backup() {
    let harness = Harness::start().await;
    let client = harness.client();
    let post = || client.request(reqwest::Method::POST, "/db/backup").header("idempotency-key", "nightly-1");
    let first = post().await.expect(202).json();
    let second = post().await.expect(202).json();
    assert_eq!(first, second);
    ended(&client, first["id"].as_str().unwrap()).await;
    let pool = harness.database.pool("kronos_dbadmin").await;
    let made: i64 = sqlx::query_scalar("select count(*) from backups").fetch_one(&pool).await.unwrap();
    assert_eq!(made, 1);
    harness.stop().await;
}

#[test]
fn a_sealed_file_that_was_touched_does_not_open() {
    let sealing = kronos_common::config::Sealing {
        active: "first".to_owned(),
        keys: [("first".to_owned(), "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".into())].into(),
    };
    let keyring = std::sync::Arc::new(Keyring::new(&sealing).unwrap());
    let seal = |id: Uuid, dump: &[u8]| {
        let mut writer = vault::Writer::new(Vec::new(), id, Some(std::sync::Arc::clone(&keyring))).unwrap();
        for part in dump.chunks(1_000) {
            writer.push(part).unwrap();
        }
        writer.finish().unwrap().0
    };
    let open = |file: &[u8]| {
        let mut dump = Vec::new();
        vault::open(file, Some(&keyring), &mut dump).map(|()| dump)
    };
    for length in [0, 1, vault::CHUNK - 1, vault::CHUNK, vault::CHUNK + 1, 3 * vault::CHUNK] {
        let dump: Vec<u8> = (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let file = seal(Uuid::now_v7(), &dump);
        assert_eq!(open(&file).unwrap(), dump, "{length}");
        // Cut off anywhere, also exactly between two frames.
        for cut in [8, 20, 24, file.len() / 2, file.len() - 1] {
            assert!(open(&file[..cut]).is_err(), "{length} cut at {cut}");
        }
        let first = 24 + 4 + usize::try_from(u32::from_be_bytes(file[24..28].try_into().unwrap())).unwrap();
        if first < file.len() {
            assert!(open(&file[..first]).is_err(), "cut after the first frame");
            let mut without_first = file[..24].to_vec();
            without_first.extend_from_slice(&file[first..]);
            assert!(open(&without_first).is_err(), "the first frame removed");
        }
        for place in [9, 30, file.len() - 1] {
            let mut changed = file.clone();
            changed[place] ^= 1;
            assert!(open(&changed).is_err(), "{length} changed at {place}");
        }
    }
    // A frame of another backup does not fit.
    let (one, two) = (seal(Uuid::now_v7(), b"one"), seal(Uuid::now_v7(), b"two"));
    let swapped = [&one[..24], &two[24..]].concat();
    assert!(open(&swapped).is_err());
    assert!(vault::open(one.as_slice(), None, Vec::new()).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsealed_backup_opens_as_it_is() {
    let harness = Harness::start_with(|config| config.sealing.active = String::new()).await;
    let client = harness.client();
    let id = begin(&client).await;
    let backup = ended(&client, &id).await;
    let file = std::fs::read(harness.directory.join(backup["file"].as_str().unwrap())).unwrap();
    let mut dump = Vec::new();
    vault::open(file.as_slice(), None, &mut dump).unwrap();
    assert!(dump.starts_with(b"PGDMP") && dump == file);
    harness.stop().await;
}
