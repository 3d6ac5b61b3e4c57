//! A client that asks too fast is told so, and the others are served.

use anyhow::ensure;
use serde_json::json;

use super::{Journey, PATIENCE, eventually};
use crate::{
    api::{Api, text},
    gaia::Gaia,
};

const ALLOWED: usize = 5;

impl Journey<'_> {
    pub(super) async fn limits(&mut self) -> anyhow::Result<()> {
        self.chapter("Limits at the gateway");
        let gaia = Gaia::start(Vec::new()).await?;
        let name = self.name("gaia");
        let upstream = json!({ "name": name, "instances": [{ "url": format!("http://{}", gaia.address) }] });
        let upstream_id = text(&self.admin.post("/upstreams", &upstream).await?.expect(201)?, "id")?;
        let route = json!({
            "name": name, "match": { "path": { "prefix": format!("/{name}") } }, "upstream": name,
            "authentication": ["jwt"], "limits": [{ "by": ["token"], "requests": ALLOWED, "perSeconds": 60 }],
        });
        let route_id = text(&self.admin.post("/routes", &route).await?.expect(201)?, "id")?;
        self.done("the administrator adds a route to Gaia, with five requests a minute for each token");

        let path = format!("/{name}/state");
        let (hyperion, hermes) =
            (Api::client(self.target, "hyperion").await?, Api::client(self.target, "hermes").await?);
        let mut served = 0;
        let mut limited = None;
        for _ in 0..ALLOWED * 2 {
            let answer = hyperion.get(&path).await?;
            match answer.status.as_u16() {
                200 => served += 1,
                429 => limited = Some(answer),
                _ => drop(answer.expect(200)?),
            }
        }
        let Some(limited) = limited else { anyhow::bail!("{served} requests and none was limited") };
        let wait =
            limited.headers.get("retry-after").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        ensure!(wait.parse::<u64>().is_ok_and(|wait| wait > 0), "no Retry-After on {limited:?}");
        limited.refused(429, "rate_limited")?;
        self.done(format!("Hypérion asks too fast: {served} served, then 429, Retry-After: {wait} s"));
        hermes.get(&path).await?.expect(200)?;
        self.done("Hermès, at the same time, is served");

        self.admin.delete(&format!("/routes/{route_id}")).await?.expect(204)?;
        eventually("the upstream to be free", PATIENCE, || async {
            Ok((self.admin.delete(&format!("/upstreams/{upstream_id}")).await?.status == 204).then_some(()))
        })
        .await?;
        Ok(())
    }
}
