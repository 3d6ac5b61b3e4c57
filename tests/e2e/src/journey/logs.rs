//! Logs of the platform and of robots, followed live, and the second sequence of the seeds: Ouranos Desk asks Kronos for
//! Hypérion's logs, of which Gaia holds a part.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use super::{Journey, PATIENCE, eventually};
use crate::{api::Api, gaia::Gaia, sse::Events};

/// A line is found in the search within this time.
const SEARCHABLE: Duration = Duration::from_secs(5);

const SERVICES: [&str; 7] = [
    "router-service",
    "auth-service",
    "user-service",
    "log-service",
    "cache-service",
    "messaging-service",
    "database-admin",
];

impl Journey<'_> {
    pub(super) async fn logs(&mut self) -> anyhow::Result<()> {
        self.chapter("Logs: searched, followed live, and fetched from Gaia");
        let hyperion = Api::client(self.target, "hyperion").await?;
        let desk = Api::client(self.target, "ouranos-desk").await?;
        let robot = self.name("robot");

        let mut tail = Events::open(&desk, &format!("/logs/tail?service={robot}")).await?;
        let word = format!("gripper{}", self.run);
        let line = json!({
            "service": robot, "level": "warn", "message": format!("{word} overheats"), "attributes": { "celsius": 81 },
        });
        let answer = hyperion.post("/logs", &line).await?.expect(201)?;
        ensure!(answer["accepted"] == 1, "the line was not accepted: {answer}");
        let seen = loop {
            let event = tail.next(PATIENCE).await?;
            if event.data["service"] == robot.as_str() {
                break event.data;
            }
        };
        ensure!(seen["message"].as_str().is_some_and(|text| text.contains(&word)), "another line came: {seen}");
        self.done("Ouranos Desk follows the robot's log live and sees its warning");

        let (_, after) = self.find(&desk, &format!("q={word}&service={robot}")).await?;
        self.done(format!("Elasticsearch finds the robot's line after {after:?}"));
        let since = self.begun.to_rfc3339_opts(SecondsFormat::Millis, true);
        // The one service that was asked nothing yet.
        self.admin.get("/db/status").await?.expect(200)?;
        for service in SERVICES {
            self.find(&desk, &format!("service={service}&from={since}")).await?;
        }
        self.done("the lines of all seven services are found there too");
        self.gaia(&hyperion, &desk, &robot).await
    }

    async fn gaia(&mut self, hyperion: &Api, desk: &Api, robot: &str) -> anyhow::Result<()> {
        let at = |seconds: i64| {
            (self.begun + chrono::Duration::seconds(seconds)).to_rfc3339_opts(SecondsFormat::Millis, true)
        };
        let line = |seconds, text: &str| json!({ "service": robot, "level": "info", "message": text, "timestamp": at(seconds) });
        let held = vec![line(-30, "leaves the dock"), line(-10, "battery at half")];
        let sent = json!([line(-40, "wakes up"), line(-20, "reaches the hall")]);
        hyperion.post("/logs", &sent).await?.expect(201)?;
        let gaia = Gaia::start(held).await?;
        let source = format!("gaia-{}", self.run);
        let registered = self
            .admin
            .put(&format!("/logs/sources/{source}"), &json!({ "url": format!("http://{}", gaia.address) }))
            .await?;
        ensure!(registered.status.is_success(), "{}: {} {}", registered.call, registered.status, registered.json);

        let path = format!("/logs?service={robot}&to={}", at(0));
        let (answer, _) = eventually("the merged logs", SEARCHABLE, || async {
            let answer = desk.get(&path).await?.expect(200)?;
            let complete = answer["items"].as_array().is_some_and(|items| items.len() == 4);
            Ok(complete.then_some(answer))
        })
        .await?;
        let items = answer["items"].as_array().context("no items")?;
        let mut times: Vec<DateTime<Utc>> = Vec::new();
        for item in items {
            times.push(item["timestamp"].as_str().context("no timestamp")?.parse().context("read a timestamp")?);
        }
        ensure!(times.is_sorted_by(|a, b| a >= b), "not in order of time: {answer}");
        let from_gaia = items.iter().filter(|item| item["source"] == source.as_str()).count();
        ensure!(from_gaia == 2, "two lines should say that they are Gaia's: {answer}");
        let names: Vec<&Value> =
            answer["sources"].as_array().context("no sources")?.iter().map(|s| &s["name"]).collect();
        ensure!(names.len() >= 2 && names.contains(&&json!(source)), "the sources are not told: {answer}");
        self.admin.delete(&format!("/logs/sources/{source}")).await?.expect(204)?;
        self.done("Ouranos Desk asks for the robot's logs: one answer in order of time, two lines of it from Gaia");
        Ok(())
    }

    /// Searches until something is found through Elasticsearch.
    async fn find(&self, desk: &Api, query: &str) -> anyhow::Result<(Value, Duration)> {
        let path = format!("/logs?limit=1&{query}");
        let found = eventually(query, SEARCHABLE, || async {
            let answer = desk.get(&path).await?.expect(200)?;
            let some = answer["degraded"] == false && answer["items"].as_array().is_some_and(|items| !items.is_empty());
            Ok(some.then_some(answer))
        });
        found.await
    }
}
