//! TLS on both sides, with a throw-away certificate for `localhost` and 127.0.0.1.
//!
//! The certificate is its own root: written to a PEM file, it is what `SSL_CERT_FILE` should name.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ConfigBuilder, RootCertStore, ServerConfig};
use tokio::net::TcpStream;

use crate::link::Link;
use crate::url::Url;

/// Whom to trust when connecting; `None` where only plain URLs occur.
pub type Roots = Option<Arc<ClientConfig>>;

/// Makes a certificate that is its own root, as PEM files: the certificate and its private key.
pub fn write_throw_away(cert_path: &Path, key_path: &Path) -> io::Result<()> {
    let made = throw_away()?;
    std::fs::write(cert_path, made.cert.pem())?;
    std::fs::write(key_path, made.signing_key.serialize_pem())
}

fn throw_away() -> io::Result<rcgen::CertifiedKey<rcgen::KeyPair>> {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    rcgen::generate_simple_self_signed(names).map_err(io::Error::other)
}

/// Makes a certificate, writes it to `pem_path`, and answers the configuration that serves it.
pub fn throw_away_server(pem_path: &Path) -> io::Result<Arc<ServerConfig>> {
    let made = throw_away()?;
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
    Ok(Some(Arc::new(trusting(path)?.with_no_client_auth())))
}

/// The same, and shows the certificate of two more PEM files to whoever asks for one.
pub fn roots_and_identity(path: &Path, cert_path: &Path, key_path: &Path) -> io::Result<Roots> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(cert_path).map_err(io::Error::other)?.collect();
    let key = PrivateKeyDer::from_pem_file(key_path).map_err(io::Error::other)?;
    let config = trusting(path)?.with_client_auth_cert(chain.map_err(io::Error::other)?, key);
    Ok(Some(Arc::new(config.map_err(io::Error::other)?)))
}

fn trusting(path: &Path) -> io::Result<ConfigBuilder<ClientConfig, WantsClientCert>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(io::Error::other)? {
        roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    Ok(builder.with_root_certificates(roots))
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
