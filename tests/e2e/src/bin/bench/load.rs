//! A cheap caller: keep-alive connections of HTTP/1.1, requests that are ready to be sent, answers that are read whole.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use futures::future::try_join_all;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// One connection.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

/// What to send.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) path: String,
    /// A content type and a body.
    pub(crate) body: Option<(&'static str, Bytes)>,
    pub(crate) authorization: Option<String>,
    /// The address of whom the call is made for.
    pub(crate) forwarded_for: Option<String>,
}

impl Call {
    pub(crate) fn get(path: &str) -> Self {
        let (path, method) = (path.to_owned(), Method::GET);
        Self { method, path, body: None, authorization: None, forwarded_for: None }
    }

    pub(crate) fn form(path: &str, form: String) -> Self {
        let body = Some(("application/x-www-form-urlencoded", Bytes::from(form)));
        Self { method: Method::POST, body, ..Self::get(path) }
    }

    pub(crate) fn json(path: &str, json: &serde_json::Value) -> Self {
        Self {
            method: Method::POST,
            body: Some(("application/json", Bytes::from(json.to_string()))),
            ..Self::get(path)
        }
    }

    pub(crate) fn authorized(self, authorization: &str) -> Self {
        Self { authorization: Some(authorization.to_owned()), ..self }
    }
}

impl Connection {
    pub(crate) async fn open(base: &str) -> anyhow::Result<Self> {
        let host = base.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let stream = TcpStream::connect(&host).await.with_context(|| format!("connect to {host}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { sender, host })
    }

    pub(crate) async fn several(base: &str, count: usize) -> anyhow::Result<Vec<Self>> {
        try_join_all((0..count).map(|_| Self::open(base))).await
    }

    pub(crate) async fn send(&mut self, call: &Call) -> anyhow::Result<(StatusCode, Bytes)> {
        let response = self.exchange(call).await?;
        Ok((response.status(), response.into_body()))
    }

    /// As [`Connection::send`], with the answer's headers.
    pub(crate) async fn exchange(&mut self, call: &Call) -> anyhow::Result<Response<Bytes>> {
        let mut request =
            Request::builder().method(&call.method).uri(&call.path).header(header::HOST, self.host.as_str());
        if let Some(authorization) = &call.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        if let Some(address) = &call.forwarded_for {
            request = request.header("x-forwarded-for", address);
        }
        let body = call.body.as_ref().map_or_else(Bytes::new, |(kind, body)| {
            request
                .headers_mut()
                .map(|headers| headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind)));
            body.clone()
        });
        self.sender.ready().await.context("the connection ended")?;
        let (head, body) = self.sender.send_request(request.body(Full::new(body))?).await?.into_parts();
        Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
    }
}

/// What became of a load.
pub(crate) struct Outcome {
    /// Of each good answer.
    pub(crate) times: Vec<Duration>,
    /// How many answers of other statuses.
    pub(crate) others: BTreeMap<u16, u64>,
    took: Duration,
}

impl Outcome {
    /// Good answers per second.
    pub(crate) fn rate(&self) -> f64 {
        self.times.len() as f64 / self.took.as_secs_f64()
    }
}

/// Each connection calls again as soon as it has its answer, for `time`.
pub(crate) async fn run(
    connections: &mut [Connection],
    time: Duration,
    work: impl AsyncFn(&mut Connection, usize) -> anyhow::Result<StatusCode>,
) -> anyhow::Result<Outcome> {
    let (begun, work) = (Instant::now(), &work);
    let workers = connections.iter_mut().enumerate().map(|(index, connection)| async move {
        let (mut times, mut others) = (Vec::new(), BTreeMap::<u16, u64>::new());
        while begun.elapsed() < time {
            let sent = Instant::now();
            let status = work(connection, index).await?;
            if status.is_success() {
                times.push(sent.elapsed());
            } else {
                *others.entry(status.as_u16()).or_default() += 1;
            }
        }
        anyhow::Ok((times, others))
    });
    let done = try_join_all(workers).await?;
    let took = begun.elapsed();
    let mut outcome = Outcome { times: Vec::new(), others: BTreeMap::new(), took };
    for (times, others) in done {
        outcome.times.extend(times);
        for (status, count) in others {
            *outcome.others.entry(status).or_default() += count;
        }
    }
    Ok(outcome)
}

/// Processor time of this process so far.
pub(crate) fn own_processor_time() -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").context("read /proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').context("read /proc/self/stat")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 10))
}
