//! Which certificates of `https://` instances are believed: those of the system's authorities, or of a file's.

use std::{path::Path, sync::Arc};

use anyhow::Context as _;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

/// How TLS is spoken to instances. `authorities`: a file of PEM certificates; empty: the system's.
///
/// # Errors
/// The file can't be read, or holds no certificate.
pub fn client(authorities: &str) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    if authorities.is_empty() {
        // A system without any can still be served: its instances have no https:// then.
        for certificate in rustls_native_certs::load_native_certs().certs {
            let _ = roots.add(certificate);
        }
    } else {
        read(Path::new(authorities), &mut roots).with_context(|| format!("read the certificates in {authorities}"))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("choose TLS versions")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// A client for the gateway's own questions to instances, as they are spoken to for others.
///
/// # Errors
/// It can't be made.
pub fn http(tls: &ClientConfig, is_http2: bool) -> reqwest::Result<reqwest::Client> {
    let mut tls = tls.clone();
    let builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy();
    let builder = if is_http2 {
        tls.alpn_protocols = vec![b"h2".to_vec()];
        builder.http2_prior_knowledge()
    } else {
        builder.http1_only()
    };
    // Each question on a connection of its own: that one can be made is a part of the answer.
    builder.pool_max_idle_per_host(0).tls_backend_preconfigured(tls).build()
}

fn read(file: &Path, roots: &mut RootCertStore) -> anyhow::Result<()> {
    for certificate in CertificateDer::pem_file_iter(file)? {
        roots.add(certificate?)?;
    }
    anyhow::ensure!(!roots.is_empty(), "there is none");
    Ok(())
}
