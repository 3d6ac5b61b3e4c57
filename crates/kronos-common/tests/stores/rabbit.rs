//! The supervised connection: confirms mean something, a cut connection is replaced.

use kronos_common::{
    rabbit::{Connection, Message, PublishError},
    service::Context,
};
use kronos_testkit::{Proxy, test_rabbit, wait_until};
use lapin::BasicProperties;

fn message(routing_key: &str) -> Message<'_> {
    let properties = BasicProperties::default();
    Message { exchange: "", routing_key, mandatory: true, payload: b"hello", properties }
}

#[tokio::test]
async fn a_message_that_no_queue_takes_is_an_error() {
    let rabbit = Connection::open(&test_rabbit().await, &Context::detached("test")).await.unwrap();
    rabbit.connected().await;
    let channel = rabbit.confirming_channel().await.unwrap();
    let refused = rabbit.publish(&channel, message("nobody")).await;
    assert!(matches!(refused, Err(PublishError::Unroutable)), "{refused:?}");
}

#[tokio::test]
async fn a_publish_without_confirms_is_not_called_safe() {
    let rabbit = Connection::open(&test_rabbit().await, &Context::detached("test")).await.unwrap();
    rabbit.connected().await;
    let channel = rabbit.channel().await.unwrap();
    let unknown = rabbit.publish(&channel, message("nobody")).await;
    assert!(matches!(unknown, Err(PublishError::Unconfirmed)), "{unknown:?}");
}

#[tokio::test]
async fn a_cut_connection_is_replaced_and_the_absence_is_told_meanwhile() {
    let mut config = test_rabbit().await;
    let (proxy, url) = Proxy::in_front_of(secrecy::ExposeSecret::expose_secret(&config.url)).await;
    config.url = url.into();
    let rabbit = Connection::open(&config, &Context::detached("test")).await.unwrap();
    rabbit.connected().await;
    proxy.block();
    wait_until("the supervisor notices", async || !rabbit.is_connected()).await;
    assert!(rabbit.channel().await.is_err());
    proxy.restore();
    rabbit.connected().await;
    rabbit.confirming_channel().await.unwrap();
}

#[tokio::test]
async fn no_error_shows_the_password() {
    let mut config = test_rabbit().await;
    config.url = "http://user:hush@localhost".to_owned().into();
    let error = Connection::open(&config, &Context::detached("test")).await.err().unwrap();
    assert!(!format!("{error:?}").contains("hush"), "{error:?}");
}
