//! HTTP/2 to instances: gRPC's trailers both ways, streams both ways, many requests on one connection.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::future::join_all;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;

use crate::harness::{Gateway, World};

type Frames = StreamBody<ReceiverStream<Result<Frame<Bytes>, Infallible>>>;

fn body() -> (mpsc::Sender<Result<Frame<Bytes>, Infallible>>, Frames) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, StreamBody::new(ReceiverStream::new(receiver)))
}

/// A gRPC server as far as HTTP goes: says each message again as it comes; its trailers tell what the request's were.
async fn echo(request: Request<Incoming>) -> Result<Response<Frames>, Infallible> {
    let (sender, frames) = body();
    let is_grpc = request.headers()["te"] == "trailers" && request.headers()["content-type"] == "application/grpc";
    let subject = request.uri().authority().map(ToString::to_string).unwrap_or_default();
    tokio::spawn(async move {
        let mut incoming = request.into_body();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(if is_grpc { "0" } else { "2" }));
        while let Some(Ok(frame)) = incoming.frame().await {
            match frame.into_data() {
                Ok(data) => sender.send(Ok(Frame::data(data))).await.unwrap(),
                Err(frame) => {
                    for (name, value) in frame.into_trailers().unwrap_or_default() {
                        trailers.append(name.unwrap(), value);
                    }
                }
            }
        }
        sender.send(Ok(Frame::trailers(trailers))).await.unwrap();
    });
    let mut response = Response::new(frames);
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response.headers_mut().insert("x-authority", HeaderValue::try_from(subject).unwrap());
    Ok(response)
}

/// Where it listens, and how many connections it got.
async fn grpc() -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service_fn(echo)));
        }
    });
    (address, connections)
}

async fn client(gateway: &Gateway) -> hyper::client::conn::http2::SendRequest<Frames> {
    let stream = TcpStream::connect(gateway.running.api).await.unwrap();
    let (client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    client
}

fn call(gateway: &Gateway, frames: Frames) -> Request<Frames> {
    Request::post(format!("http://{}/robots.Robots/Watch", gateway.running.api))
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(frames)
        .unwrap()
}

async fn with_grpc() -> (World, Gateway, Arc<AtomicU64>) {
    let (address, connections) = grpc().await;
    let world = World::new().await;
    let gateway = world.start().await;
    let upstream = json!({"name": "robots", "protocol": "h2c", "instances": [{"url": format!("http://{address}")}]});
    gateway.admin.post("/upstreams", &upstream).await.expect(201);
    gateway
        .route(json!({"name": "robots", "match": {"path": {"prefix": "/robots.Robots"}}, "upstream": "robots",
                      "authentication": ["none"]}))
        .await;
    (world, gateway, connections)
}

#[tokio::test]
async fn grpc_streams_both_ways_and_its_trailers_arrive_both_ways() {
    let (_world, gateway, _) = with_grpc().await;
    let (sender, frames) = body();
    let call = client(&gateway).await.send_request(call(&gateway, frames));
    let call = tokio::spawn(call);
    sender.send(Ok(Frame::data(Bytes::from_static(b"one")))).await.unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(10), call).await.expect("before the request ends");
    let mut answer = answer.unwrap().unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["content-type"]),
        (200, &"application/grpc".parse().unwrap())
    );
    let mut next = async |expected: &'static str| {
        let frame = tokio::time::timeout(Duration::from_secs(10), answer.body_mut().frame()).await;
        assert_eq!(frame.expect("it is not held back").unwrap().unwrap().into_data().unwrap(), expected);
    };
    next("one").await;
    for message in ["two", "three"] {
        sender.send(Ok(Frame::data(Bytes::from_static(message.as_bytes())))).await.unwrap();
        next(message).await;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", HeaderValue::from_static("42"));
    sender.send(Ok(Frame::trailers(trailers))).await.unwrap();
    drop(sender);
    let end = answer.body_mut().frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!((&end["grpc-status"], &end["x-checksum"]), (&"0".parse().unwrap(), &"42".parse().unwrap()));
}

#[tokio::test]
async fn many_requests_share_a_connection_to_an_http2_instance() {
    let (_world, gateway, connections) = with_grpc().await;
    let client = client(&gateway).await;
    let answers = join_all((0..50).map(|_| {
        let (sender, frames) = body();
        let mut client = client.clone();
        let request = call(&gateway, frames);
        async move {
            let answer = tokio::spawn(async move { client.send_request(request).await.unwrap() });
            sender.send(Ok(Frame::data(Bytes::from_static(b"x")))).await.unwrap();
            drop(sender);
            let collected = answer.await.unwrap().into_body().collect().await.unwrap();
            collected.trailers().unwrap()["grpc-status"] == "0"
        }
    }));
    assert!(answers.await.into_iter().all(|good| good));
    assert!(connections.load(Ordering::SeqCst) <= 2, "{connections:?}");
}

#[tokio::test]
async fn an_http2_instance_that_is_away_is_a_503_and_one_that_speaks_otherwise_a_502() {
    let (_world, gateway, _) = with_grpc().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    for (name, url) in
        [("away", format!("http://{address}")), ("other", format!("http://{}", gateway.running.operations))]
    {
        let upstream = json!({"name": name, "protocol": "h2c", "instances": [{"url": url}]});
        gateway.admin.post("/upstreams", &upstream).await.expect(201);
        gateway
            .route(json!({"name": name, "match": {"path": {"prefix": format!("/{name}")}}, "upstream": name,
                          "authentication": ["none"], "timeoutMs": 5000}))
            .await;
    }
    gateway.client.get("/away").await.expect_problem(503, "upstream_unavailable");
    let other = gateway.client.get("/other").await;
    assert!([200, 404, 502].contains(&other.status), "{}", other.status);
}

/// An HTTPS server that says which HTTP it was asked by, and says every byte again after an upgrade; and its certificate's file.
async fn secure() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let file = std::env::temp_dir().join(format!("{}.pem", kronos_testkit::unique("authority")));
    std::fs::write(&file, made.cert.pem()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection_with_upgrades(TokioIo::new(stream), service_fn(say)).await;
            });
        }
    });
    (url, file.to_str().unwrap().to_owned())
}

/// The same without TLS, by HTTP/2 alone.
async fn h2c() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service_fn(say)));
        }
    });
    address
}

async fn say(mut request: Request<Incoming>) -> Result<Response<http_body_util::Full<Bytes>>, Infallible> {
    let version = format!("{:?}", request.version());
    let mut response = Response::new(http_body_util::Full::new(Bytes::from(version)));
    if let Some(wanted) = request.headers().get("upgrade").cloned() {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let (mut from, mut to) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
            let _ = tokio::io::copy(&mut from, &mut to).await;
        });
        *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
        *response.body_mut() = http_body_util::Full::default();
        response.headers_mut().insert("connection", HeaderValue::from_static("upgrade"));
        response.headers_mut().insert("upgrade", wanted);
    }
    Ok(response)
}

/// A gateway that believes the server, with the upstreams `one` by HTTP/1.1 and `two` by HTTP/2, each with `more`.
async fn believing(world: &mut World, url: &str, file: &str, more: serde_json::Value) -> Gateway {
    file.clone_into(&mut world.config.balance.ca_file);
    let gateway = world.start().await;
    for (name, protocol) in [("two", "h2"), ("one", "http1")] {
        let mut upstream = json!({"name": name, "protocol": protocol, "instances": [{"url": url}]});
        upstream.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        gateway.admin.post("/upstreams", &upstream).await.expect(201);
        gateway
            .route(json!({"name": name, "match": {"path": {"prefix": format!("/{name}")}}, "upstream": name,
                          "authentication": ["none"]}))
            .await;
    }
    gateway
}

#[tokio::test]
async fn instances_are_spoken_to_through_tls_if_their_authority_is_believed() {
    let (url, file) = secure().await;
    let mut world = World::new().await;
    let doubting = world.start().await;
    let believing = believing(&mut world, &url, &file, json!({})).await;
    assert_eq!(believing.client.get("/two").await.expect(200).text(), "HTTP/2.0");
    for _ in 0..3 {
        assert_eq!(believing.client.get("/one").await.expect(200).text(), "HTTP/1.1");
    }
    kronos_testkit::wait_until("the other one knows the route", async || {
        doubting.client.get("/one").await.status != 404
    })
    .await;
    doubting.client.get("/one").await.expect_problem(503, "upstream_unavailable");
    std::fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn a_websocket_passes_through_to_an_instance_with_tls() {
    let (url, file) = secure().await;
    let mut world = World::new().await;
    let gateway = believing(&mut world, &url, &file, json!({})).await;
    let upgrade = "HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let mut socket = gateway.socket().await;
    socket.send(format!("GET /one {upgrade}")).await;
    let head = socket.read_until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101") && head.to_lowercase().contains("\r\nupgrade: websocket\r\n"), "{head}");
    for text in ["hello", "again"] {
        let mut frame = vec![0x81, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0];
        frame.extend(text.bytes());
        socket.send(&frame).await;
        let back = socket.read_until(text).await;
        assert!(back.ends_with(text), "{back:?}");
    }
    // HTTP/2 has no upgrades: that is a plain request there.
    let mut plain = gateway.socket().await;
    plain.send(format!("GET /two {upgrade}")).await;
    assert!(plain.read_until("HTTP/2.0").await.starts_with("HTTP/1.1 200"));
    // The drain ends it.
    gateway.running.stop().await;
    socket.read_to_end().await;
    std::fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn health_is_asked_in_the_protocol_and_with_the_trust_that_requests_have() {
    let (url, file) = secure().await;
    let h2c = h2c().await;
    let mut world = World::new().await;
    let check = json!({"healthCheck": {"path": "/health", "intervalMs": 50, "timeoutMs": 1000, "unhealthy": 1}});
    let doubting = world.start().await;
    let believing = believing(&mut world, &url, &file, check.clone()).await;
    let mut upstream = json!({"name": "three", "protocol": "h2c", "instances": [{"url": format!("http://{h2c}")}]});
    upstream.as_object_mut().unwrap().extend(check.as_object().unwrap().clone());
    believing.admin.post("/upstreams", &upstream).await.expect(201);
    let failures = async |gateway: &Gateway, name: &str| {
        gateway.metric("kronos_gateway_health_check_failures_total", &[&format!("\"{name}\"")]).await
    };
    // One does not believe the certificate, which shows that it was asked for.
    for name in ["one", "two"] {
        kronos_testkit::wait_until("the other one complains", async || failures(&doubting, name).await >= 3.0).await;
    }
    for name in ["one", "two", "three"] {
        assert!(failures(&believing, name).await == 0.0, "{name}");
    }
    believing.client.get("/two").await.expect(200);
    std::fs::remove_file(file).unwrap();
}
