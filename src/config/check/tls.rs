//! Certificates: read, parsed and matched with their key before anything listens, because pingora panics on
//! those it cannot use.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::super::Tls;
use super::super::file::Written;
use super::Check;

/// A chain and a key are a few KiB; a file above this is something else.
const LARGEST: u64 = 1 << 20;

impl Check<'_> {
    pub(super) fn tls(&mut self, cert: &Written<String>, key: &Written<String>) -> Option<Tls> {
        let chain = self.pem(cert).and_then(|pem| self.chain(cert, &pem));
        let private = self.pem(key).and_then(|pem| self.private_key(key, &pem));
        let (chain, private) = (chain?, private?);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        // The very call with which pingora builds its listener.
        let built = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private));
        if let Err(error) = built {
            match error {
                rustls::Error::InconsistentKeys(_) => self
                    .error(&key.span, format!("this key does not belong to the certificate {}", self.shown(cert)))
                    .help("write the two files that were made together"),
                error => self.error(&cert.span, format!("the certificate and key cannot be used: {error}")).help(
                    "a server certificate in PEM (X.509 version 3), and its RSA, ECDSA or Ed25519 key, are needed",
                ),
            };
            return None;
        }
        Some(Tls { cert: self.path_of_file(cert), key: self.path_of_file(key) })
    }

    pub(super) fn chain(
        &mut self,
        written: &Written<String>,
        pem: &[u8],
    ) -> Option<Vec<CertificateDer<'static>>> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        match chain {
            Ok(chain) if !chain.is_empty() => Some(chain),
            _ => {
                self.error(&written.span, format!("no certificate can be read from {}", self.shown(written)))
                    .help("a PEM file begins with -----BEGIN CERTIFICATE-----");
                None
            }
        }
    }

    /// A PEM file of authorities, read to see that it holds any.
    pub(super) fn authorities(&mut self, written: &Written<String>) -> Option<PathBuf> {
        let pem = self.pem(written)?;
        self.chain(written, &pem)?;
        Some(self.path_of_file(written))
    }

    fn private_key(&mut self, written: &Written<String>, pem: &[u8]) -> Option<PrivateKeyDer<'static>> {
        if let Ok(key) = PrivateKeyDer::from_pem_slice(pem) {
            return Some(key);
        }
        self.error(&written.span, format!("no private key can be read from {}", self.shown(written)))
            .help("a PEM file with -----BEGIN PRIVATE KEY----- (RSA, EC too), not encrypted, is needed");
        None
    }

    pub(super) fn pem(&mut self, written: &Written<String>) -> Option<Vec<u8>> {
        match read_small(&self.path_of_file(written)) {
            Ok(bytes) => Some(bytes),
            Err(cause) => {
                self.error(&written.span, format!("cannot read {}: {cause}", self.shown(written))).help(
                    "write a file that exists; a relative path begins at the configuration file's folder",
                );
                None
            }
        }
    }

    /// The file as it was written, joined to the folder it is looked for in.
    pub(super) fn shown(&self, written: &Written<String>) -> String {
        self.folder.join(self.source.written(&written.span)).display().to_string()
    }
}

/// Reads an ordinary file of at most `LARGEST` bytes; a pipe or a device would keep the check waiting.
pub(super) fn read_small(path: &Path) -> std::io::Result<Vec<u8>> {
    let about = std::fs::metadata(path)?;
    if !about.is_file() {
        return Err(std::io::Error::other("not a file"));
    }
    if about.len() > LARGEST {
        return Err(std::io::Error::other("larger than 1 MiB"));
    }
    std::fs::read(path)
}
