//! RabbitMQ: one supervised connection for each user of it. When it breaks, the supervisor opens a new one with back-off
//! and jitter and declares the events exchange again; channels die with their connection, and their owners open new ones
//! (`outbox` and `events` do). The driver's own recovery is not used: it restores less than everything.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use futures::{FutureExt as _, StreamExt as _};
use lapin::{
    BasicProperties, Channel, Confirmation, ConnectionProperties, ExchangeKind,
    options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions},
    tcp::OwnedTLSConfig,
    types::{FieldTable, LongString, ShortString},
    uri::AMQPUri,
};
use secrecy::ExposeSecret as _;
use tokio::sync::watch;

use crate::{
    config, event,
    service::{Context, Criticality},
};

/// Longest wait for the TCP connection and the handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A silent broker is given up after two of these.
const HEARTBEAT_SECONDS: u16 = 10;
/// The driver keeps two buffers of 32 frames: the broker's own 128 KiB would make 8 MiB of each connection. Longer bodies take more frames.
const FRAME_MAX_BYTES: u32 = 16 * 1024;
/// The first and the longest pause between two attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How often a connection's state is looked at, beside its own events.
const LOOK: Duration = Duration::from_millis(500);

/// A handle on the supervised connection; clones share it.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
}

struct Shared {
    current: watch::Receiver<Option<Arc<lapin::Connection>>>,
    last_error: Mutex<String>,
    confirm_timeout: Duration,
}

/// Why a message is not known to be safe with the broker.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// No queue takes it, and the caller asked to be told.
    #[error("no queue is bound for this message")]
    Unroutable,
    /// The broker refused it, such as a queue that is full.
    #[error("the broker refused the message")]
    Refused,
    /// No answer in time: it may or may not be there.
    #[error("the broker did not confirm in time")]
    Unconfirmed,
    /// The channel or the connection is gone: it may or may not be there.
    #[error("the channel to the broker broke")]
    Broken(#[source] lapin::Error),
}

impl Connection {
    /// Starts the supervisor and returns at once: the broker may be away. `/ready` shows it as something that may.
    ///
    /// # Errors
    /// A malformed URL, or `ca_file` can't be read.
    pub async fn open(config: &config::Rabbit, context: &Context) -> anyhow::Result<Self> {
        // The parser's own message may repeat the URL, and with it the password.
        let mut uri: AMQPUri = config
            .url
            .expose_secret()
            .parse()
            .map_err(|_| anyhow::anyhow!("configuration key `rabbit.url` is not an amqp:// or amqps:// URL"))?;
        uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
        uri.query.frame_max.get_or_insert(FRAME_MAX_BYTES);
        let authority = match config.ca_file.as_str() {
            "" => None,
            path => Some(std::fs::read_to_string(path).with_context(|| format!("read rabbit.ca_file {path}"))?),
        };
        let tls = OwnedTLSConfig { identity: None, cert_chain: authority };
        let (sender, current) = watch::channel(None);
        let shared = Arc::new(Shared {
            current,
            last_error: Mutex::new("not connected yet".to_owned()),
            confirm_timeout: Duration::from_millis(config.confirm_timeout_ms),
        });
        let supervisor = supervise((uri, tls), context.name, sender, Arc::downgrade(&shared), context.shutdown.clone());
        context.spawn("rabbit-supervisor", supervisor);
        let connection = Self { shared };
        let checked = connection.clone();
        context.depends_on("rabbitmq", Criticality::Degraded, move || {
            let connection = checked.clone();
            async move { connection.check() }.boxed()
        });
        Ok(connection)
    }

    /// A new channel.
    ///
    /// # Errors
    /// The broker is away; this does not wait for it, see [`Connection::connected`].
    pub async fn channel(&self) -> anyhow::Result<Channel> {
        let current = self.shared.current.borrow().clone();
        let connection = current.with_context(|| format!("broker is away: {}", self.last_error()))?;
        Ok(connection.create_channel().await?)
    }

    /// A new channel whose publishes are confirmed.
    ///
    /// # Errors
    /// As [`Connection::channel`].
    pub async fn confirming_channel(&self) -> anyhow::Result<Channel> {
        let channel = self.channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(channel)
    }

    /// Waits until the broker is there. Ends also when the supervisor has ended, at shutdown.
    pub async fn connected(&self) {
        let _ = self.shared.current.clone().wait_for(Option::is_some).await;
    }

    /// Whether the broker is there.
    pub fn is_connected(&self) -> bool {
        self.shared.current.borrow().is_some()
    }

    /// Whether the broker is short of memory or disk, and takes no publishes until it has some again.
    pub fn is_blocked(&self) -> bool {
        self.shared.current.borrow().as_ref().is_some_and(|connection| connection.status().blocked())
    }

    /// Longest wait for a confirm.
    pub fn confirm_timeout(&self) -> Duration {
        self.shared.confirm_timeout
    }

    /// Publishes a persistent message on a confirming channel and waits until the broker has it.
    ///
    /// # Errors
    /// See [`PublishError`]: only `Unroutable` and `Refused` say that the message is not there.
    pub async fn publish(&self, channel: &Channel, message: Message<'_>) -> Result<(), PublishError> {
        let sent = async {
            let confirm = message.send(channel).await.map_err(PublishError::Broken)?;
            confirmed(confirm.await)
        };
        tokio::time::timeout(self.shared.confirm_timeout, sent).await.unwrap_or(Err(PublishError::Unconfirmed))
    }

    fn check(&self) -> anyhow::Result<()> {
        let current = self.shared.current.borrow().clone();
        let connection = current.with_context(|| self.last_error())?;
        anyhow::ensure!(!connection.status().blocked(), "the broker blocks publishers: it is short of memory or disk");
        Ok(())
    }

    fn last_error(&self) -> String {
        self.shared.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One message to publish, persistent.
#[derive(Debug, Clone)]
pub struct Message<'a> {
    /// Empty: the default exchange, whose routing key is a queue's name.
    pub exchange: &'a str,
    /// At most 255 bytes.
    pub routing_key: &'a str,
    /// Whether a message that no queue takes is an error.
    pub mandatory: bool,
    /// The body.
    pub payload: &'a [u8],
    /// Further properties; the delivery mode is set here.
    pub properties: BasicProperties,
}

impl Message<'_> {
    /// Hands the message to the driver; the returned future is the broker's answer.
    ///
    /// # Errors
    /// The channel is gone.
    pub async fn send(self, channel: &Channel) -> lapin::Result<lapin::PublisherConfirm> {
        const PERSISTENT: u8 = 2;
        let options = BasicPublishOptions { mandatory: self.mandatory, ..BasicPublishOptions::default() };
        let name = |text: &str| ShortString::try_new(text).map_err(std::io::Error::other);
        let (exchange, routing_key) = (name(self.exchange)?, name(self.routing_key)?);
        let properties = self.properties.with_delivery_mode(PERSISTENT);
        channel.basic_publish(exchange, routing_key, options, self.payload, properties).await
    }
}

/// What the broker's answer means.
///
/// # Errors
/// Everything but an ack of a message that was not returned.
pub fn confirmed(answer: lapin::Result<Confirmation>) -> Result<(), PublishError> {
    match answer {
        Ok(Confirmation::Ack(None)) => Ok(()),
        Ok(Confirmation::Ack(Some(_))) => Err(PublishError::Unroutable),
        // NotRequested: the channel is not a confirming one, so that nothing is known.
        Ok(Confirmation::NotRequested) => Err(PublishError::Unconfirmed),
        Ok(Confirmation::Nack(_)) => Err(PublishError::Refused),
        Err(error) => Err(PublishError::Broken(error)),
    }
}

async fn supervise(
    (uri, tls): (AMQPUri, OwnedTLSConfig),
    name: &'static str,
    sender: watch::Sender<Option<Arc<lapin::Connection>>>,
    shared: std::sync::Weak<Shared>,
    shutdown: tokio_util::sync::CancellationToken,
) {
    let server = format!("{}:{}/{}", uri.authority.host, uri.authority.port, uri.vhost);
    let mut pause = BACKOFF.0;
    loop {
        let attempt = tokio::select! {
            attempt = tokio::time::timeout(CONNECT_TIMEOUT, connect(uri.clone(), tls.clone(), name)) => attempt,
            () = shutdown.cancelled() => return,
        };
        let error = match attempt {
            Ok(Ok(connection)) => {
                pause = BACKOFF.0;
                let mut events = Box::pin(connection.events_listener());
                let connection = Arc::new(connection);
                sender.send_replace(Some(connection.clone()));
                tracing::info!(%server, "connected to broker");
                let broken = tokio::select! {
                    broken = broken(&connection, &mut events) => broken,
                    // Left open: handlers that drain still use it. It closes with its last owner.
                    () = shutdown.cancelled() => return,
                };
                sender.send_replace(None);
                broken
            }
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()),
        };
        tracing::warn!(%server, %error, "broker is away");
        let Some(shared) = shared.upgrade() else { return };
        *shared.last_error.lock().unwrap_or_else(PoisonError::into_inner) = error;
        drop(shared);
        let jittered = pause.mul_f64(rand::random_range(0.5..1.0));
        tokio::select! {
            () = tokio::time::sleep(jittered) => pause = (pause * 2).min(BACKOFF.1),
            () = shutdown.cancelled() => return,
        }
    }
}

async fn connect(uri: AMQPUri, tls: OwnedTLSConfig, name: &'static str) -> anyhow::Result<lapin::Connection> {
    let properties = ConnectionProperties::default().with_connection_name(LongString::from(name));
    let runtime = lapin::runtime::default_runtime()?;
    let connection = lapin::Connection::connect_uri_with_config(uri, properties, tls, runtime).await?;
    let channel = connection.create_channel().await?;
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel
        .exchange_declare(event::EXCHANGE.into(), ExchangeKind::Topic, durable, FieldTable::default())
        .await
        .context("declare the events exchange")?;
    Ok(connection)
}

async fn broken<S: futures::Stream<Item = lapin::Event> + Unpin>(
    connection: &lapin::Connection,
    events: &mut S,
) -> String {
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(lapin::Event::Error(error)) => return error.to_string(),
                Some(lapin::Event::ConnectionBlocked(reason)) => tracing::warn!(%reason, "broker blocks publishers"),
                Some(lapin::Event::ConnectionUnblocked) => tracing::info!("broker takes publishes again"),
                Some(_) => {}
                None => return "the connection ended".to_owned(),
            },
            _ = look.tick() => if !connection.status().connected() {
                return "the connection ended".to_owned();
            },
        }
    }
}
