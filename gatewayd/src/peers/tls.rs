//! TLS 1.3 with raw public keys on both sides (RFC 8446, RFC 7250): no names, no expiry, no X.509.
//! The key at the other end is proven in each handshake anew: nothing is resumed.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use ledger::crypto::{PublicKey, sha256};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, ConnectionCommon, DigitallySignedStruct, DistinguishedName,
    Error, PeerIncompatible, ServerConfig, SignatureAlgorithm, SignatureScheme,
};
use tokio::runtime::RuntimeFlavor;

use super::{ALPN, Signer, StartError};

/// Label of the exporter that evidence is bound to.
const EXPORTER: &[u8] = b"EXPORTER-gatewayd-attest";

/// SubjectPublicKeyInfo of P-256 (RFC 5480) before the point: everything but the point is fixed.
const SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The keys of the members, as the ledger names them.
pub(super) type MemberKeys = Arc<RwLock<BTreeSet<PublicKey>>>;

/// Everything that handshakes need.
pub(super) struct Tls {
    /// For who dials in.
    pub(super) server: Arc<ServerConfig>,
    /// For dialing members: anybody else is refused before the TPM is asked.
    pub(super) to_members: Arc<ClientConfig>,
    /// For dialing whoever answers.
    pub(super) to_anybody: Arc<ClientConfig>,
    key: Arc<IdentityKey>,
}

impl Tls {
    /// Settings for one identity.
    pub(super) fn new(
        identity: &PublicKey,
        signer: Arc<dyn Signer>,
        members: MemberKeys,
    ) -> Result<Self, StartError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let spki = write_spki(identity)?;
        let key = Arc::new(IdentityKey { signer, spki, signed_us: Arc::default() });
        let certificate = vec![CertificateDer::from(key.spki.clone())];
        let certified = Arc::new(CertifiedKey::new(certificate, Arc::clone(&key) as _));
        let verifier = |expected| Arc::new(Verifier { expected, provider: Arc::clone(&provider) });
        let client = |expected| client(&provider, verifier(expected), &certified);
        Ok(Self {
            server: Arc::new(server(&provider, verifier(None), &certified)?),
            to_members: Arc::new(client(Some(members))?),
            to_anybody: Arc::new(client(None)?),
            key,
        })
    }

    /// How long the last signature took.
    pub(super) fn signing_time(&self) -> Duration {
        Duration::from_micros(self.key.signed_us.load(Ordering::Relaxed))
    }
}

fn server(
    provider: &Arc<CryptoProvider>,
    verifier: Arc<Verifier>,
    key: &Arc<CertifiedKey>,
) -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(Arc::clone(key))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

fn client(
    provider: &Arc<CryptoProvider>,
    verifier: Arc<Verifier>,
    key: &Arc<CertifiedKey>,
) -> Result<ClientConfig, Error> {
    let resolver = rustls::client::AlwaysResolvesClientRawPublicKeys::new(Arc::clone(key));
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

/// Names play no part; an address keeps the extension away.
pub(super) fn no_name() -> ServerName<'static> {
    ServerName::IpAddress(IpAddr::V4(Ipv4Addr::UNSPECIFIED).into())
}

/// Reads who is at the other end of a finished handshake, and the exporter.
pub(super) fn proven<D>(connection: &ConnectionCommon<D>) -> Result<(PublicKey, [u8; 32]), Error> {
    if connection.alpn_protocol() != Some(ALPN) {
        return Err(Error::NoApplicationProtocol);
    }
    let key = connection.peer_certificates().and_then(<[_]>::first);
    let identity = key.and_then(|key| read_spki(key)).ok_or(Error::NoCertificatesPresented)?;
    let exporter = connection.export_keying_material([0; 32], EXPORTER, Some(&[]))?;
    Ok((identity, exporter))
}

fn write_spki(key: &PublicKey) -> Result<Vec<u8>, StartError> {
    let point = key.to_uncompressed().map_err(|_| StartError::Identity)?;
    Ok([&SPKI[..], &point].concat())
}

/// The key of an SPKI in the one form that there is for P-256; the point is checked.
fn read_spki(bytes: &[u8]) -> Option<PublicKey> {
    let point = bytes.strip_prefix(&SPKI[..])?;
    let uncompressed = point.len() == 65 && point[0] == 4;
    PublicKey::from_sec1(point).ok().filter(|_| uncompressed)
}

#[derive(Debug)]
struct IdentityKey {
    signer: Arc<dyn Signer>,
    spki: Vec<u8>,
    signed_us: Arc<AtomicU64>,
}

impl rustls::sign::SigningKey for IdentityKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn rustls::sign::Signer>> {
        let (signer, signed_us) = (Arc::clone(&self.signer), Arc::clone(&self.signed_us));
        let known = offered.contains(&SignatureScheme::ECDSA_NISTP256_SHA256);
        known.then(|| Box::new(Handshake { signer, signed_us }) as _)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(&self.spki[..]))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

/// The signature of one handshake.
#[derive(Debug)]
struct Handshake {
    signer: Arc<dyn Signer>,
    signed_us: Arc<AtomicU64>,
}

impl rustls::sign::Signer for Handshake {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let began = Instant::now();
        let digest = sha256(&[message]).0;
        let signed = blocking(|| self.signer.sign(digest));
        let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.signed_us.store(took, Ordering::Relaxed);
        let signature = signed.map_err(|error| Error::General(format!("TPM: {error}")))?;
        let signature = p256::ecdsa::Signature::from_slice(&signature)
            .map_err(|_| Error::General("the TPM gave a malformed signature".into()))?;
        Ok(signature.to_der().as_bytes().to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

/// Waits without holding up the other tasks of this thread.
fn blocking<T>(wait: impl FnOnce() -> T) -> T {
    let runtime = tokio::runtime::Handle::try_current();
    match runtime.map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(wait),
        // There is nothing that could be moved away.
        _ => wait(),
    }
}

/// Takes any P-256 key, or those of members alone, whose holder signs the handshake.
#[derive(Debug)]
struct Verifier {
    expected: Option<MemberKeys>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn check(&self, key: &[u8], others: &[CertificateDer<'_>]) -> Result<(), Error> {
        let refused = |error| Err(Error::InvalidCertificate(error));
        let Some(key) = read_spki(key).filter(|_| others.is_empty()) else {
            return refused(CertificateError::BadEncoding);
        };
        let Some(members) = &self.expected else { return Ok(()) };
        if members.read().unwrap_or_else(PoisonError::into_inner).contains(&key) {
            Ok(())
        } else {
            refused(CertificateError::ApplicationVerificationFailure)
        }
    }

    fn signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        let key = SubjectPublicKeyInfoDer::from(key.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signature, algorithms)
    }
}

/// TLS 1.2 is not spoken here.
fn no_tls12<T>() -> Result<T, Error> {
    Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
}

const SCHEMES: [SignatureScheme; 1] = [SignatureScheme::ECDSA_NISTP256_SHA256];

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, intermediates).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity, intermediates).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ledger::crypto::SigningKey;

    #[test]
    fn one_form_of_a_key_is_read() {
        let key = SigningKey::from_bytes(&[7; 32]).unwrap().public_key();
        let spki = write_spki(&key).unwrap();
        assert_eq!(read_spki(&spki), Some(key));
        assert_eq!(read_spki(&spki[..90]), None, "cut");
        assert_eq!(read_spki(&[&spki[..], &[0]].concat()), None, "longer");
        let compressed = [&SPKI[..], key.as_bytes()].concat();
        assert_eq!(read_spki(&compressed), None, "another encoding of the same key");
        let mut no_point = spki;
        no_point[90] ^= 1;
        assert_eq!(read_spki(&no_point), None, "not on the curve");
    }
}
