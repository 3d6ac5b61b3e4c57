//! Days that are made ahead, and days that are dropped.

use chrono::{Days, Utc};
use kronos_testkit::{Stores, wait_up_to};
use std::time::Duration;

use crate::harness::{Harness, line};

#[tokio::test]
async fn old_days_are_dropped_in_both_stores_and_new_ones_are_made_ahead() {
    let logs = Harness::start().await;
    let pool = logs.database.pool("kronos_logs").await;
    let partitions = async || {
        let select = "select relname::text from pg_inherits join pg_class on oid = inhrelid where inhparent = 'lines'::regclass order by 1";
        sqlx::query_scalar::<_, String>(select).fetch_all(&pool).await.unwrap()
    };
    let today = Utc::now().date_naive();
    let name = |day: chrono::NaiveDate| format!("lines_{}", day.format("%Y%m%d"));
    wait_up_to(Duration::from_secs(10), "the days ahead are made", async || {
        partitions().await.contains(&name(today + Days::new(logs.config.retention.days_ahead.into())))
    })
    .await;
    logs.keep(&line("today")).await;
    logs.find("q=today", 1).await;

    let kept = u64::from(logs.config.retention.days);
    let (old, young) = (today - Days::new(kept), today - Days::new(kept - 1));
    let base = format!("{}/{}logs-", Stores::get().elasticsearch.url, logs.config.elasticsearch.prefix);
    let http = reqwest::Client::new();
    for day in [old, young] {
        sqlx::query("select ensure_partition($1)").bind(day).execute(&pool).await.unwrap();
        let index = format!("{base}{}", day.format("%Y.%m.%d"));
        http.put(index).send().await.unwrap().error_for_status().unwrap();
    }
    // A backup reads a table for long; neither days nor writers wait for it.
    let mut backup = pool.begin().await.unwrap();
    sqlx::query("lock table lines in access share mode").execute(&mut *backup).await.unwrap();
    sqlx::query("select ensure_partition($1)").bind(today + Days::new(50)).execute(&pool).await.unwrap();
    logs.keep(&line("during a backup")).await;
    backup.commit().await.unwrap();
    // The job runs at the start.
    let other = logs.another().await;
    wait_up_to(Duration::from_secs(60), "the old day is dropped in both", async || {
        let index = http.head(format!("{base}{}", old.format("%Y.%m.%d"))).send().await.unwrap();
        index.status() == 404 && !partitions().await.contains(&name(old))
    })
    .await;
    assert!(partitions().await.contains(&name(young)));
    let index = http.head(format!("{base}{}", young.format("%Y.%m.%d"))).send().await.unwrap();
    assert_eq!(index.status(), 200);
    logs.find("q=today", 1).await;
    other.stop().await;
    logs.stop().await;
}
