//! The certificate that clients are shown: read from PEM files, and read again when the files change.
//!
//! A file that is broken, or half written, costs nothing: the certificate from before stays, and the log says so. Connections that are open
//! keep theirs. Nothing here speaks TLS (`runtime::client_tls` does), and nothing is watched but the files' metadata.

#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tracing::{info, warn};

use super::keys::Refusal;

/// How often the files are looked at.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(2);
/// A chain of certificates is a few KiB; a path to something endless must not fill the memory.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// `tls_cert`, `tls_key` and `tls_client_ca`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, our own certificate first.
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Clients must show a certificate that one of these has signed.
    pub client_ca: Option<PathBuf>,
}

impl TlsFiles {
    /// Reads all of them. Refuses with the key, what was found and what is wanted.
    ///
    /// No session is resumed and no ticket given: bots connect rarely, and every connection then proves anew who it is.
    pub fn load(&self) -> Result<Arc<ServerConfig>, Refusal> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = certificates("tls_cert", &self.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&read("tls_key", &self.key)?)
            .map_err(|error| refuse("tls_key", &self.key, error, "a PEM file with an unencrypted private key"))?;
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| Refusal::of(format!("TLS: {error}")))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let wanted = "a PEM file with the certificates that sign clients' certificates";
                let mut roots = RootCertStore::empty();
                for certificate in certificates("tls_client_ca", path)? {
                    roots.add(certificate).map_err(|error| refuse("tls_client_ca", path, error, wanted))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|it| refuse("tls_client_ca", path, it, wanted))?)
            }
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| {
            refuse("tls_cert", &self.cert, error, "the certificate that belongs to the private key of tls_key")
        })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    fn stamps(&self) -> Stamps {
        let stamp = |path: &Path| {
            let it = fs::metadata(path).ok()?;
            Some([it.dev(), it.ino(), it.size(), it.mtime() as u64, it.mtime_nsec() as u64])
        };
        [stamp(&self.cert), stamp(&self.key), self.client_ca.as_deref().and_then(stamp)]
    }
}

/// What of each file's metadata shows that it is another: Kubernetes exchanges a link, others write in place.
type Stamps = [Option<[u64; 5]>; 3];

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Refusal> {
    const WANTED: &str = "a PEM file with at least one certificate";
    let pem = read(key, path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err(refuse(key, path, "no certificate in it", WANTED)),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(refuse(key, path, error, WANTED)),
    }
}

fn read(key: &str, path: &Path) -> Result<Vec<u8>, Refusal> {
    use std::io::Read;
    let wanted = "a readable PEM file";
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(|error| refuse(key, path, error, wanted))?;
    file.take(PEM_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| refuse(key, path, error, wanted))?;
    if bytes.len() as u64 > PEM_BYTES_MAX {
        return Err(refuse(key, path, format_args!("more than {PEM_BYTES_MAX} bytes"), wanted));
    }
    Ok(bytes)
}

fn refuse(key: &str, path: &Path, found: impl std::fmt::Display, wanted: &str) -> Refusal {
    Refusal::new(key, format_args!("{}: {found}", path.display()), wanted)
}

/// Looks at the files now and then.
pub struct Certificates {
    files: TlsFiles,
    /// As they were when they were read last, whether they could be used or not.
    stamps: Stamps,
    due: Instant,
}

impl Certificates {
    /// Reads the files for the first time.
    pub fn start(files: TlsFiles, now: Instant) -> Result<(Self, Arc<ServerConfig>), Refusal> {
        // Before they are read: what changes in between is read once more.
        let stamps = files.stamps();
        let config = files.load()?;
        Ok((Self { files, stamps, due: now + LOOKED_AT_EVERY }, config))
    }

    /// When `on_timeout` is to be called.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// What clients that connect from now on are to be shown, if that has changed.
    pub fn on_timeout(&mut self, now: Instant) -> Option<Arc<ServerConfig>> {
        if now < self.due {
            return None;
        }
        self.due = now + LOOKED_AT_EVERY;
        let stamps = self.files.stamps();
        if stamps == std::mem::replace(&mut self.stamps, stamps) {
            return None;
        }
        match self.files.load() {
            Ok(config) => {
                info!(tls_cert = %self.files.cert.display(), "a new certificate is shown from now on");
                Some(config)
            }
            Err(refusal) => {
                warn!("{refusal}; the certificate from before stays in use");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::runtime::clock;

    struct Dir(PathBuf);

    impl Dir {
        fn new() -> Self {
            static MADE: AtomicU32 = AtomicU32::new(0);
            let name = format!("shardgate-certs-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn files(&self) -> TlsFiles {
            TlsFiles { cert: self.0.join("cert.pem"), key: self.0.join("key.pem"), client_ca: None }
        }

        /// A certificate with its key, in place.
        fn renew(&self) {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            fs::write(self.files().cert, made.cert.pem()).unwrap();
            fs::write(self.files().key, made.signing_key.serialize_pem()).unwrap();
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_key_found_and_wanted() {
        let dir = Dir::new();
        let files = dir.files();
        let line = files.load().unwrap_err().to_string();
        assert!(line.starts_with("tls_cert: found ") && line.contains("No such file"), "{line}");
        dir.renew();
        assert!(files.load().is_ok());
        fs::write(&files.key, "-----BEGIN PRIVATE KEY-----\ns3cret").unwrap();
        let line = files.load().unwrap_err().to_string();
        assert!(line.starts_with("tls_key: found ") && !line.contains("s3cret"), "{line}");
        let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(&files.key, other.signing_key.serialize_pem()).unwrap();
        let line = files.load().unwrap_err().to_string();
        assert!(line.ends_with("wanted the certificate that belongs to the private key of tls_key"), "{line}");
        fs::write(&files.cert, "").unwrap();
        assert!(files.load().unwrap_err().to_string().contains("no certificate in it"));
        let ca = TlsFiles { client_ca: Some(files.cert.clone()), ..files };
        fs::write(&ca.cert, other.cert.pem()).unwrap();
        assert!(ca.load().is_ok());
        let ca = TlsFiles { client_ca: Some(ca.key.clone()), ..ca };
        assert!(ca.load().unwrap_err().to_string().starts_with("tls_client_ca: found "));
    }

    #[test]
    fn changed_files_are_read_again_and_broken_ones_change_nothing() {
        let dir = Dir::new();
        dir.renew();
        let mut now = clock::now();
        let (mut watched, first) = Certificates::start(dir.files(), now).unwrap();
        let mut look = || {
            now += LOOKED_AT_EVERY;
            watched.on_timeout(now)
        };
        assert!(look().is_none(), "nothing has changed");
        // The certificate alone: it does not belong to the key any more.
        let old = fs::read(dir.files().cert).unwrap();
        fs::write(dir.files().cert, "nonsense").unwrap();
        assert!(look().is_none() && look().is_none());
        fs::write(dir.files().cert, old).unwrap();
        assert!(look().is_some_and(|it| !Arc::ptr_eq(&it, &first)));
        dir.renew();
        assert!(look().is_some() && look().is_none());
        fs::remove_file(dir.files().key).unwrap();
        assert!(look().is_none());
    }

    #[test]
    fn a_link_that_points_elsewhere_is_a_change() {
        let (dir, other) = (Dir::new(), Dir::new());
        dir.renew();
        other.renew();
        let link = dir.0.join("link");
        std::os::unix::fs::symlink(&dir.0, &link).unwrap();
        let files = TlsFiles { cert: link.join("cert.pem"), key: link.join("key.pem"), client_ca: None };
        let now = clock::now();
        let (mut watched, _) = Certificates::start(files, now).unwrap();
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(&other.0, &link).unwrap();
        assert!(watched.on_timeout(now).is_none(), "it is not time yet");
        assert!(watched.on_timeout(now + LOOKED_AT_EVERY).is_some());
    }
}
