//! The gateway's listener: one thread, single-threaded runtime and listening socket per core, so that a request never changes
//! threads. Accepts, finds out the protocol, keeps deadlines, drains. What happens to a request is `proxy`'s work.

use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use anyhow::Context as _;
use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use kronos_common::service::Context;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Builder,
    task::LocalSet,
    time::{sleep, timeout},
};

use crate::{
    clock,
    connection::{Connection, Due, Seat, Seats},
    opening::{self, FULL},
    proxy::{Core, Gateway, handle},
};

/// Connections that the kernel holds until they are accepted, per core.
const BACKLOG: i32 = 1024;
/// At the drain an idle HTTP/1 connection is kept so long for a request that is on its way.
const LINGER_MS: u64 = 500;
/// Header lines that hyper has room for without allocating.
const HEADERS_ON_STACK: usize = 100;

/// Starts the cores on the address of `listener`, which is not used where there are several: each core has its own.
///
/// # Errors
/// The address can't be bound again, or a thread can't be started.
pub fn serve(gateway: &Gateway, context: &Context, listener: TcpListener) -> anyhow::Result<()> {
    let address = listener.local_addr().context("read the API listener's address")?;
    let cores = match gateway.config.gateway.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    };
    let listeners = if cores == 1 {
        vec![listener.into_std().context("take the API listener")?]
    } else {
        // It has shown that nobody else has the port; shared it can only be when all who listen say so.
        drop(listener);
        (0..cores).map(|_| shared_listener(address)).collect::<anyhow::Result<_>>()?
    };
    let seats = Seats { gauge: gateway.metrics.connections.clone(), most: gateway.config.gateway.max_connections };
    for (index, listener) in listeners.into_iter().enumerate() {
        let (gateway, seats) = (gateway.clone(), seats.clone());
        let (ended, end) = tokio::sync::oneshot::channel::<()>();
        let runtime = Builder::new_current_thread().enable_all().build().context("start a core's runtime")?;
        std::thread::Builder::new()
            .name(format!("gateway-{index}"))
            .spawn(move || {
                LocalSet::new().block_on(&runtime, run(gateway, seats, listener));
                // Connections that the deadline has cut are dropped with the runtime.
                drop(runtime);
                drop(ended);
            })
            .context("start a core's thread")?;
        context.tasks.spawn(async move {
            // An error means that the thread has ended.
            let _ = end.await;
        });
    }
    Ok(())
}

fn shared_listener(address: SocketAddr) -> anyhow::Result<std::net::TcpListener> {
    let bound = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        io::Result::Ok(socket.into())
    };
    bound().with_context(|| format!("listen on {address} with every core"))
}

async fn run(gateway: Gateway, seats: Seats, listener: std::net::TcpListener) {
    let shutdown = gateway.shutdown.clone();
    let drain = Duration::from_millis(gateway.config.http.drain_deadline_ms);
    let core = Rc::new(Core::new(gateway));
    tokio::task::spawn_local(look_after(Rc::clone(&core)));
    let waiting = Rc::clone(&core.alarms);
    tokio::task::spawn_local(async move { waiting.run(|| {}).await });
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "listener can't be used");
            return;
        }
    };
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => welcome(&core, &seats, stream, peer),
                Err(error) => {
                    // Out of descriptors, mostly: those who wait are served when others have gone.
                    tracing::warn!(%error, "connection can't be accepted");
                    sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
    // Those who are in the queue were promised an answer.
    while let Some((stream, peer)) = queued(&listener).await {
        welcome(&core, &seats, stream, peer);
    }
    drop(listener);
    core.is_draining.set(true);
    core.connection_alarms.ring_all();
    core.tasks.close();
    if timeout(drain, core.tasks.wait()).await.is_err() {
        tracing::warn!(connections = core.tasks.len(), "connections are cut at the end of the drain");
    }
    core.flush_log();
}

/// What is done now and then, as long as there are connections.
async fn look_after(core: Rc<Core>) {
    let mut swept = clock::coarse_ms();
    core.connection_alarms
        .run(|| {
            core.flush_log();
            let now = clock::coarse_ms();
            if now >= swept + 1000 {
                swept = now;
                core.forwarder.sweep();
            }
        })
        .await;
}

/// A connection that can be accepted without waiting.
async fn queued(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    poll_fn(|cx| match listener.poll_accept(cx) {
        Poll::Ready(accepted) => Poll::Ready(accepted.ok()),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

fn welcome(core: &Rc<Core>, seats: &Seats, stream: TcpStream, peer: SocketAddr) {
    let Some(seat) = seats.take() else {
        core.gateway.metrics.connections_cut.with_label_values(&["full"]).inc();
        // Best effort: the socket is empty, so it fits.
        let _ = stream.try_write(FULL);
        return;
    };
    // Hints: the connection works without them.
    let _ = stream.set_nodelay(true);
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15));
    let _ = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
    let served = serve_connection(Rc::clone(core), stream, peer, seat);
    core.tasks.spawn_local(served);
}

async fn serve_connection(core: Rc<Core>, stream: TcpStream, peer: SocketAddr, seat: Seat) {
    let cut = |reason: &str| core.gateway.metrics.connections_cut.with_label_values(&[reason]).inc();
    let opened = tokio::select! {
        opened = opening::open(&core, stream, peer.ip()) => match opened {
            Ok(opened) => opened,
            Err(Some(reason)) => return cut(reason),
            Err(None) => return,
        },
        // Nothing was asked, so nothing is owed.
        () = core.gateway.shutdown.cancelled() => return,
    };
    let (connection, watched) = Connection::new(opened, seat);
    let io = TokioIo::new(watched);
    let service = {
        let (core, connection) = (Rc::clone(&core), Arc::clone(&connection));
        service_fn(move |request| {
            let answer = handle(Rc::clone(&core), Arc::clone(&connection), request);
            async move { Ok::<_, Infallible>(answer.await) }
        })
    };
    let limits = &core.gateway.config.gateway;
    if connection.is_http2 {
        let served = http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .max_concurrent_streams(128)
            .initial_stream_window_size(256 * 1024)
            .initial_connection_window_size(1024 * 1024)
            .max_pending_accept_reset_streams(20)
            .max_local_error_reset_streams(1024)
            .max_header_list_size(u32::try_from(limits.max_header_bytes * 2).unwrap_or(u32::MAX))
            .keep_alive_interval(Duration::from_secs(60))
            .serve_connection(io, service);
        keep_deadlines(&core, &connection, pin!(served), |served| served.graceful_shutdown()).await;
    } else {
        let mut builder = http1::Builder::new();
        // Room for a hundred is on the stack; more is asked for only where the configuration takes more.
        if limits.max_headers > HEADERS_ON_STACK {
            builder.max_headers(limits.max_headers);
        }
        let served = builder
            // Larger heads are answered by hyper, without a problem document.
            .max_buf_size((limits.max_header_bytes * 2).max(16 * 1024))
            .serve_connection(io, service)
            .with_upgrades();
        keep_deadlines(&core, &connection, pin!(served), |served| served.graceful_shutdown()).await;
    }
}

/// Drives a connection to its end: its own, a deadline's, or the drain's.
async fn keep_deadlines<C: Future<Output = hyper::Result<()>>>(
    core: &Core,
    connection: &Connection,
    mut served: Pin<&mut C>,
    finish: impl Fn(Pin<&mut C>),
) {
    let mut alarm = core.connection_alarms.alarm();
    alarm.set(match connection.due(&core.deadlines) {
        Due::At(moment) => moment,
        Due::Cut(_) => 0,
    });
    let (mut finished, mut linger_until) = (false, u64::MAX);
    let ended = poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = served.as_mut().poll(cx) {
                return Poll::Ready(ended);
            }
            if connection.resets_too_much(&core.deadlines) {
                core.gateway.metrics.connections_cut.with_label_values(&["resets"]).inc();
                return Poll::Ready(Ok(()));
            }
            if core.is_draining.get() && !finished {
                let now = clock::exact_ms();
                if linger_until == u64::MAX {
                    linger_until = now + LINGER_MS;
                    alarm.set(linger_until);
                }
                // A proxy in front may send on an idle connection just now: it is answered, and told to close.
                if connection.is_http2 || connection.is_active() || now >= linger_until {
                    finished = true;
                    finish(served.as_mut());
                    continue;
                }
            }
            ready!(alarm.poll(cx));
            match connection.due(&core.deadlines) {
                Due::At(moment) => alarm.set(if finished { moment } else { moment.min(linger_until) }),
                Due::Cut(reason) => {
                    core.gateway.metrics.connections_cut.with_label_values(&[reason]).inc();
                    return Poll::Ready(Ok(()));
                }
            }
        }
    });
    if let Err(error) = ended.await {
        tracing::debug!(%error, "connection ended");
    }
}

/// Runs a connection's streams on its own core.
#[derive(Debug, Clone, Copy)]
struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}
