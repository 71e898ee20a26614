//! An authority, the certificates that it issues, and a client that sees which one it is shown.

#![allow(dead_code, reason = "each of the tests that share it uses a part")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
};

/// Signs certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
pub(crate) struct Issued {
    pub(crate) pem: String,
    pub(crate) der: CertificateDer<'static>,
    pub(crate) key_pem: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate of a server with these names.
    pub(crate) fn server(&self, names: &[&str]) -> Issued {
        self.issue(CertificateParams::new(owned(names)).unwrap())
    }

    /// One that expired long ago.
    pub(crate) fn expired(&self, names: &[&str]) -> Issued {
        let mut params = CertificateParams::new(owned(names)).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 2, 1);
        self.issue(params)
    }

    pub(crate) fn issue(&self, params: CertificateParams) -> Issued {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Issued {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            key_pem: key.serialize_pem(),
        }
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn write(&self, folder: &Path, name: &str) -> PathBuf {
        let file = folder.join(name);
        fs::write(&file, self.pem()).unwrap();
        file
    }

    /// A certificate of a client with this common name and alternative names.
    pub(crate) fn of_client(&self, name: &str, alternative: Vec<SanType>) -> Issued {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = alternative;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(SerialNumber::from(name.as_bytes().to_vec()));
        self.issue(params)
    }

    /// A list that revokes the certificates of clients with these common names.
    pub(crate) fn revocations(&self, names: &[&str]) -> String {
        self.revocations_until(2124, names)
    }

    /// One that is to be renewed by the beginning of this year.
    pub(crate) fn revocations_until(&self, year: i32, names: &[&str]) -> String {
        let revoked = |name: &&str| RevokedCertParams {
            serial_number: SerialNumber::from(name.as_bytes().to_vec()),
            revocation_time: rcgen::date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2024, 1, 1),
            next_update: rcgen::date_time_ymd(year, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: names.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.0).unwrap().pem().unwrap()
    }

    /// A client that trusts this authority.
    pub(crate) fn client(&self) -> Client {
        Client { root: self.0.der().clone(), identity: None, versions: rustls::ALL_VERSIONS }
    }
}

impl Issued {
    /// Writes both files beside those that are there and moves them into their places, as what renews certificates does.
    pub(crate) fn write(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let place = |suffix: &str, text: &str| {
            let (new, file) = (folder.join("new"), folder.join(format!("{name}{suffix}")));
            fs::write(&new, text).unwrap();
            fs::rename(&new, &file).unwrap();
            file
        };
        (place(".pem", &self.pem), place(".key", &self.key_pem))
    }
}

/// A client of TLS.
#[derive(Clone)]
pub(crate) struct Client {
    root: CertificateDer<'static>,
    identity: Option<(CertificateDer<'static>, String)>,
    pub(crate) versions: &'static [&'static SupportedProtocolVersion],
}

pub(crate) type Connection = StreamOwned<ClientConnection, TcpStream>;

impl Client {
    /// One that trusts this root.
    pub(crate) fn trusting(root: CertificateDer<'static>) -> Self {
        Self { root, identity: None, versions: rustls::ALL_VERSIONS }
    }

    /// The same with a certificate of its own.
    pub(crate) fn with(&self, issued: &Issued) -> Self {
        let identity = Some((issued.der.clone(), issued.key_pem.clone()));
        Self { identity, ..self.clone() }
    }

    /// Connects and completes the handshake, asking for this name.
    pub(crate) fn connect(&self, address: SocketAddr, name: &str) -> std::io::Result<Connection> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions)
            .unwrap()
            .with_root_certificates(roots);
        let config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                use rustls::pki_types::pem::PemObject as _;
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![certificate.clone()], key).unwrap()
            }
        };
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let session = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut stream = StreamOwned::new(session, TcpStream::connect(address)?);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(stream)
    }

    /// The certificate that is shown for a name.
    pub(crate) fn shown(&self, address: SocketAddr, name: &str) -> CertificateDer<'static> {
        let stream = self.connect(address, name).unwrap();
        stream.conn.peer_certificates().unwrap()[0].clone().into_owned()
    }

    /// The status of a request, or why there is none.
    pub(crate) fn get(&self, address: SocketAddr, path: &str) -> std::io::Result<u16> {
        self.ask(address, "GET", path).map(|(status, _)| status)
    }

    /// Status and body of a request without one.
    pub(crate) fn ask(
        &self,
        address: SocketAddr,
        method: &str,
        path: &str,
    ) -> std::io::Result<(u16, String)> {
        let mut stream = self.connect(address, "localhost")?;
        let head = "Host: localhost\r\nContent-Length: 0\r\nConnection: close";
        write!(stream, "{method} {path} HTTP/1.1\r\n{head}\r\n\r\n")?;
        let mut answer = Vec::new();
        // An end without close_notify, after a whole answer.
        let read = stream.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).unwrap();
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) => Ok((head[9..12].parse().unwrap(), body.to_owned())),
            None => Err(read.err().unwrap_or_else(|| std::io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

/// What names a client in its certificate.
pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
