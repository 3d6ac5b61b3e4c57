//! A copy of a route's requests for another upstream, whose answers nobody sees: the policy `mirror`. The copy is sent after
//! the answer has begun, so that it never holds up the request; what would take too much memory, comes while too many copies
//! are under way, or is for an upstream whose breaker is open or whose bound is reached, is not copied, and counted.

use std::{rc::Rc, sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, Limited};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    attempts::Prepared,
    background::{Leave, Spare},
    exchange::Exchange,
    proxy::Core,
    route::Name,
    table::Upstream,
    upstream::{Content, Reply},
};

/// Copies under way, per core.
const MOST: usize = 64;
/// One copy has so long, with its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// A longer answer is not read to its end.
const LARGEST_ANSWER: usize = 1 << 20;

/// A copy of the requests for another upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MirrorSpec {
    /// The other upstream's name.
    pub upstream: Name,
    /// So many of a hundred requests. Default: 100.
    #[serde(default = "all")]
    #[schema(minimum = 1, maximum = 100)]
    pub percent: u32,
    /// Requests with a larger body are not copied, in bytes. Default: 65536.
    #[serde(default = "sixty_four_kib")]
    #[schema(minimum = 0, maximum = 1_048_576)]
    pub body_limit_bytes: u32,
}

fn all() -> u32 {
    100
}

fn sixty_four_kib() -> u32 {
    64 * 1024
}

impl MirrorSpec {
    /// Everything that is wrong with it.
    pub fn check(&self, wrong: &mut impl FnMut(&str, &'static str, String)) {
        if !(1..=100).contains(&self.percent) {
            wrong("/mirror/percent", "out_of_range", "from 1 to 100".to_owned());
        }
        if self.body_limit_bytes > 1 << 20 {
            wrong("/mirror/bodyLimitBytes", "out_of_range", "from 0 to 1048576".to_owned());
        }
    }
}

/// The policy, compiled.
#[derive(Debug)]
pub struct Mirror {
    pub upstream: Arc<Upstream>,
    pub spec: MirrorSpec,
}

impl Mirror {
    /// Whether this request is copied.
    pub fn takes(&self) -> bool {
        self.spec.percent == 100 || rand::random_range(0..100) < self.spec.percent
    }

    /// Sends the copy of a request that was sent.
    pub fn send(&self, core: &Rc<Core>, prepared: Prepared, exchange: &Exchange) {
        let name = &*self.upstream.name;
        let count = |outcome: &str| core.gateway.metrics.mirrored.with_label_values(&[name, outcome]).inc();
        if core.mirrors.len() >= MOST {
            return count("dropped");
        }
        let Some(spare) = Spare::of(prepared, exchange) else { return count("dropped") };
        let Some(leave) = Leave::of(&self.upstream, core.now_us()) else { return count("dropped") };
        let (upstream, sender) = (Arc::clone(&self.upstream), Rc::clone(core));
        core.mirrors.spawn_local(async move {
            let sent = tokio::time::timeout(PATIENCE, async {
                let reply = spare.send(&sender, &upstream, &leave, PATIENCE).await?;
                discard(reply).await
            });
            let outcome = if matches!(sent.await, Ok(Ok(()))) { "sent" } else { "failed" };
            sender.gateway.metrics.mirrored.with_label_values(&[&*upstream.name, outcome]).inc();
        });
    }
}

/// Reads an answer to its end, so that its connection can be used again.
async fn discard(reply: Reply) -> anyhow::Result<()> {
    if let Content::Body(body) = reply.content {
        let read = Limited::new(body, LARGEST_ANSWER).collect().await;
        read.map_err(|error| anyhow::anyhow!(error))?;
    }
    Ok(())
}
