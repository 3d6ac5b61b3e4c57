//! TLS at the gateway's own port, clients' certificates, and who a balancer says it speaks for.

use std::{path::PathBuf, sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kronos_testkit::{unique, wait_until};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};
use router_service::{Config, config::Pair};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::harness::{Gateway, Instance, World};

/// An authority and a folder for its certificates.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = std::env::temp_dir().join(unique("kronos-tls"));
        std::fs::create_dir_all(&folder).unwrap();
        Self { issuer, folder }
    }

    /// Certificate and key, PEM.
    fn issue(&self, names: Vec<SanType>, usage: ExtendedKeyUsagePurpose) -> (String, String) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = names;
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.folder.join(name);
        let fresh = self.folder.join(format!("{name}.new"));
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(&fresh, &path).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn serve_as(&self, host: &str) {
        let names = vec![SanType::DnsName(host.try_into().unwrap())];
        let (certificate, key) = self.issue(names, ExtendedKeyUsagePurpose::ServerAuth);
        self.write("key.pem", &key);
        self.write("certificate.pem", &certificate);
    }

    fn configure(&self, config: &mut Config) {
        let path = |name: &str| self.folder.join(name).to_str().unwrap().to_owned();
        config.tls.certificate = path("certificate.pem");
        config.tls.key = path("key.pem");
        config.tls.client_ca = self.write("clients.pem", &self.issuer.pem());
    }

    /// A client that believes this authority, and perhaps shows a certificate.
    fn client(&self, shown: Option<&(String, String)>, protocols: &[&[u8]]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.issuer.pem().as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match shown {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
            }
        };
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        config
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

async fn connect(gateway: &Gateway, client: ClientConfig, host: &'static str) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(gateway.running.api).await.unwrap();
    TlsConnector::from(Arc::new(client)).connect(ServerName::try_from(host).unwrap(), stream).await
}

/// Asks on a connection that stays open.
async fn ask(stream: &mut TlsStream<TcpStream>, path: &str) -> (String, Value) {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: gate.test\r\n\r\n").as_bytes()).await.unwrap();
    let mut all = Vec::new();
    loop {
        let mut buffer = [0; 8192];
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut buffer)).await.unwrap().unwrap();
        all.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&all).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        if let Ok(body) = serde_json::from_str(body) {
            return (head.to_owned(), body);
        }
        assert!(read > 0, "{text}");
    }
}

async fn start(authority: &Authority, change: impl FnOnce(&mut Config)) -> (World, Gateway, Instance) {
    let (world, echo) = (World::new().await, Instance::start("a"));
    let mut config = world.config.clone();
    authority.serve_as("gate.test");
    authority.configure(&mut config);
    change(&mut config);
    let gateway = world.start_with(config).await;
    (world, gateway, echo)
}

#[tokio::test]
async fn http1_and_http2_are_spoken_within_tls() {
    let authority = Authority::new();
    let (_world, gateway, echo) = start(&authority, |_| {}).await;
    gateway.echo(&[&echo]).await;
    let mut stream = connect(&gateway, authority.client(None, &[b"http/1.1"]), "gate.test").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let (head, body) = ask(&mut stream, "/echo/x").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(body["headers"]["x-forwarded-proto"], json!(["https"]));
    let stream = connect(&gateway, authority.client(None, &[b"h2", b"http/1.1"]), "gate.test").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let io = TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let driver = tokio::spawn(connection);
    let request = http::Request::get("https://gate.test/echo/h2").body(Empty::<bytes::Bytes>::new()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, http::Version::HTTP_2));
    let seen: Value = serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!(seen["headers"]["x-forwarded-proto"], json!(["https"]));
    driver.abort();
    // Who does not begin with TLS is spoken to plainly.
    gateway.client.get("/echo/plain").await.expect(200);
}

#[tokio::test]
async fn a_new_certificate_is_taken_without_dropping_a_connection() {
    let authority = Authority::new();
    let (_world, gateway, echo) = start(&authority, |_| {}).await;
    gateway.echo(&[&echo]).await;
    let client = || authority.client(None, &[]);
    let mut old = connect(&gateway, client(), "gate.test").await.unwrap();
    ask(&mut old, "/echo/1").await;
    assert!(connect(&gateway, client(), "new.test").await.is_err(), "it is not for that name");
    // Half a change is refused, and the old pair goes on.
    authority.write("key.pem", "rubbish");
    tokio::time::sleep(Duration::from_millis(1200)).await;
    connect(&gateway, client(), "gate.test").await.unwrap();
    authority.serve_as("new.test");
    wait_until("the new certificate is shown", async || connect(&gateway, client(), "new.test").await.is_ok()).await;
    let (head, _) = ask(&mut old, "/echo/2").await;
    assert!(head.starts_with("HTTP/1.1 200"), "the open connection goes on: {head}");
}

#[tokio::test]
async fn a_certificate_is_chosen_by_the_name_that_a_client_asks_for() {
    let authority = Authority::new();
    let pair = |name: &str, hosts: &[&str]| {
        let names = hosts.iter().map(|host| SanType::DnsName((*host).try_into().unwrap())).collect();
        let (certificate, key) = authority.issue(names, ExtendedKeyUsagePurpose::ServerAuth);
        let certificate = authority.write(&format!("{name}.pem"), &certificate);
        Pair { certificate, key: authority.write(&format!("{name}-key.pem"), &key) }
    };
    let pairs = vec![pair("api", &["api.test", "api.example.test"]), pair("all", &["*.example.test"])];
    let (_world, gateway, echo) = start(&authority, |config| config.tls.by_name = pairs).await;
    gateway.echo(&[&echo]).await;
    for host in ["gate.test", "api.test", "api.example.test", "www.example.test", "API.test"] {
        let mut stream = connect(&gateway, authority.client(None, &[]), host).await.unwrap_or_else(|error| {
            panic!("{host}: {error}");
        });
        let (head, _) = ask(&mut stream, "/echo/x").await;
        assert!(head.starts_with("HTTP/1.1 200"), "{host}: {head}");
    }
    for stranger in ["other.test", "deep.www.example.test", "example.test"] {
        assert!(connect(&gateway, authority.client(None, &[]), stranger).await.is_err(), "{stranger}");
    }
    // They are read again too.
    pair("api", &["new.test"]);
    wait_until("the new certificate is shown", async || {
        connect(&gateway, authority.client(None, &[]), "new.test").await.is_ok()
    })
    .await;
    connect(&gateway, authority.client(None, &[]), "gate.test").await.unwrap();
}

#[tokio::test]
async fn a_clients_certificate_says_who_it_is() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (_world, gateway, echo) = start(&authority, |_| {}).await;
    gateway.upstream("echo", &[&echo]).await;
    gateway
        .route(json!({"name": "mtls", "match": {"path": {"prefix": "/mtls"}}, "upstream": "echo", "authentication": ["mtls"]}))
        .await;
    let uri = || vec![SanType::URI("spiffe://kronos/robots/42".try_into().unwrap())];
    let robot = authority.issue(uri(), ExtendedKeyUsagePurpose::ClientAuth);
    let mut stream = connect(&gateway, authority.client(Some(&robot), &[]), "gate.test").await.unwrap();
    let (_, body) = ask(&mut stream, "/mtls/x").await;
    assert_eq!(body["headers"]["x-kronos-subject"], json!(["spiffe://kronos/robots/42"]));
    assert_eq!(body["headers"]["x-kronos-authentication"], json!(["mtls"]));
    let mut nobody = connect(&gateway, authority.client(None, &[]), "gate.test").await.unwrap();
    let (head, body) = ask(&mut nobody, "/mtls/x").await;
    assert!(head.starts_with("HTTP/1.1 401"), "{head}");
    assert_eq!(body["code"], "certificate_missing");
    gateway.client.get("/mtls").header("x-kronos-subject", "root").await.expect_problem(401, "certificate_missing");
    let forged = stranger.issue(uri(), ExtendedKeyUsagePurpose::ClientAuth);
    let before = echo.requests();
    let refused = match connect(&gateway, authority.client(Some(&forged), &[]), "gate.test").await {
        Err(_) => true,
        // With TLS 1.3 the client learns it at its first read.
        Ok(mut stream) => {
            let _ = stream.write_all(b"GET /mtls HTTP/1.1\r\nHost: a\r\n\r\n").await;
            !matches!(stream.read(&mut [0; 64]).await, Ok(read) if read > 0)
        }
    };
    assert!(refused && echo.requests() == before, "an unknown authority's certificate");
}

#[tokio::test]
async fn a_handshake_has_a_deadline() {
    let authority = Authority::new();
    let (_world, gateway, _echo) = start(&authority, |config| config.tls.handshake_timeout_ms = 200).await;
    let mut socket = gateway.socket().await;
    socket.send([0x16, 3, 1, 2, 0, 1]).await;
    assert_eq!(socket.read_to_end().await, "", "it is cut");
    assert_eq!(gateway.metric("kronos_gateway_connections_cut_total", &["handshake"]).await, 1.0);
}

#[tokio::test]
async fn what_is_not_tls_can_be_refused() {
    let authority = Authority::new();
    let (_world, gateway, _echo) = start(&authority, |config| config.tls.required = true).await;
    gateway.client.get("/nowhere").await.expect_problem(403, "tls_required");
    let mut stream = connect(&gateway, authority.client(None, &[]), "gate.test").await.unwrap();
    let (head, _) = ask(&mut stream, "/nowhere").await;
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
}

#[tokio::test]
async fn a_balancer_says_whom_it_speaks_for() {
    let authority = Authority::new();
    let (world, gateway, echo) =
        start(&authority, |config| config.gateway.proxy_protocol_from = vec!["127.0.0.1/32".parse().unwrap()]).await;
    let header = |source: [u8; 4]| {
        let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
        bytes.extend(source);
        bytes.extend([127, 0, 0, 1, 0x1f, 0x90, 0x00, 0x50]);
        bytes
    };
    // Whoever makes the routes must begin so too: the balancer itself speaks.
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
    let token = world.issuer.token("admin", &["routes:write"]);
    for (path, body) in [
        ("/upstreams", json!({"name": "echo", "instances": [{"url": echo.url()}]})),
        (
            "/routes",
            json!({"name": "echo", "match": {"path": {"prefix": "/echo"}}, "upstream": "echo", "authentication": ["none"]}),
        ),
    ] {
        let body = body.to_string();
        let mut socket = gateway.socket().await;
        let mut request = local.to_vec();
        request.extend_from_slice(
            format!(
                "POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
                 Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .as_bytes(),
        );
        socket.send(request).await;
        let answer = socket.read_to_end().await;
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    }
    let mut socket = gateway.socket().await;
    socket.send(header([203, 0, 113, 7])).await;
    socket.send("GET /echo/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let seen = socket.read_to_end().await;
    assert!(seen.contains(r#""x-forwarded-for":["203.0.113.7"]"#), "{seen}");
    let mut socket = gateway.socket().await;
    socket.send("GET /echo/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert_eq!(socket.read_to_end().await, "", "who is to say it must say it");
}
