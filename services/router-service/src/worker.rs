//! Passes accepted requests on (see `asynchronous`): takes them from their queue, sends each to an instance of its upstream, and
//! keeps what it answers. One that fails is tried again after the queue's back-off. Any number of gateways share the work; when
//! one dies, another takes over what it held.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::stream::{FuturesUnordered, StreamExt as _};
use http::{HeaderName, StatusCode, header};
use kronos_common::{identity::ClientError, service};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::{
    asynchronous::{Passed, Passing, TOPIC},
    balance::Asked,
    live::Live,
    upstream_spec::Protocol,
};

/// Requests under way at this gateway.
const MOST: usize = 32;
/// A gateway that is silent for so long is thought dead; one that works says so well before.
const LEASE: Duration = Duration::from_secs(15);
const RENEWAL: Duration = Duration::from_secs(5);
/// How long the queue is asked to wait for work.
const POLL: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_secs(1);
/// Largest answer that is kept, in bytes.
const LARGEST_ANSWER: usize = 131_072;

/// What it works with.
pub struct Worker {
    passing: Passing,
    live: Arc<Live>,
    http: reqwest::Client,
    http2: reqwest::Client,
    epoch: std::time::Instant,
}

#[derive(Deserialize)]
struct Polled {
    messages: Vec<Work>,
}

/// A request that was taken.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Work {
    message_id: Uuid,
    delivery_id: String,
    attempt: u32,
    payload: Value,
}

/// How an attempt ended.
enum Ended {
    /// The instance's answer.
    Answered(Value),
    /// It may go better later.
    Failed(String),
}

impl Worker {
    /// # Errors
    /// The HTTP client can't be made.
    pub fn new(
        passing: Passing,
        live: Arc<Live>,
        trust: Arc<rustls::ClientConfig>,
        epoch: std::time::Instant,
    ) -> anyhow::Result<Self> {
        let builder = || {
            let redirects = reqwest::redirect::Policy::none();
            let tls = rustls::ClientConfig::clone(&trust);
            reqwest::Client::builder().no_proxy().redirect(redirects).tls_backend_preconfigured(tls)
        };
        let http = builder().http1_only().build().context("build an HTTP client")?;
        let http2 = builder().http2_prior_knowledge().build().context("build an HTTP client")?;
        Ok(Self { passing, live, http, http2, epoch })
    }

    async fn run(&self) {
        // Where no route asks for it, nothing is made and nobody is asked.
        while !self.live.table().has_async() {
            sleep(PAUSE).await;
        }
        while let Err(error) = self.make_queue().await {
            tracing::info!(error = format!("{error:#}"), "the queue of accepted requests is made later");
            sleep(PAUSE).await;
        }
        let mut under_way = FuturesUnordered::new();
        loop {
            while under_way.len() >= MOST {
                under_way.next().await;
            }
            let taking = self.take(MOST - under_way.len());
            let mut taking = std::pin::pin!(taking);
            let taken = loop {
                tokio::select! {
                    taken = &mut taking => break taken,
                    Some(()) = under_way.next() => {}
                }
            };
            match taken {
                Ok(works) => under_way.extend(works.into_iter().map(|work| self.work(work))),
                Err(error) => {
                    tracing::debug!(%error, "accepted requests are taken later");
                    let pause = sleep(PAUSE);
                    let mut pause = std::pin::pin!(pause);
                    loop {
                        tokio::select! { () = &mut pause => break, Some(()) = under_way.next() => {} }
                    }
                }
            }
        }
    }

    /// The queue, sealed at rest if messaging-service has a key.
    async fn make_queue(&self) -> anyhow::Result<()> {
        let mut queue = json!({
            "name": TOPIC, "kind": "queue", "maxAttempts": 100, "backoffMs": 500, "maxBackoffMs": 60_000,
            "leaseMs": u64::try_from(LEASE.as_millis())?, "encrypted": true,
        });
        loop {
            let made: Result<Value, ClientError> = self.passing.client.post("/topics", &queue).await;
            match made {
                Ok(_) => return Ok(()),
                Err(error) if error.status() == Some(StatusCode::CONFLICT) => return Ok(()),
                Err(error)
                    if error.status() == Some(StatusCode::UNPROCESSABLE_ENTITY) && queue["encrypted"] == true =>
                {
                    queue["encrypted"] = false.into();
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn take(&self, most: usize) -> Result<Vec<Work>, ClientError> {
        let path = format!("/subscribe/{TOPIC}?mode=poll&max={most}&waitMs={}", POLL.as_millis());
        let polled: Polled = self.passing.client.clone().with_deadline(POLL * 2).get(&path).await?;
        Ok(polled.messages)
    }

    /// One request to its end, or to its next attempt.
    async fn work(&self, work: Work) {
        let renewing = async {
            loop {
                sleep(RENEWAL).await;
                let path = format!("/extend/{}", work.delivery_id);
                let extended: Result<Value, _> = self.passing.client.post(&path, &json!({})).await;
                if let Err(error) = extended {
                    tracing::debug!(%error, "a lease is renewed later");
                }
            }
        };
        tokio::select! {
            () = self.pass_on(&work) => {}
            () = renewing => {}
        }
    }

    async fn pass_on(&self, work: &Work) {
        let Ok(passed) = serde_json::from_value::<Passed>(work.payload.clone()) else {
            tracing::error!(message_id = %work.message_id, "an accepted request can't be read");
            return self.end(work, &json!({ "problem": "unreadable" }), "failed").await;
        };
        match self.attempt(work.message_id, &passed).await {
            Ended::Answered(answer) => self.end(work, &answer, "done").await,
            Ended::Failed(reason) if work.attempt >= passed.attempts => {
                tracing::info!(route = passed.route, reason, "an accepted request has failed");
                self.end(work, &json!({ "problem": reason }), "failed").await;
            }
            Ended::Failed(reason) => {
                tracing::debug!(route = passed.route, reason, "an accepted request is tried again");
                self.say(&format!("/retry/{}", work.delivery_id), &json!({ "reason": reason })).await;
            }
        }
    }

    async fn attempt(&self, id: Uuid, passed: &Passed) -> Ended {
        match self.send(id, passed).await {
            Ok((status, _)) if (502..=504).contains(&status) => Ended::Failed(format!("the service answered {status}")),
            Ok((_, answer)) => Ended::Answered(answer),
            Err(error) => {
                tracing::debug!(upstream = passed.upstream, error = format!("{error:#}"), "attempt failed");
                Ended::Failed("the service did not answer".to_owned())
            }
        }
    }

    async fn send(&self, id: Uuid, passed: &Passed) -> anyhow::Result<(u16, Value)> {
        let table = self.live.table();
        let upstream = table.upstream(&passed.upstream).context("the upstream is gone")?;
        let now = u64::try_from(self.epoch.elapsed().as_micros())?;
        let asked = Asked { now, hash: 0, except: &[] };
        let picked = upstream.balancer.pick(&asked, |below| rand::random_range(0..below.max(1)));
        let instance = Arc::clone(picked.context("there is no instance")?);
        let _in_flight = instance.enter();
        let http = if upstream.protocol == Protocol::Http1 { &self.http } else { &self.http2 };
        let url = format!("{}{}", instance.url(), passed.target);
        let mut request = http.request(passed.method.parse()?, url).timeout(Duration::from_millis(passed.timeout_ms));
        for (name, value) in &passed.headers {
            request = request.header(name, value);
        }
        if !passed.headers.iter().any(|(name, _)| name == "idempotency-key") {
            // It may be sent twice, should a gateway die in between.
            request = request.header("idempotency-key", id.to_string());
        }
        let body = STANDARD.decode(&passed.body)?;
        let answered = async {
            let response = request.body(body).send().await?;
            read(response).await
        };
        let answer = answered.await;
        let then = u64::try_from(self.epoch.elapsed().as_micros())?;
        match &answer {
            Ok((status, _)) if !(502..=504).contains(status) => instance.succeeded(then, then.saturating_sub(now)),
            _ => {
                instance.failed(then, &upstream.balancer.rules);
            }
        }
        answer
    }

    /// Keeps the result, then lets the request go. Until it is kept, the lease is renewed.
    async fn end(&self, work: &Work, answer: &Value, outcome: &str) {
        let mut answer = answer.clone();
        answer["state"] = outcome.into();
        let reply = json!({ "payload": answer, "headers": { "outcome": outcome } });
        self.say(&format!("/reply/{}", work.message_id), &reply).await;
        self.say(&format!("/ack/{}", work.delivery_id), &Value::Null).await;
    }

    /// Says something of a request until messaging-service has heard it, or finds it wrong: then somebody else was faster, or
    /// its time is over.
    async fn say(&self, path: &str, body: &Value) {
        let begun = Instant::now();
        loop {
            let said: Result<Value, ClientError> = self.passing.client.post(path, body).await;
            match said {
                Ok(_) => return,
                Err(error) if error.is_away() && begun.elapsed() < Duration::from_secs(600) => sleep(PAUSE).await,
                Err(error) => return tracing::debug!(%error, "it was said too late"),
            }
        }
    }
}

/// Status, headers and body as they are kept.
async fn read(mut response: reqwest::Response) -> anyhow::Result<(u16, Value)> {
    let status = response.status().as_u16();
    let shown = |name: &HeaderName| {
        [header::CONTENT_TYPE, header::LOCATION, header::ETAG, header::CONTENT_LANGUAGE, header::LAST_MODIFIED]
            .contains(name)
    };
    let headers: serde_json::Map<String, Value> = response
        .headers()
        .iter()
        .filter(|(name, _)| shown(name))
        .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.into())))
        .collect();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > LARGEST_ANSWER {
            let answer =
                json!({ "status": status, "headers": headers, "problem": "the answer is too large to be kept" });
            return Ok((status, answer));
        }
    }
    let mut answer = json!({ "status": status, "headers": headers });
    let is_json = headers.get("content-type").and_then(Value::as_str).is_some_and(|kind| kind.contains("json"));
    match (serde_json::from_slice::<Value>(&body), String::from_utf8(body)) {
        (Ok(document), _) if is_json => answer["body"] = document,
        (_, Ok(text)) => answer["body"] = text.into(),
        (_, Err(error)) => answer["bodyBase64"] = STANDARD.encode(error.as_bytes()).into(),
    }
    Ok((status, answer))
}

/// Works until shutdown.
pub fn start(worker: Worker, context: &service::Context) {
    let shutdown = context.shutdown.clone();
    context.spawn("accepted-requests", async move {
        tokio::select! { () = worker.run() => {}, () = shutdown.cancelled() => {} }
    });
}
