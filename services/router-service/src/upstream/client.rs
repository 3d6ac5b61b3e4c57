//! HTTP/2 and TLS to instances: hyper's client, one per core and protocol, made when it is first needed.

use std::{cell::OnceCell, sync::Arc, time::Duration};

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};

use super::{Answer, Content, Failure, Reply};
use crate::{body::RequestBody, headers::Outgoing, instance::Instance, upstream_spec::Protocol};

type Hyper = Client<HttpsConnector<HttpConnector>, RequestBody>;

/// The clients of one core.
#[derive(Debug)]
pub struct Clients {
    tls: Arc<rustls::ClientConfig>,
    keep: Duration,
    connect: Duration,
    http1: OnceCell<Hyper>,
    http2: OnceCell<Hyper>,
}

impl Clients {
    pub fn new(tls: Arc<rustls::ClientConfig>, keep: Duration, connect: Duration) -> Self {
        Self { tls, keep, connect, http1: OnceCell::new(), http2: OnceCell::new() }
    }

    fn make(&self, is_http2: bool) -> Hyper {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(self.connect));
        connector.set_keepalive(Some(Duration::from_secs(30)));
        let builder = HttpsConnectorBuilder::new().with_tls_config((*self.tls).clone()).https_or_http();
        let connector = if is_http2 {
            builder.enable_http2().wrap_connector(connector)
        } else {
            builder.enable_http1().wrap_connector(connector)
        };
        Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(self.keep)
            .http2_only(is_http2)
            .http2_initial_stream_window_size(256 * 1024)
            .http2_initial_connection_window_size(1024 * 1024)
            .http2_keep_alive_interval(Duration::from_secs(30))
            .http2_max_header_list_size(128 * 1024)
            .build(connector)
    }

    /// As [`super::Forwarder::send`].
    ///
    /// # Errors
    /// No answer.
    pub async fn send(
        &self,
        protocol: Protocol,
        instance: &Instance,
        outgoing: &Outgoing<'_>,
        body: Option<RequestBody>,
    ) -> Result<Reply, Failure> {
        let client = match protocol {
            Protocol::Http1 => self.http1.get_or_init(|| self.make(false)),
            Protocol::H2c | Protocol::H2 => self.http2.get_or_init(|| self.make(true)),
        };
        let scheme = if instance.is_tls { "https" } else { "http" };
        let built = outgoing.build(scheme, instance.authority.as_str());
        let mut request = built.map_err(|error| Failure::NeverSent(error.into()))?;
        // HTTP/2 has no upgrades (RFC 9113 section 8.6): there the instance sees a plain request, and refuses it.
        if protocol == Protocol::Http1
            && let Some(wanted) = outgoing.upgrade
        {
            request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            request.headers_mut().insert(header::UPGRADE, wanted.clone());
        }
        let request = request.map(|()| body.unwrap_or_else(RequestBody::none));
        let mut answer = client.request(request).await.map_err(|error| {
            let unsent = error.is_connect();
            let error = anyhow::Error::from(error);
            if unsent { Failure::NeverSent(error) } else { Failure::Broken(error) }
        })?;
        let mut content = None;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let changed = hyper::upgrade::on(&mut answer).await.map_err(|error| Failure::Broken(error.into()))?;
            let (protocol, stream) = (answer.headers().get(header::UPGRADE).cloned(), Box::new(TokioIo::new(changed)));
            content = Some(Content::Tunnel { protocol, stream, first: BytesMut::new() });
        }
        let (parts, body) = answer.into_parts();
        let mut headers = parts.headers;
        clean(&mut headers);
        let content = content.unwrap_or_else(|| Content::Body(Answer::Hyper(Box::new(body))));
        Ok(Reply { status: parts.status, headers, content })
    }
}

/// Removes what ends at this hop or tells of the inside (RFC 9110 section 7.6.1).
fn clean(headers: &mut HeaderMap) {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let named: Vec<HeaderName> =
        values.flat_map(|text| text.split(',')).filter_map(|name| HeaderName::try_from(name.trim()).ok()).collect();
    let always = [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::SERVER,
        header::PROXY_AUTHENTICATE,
        header::TE,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        HeaderName::from_static("x-powered-by"),
    ];
    for name in named.into_iter().chain(always) {
        headers.remove(name);
    }
}
