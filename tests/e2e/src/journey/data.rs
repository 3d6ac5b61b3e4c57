//! A value in the cache, the state of the database, a restricted query, a backup.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use reqwest::Method;
use serde_json::json;

use super::{Journey, PATIENCE, eventually};
use crate::api::{Api, read, text};

const BACKUP: Duration = Duration::from_secs(120);

impl Journey<'_> {
    pub(super) async fn data(&mut self) -> anyhow::Result<()> {
        self.chapter("Cache and database");
        let hyperion = Api::client(self.target, "hyperion").await?;
        let (key, tag) = (format!("/cache/demo/{}", self.name("r42")), self.name("tag"));
        let put =
            hyperion.request(Method::PUT, &format!("{key}?ttl=60")).header("cache-tags", &tag).body("at the dock");
        let stored = read(format!("PUT {key}"), put.send().await?).await?;
        ensure!(stored.status.is_success(), "{}: {} {}", stored.call, stored.status, stored.json);
        let value = hyperion.request(Method::GET, &key).send().await?.error_for_status()?.text().await?;
        ensure!(value == "at the dock", "another value came back: {value}");
        hyperion.delete(&format!("/cache/demo/tags/{tag}")).await?.expect(204)?;
        hyperion.get(&key).await?.refused(404, "not_found")?;
        self.done("a value is cached, read, and gone once its tag is invalidated");

        let status = self.admin.get("/db/status").await?.expect(200)?;
        ensure!(status.is_object(), "no status: {status}");
        let query = json!({ "sql": "select 6 * 7 as answer", "maxRows": 10 });
        let answer = self.admin.post("/db/query", &query).await?.expect(200)?;
        ensure!(answer["rows"][0][0].to_string().trim_matches('"') == "42", "another answer: {answer}");
        let write = json!({ "sql": "delete from users.users" });
        let refused = self.admin.post("/db/query", &write).await?;
        ensure!(refused.status.is_client_error(), "{}: {} {}", refused.call, refused.status, refused.json);
        self.done(format!(
            "the database tells its state, answers a query, refuses a write: {}",
            refused.json["detail"]
        ));

        let id = text(&self.admin.post("/db/backup", &json!({})).await?.expect(202)?, "id")?;
        let admin = &self.admin;
        let (backup, took) = eventually("the backup", BACKUP, || {
            let path = format!("/db/backups/{id}");
            async move {
                let backup = admin.get(&path).await?.expect(200)?;
                ensure!(backup["state"] != "failed", "the backup failed: {backup}");
                Ok((backup["state"] == "completed").then_some(backup))
            }
        })
        .await?;
        let (listed, _) = eventually("the list of backups", PATIENCE, || async {
            let list = admin.get("/db/backups").await?.expect(200)?;
            Ok(list["items"].as_array().context("no items")?.iter().find(|item| item["id"] == id.as_str()).cloned())
        })
        .await?;
        self.done(format!(
            "a backup of {} bytes is made in {took:?} and listed ({})",
            backup["bytes"], listed["state"]
        ));
        Ok(())
    }
}
