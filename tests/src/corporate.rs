//! A hospital's own certificate authority: of its proxies, and known to no program until a person names its file.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::rustls::version;

/// A CA that signs certificates for whatever host is asked for.
#[derive(Debug)]
pub struct Corporate(Issuer<'static, KeyPair>);

impl Corporate {
    /// Makes one, and writes its certificate to `roots`.
    pub fn new(name: &str, roots: &Path) -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        std::fs::write(roots, params.self_signed(&key)?.pem()).with_context(|| roots.display().to_string())?;
        Ok(Self(Issuer::new(params, key)))
    }

    /// TLS 1.3 with a certificate for the host, made now, and these protocols inside.
    pub fn shown_for(&self, host: &str, protocols: &[Vec<u8>]) -> anyhow::Result<Arc<ServerConfig>> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![host.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, host);
        let leaf = params.signed_by(&key, &self.0)?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())?;
        config.alpn_protocols = protocols.to_vec();
        Ok(Arc::new(config))
    }
}
