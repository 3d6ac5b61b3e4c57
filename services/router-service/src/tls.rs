//! TLS towards clients: rustls over aws-lc-rs, HTTP/2 and HTTP/1.1 by ALPN, clients' certificates where an authority is
//! configured. Certificates are read again when their files change; connections that are open stay as they are.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use kronos_common::{identity::Claims, service};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::{authentication, config};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What handshakes are made with.
#[derive(Debug)]
pub struct Tls {
    files: config::Tls,
    current: ArcSwap<ServerConfig>,
}

impl Tls {
    /// `None`: no certificate is configured.
    ///
    /// # Errors
    /// Files that can't be read or don't belong together.
    pub fn load(files: &config::Tls) -> anyhow::Result<Option<Self>> {
        if files.certificate.is_empty() {
            anyhow::ensure!(files.key.is_empty(), "configuration key `tls.key` needs `tls.certificate`");
            anyhow::ensure!(!files.required, "configuration key `tls.required` needs `tls.certificate`");
            return Ok(None);
        }
        let current = ArcSwap::from_pointee(read(files)?);
        Ok(Some(Self { files: files.clone(), current }))
    }

    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }

    /// Reads the files again whenever one of them changed; what is not usable is refused whole and the present ones stay.
    pub fn follow(self: &Arc<Self>, context: &service::Context) {
        let (tls, shutdown) = (Arc::clone(self), context.shutdown.clone());
        let mut seen = tls.state();
        context.spawn("tls-certificates", async move {
            let mut tick = tokio::time::interval(LOOK);
            loop {
                tokio::select! { () = shutdown.cancelled() => return, _ = tick.tick() => {} }
                let state = tls.state();
                if state == seen {
                    continue;
                }
                match read(&tls.files) {
                    Ok(config) => {
                        tls.current.store(Arc::new(config));
                        seen = state;
                        tracing::info!("certificates were read again");
                    }
                    // Perhaps only one of them is written yet: it is tried again at the next look.
                    Err(error) => {
                        tracing::warn!(error = format!("{error:#}"), "certificates are not usable, the old ones stay")
                    }
                }
            }
        });
    }

    fn state(&self) -> Vec<Option<(SystemTime, u64)>> {
        let state = |path: &String| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        };
        [&self.files.certificate, &self.files.key, &self.files.client_ca].map(state).into()
    }
}

fn read(files: &config::Tls) -> anyhow::Result<ServerConfig> {
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(Path::new(&files.key)).with_context(|| format!("read key {}", files.key))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .context("choose TLS versions")?;
    let builder = if files.client_ca.is_empty() {
        builder.with_no_client_auth()
    } else {
        let mut roots = RootCertStore::empty();
        for authority in certificates(&files.client_ca)? {
            roots.add(authority).with_context(|| format!("take {}", files.client_ca))?;
        }
        // Which routes want a certificate is known only after the handshake.
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .allow_unauthenticated()
            .build()
            .with_context(|| format!("verify by {}", files.client_ca))?;
        builder.with_client_cert_verifier(verifier)
    };
    let mut config = builder.with_single_cert(chain, key).context("certificate and key don't belong together")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(path: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(Path::new(path)).and_then(Iterator::collect);
    let list: Vec<_> = read.with_context(|| format!("read certificates {path}"))?;
    anyhow::ensure!(!list.is_empty(), "{path} holds no certificate");
    Ok(list)
}

/// Whose certificate it is: its first URI, DNS name or mail address, else its common name; until it expires. `None`: it names
/// nobody.
pub fn subject(certificate: &CertificateDer<'_>) -> Option<Claims> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok().flatten().map(|names| &names.value.general_names);
    let first = |wanted: fn(&GeneralName<'_>) -> Option<String>| names.and_then(|names| names.iter().find_map(wanted));
    let name = first(|name| if let GeneralName::URI(text) = name { Some((*text).to_owned()) } else { None })
        .or_else(|| first(|name| if let GeneralName::DNSName(text) = name { Some((*text).to_owned()) } else { None }))
        .or_else(|| {
            first(|name| if let GeneralName::RFC822Name(text) = name { Some((*text).to_owned()) } else { None })
        })
        .or_else(|| parsed.subject().iter_common_name().next()?.as_str().ok().map(str::to_owned));
    let name = name.filter(|name| !name.is_empty() && name.bytes().all(|byte| matches!(byte, b' '..=b'~')))?;
    Some(authentication::known(name, parsed.validity().not_after.timestamp()))
}
