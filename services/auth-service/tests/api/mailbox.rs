//! Reads the mails that auth-service asks a mailer to send, from the broker, as a mailer would.

use kronos_common::{event::Event, rabbit, service::Context};
use kronos_testkit::wait_until;
use lapin::{
    Channel,
    options::{BasicGetOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use serde_json::Value;

use crate::harness::TestAuth;

pub(crate) struct Mailbox {
    channel: Channel,
    _connection: rabbit::Connection,
    seen: Vec<Value>,
}

impl Mailbox {
    /// Open it before the mail is asked for.
    pub(crate) async fn open(auth: &TestAuth) -> Self {
        let connection = rabbit::Connection::open(&auth.config.rabbit, &Context::detached("test")).await.unwrap();
        connection.connected().await;
        let channel = connection.channel().await.unwrap();
        let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        channel.queue_declare("mailbox".into(), exclusive, FieldTable::default()).await.unwrap();
        channel
            .queue_bind(
                "mailbox".into(),
                "kronos.events".into(),
                "kronos.auth.mail-requested".into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
            .unwrap();
        Self { channel, _connection: connection, seen: Vec::new() }
    }

    /// Everything so far.
    pub(crate) async fn all(&mut self) -> &[Value] {
        while let Some(message) =
            self.channel.basic_get("mailbox".into(), BasicGetOptions { no_ack: true }).await.unwrap()
        {
            self.seen.push(Event::decode(&message.delivery.data).unwrap().data);
        }
        &self.seen
    }

    /// Waits for the next mail of this template to this address, and takes it out.
    pub(crate) async fn take(&mut self, template: &str, recipient: &str) -> Value {
        let mut found = None;
        wait_until(&format!("a mail {template} to {recipient}"), async || {
            self.all().await;
            let wanted = |mail: &Value| mail["template"] == template && mail["recipient"] == recipient;
            if let Some(index) = self.seen.iter().position(wanted) {
                found = Some(self.seen.remove(index));
            }
            found.is_some()
        })
        .await;
        found.unwrap()
    }
}
