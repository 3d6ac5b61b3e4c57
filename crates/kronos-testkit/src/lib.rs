//! For tests only: real stores, tokens, a small HTTP client, waiting without sleeping. Nothing of it is in a service.

mod authority;
mod database;
mod http;
mod issuer;
mod own_kafka;
mod own_postgres;
mod own_rabbit;
mod own_redis;
mod process;
mod proxy;
mod rabbit;
mod stores;
mod wait;

pub use authority::Authority;
pub use database::TestDatabase;
pub use http::{TestClient, TestRequest, TestResponse, http};
pub use issuer::{Issuer, TokenBuilder};
pub use own_kafka::OwnKafka;
pub use own_postgres::OwnPostgres;
pub use own_rabbit::OwnRabbit;
pub use own_redis::OwnRedis;
pub use proxy::Proxy;
pub use rabbit::{test_rabbit, test_vhost};
pub use stores::{Store, Stores, test_kafka, test_redis};
pub use wait::{unique, wait_until, wait_up_to};
