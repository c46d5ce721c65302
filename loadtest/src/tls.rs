//! TLS on both sides, with a throw-away certificate for `localhost` and 127.0.0.1.
//!
//! The certificate is its own root: written to a PEM file, it is what `SSL_CERT_FILE` should name.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};
use tokio::net::TcpStream;

use crate::link::Link;
use crate::url::Url;

/// Whom to trust when connecting; `None` where only plain URLs occur.
pub type Roots = Option<Arc<ClientConfig>>;

/// Makes a certificate, writes it to `pem_path`, and answers the configuration that serves it.
pub fn throw_away_server(pem_path: &Path) -> io::Result<Arc<ServerConfig>> {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).map_err(io::Error::other)?;
    std::fs::write(pem_path, made.cert.pem())?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|it| it.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key.into()))
        .map_err(io::Error::other)?;
    Ok(Arc::new(config))
}

/// Trusts the certificates in the PEM file at `path` and no other.
pub fn roots_from(path: &Path) -> io::Result<Roots> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(io::Error::other)? {
        roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Some(Arc::new(config)))
}

/// Connects to `url`'s host and begins TLS when its scheme says so.
pub async fn connect(url: &Url, roots: Roots) -> io::Result<Link> {
    let tcp = TcpStream::connect((url.host.as_str(), url.port)).await?;
    if !url.is_tls {
        return Link::new(tcp, None);
    }
    let roots = roots.ok_or_else(|| io::Error::other("a TLS URL needs --roots PEM"))?;
    let name = ServerName::try_from(url.host.clone()).map_err(io::Error::other)?;
    let tls = ClientConnection::new(roots, name).map_err(io::Error::other)?;
    Link::new(tcp, Some(tls.into()))
}
