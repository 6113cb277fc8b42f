//! Which algorithms we use, and in what order.

use std::sync::{Arc, LazyLock};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rustls::SupportedCipherSuite;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::{CipherSuite, CommonState, NamedGroup, ProtocolVersion, SignatureScheme};

use crate::model::{self, KeyExchange, TlsParameters};

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        cipher_suites: cipher_suites(),
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519],
        ..default_provider()
    })
});

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

/// Signatures in certificates: also RSA, which roots of other CAs use.
pub(super) fn chain_algorithms() -> &'static WebPkiSupportedAlgorithms {
    static ALGORITHMS: LazyLock<WebPkiSupportedAlgorithms> =
        LazyLock::new(|| PROVIDER.signature_verification_algorithms);
    &ALGORITHMS
}

/// Signatures in handshakes between agents: ECDSA only.
pub(super) fn peer_schemes() -> Vec<SignatureScheme> {
    vec![
        SignatureScheme::ECDSA_NISTP256_SHA256,
        SignatureScheme::ECDSA_NISTP384_SHA384,
    ]
}

/// AES-128 is enough for traffic of this kind and the fastest where the CPU
/// has AES instructions; ChaCha20 is the fastest where it has none.
fn cipher_suites() -> Vec<SupportedCipherSuite> {
    let mut suites = vec![
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    if !has_aes() {
        suites.rotate_right(1);
    }
    suites
}

#[cfg(target_arch = "x86_64")]
fn has_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes")
}

#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_aes() -> bool {
    false
}

/// Makes this thread ready for handshakes: the random generator takes 45 ms
/// at its first use in each thread. For worker threads, at their start.
pub(crate) fn warm() {
    // The key is thrown away; what it leaves behind is the thread's generator.
    let _ = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
    LazyLock::force(&PROVIDER);
}

/// What a finished handshake agreed on; `None`: something that we never offer.
pub(super) fn parameters(common: &CommonState) -> Option<TlsParameters> {
    if common.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
        return None;
    }
    let group = match common.negotiated_key_exchange_group()?.name() {
        NamedGroup::X25519MLKEM768 => KeyExchange::X25519MlKem768,
        NamedGroup::X25519 => KeyExchange::X25519,
        _ => return None,
    };
    let cipher = match common.negotiated_cipher_suite()?.suite() {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => model::CipherSuite::Aes128Gcm,
        CipherSuite::TLS13_AES_256_GCM_SHA384 => model::CipherSuite::Aes256Gcm,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => model::CipherSuite::ChaCha20Poly1305,
        _ => return None,
    };
    Some(TlsParameters { group, cipher })
}
