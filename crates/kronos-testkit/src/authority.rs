//! A certificate authority of one test, and what it issues to servers on this machine.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};

use crate::wait::unique;

/// The authority; its folder is removed at the end.
pub struct Authority {
    folder: PathBuf,
    /// PEM file of the authority's certificate.
    pub ca_file: String,
    /// PEM of a server's certificate, for `localhost` and `127.0.0.1`.
    pub(crate) certificate: String,
    /// PEM (PKCS #8) of its key.
    pub(crate) key: String,
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// A fresh authority, and one server's certificate.
    ///
    /// # Panics
    /// If nothing can be written to the folder for temporary files.
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names are valid names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Without a name of its own, what it signs looks as if it had signed itself.
        params.distinguished_name.push(DnType::CommonName, "an authority of one test");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("generate a key")).expect("sign");
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).expect("the names are valid");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().expect("generate a key");
        let certificate = params.signed_by(&key, &issuer).expect("sign").pem();
        let folder = std::env::temp_dir().join(unique("kronos-authority"));
        std::fs::create_dir(&folder).expect("make a folder");
        let ca_file = folder.join("ca.pem");
        std::fs::write(&ca_file, issuer.pem()).expect("write a file");
        Self { ca_file: text(&ca_file), folder, certificate, key: key.serialize_pem() }
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        // A folder that stays is only litter.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A path as text.
pub(crate) fn text(path: &Path) -> String {
    path.to_str().expect("the folder for temporary files has a name in UTF-8").to_owned()
}
