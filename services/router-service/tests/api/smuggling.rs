//! Request smuggling: whatever a client writes, an instance sees nothing, or one request that can be read in one way. The
//! instances are a reader that takes nothing but the plainest HTTP/1.1, and the real nginx.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{
    harness::{Gateway, World},
    nginx::Nginx,
};

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// An instance that writes down every request line, and every head that could be read in two ways.
#[derive(Clone, Default)]
struct Witness {
    requests: Arc<Mutex<Vec<String>>>,
    complaints: Arc<Mutex<Vec<String>>>,
}

impl Witness {
    async fn start() -> (Self, String) {
        let (witness, listener) = (Self::default(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let url = format!("http://{}", listener.local_addr().unwrap());
        let watching = witness.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let witness = watching.clone();
                tokio::spawn(async move {
                    if let Err(complaint) = witness.serve(stream).await {
                        witness.complaints.lock().unwrap().push(complaint);
                    }
                });
            }
        });
        (witness, url)
    }

    /// `Err`: what was not plain.
    async fn serve(&self, stream: TcpStream) -> Result<(), String> {
        let mut stream = BufReader::new(stream);
        loop {
            let Some(line) = read_line(&mut stream).await? else { return Ok(()) };
            self.requests.lock().unwrap().push(line.clone());
            let (mut length, mut chunked, mut hosts) = (None, false, 0);
            loop {
                let header = read_line(&mut stream).await?.ok_or("the head has no end")?;
                if header.is_empty() {
                    break;
                }
                let (name, value) = header.split_once(": ").ok_or(format!("no header: {header:?}"))?;
                let is_token =
                    name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
                if !is_token || value.bytes().any(|byte| byte < b' ' && byte != b'\t') {
                    return Err(format!("odd header: {header:?}"));
                }
                match name {
                    "content-length" if length.is_none() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                        length = Some(value.parse::<usize>().map_err(|error| error.to_string())?);
                    }
                    "transfer-encoding" if !chunked && value == "chunked" => chunked = true,
                    "content-length" | "transfer-encoding" => return Err(format!("odd framing: {header:?}")),
                    "host" => hosts += 1,
                    _ => {}
                }
            }
            if hosts != 1 || (chunked && length.is_some()) {
                return Err(format!("ambiguous: {line:?}"));
            }
            let mut body = vec![0; length.unwrap_or(0)];
            if stream.read_exact(&mut body).await.is_err() {
                return Ok(());
            }
            if chunked && !read_chunks(&mut stream).await? {
                return Ok(());
            }
            let answered = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            if answered.is_err() {
                return Ok(());
            }
        }
    }

    fn seen(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// Reads a chunked body; `false`: it broke off.
async fn read_chunks(stream: &mut BufReader<TcpStream>) -> Result<bool, String> {
    loop {
        let Some(size) = read_line(stream).await? else { return Ok(false) };
        let size = usize::from_str_radix(&size, 16).map_err(|_| format!("odd chunk: {size:?}"))?;
        if size == 0 {
            while read_line(stream).await?.is_some_and(|trailer| !trailer.is_empty()) {}
            return Ok(true);
        }
        let mut data = vec![0; size + 2];
        if stream.read_exact(&mut data).await.is_err() {
            return Ok(false);
        }
        if !data.ends_with(b"\r\n") {
            return Err("a chunk is longer than it says".to_owned());
        }
    }
}

/// A line without its end; `None`: the stream ended.
async fn read_line(stream: &mut BufReader<TcpStream>) -> Result<Option<String>, String> {
    let mut line = Vec::new();
    match stream.read_until(b'\n', &mut line).await {
        Ok(0) | Err(_) => return Ok(None),
        Ok(_) => {}
    }
    let Some(plain) = line.strip_suffix(b"\r\n") else {
        return if line.ends_with(b"\n") { Err(format!("a bare line feed: {line:?}")) } else { Ok(None) };
    };
    let text = String::from_utf8(plain.to_vec()).map_err(|error| error.to_string())?;
    if text.contains('\r') { Err(format!("a bare carriage return: {text:?}")) } else { Ok(Some(text)) }
}

/// The attacks: a head's lines after the request line and `Host`, and what follows the head.
fn corpus() -> Vec<(String, String)> {
    let chunked = format!("0\r\n\r\n{SMUGGLED}");
    let size = SMUGGLED.len();
    let mut attacks: Vec<(String, String)> = Vec::new();
    let mut add = |head: &str, rest: &str| attacks.push((head.to_owned(), rest.to_owned()));
    // Two framings: CL.TE, TE.CL, and every disguise of the second one.
    for coding in [
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: Chunked",
        "Transfer-Encoding:chunked",
        "Transfer-Encoding:\tchunked",
        "Transfer-Encoding: \tchunked\t ",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding: chunked\x0c",
        "Transfer-Encoding: chu\rnked",
        "Transfer-Encoding: chunked\0",
        "Transfer-Encoding:\r\n chunked",
        "X: y\r\n Transfer-Encoding: chunked",
        "X: y\nTransfer-Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
        "Transfer_Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-encoding: cow",
        "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked",
        "Connection: Content-Length",
    ] {
        let all = chunked.len();
        add(&format!("Content-Length: {all}\r\n{coding}"), &chunked);
        add(&format!("{coding}\r\nContent-Length: 5"), &chunked);
        add(&format!("Content-Length: 4\r\n{coding}"), &format!("{size:x}\r\n{SMUGGLED}\r\n0\r\n\r\n"));
    }
    // Two lengths, and lengths that are none.
    for length in [
        format!("Content-Length: {size}\r\nContent-Length: 0"),
        format!("Content-Length: 0\r\nContent-Length: {size}"),
        format!("Content-Length: 0, {size}"),
        format!("Content-Length: +{size}"),
        format!("Content-Length: -{size}"),
        format!("Content-Length: {size:#x}"),
        format!("Content-Length: {size} 0"),
        format!("Content-Length: {size}\x0b"),
        format!("Content-Length : {size}"),
        format!("Content-Length\0: {size}"),
        format!("Content-Length: \r\n {size}"),
        format!("X: y\nContent-Length: {size}"),
        format!("Content_Length: {size}\r\nContent-Length: {size}"),
        "Content-Length: 18446744073709551616".to_owned(),
        "Content-Length:".to_owned(),
    ] {
        add(&length, SMUGGLED);
    }
    // Chunks that end elsewhere for another reader.
    for chunk in [
        format!("0\n\n{SMUGGLED}"),
        format!("0\r\n\n{SMUGGLED}"),
        format!("0\r\r\n{SMUGGLED}"),
        format!("1\r\nZZ\r\n0\r\n\r\n{SMUGGLED}"),
        format!("2;\nxx\r\n0\r\n\r\n{SMUGGLED}"),
        format!("2;a=\"\n\"\r\nxx\r\n0\r\n\r\n{SMUGGLED}"),
        format!("2\n;\r\nxx\r\n0\r\n\r\n{SMUGGLED}"),
        format!("0x2\r\nxx\r\n0\r\n\r\n{SMUGGLED}"),
        format!("+2\r\nxx\r\n0\r\n\r\n{SMUGGLED}"),
        format!("-1\r\nxx\r\n0\r\n\r\n{SMUGGLED}"),
        format!("2_0\r\nxx\r\n0\r\n\r\n{SMUGGLED}"),
        format!("10000000000000000\r\nxx\r\n0\r\n\r\n{SMUGGLED}"),
        format!("\r\n2\r\nxx\r\n0\r\n\r\n{SMUGGLED}"),
        format!("0\r\nX: y\n\n{SMUGGLED}"),
        format!("0\r\nX : y\r\n\r\n{SMUGGLED}"),
    ] {
        add("Transfer-Encoding: chunked", &chunk);
    }
    // A second host, or one that is none.
    for host in ["Host: b", " Host: b", "Host : b", "hOST:b", "X-Forwarded-Host: b\r\nHost: b"] {
        add(host, "");
    }
    attacks
}

/// An nginx that writes down every request line that it reads.
async fn recording() -> Nginx {
    Nginx::start(|address, folder| {
        let at = folder.display();
        format!(
            "worker_processes 1; pid {at}/pid; error_log {at}/error.log; events {{}}
             http {{ log_format line '$request'; access_log {at}/access.log line; client_body_temp_path {at}/body;
                     proxy_temp_path {at}/p; fastcgi_temp_path {at}/f; uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;
                     server {{ listen {address}; location / {{ return 200 ok; }} }} }}"
        )
    })
    .await
}

/// Sends, and comes back with what is answered until the other side closes or says no more.
async fn say(gateway: &Gateway, bytes: &[u8]) -> String {
    let mut socket = gateway.socket().await;
    // It may be refused before it was sent.
    let _ = socket.0.write_all(bytes).await;
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(Ok(read @ 1..)) = timeout(Duration::from_millis(100), socket.0.read(&mut buffer)).await {
        all.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

async fn gateway_to(instances: &[(&str, &str)]) -> (World, Gateway) {
    let world = World::new().await;
    let gateway = world.start().await;
    for (name, url) in instances {
        let upstream = json!({"name": name, "instances": [{"url": url}]});
        gateway.admin.post("/upstreams", &upstream).await.expect(201);
        gateway
            .route(json!({"name": name, "match": {"path": {"prefix": format!("/{name}")}}, "upstream": name,
                          "authentication": ["none"], "retries": 0}))
            .await;
    }
    (world, gateway)
}

#[tokio::test]
async fn what_is_smuggled_reaches_no_instance() {
    let (witness, url) = Witness::start().await;
    let nginx = recording().await;
    let (_world, gateway) = gateway_to(&[("plain", &url), ("nginx", &format!("http://{}", nginx.address))]).await;
    let attacks = corpus();
    for front in ["plain", "nginx"] {
        let sent = attacks.iter().map(async |(head, rest)| {
            let attack = format!("POST /{front} HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n{rest}");
            let answer = say(&gateway, attack.as_bytes()).await;
            let answers = answer.matches("HTTP/1.1 ").count();
            // What is refused may have nothing after it; of what is taken, the rest is a request of its own, for no route.
            let is_fine = match answer.get(9..12) {
                None | Some("400" | "411" | "431" | "408") => answers <= 1,
                Some("200") => answer.matches("HTTP/1.1 200").count() == 1 && answers <= 3,
                _ => false,
            };
            assert!(is_fine, "{attack:?}: {answer}");
        });
        futures::future::join_all(sent).await;
        // It still serves.
        gateway.client.get(&format!("/{front}/after")).await.expect(200);
    }
    assert_eq!(*witness.complaints.lock().unwrap(), Vec::<String>::new());
    for (who, seen) in
        [("the reader", witness.seen()), ("nginx", nginx.wrote("access.log").lines().map(str::to_owned).collect())]
    {
        let front = if who == "nginx" { "/nginx" } else { "/plain" };
        let odd: Vec<&String> = seen
            .iter()
            .filter(|line| {
                **line != format!("POST {front} HTTP/1.1") && **line != format!("GET {front}/after HTTP/1.1")
            })
            .collect();
        assert!(odd.is_empty(), "{who}: {odd:?}");
        assert!(seen.len() <= attacks.len() + 1, "{who}: {} for {}", seen.len(), attacks.len());
        assert!(seen.iter().any(|line| line.ends_with("/after HTTP/1.1")), "{who}: {seen:?}");
    }
}

#[tokio::test]
async fn odd_request_lines_reach_no_instance() {
    let (witness, url) = Witness::start().await;
    let (_world, gateway) = gateway_to(&[("plain", &url)]).await;
    for (line, status) in [
        // The authority of the target and the one of `Host` must be one (RFC 9112 section 3.2.2).
        ("GET http://a/plain HTTP/1.1", "200"),
        ("GET http://b/plain HTTP/1.1", "400"),
        ("GET http://a:81/plain HTTP/1.1", "400"),
        ("GET http://user@a/plain HTTP/1.1", "400"),
        ("GET  /plain HTTP/1.1", "400"),
        ("GET /plain  HTTP/1.1", "400"),
        ("GET\t/plain HTTP/1.1", "400"),
        ("GET /plain\tHTTP/1.1", "400"),
        ("GET /plain", "400"),
        ("GET /plain HTTP/1.1 HTTP/1.1", "400"),
        ("GET /plain HTTP/2.0", "400"),
        ("GET plain HTTP/1.1", "400"),
        ("GET /pl\0ain HTTP/1.1", "400"),
        ("G\0ET /plain HTTP/1.1", "400"),
        ("CONNECT a:443 HTTP/1.1", "405"),
        ("TRACE /plain HTTP/1.1", "405"),
        ("GET /plain/%2e%2e/routes HTTP/1.1", "400"),
        ("GET /plain/../routes HTTP/1.1", "400"),
        ("OPTIONS * HTTP/1.1", "400"),
    ] {
        let before = witness.seen().len();
        let answer = say(&gateway, format!("{line}\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{line:?}: {answer}");
        assert_eq!(witness.seen().len() - before, usize::from(status == "200"), "{line:?}");
    }
    assert_eq!(*witness.complaints.lock().unwrap(), Vec::<String>::new());
}

/// Frames of HTTP/2 by hand (RFC 9113 section 4.1): header lines are written as they are, without indexing (RFC 7541 section 6.2.2).
fn http2(lines: &[(&str, &str)], body: Option<&str>) -> Vec<u8> {
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    };
    let mut block = Vec::new();
    for (name, value) in lines {
        block.push(0);
        for text in [name, value] {
            // Seven bits of length, and more if they are all set.
            match u8::try_from(text.len()) {
                Ok(length @ 0..127) => block.push(length),
                _ => block.extend([127, u8::try_from(text.len() - 127).unwrap()]),
            }
            block.extend(text.as_bytes());
        }
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes.extend(frame(1, if body.is_some() { 4 } else { 5 }, 1, &block));
    if let Some(body) = body {
        bytes.extend(frame(0, 1, 1, body.as_bytes()));
    }
    bytes
}

#[tokio::test]
async fn what_is_smuggled_through_http2_reaches_no_instance() {
    let (witness, url) = Witness::start().await;
    let (_world, gateway) = gateway_to(&[("plain", &url)]).await;
    let pseudo = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/plain")];
    let smuggled = format!("0\r\n\r\n{SMUGGLED}");
    for lines in [
        vec![("content-length", "0")],
        vec![("content-length", "5")],
        vec![("content-length", "5"), ("content-length", "6")],
        vec![("content-length", "+5")],
        vec![("transfer-encoding", "chunked")],
        vec![("connection", "transfer-encoding"), ("transfer-encoding", "chunked")],
        vec![("connection", "close")],
        vec![("x", "y\r\ntransfer-encoding: chunked")],
        vec![("x", "y\ntransfer-encoding: chunked")],
        vec![("x", "y\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a")],
        vec![("x: y\r\ntransfer-encoding", "chunked")],
        vec![("x\r\ntransfer-encoding: chunked\r\ny", "z")],
        vec![("x: y", "z")],
        vec![("x y", "z")],
        vec![("X", "upper case")],
        vec![("", "no name")],
        vec![("host", "b")],
        vec![(":path", "/smuggled")],
        vec![(":unknown", "x")],
    ] {
        let all: Vec<(&str, &str)> = pseudo.iter().chain(&lines).copied().collect();
        say(&gateway, &http2(&all, Some(&smuggled))).await;
    }
    for (name, value) in [
        (":path", "/plain HTTP/1.1\r\nhost: a\r\n\r\nGET /smuggled"),
        (":path", "/plain\r\nx: y"),
        (":path", "plain"),
        (":path", "http://b/plain"),
        (":method", "POST /smuggled HTTP/1.1\r\nx: y\r\n\r\nGET"),
        (":method", "CONNECT"),
        (":authority", "a\r\nx: y"),
        (":authority", "user@a"),
        (":authority", ""),
        (":scheme", "http://a/smuggled?"),
    ] {
        let all: Vec<(&str, &str)> =
            pseudo.iter().map(|(known, usual)| (*known, if *known == name { value } else { *usual })).collect();
        say(&gateway, &http2(&all, None)).await;
    }
    assert_eq!(*witness.complaints.lock().unwrap(), Vec::<String>::new());
    let odd: Vec<String> = witness.seen().into_iter().filter(|line| line != "POST /plain HTTP/1.1").collect();
    assert!(odd.is_empty(), "{odd:?}");
    // The frames are good ones: what is plain arrives.
    let before = witness.seen().len();
    say(&gateway, &http2(&pseudo, Some("hello"))).await;
    assert_eq!(witness.seen().len(), before + 1);
}
