//! Elasticsearch 8.19 server core, embedded: index templates, bulk, search, data streams; no security, no ILM, no ingest.

use std::{collections::BTreeMap, time::Duration};

use super::{Purpose, Starter, Store, java::Jars};
use crate::process::{self, Spec, Stop};

pub(super) fn start(starter: &Starter<'_>, jars: &Jars) -> anyhow::Result<Store> {
    let (port, transport) = (starter.port()?, starter.port()?);
    let dir = starter.instance.data_dir("elasticsearch", None)?;
    let mut args = vec!["-Xms256m".to_owned(), "-Xmx768m".to_owned(), "-XX:+UseSerialGC".to_owned()];
    if starter.purpose == Purpose::Tests {
        args.push("-XX:TieredStopAtLevel=1".to_owned());
    }
    args.extend([
        "-cp".to_owned(),
        format!("{0}:{0}/*", jars.elasticsearch.display()),
        "org.elasticsearch.node.ElasticsearchMain".to_owned(),
        dir.display().to_string(),
        "org.elasticsearch.transport.netty4.Netty4Plugin".to_owned(),
        "org.elasticsearch.node.RootPlugin".to_owned(),
        format!("http.port={port}"),
        format!("transport.port={transport}"),
        // Tests make many small indices on one node.
        "cluster.max_shards_per_node=20000".to_owned(),
    ]);
    let spec = Spec {
        name: "elasticsearch".into(),
        program: "java".into(),
        args,
        env: BTreeMap::new(),
        dir,
        user: None,
        log: starter.instance.logs()?.join("elasticsearch.log"),
        stop: Stop::Terminate,
    };
    let (running, mut child) = starter.spawn(&spec)?;
    let url = format!("http://127.0.0.1:{port}");
    process::wait_ready(&running, &mut child, Duration::from_secs(120), || {
        ureq::get(format!("{url}/_cluster/health")).call().is_ok()
    })?;
    Ok(Store { url, pid: running.pid, management_url: None })
}
