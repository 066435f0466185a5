//! What the clients of others' servers share about TLS: the PEM files that settings name, and what is wrong with a
//! server's certificate, in words that say what to do.

use std::error::Error as StdError;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::CertificateError;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::types::{Error, Result};

/// The bytes of a file with at least one certificate in it. Errors name `setting`.
pub fn certificates(setting: &str, path: &Path) -> Result<Vec<u8>> {
    let bytes = read(setting, path)?;
    let found = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    match found {
        Ok(found) if !found.is_empty() => Ok(bytes),
        Ok(_) => Err(unusable(setting, path, "holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)")),
        Err(e) => Err(unusable(setting, path, &format!("is not PEM: {e}"))),
    }
}

/// The bytes of a file with a private key in it. Errors name `setting`.
pub fn private_key(setting: &str, path: &Path) -> Result<Vec<u8>> {
    let bytes = read(setting, path)?;
    match PrivateKeyDer::from_pem_slice(&bytes) {
        Ok(_) => Ok(bytes),
        Err(_) => Err(unusable(setting, path, "holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)")),
    }
}

fn read(setting: &str, path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| unusable(setting, path, &format!("cannot be read: {e}")))
}

fn unusable(setting: &str, path: &Path, why: &str) -> Error {
    Error::invalid(setting, format!("{} {why}", path.display()))
}

/// What is wrong with the certificate of a server, if that is why a connection failed. `ca_setting` is the setting that
/// names the CA.
pub fn certificate_problem(error: &(dyn StdError + 'static), ca_setting: &str) -> Option<String> {
    let mut causes = std::iter::successors(Some(error), |error| cause(*error));
    let problem = causes.find_map(|cause| match cause.downcast_ref::<rustls::Error>() {
        Some(rustls::Error::InvalidCertificate(problem)) => Some(problem),
        _ => None,
    })?;
    Some(match problem {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
            "its certificate is not signed by a CA that is trusted here; if it should be, name the PEM file of its CA in \
             {ca_setting} (without it, the CAs of the system are trusted)"
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("its certificate is for another name; address it by a name that stands in it ({problem})")
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("its certificate has expired and must be renewed there ({problem})")
        }
        problem => format!("its certificate is refused: {problem}"),
    })
}

/// The next cause. Those within an `io::Error` or an `Arc` are left out by `source`.
fn cause<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e (dyn StdError + 'static)> {
    if let Some(shared) = error.downcast_ref::<Arc<dyn StdError + Send + Sync>>() {
        return Some(&**shared);
    }
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_problem_is_found_however_deep_it_lies() {
        let refused = || rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let in_io = io::Error::other(io::Error::other(refused()));
        let shared: Arc<dyn StdError + Send + Sync> = Arc::new(in_io);
        let as_cause = Error::unavailable("x").with_source(io::Error::other(shared));
        for error in [&refused() as &(dyn StdError + 'static), &io::Error::other(refused()), &as_cause] {
            let told = certificate_problem(error, "stores.some_ca_file").unwrap();
            assert!(
                told.contains("not signed by a CA that is trusted") && told.contains("stores.some_ca_file"),
                "{told}"
            );
        }
        assert_eq!(certificate_problem(&io::Error::other("refused"), "x"), None);
    }

    #[test]
    fn a_file_that_cannot_be_used_is_told_with_its_setting() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "no certificate").unwrap();
        let absent = Path::new("/nonexistent/ca.pem");
        for (error, why) in [
            (certificates("a.ca_file", absent).unwrap_err(), "cannot be read"),
            (certificates("a.ca_file", file.path()).unwrap_err(), "holds no certificate"),
            (private_key("a.ca_file", file.path()).unwrap_err(), "holds no private key"),
        ] {
            assert_eq!(error.violations[0].field, "a.ca_file");
            assert!(error.message.contains(why), "{error}");
        }
    }
}
