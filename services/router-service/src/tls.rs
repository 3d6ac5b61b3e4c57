//! TLS towards clients: rustls over aws-lc-rs, a certificate by the name that a client asks for (SNI), HTTP/2 and HTTP/1.1 by
//! ALPN, clients' certificates where an authority is configured. Files are read again when they change; connections that are
//! open stay as they are.

use std::{
    collections::HashMap,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use kronos_common::{identity::Claims, service};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
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
            anyhow::ensure!(files.by_name.is_empty(), "configuration key `tls.by_name` needs `tls.certificate`");
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
        let own = [&self.files.certificate, &self.files.key, &self.files.client_ca];
        let named = self.files.by_name.iter().flat_map(|pair| [&pair.certificate, &pair.key]);
        own.into_iter().chain(named).map(state).collect()
    }
}

fn read(files: &config::Tls) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let shown = Shown::read(files, &provider)?;
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
    let mut config = builder.with_cert_resolver(Arc::new(shown));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Which certificate a client is shown (RFC 6066 section 3).
#[derive(Debug)]
struct Shown {
    /// Who asks for no name, or for one that no certificate has.
    default: Arc<CertifiedKey>,
    /// By host, or `*.` and the domain that hosts are one label below.
    by_name: HashMap<String, Arc<CertifiedKey>>,
}

impl Shown {
    fn read(files: &config::Tls, provider: &CryptoProvider) -> anyhow::Result<Self> {
        let default = certified(&files.certificate, &files.key, provider)?;
        let mut by_name: HashMap<String, Arc<CertifiedKey>> = HashMap::new();
        for pair in &files.by_name {
            let certified = certified(&pair.certificate, &pair.key, provider)?;
            let names = names(&certified.cert[0]);
            anyhow::ensure!(!names.is_empty(), "{} names no host", pair.certificate);
            for name in names {
                by_name.entry(name).or_insert_with(|| Arc::clone(&certified));
            }
        }
        Ok(Self { default, by_name })
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().map(str::to_ascii_lowercase).and_then(|host| {
            let (_, domain) = host.split_once('.').unwrap_or_default();
            self.by_name.get(&host).or_else(|| self.by_name.get(&format!("*.{domain}")))
        });
        Some(Arc::clone(named.unwrap_or(&self.default)))
    }
}

fn certified(certificate: &str, key: &str, provider: &CryptoProvider) -> anyhow::Result<Arc<CertifiedKey>> {
    let chain = certificates(certificate)?;
    let read = PrivateKeyDer::from_pem_file(Path::new(key)).with_context(|| format!("read key {key}"))?;
    let certified = CertifiedKey::from_der(chain, read, provider);
    Ok(Arc::new(certified.with_context(|| format!("{certificate} and {key} don't belong together"))?))
}

/// The hosts that a certificate is for.
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let Ok(Some(names)) = parsed.subject_alternative_name() else { return Vec::new() };
    let hosts = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(host) => Some(host.to_ascii_lowercase()),
        _ => None,
    });
    hosts.collect()
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
