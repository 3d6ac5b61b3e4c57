//! A RabbitMQ virtual host for one test, made through the management API.

use kronos_common::config;
use reqwest::{Client, Method, RequestBuilder, Url};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::{
    stores::Stores,
    wait::{born, unique},
};

const PREFIX: &str = "test";
/// Virtual hosts of earlier runs are deleted after this, in seconds.
const LEFT_OVER_AFTER: u64 = 1800;

/// The AMQP URL of a fresh virtual host.
///
/// # Panics
/// If the stores are not there.
pub async fn test_vhost() -> String {
    static SWEPT: OnceCell<()> = OnceCell::const_new();
    SWEPT.get_or_init(sweep).await;
    let name = unique(PREFIX);
    let mut url = Url::parse(&Stores::get().rabbitmq.url).expect("stores.json holds URLs");
    let everything = json!({"configure": ".*", "write": ".*", "read": ".*"});
    ask(Method::PUT, &format!("vhosts/{name}"), None).await;
    ask(Method::PUT, &format!("permissions/{name}/{}", url.username()), Some(everything)).await;
    url.set_path(&name);
    url.to_string()
}

/// A `[rabbit]` section with a virtual host of its own.
pub async fn test_rabbit() -> config::Rabbit {
    config::Rabbit { url: test_vhost().await.into(), confirm_timeout_ms: 5_000, ca_file: String::new() }
}

async fn sweep() {
    let list = ask(Method::GET, "vhosts", None).await;
    let vhosts: Vec<Value> = serde_json::from_str(&list).expect("the management API speaks JSON");
    for name in vhosts.iter().filter_map(|vhost| vhost["name"].as_str()) {
        if name.starts_with(&format!("{PREFIX}_")) && born(name).is_some_and(|age| age.as_secs() > LEFT_OVER_AFTER) {
            ask(Method::DELETE, &format!("vhosts/{name}"), None).await;
        }
    }
}

async fn ask(method: Method, path: &str, body: Option<Value>) -> String {
    let mut request = authorised(client().request(method.clone(), format!("{}/api/{path}", base())));
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.expect("the management API answers");
    let status = answer.status();
    let text = answer.text().await.expect("the management API answers");
    // A vhost that another process has swept is gone all the same.
    assert!(status.is_success() || (method == Method::DELETE && status == 404), "{method} {path}: {status} {text}");
    text
}

fn client() -> Client {
    Client::builder().no_proxy().build().expect("build an HTTP client")
}

fn base() -> String {
    let url = Stores::get().rabbitmq.management_url.clone().expect("stores.json names RabbitMQ's managementUrl");
    url.trim_end_matches('/').to_owned()
}

fn authorised(request: RequestBuilder) -> RequestBuilder {
    let url = Url::parse(&Stores::get().rabbitmq.url).expect("stores.json holds URLs");
    request.basic_auth(url.username(), url.password())
}
