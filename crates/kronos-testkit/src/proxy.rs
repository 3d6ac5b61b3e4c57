//! A TCP proxy between a service and a store, for faults: it can cut what is connected, refuse what comes, and stand still.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use reqwest::Url;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Passes bytes on to one address; ends with the test's runtime.
#[derive(Debug, Clone)]
pub struct Proxy {
    address: SocketAddr,
    refusing: Arc<AtomicBool>,
    /// The number of cuts so far.
    cuts: watch::Sender<u64>,
    frozen: watch::Sender<bool>,
}

impl Proxy {
    /// A proxy to `target`, a `host:port` on this machine.
    pub async fn start(target: impl Into<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let proxy =
            Self { address, refusing: Arc::default(), cuts: watch::Sender::new(0), frozen: watch::Sender::new(false) };
        let (serving, target) = (proxy.clone(), target.into());
        tokio::spawn(async move {
            while let Ok((inward, _)) = listener.accept().await {
                if !serving.refusing.load(Ordering::SeqCst) {
                    tokio::spawn(serving.clone().pass(inward, target.clone()));
                }
            }
        });
        proxy
    }

    /// A proxy to the host of `url`, and the same URL through it.
    pub async fn in_front_of(url: &str) -> (Self, String) {
        let mut through = Url::parse(url).expect("a URL");
        let host = through.host_str().expect("a URL with a host");
        let proxy = Self::start(format!("{host}:{}", through.port().expect("a URL with a port"))).await;
        through.set_host(Some("127.0.0.1")).expect("a URL with a host");
        through.set_port(Some(proxy.address.port())).expect("a URL with a host");
        (proxy, through.to_string())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection; new ones pass.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Ends every connection, and each new one at once, until [`Proxy::restore`].
    pub fn block(&self) {
        self.refusing.store(true, Ordering::SeqCst);
        self.cut();
    }

    /// Lets connections pass again.
    pub fn restore(&self) {
        self.refusing.store(false, Ordering::SeqCst);
    }

    /// Stands still: connections stay, and nothing passes until [`Proxy::thaw`].
    pub fn freeze(&self) {
        self.frozen.send_replace(true);
    }

    /// Goes on, with all that has gathered.
    pub fn thaw(&self) {
        self.frozen.send_replace(false);
    }

    async fn pass(self, mut inward: TcpStream, target: String) {
        let mut cuts = self.cuts.subscribe();
        let Ok(mut outward) = TcpStream::connect(target).await else {
            return;
        };
        let (from_service, to_service) = inward.split();
        let (from_store, to_store) = outward.split();
        let there = copy(from_service, to_store, self.frozen.subscribe());
        let back = copy(from_store, to_service, self.frozen.subscribe());
        tokio::select! {
            _ = async { tokio::join!(there, back) } => {}
            _ = cuts.changed() => {}
        }
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut frozen: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        let _ = frozen.wait_for(|frozen| !frozen).await;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
    }
}
