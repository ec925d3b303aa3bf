//! What went wrong between certificates, with what to do about it.
//!
//! In: the error of a connection. Out: words, where it was the encryption that failed. Not here: which certificates there are (`access`).

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError};

/// In words, why there is no encrypted connection, if `error` or what caused it says so.
pub(super) fn trouble(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return Some(match advice(error) {
                Some(advice) => format!("{error}: {advice}"),
                None => error.to_string(),
            });
        }
        // An error of input and output says what caused what it holds, and not what it holds, which may be another of its kind.
        let held = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = held.map(|held| held as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}

fn advice(error: &rustls::Error) -> Option<&'static str> {
    match error {
        rustls::Error::InvalidCertificate(error) => match error {
            // The second of who has the name of somebody trusted, and another key.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Some(
                "nobody who is trusted here vouches for the server's certificate; name who does as ca_file",
            ),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Some("the server's certificate is for another name than its address here has")
            }
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => {
                Some("renew the server's certificate, or set this machine's clock")
            }
            _ => None,
        },
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => Some(
                "the server wants to see a certificate of ours: client_certificate_file and client_key_file",
            ),
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied => {
                Some("the server does not take our certificate: client_certificate_file")
            }
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(error: &rustls::Error, words: &str) {
        let held = io::Error::other(error.clone());
        let twice = io::Error::other(io::Error::other(error.clone()));
        for error in [&held as &(dyn Error + 'static), &twice, error] {
            let trouble = trouble(error);
            assert!(trouble.as_ref().is_some_and(|trouble| trouble.contains(words)), "{trouble:?}");
        }
    }

    #[test]
    fn who_has_to_change_which_file_is_told() {
        check(&CertificateError::UnknownIssuer.into(), "ca_file");
        check(&CertificateError::BadSignature.into(), "ca_file");
        check(&CertificateError::NotValidForName.into(), "another name");
        check(&CertificateError::Expired.into(), "clock");
        check(&rustls::Error::AlertReceived(AlertDescription::CertificateRequired), "client_key_file");
        check(&rustls::Error::AlertReceived(AlertDescription::UnknownCA), "does not take our certificate");
        check(&rustls::Error::HandshakeNotComplete, "handshake");
        assert_eq!(trouble(&io::Error::other("something else")), None);
    }
}
