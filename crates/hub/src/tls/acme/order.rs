//! One attempt to obtain a certificate: account, order, the proof for each name, and the certificate (RFC 8555, section 7).

use std::sync::{Arc, PoisonError};

use instant_acme::{
    Account, AuthorizationStatus, ChallengeHandle, ChallengeType, Error, Identifier, NewAccount,
    NewOrder, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;

use super::super::pair::Pair;
use super::exchange::Exchange;
use super::{Acme, Kind};

/// Obtains a certificate and stores it.
///
/// # Errors
/// Why there is none, for the log.
pub(super) async fn obtain(acme: &Acme, kind: Kind) -> Result<Pair, String> {
    let (chain, key) = request(acme, kind).await?;
    acme.files.put_certificate(&chain, &key)
}

async fn request(acme: &Acme, kind: Kind) -> Result<(String, String), String> {
    let account = account(acme).await?;
    let names: Vec<_> = acme.config.domains.iter().cloned().map(Identifier::Dns).collect();
    let mut order = account.new_order(&NewOrder::new(&names)).await.map_err(text)?;
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(text)?;
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            status => return Err(format!("the authorization of a name is {status:?}")),
        }
        let (kind_of, name) = match kind {
            Kind::Http01 => (ChallengeType::Http01, "http-01"),
            Kind::TlsAlpn01 => (ChallengeType::TlsAlpn01, "tls-alpn-01"),
        };
        let challenge = authorization.challenge(kind_of);
        let mut challenge =
            challenge.ok_or_else(|| format!("the authority does not offer {name}"))?;
        put_challenge(acme, kind, &challenge)?;
        challenge.set_ready().await.map_err(text)?;
    }
    let status = order.poll_ready(&RetryPolicy::default()).await.map_err(text)?;
    if status != OrderStatus::Ready {
        return Err(refusal(&mut order).await);
    }
    let key = order.finalize().await.map_err(text)?;
    let chain = order.poll_certificate(&RetryPolicy::default()).await.map_err(text)?;
    Ok((chain, key))
}

async fn account(acme: &Acme) -> Result<Account, String> {
    let config = &acme.config;
    let exchange = || Exchange::new(config.directory_ca.as_deref());
    let builder = Account::builder_with_http(Box::new(exchange()?));
    if let Some(credentials) = acme.files.account(&config.directory) {
        return builder.from_credentials(credentials).await.map_err(text);
    }
    let contact = config.email.as_ref().map(|email| format!("mailto:{email}"));
    let contact: Vec<&str> = contact.as_deref().into_iter().collect();
    let new = NewAccount {
        contact: &contact,
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let made = builder.create(&new, config.directory.clone(), None).await;
    let (account, credentials) = made.map_err(text)?;
    let stored = acme.files.put_account(&config.directory, credentials);
    stored.map_err(|error| format!("the account cannot be stored in the data folder: {error}"))?;
    Ok(account)
}

fn put_challenge(acme: &Acme, kind: Kind, challenge: &ChallengeHandle<'_>) -> Result<(), String> {
    let answer = challenge.key_authorization();
    let mut challenges = acme.challenges.write().unwrap_or_else(PoisonError::into_inner);
    match kind {
        Kind::Http01 => {
            challenges.texts.insert(challenge.token.clone(), answer.as_str().to_owned());
        }
        Kind::TlsAlpn01 => {
            let name = challenge.identifier().to_string().to_ascii_lowercase();
            let certificate = challenge_certificate(&name, answer.digest().as_ref())?;
            challenges.certificates.insert(name, Arc::new(certificate));
        }
    }
    Ok(())
}

/// RFC 8737, section 3: self-signed, of the name alone, with the digest of the answer.
fn challenge_certificate(name: &str, digest: &[u8]) -> Result<CertifiedKey, String> {
    let text = |error: rcgen::Error| error.to_string();
    let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(text)?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate().map_err(text)?;
    let certificate = params.self_signed(&key).map_err(text)?;
    let secret = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let provider = rustls::crypto::ring::default_provider();
    let secret = provider.key_provider.load_private_key(secret);
    let secret = secret.map_err(|error| error.to_string())?;
    // Not compared with its key: rustls refuses to read the extension, which has to be critical.
    Ok(CertifiedKey::new(vec![certificate.der().clone()], secret))
}

/// Why the authority did not accept a name: it says so of its challenge.
async fn refusal(order: &mut instant_acme::Order) -> String {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if let Ok(state) = authorization.refresh().await
            && let Some(problem) = state.challenges.iter().find_map(|one| one.error.as_ref())
        {
            return format!("the authority refused the proof: {problem}");
        }
    }
    "the authority refused the proof".to_owned()
}

/// An error with what it comes from.
fn text(error: Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
