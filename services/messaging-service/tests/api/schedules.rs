//! Schedules: once and again and again, in a time zone, fired once by whichever instance.

use chrono::{DateTime, TimeDelta, Utc};
use kronos_testkit::wait_up_to;
use messaging_service::schedule::{Rhythm, zone};
use serde_json::{Value, json};

use crate::harness::{ALL, Harness, PATIENCE, Sse, text};

#[test]
fn a_rhythm_keeps_its_zones_clock() {
    for (pattern, name, after, expected) in [
        ("0 6 * * *", "UTC", "2026-01-01T06:00:00Z", "2026-01-02T06:00:00Z"),
        ("0 6 * * *", "Europe/Paris", "2026-01-01T00:00:00Z", "2026-01-01T05:00:00Z"),
        ("0 6 * * *", "Europe/Paris", "2026-07-01T00:00:00Z", "2026-07-01T04:00:00Z"),
        ("*/15 * * * *", "UTC", "2026-01-01T00:07:12Z", "2026-01-01T00:15:00Z"),
        ("30 0 9 * * MON", "UTC", "2026-01-01T00:00:00Z", "2026-01-05T09:00:30Z"),
        ("@daily", "Asia/Tokyo", "2026-01-01T00:00:00Z", "2026-01-01T15:00:00Z"),
        // Half past two is skipped on the 29th of March.
        ("30 2 * * *", "Europe/Paris", "2026-03-28T12:00:00Z", "2026-03-29T01:00:00Z"),
        ("30 2 * * *", "Europe/Paris", "2026-03-29T02:00:00Z", "2026-03-30T00:30:00Z"),
        // And is there twice on the 25th of October.
        ("30 2 * * *", "Europe/Paris", "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z"),
        ("30 2 * * *", "Europe/Paris", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"),
        ("0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
    ] {
        let rhythm = Rhythm::new(pattern, zone(name).unwrap()).unwrap();
        let time = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        assert_eq!(rhythm.next_after(time(after)), Some(time(expected)), "{pattern} in {name} after {after}");
    }
    assert_eq!(Rhythm::new("0 0 30 2 *", zone("UTC").unwrap()).unwrap().next_after(Utc::now()), None);
    for pattern in ["", "* * * *", "61 * * * *", "x", "@never", "* * * * * * * *"] {
        assert!(Rhythm::new(pattern, zone("UTC").unwrap()).is_err(), "{pattern}");
    }
    assert!(zone("Europe/Atlantis").is_none());
}

#[tokio::test]
async fn a_schedule_fires_once_whatever_the_number_of_instances() {
    let messaging = Harness::start().await;
    let others = [messaging.another().await, messaging.another().await];
    messaging.topic("q", "queue", &json!({})).await;
    messaging.topic("s", "stream", &json!({})).await;
    let client = messaging.client();
    let mut queue = Sse::open(&client, "q", "max=100").await;
    let at = Utc::now() + TimeDelta::seconds(1);
    let mut ids = Vec::new();
    for n in 0..20 {
        let body = json!({ "topic": "q", "payload": n, "at": at, "key": "k", "headers": { "a": "1" } });
        let made = client.post("/schedules", &body).await.expect(201).json();
        ids.push(text(&made, "scheduleId").to_owned());
    }
    assert_eq!(
        client.get("/schedules?limit=200&topic=q").await.expect(200).json()["items"].as_array().unwrap().len(),
        20
    );
    let messages = queue.messages(20).await;
    assert!(Utc::now() >= at);
    let mut came: Vec<i64> = messages.iter().map(|message| message["payload"].as_i64().unwrap()).collect();
    came.sort_unstable();
    assert_eq!(came, (0..20).collect::<Vec<_>>());
    assert!(ids.contains(&text(&messages[0]["headers"], "schedule-id").to_owned()));
    assert!(queue.is_quiet(std::time::Duration::from_millis(700)).await, "each fired once");
    client.get(&format!("/schedules/{}", ids[0])).await.expect_problem(404, "unknown_schedule");
    for other in others {
        other.stop().await;
    }
    messaging.stop().await;
}

#[tokio::test]
async fn a_cron_schedule_fires_again_and_again_until_it_is_deleted() {
    let messaging = Harness::start().await;
    messaging.topic("s", "stream", &json!({})).await;
    let client = messaging.client();
    let mut stream = Sse::open(&client, "s", "").await;
    let body =
        json!({ "topic": "s", "payload": { "job": "sweep" }, "cron": "* * * * * *", "timeZone": "Europe/Paris" });
    let made = client.post("/schedules", &body).await.expect(201).json();
    assert_eq!(stream.message().await["payload"], json!({ "job": "sweep" }));
    stream.message().await;
    let path = format!("/schedules/{}", text(&made, "scheduleId"));
    wait_up_to(PATIENCE, "it is counted", async || {
        let shown = client.get(&path).await.expect(200).json();
        shown["fired"].as_i64().unwrap() >= 2 && shown["lastFiredAt"].is_string()
    })
    .await;
    // Others see it only if they manage topics.
    let stranger = messaging.client_as("stranger", &["messages:publish"]);
    stranger.get(&path).await.expect_problem(404, "unknown_schedule");
    stranger.delete(&path).await.expect_problem(404, "unknown_schedule");
    assert_eq!(stranger.get("/schedules").await.expect(200).json()["items"], json!([]));
    messaging.client_as("manager", &ALL).delete(&path).await.expect(204);
    client.delete(&path).await.expect_problem(404, "unknown_schedule");
    let pool = messaging.database.pool("kronos_messaging").await;
    let left: i64 = sqlx::query_scalar("select count(*) from schedules").fetch_one(&pool).await.unwrap();
    assert_eq!(left, 0);
    messaging.stop().await;
}

#[tokio::test]
async fn what_was_due_while_no_instance_ran_fires_once_afterwards() {
    let messaging = Harness::start().await;
    messaging.topic("q", "queue", &json!({})).await;
    let client = messaging.client();
    let body = json!({ "topic": "q", "payload": 1, "cron": "0 0 1 1 *" });
    client.post("/schedules", &body).await.expect(201);
    let pool = messaging.database.pool("kronos_messaging").await;
    // As if it had been due again and again for a day.
    sqlx::query("update schedules set next_at = now() - interval '1 day'").execute(&pool).await.unwrap();
    assert_eq!(messaging.take("q", "").await["payload"], 1);
    messaging.nothing_comes("q", "", 700).await;
    let next: DateTime<Utc> = sqlx::query_scalar("select next_at from schedules").fetch_one(&pool).await.unwrap();
    assert!(next > Utc::now(), "{next}");
    messaging.stop().await;
}

#[tokio::test]
async fn a_bad_schedule_is_refused_with_every_bad_field() {
    let messaging = Harness::start().await;
    messaging.topic("q", "queue", &json!({})).await;
    let table: [(Value, &[&str]); 6] = [
        (json!({ "topic": "q", "payload": 1 }), &["/at"]),
        (json!({ "topic": "q", "payload": 1, "at": "2100-01-01T00:00:00Z", "cron": "@daily" }), &["/at"]),
        (json!({ "topic": "q", "payload": 1, "at": "2020-01-01T00:00:00Z" }), &["/at"]),
        (json!({ "topic": "q", "payload": 1, "cron": "often", "timeZone": "Mars" }), &["/cron", "/timeZone"]),
        (json!({ "topic": "q", "payload": 1, "cron": "0 0 30 2 *" }), &["/cron"]),
        (json!({ "topic": "q", "payload": 1, "cron": "@daily", "priority": 300 }), &["/priority"]),
    ];
    for (body, expected) in table {
        let answer = messaging.client().post("/schedules", &body).await.expect_problem(422, "invalid_request").json();
        let mut pointers: Vec<&str> =
            answer["errors"].as_array().unwrap().iter().map(|error| text(error, "pointer")).collect();
        pointers.sort_unstable();
        assert_eq!(pointers, expected, "{body}: {answer}");
    }
    let nowhere = json!({ "topic": "none", "payload": 1, "cron": "@daily" });
    messaging.client().post("/schedules", &nowhere).await.expect_problem(404, "unknown_topic");
    messaging.stop().await;
}
