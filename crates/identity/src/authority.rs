//! Certificate authorities. The root signs region CAs; a region CA signs nodes and may sign nothing else (path length
//! 0). Every name in a certificate is decided here; of a request only the public key is used, after its signature
//! proved that the applicant has the private one.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use insula_types::{ClusterId, NodeId, RegionName};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
    SerialNumber, date_time_ymd,
};
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::{
    Error, NodeIdentity, RecoveryKey, RegionCaIdentity, RootHash, Secret,
    credentials::SigningKey,
    envelope::Envelope,
    pem, root_hash, root_uri,
    sealing::{OpeningKey, Purpose},
    spiffe::parse_root_uri,
    verify::{single_uri, validity},
};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// How the key of a region's CA is sealed to a token.
const INVITED: Envelope = Envelope { magic: b"insula-region-1\n", info: b"insula region key v1" };

/// Longest certificate request that is looked at, in bytes; ours have about 250.
const REQUEST_LEN_MAX: usize = 8 * 1024;
/// Most addresses in a node's certificate.
const ADDRESSES_MAX: usize = 16;

/// How long certificates live (rule R6). Settable, so that tests live through rotations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// Of the cluster's root.
    pub root: Duration,
    /// Of a region's CA.
    pub region: Duration,
    /// Of a node.
    pub node: Duration,
    /// How much earlier than now a certificate begins, for machines whose clocks are behind; at most a tenth of its
    /// life.
    pub backdate: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            root: DAY * 3650,
            region: DAY * 365,
            node: Duration::from_secs(72 * 3600),
            backdate: Duration::from_secs(300),
        }
    }
}

/// A CA's certificate with its private key.
struct Authority {
    key: SigningKey,
    certificate: CertificateDer<'static>,
}

impl Authority {
    fn issuer(&self) -> Result<Issuer<'static, &KeyPair>, Error> {
        Issuer::from_ca_cert_der(&self.certificate, self.key.pair())
            .map_err(|source| Error::Make { what: "an issuer from a CA certificate", source })
    }

    fn to_pem(&self) -> Zeroizing<String> {
        let mut text = pem::write_key(self.key.pkcs8());
        text.push_str(&pem::write_certificates(std::slice::from_ref(&self.certificate)));
        text
    }

    fn from_pem(what: &str, text: &[u8]) -> Result<Self, Error> {
        let key = SigningKey::from_pkcs8(what, &pem::read_key(what, text)?)?;
        let certificate = pem::read_certificates(what, text)?.swap_remove(0);
        if key.is_of(&certificate) {
            Ok(Self { key, certificate })
        } else {
            Err(Error::damaged(what, "its key is not the one of its certificate"))
        }
    }
}

/// A cluster's root CA with its private key. Lives only on global voters, sealed, and in memory while it signs.
pub struct RootAuthority {
    cluster: ClusterId,
    inner: Authority,
}

impl RootAuthority {
    /// Makes a new root for a cluster.
    ///
    /// # Errors
    /// [`Error::Make`] when the system gives no randomness.
    pub fn create(cluster: ClusterId, lifetimes: &Lifetimes, now: SystemTime) -> Result<Self, Error> {
        let what = "the root certificate";
        let key = SigningKey::generate("the root key")?;
        let mut params = template(&format!("Insula cluster {cluster}"), &root_uri(&cluster), what)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        limit(&mut params, lifetimes.backdate, lifetimes.root, now, None);
        let certificate = params.self_signed(key.pair()).map_err(|source| Error::Make { what, source })?;
        Ok(Self { cluster, inner: Authority { key, certificate: certificate.der().clone() } })
    }

    /// The cluster.
    pub fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    /// The root certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.inner.certificate
    }

    /// What tokens and contexts pin.
    pub fn hash(&self) -> RootHash {
        root_hash(&self.inner.certificate)
    }

    /// Makes a region's CA.
    ///
    /// # Errors
    /// [`Error::Make`] when the system gives no randomness.
    pub fn issue_region(
        &self,
        region: &RegionName,
        lifetimes: &Lifetimes,
        now: SystemTime,
    ) -> Result<RegionAuthority, Error> {
        let identity = RegionCaIdentity { cluster: self.cluster.clone(), region: region.clone() };
        let key = SigningKey::generate("a region CA's key")?;
        let certificate = self.certify(&identity, &key, lifetimes, now)?;
        Ok(RegionAuthority { identity, inner: Authority { key, certificate } })
    }

    /// A new certificate for the same key of a region's CA, so that what it signed stays good under it.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when the region is another cluster's; [`Error::Make`].
    pub fn certify_region(
        &self,
        region: &RegionAuthority,
        lifetimes: &Lifetimes,
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, Error> {
        if region.identity.cluster != self.cluster {
            return Err(Error::Mismatch {
                what: format!("the region CA of {}", region.identity),
                other: format!("the root of cluster {}", self.cluster),
                remedy: "use the root of the same cluster",
            });
        }
        self.certify(&region.identity, &region.inner.key, lifetimes, now)
    }

    fn certify(
        &self,
        identity: &RegionCaIdentity,
        key: &SigningKey,
        lifetimes: &Lifetimes,
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, Error> {
        let what = "a region CA's certificate";
        let region = &identity.region;
        let mut params = template(&format!("Insula region {region}"), &identity.to_string(), what)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = true;
        limit(&mut params, lifetimes.backdate, lifetimes.region, now, Some(validity(self.certificate())?));
        let certificate =
            params.signed_by(key.pair(), &self.inner.issuer()?).map_err(|source| Error::Make { what, source })?;
        Ok(certificate.der().clone())
    }

    /// Certificate and private key, encrypted: the content of `keys/root-ca.sealed`.
    ///
    /// # Errors
    /// [`Error::Crypto`] when the system gives no randomness.
    pub fn seal(&self, recovery: &RecoveryKey) -> Result<Vec<u8>, Error> {
        recovery.seal(Zeroizing::new(self.inner.to_pem().as_bytes().to_vec()))
    }

    /// Opens what [`seal`](Self::seal) made.
    ///
    /// # Errors
    /// [`Error::Unseal`] with a wrong recovery key or a damaged file.
    pub fn unseal(sealed: &[u8], recovery: &RecoveryKey) -> Result<Self, Error> {
        let what = "the unsealed root key";
        let inner = Authority::from_pem(what, &recovery.unseal(sealed)?)?;
        let cluster = single_uri(&inner.certificate)
            .and_then(|uri| parse_root_uri(&uri).map_err(|error| error.to_string()))
            .map_err(|why| Error::damaged(what, why))?;
        Ok(Self { cluster, inner })
    }
}

/// A region's CA with its private key. Lives only on the region's local voters.
pub struct RegionAuthority {
    identity: RegionCaIdentity,
    inner: Authority,
}

impl RegionAuthority {
    /// Cluster and region.
    pub fn identity(&self) -> &RegionCaIdentity {
        &self.identity
    }

    /// The CA's certificate: the second of every chain that it issues.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.inner.certificate
    }

    /// The key that opens the secrets of this region's apps.
    ///
    /// # Errors
    /// [`Error::Crypto`].
    pub fn opening_key(&self) -> Result<OpeningKey, Error> {
        OpeningKey::derive(self.inner.key.pkcs8(), Purpose::Region)
    }

    /// The same key with another certificate for it.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when the certificate is for another key.
    pub fn with_certificate(&self, certificate: CertificateDer<'static>) -> Result<Self, Error> {
        if !self.is_key_of(&certificate) {
            return Err(Error::Mismatch {
                what: "the region CA's new certificate".to_owned(),
                other: "its key".to_owned(),
                remedy: "renew it with `insula ca renew-region`",
            });
        }
        Ok(Self { identity: self.identity.clone(), inner: Authority { key: self.inner.key.copy()?, certificate } })
    }

    /// Whether `certificate` is for this CA's key, whoever signed it.
    pub fn is_key_of(&self, certificate: &CertificateDer<'_>) -> bool {
        self.inner.key.is_of(certificate)
    }

    /// When the CA's certificate ends.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the certificate cannot be read.
    pub fn expires(&self) -> Result<SystemTime, Error> {
        Ok(validity(&self.inner.certificate)?.1)
    }

    /// Signs a certificate for `node` with the public key of `request`. It also carries `addresses` and the names of the
    /// local machine, so that the node's API listener can show it. Gives the chain: the node's, then the CA's.
    ///
    /// # Errors
    /// [`Error::Request`] when the request is damaged, not signed by its own key, or not for ECDSA P-256.
    pub fn issue_node(
        &self,
        request: &[u8],
        node: NodeId,
        addresses: &[IpAddr],
        lifetimes: &Lifetimes,
        now: SystemTime,
    ) -> Result<Vec<CertificateDer<'static>>, Error> {
        let what = "a node's certificate";
        let identity =
            NodeIdentity { cluster: self.identity.cluster.clone(), region: self.identity.region.clone(), node };
        let mut params = template(&node.to_string(), &identity.to_string(), what)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let mut local = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        for address in addresses.iter().take(ADDRESSES_MAX).filter(|address| !address.is_unspecified()) {
            if !local.contains(address) {
                local.push(*address);
            }
        }
        params.subject_alt_names.extend(local.into_iter().map(SanType::IpAddress));
        let localhost = "localhost".try_into().map_err(|source| Error::Make { what, source })?;
        params.subject_alt_names.push(SanType::DnsName(localhost));
        limit(&mut params, lifetimes.backdate, lifetimes.node, now, Some(validity(self.certificate())?));

        let public_key = check_request(request)?;
        let certificate = CertificateSigningRequestParams { params, public_key }
            .signed_by(&self.inner.issuer()?)
            .map_err(|source| Error::Make { what, source })?;
        Ok(vec![certificate.der().clone(), self.inner.certificate.clone()])
    }

    /// Certificate and private key as PEM: the content of `keys/region-ca.pem`, and what one voter hands to the next.
    /// Anyone who has it can be any node of the region; send it only over mutual TLS, to a voter.
    pub fn export(&self) -> Zeroizing<String> {
        self.inner.to_pem()
    }

    /// The same, sealed to the secret of the token with which the region's first machine comes. Opens for this cluster and
    /// region only.
    ///
    /// # Errors
    /// [`Error::Crypto`] when the system gives no randomness.
    pub fn seal(&self, secret: &Secret) -> Result<Vec<u8>, Error> {
        let plain = Zeroizing::new(self.export().as_bytes().to_vec());
        INVITED.seal(secret.as_bytes(), self.identity.to_string().as_bytes(), plain)
    }

    /// Opens what [`seal`](Self::seal) made, for a region.
    ///
    /// # Errors
    /// [`Error::OpenRegion`] with another secret or for another region; [`Error::Damaged`].
    pub fn unseal(sealed: &[u8], secret: &Secret, identity: &RegionCaIdentity) -> Result<Self, Error> {
        let opened = INVITED.unseal(secret.as_bytes(), identity.to_string().as_bytes(), sealed);
        let opened = Self::import(&opened.ok_or_else(|| Error::OpenRegion { region: identity.region.clone() })?)?;
        if opened.identity == *identity {
            return Ok(opened);
        }
        Err(Error::damaged("the key of a region's CA", format!("it is that of {}", opened.identity)))
    }

    /// Reads what [`export`](Self::export) wrote.
    ///
    /// # Errors
    /// [`Error::Damaged`], saying what is wrong.
    pub fn import(text: &[u8]) -> Result<Self, Error> {
        let what = "the region CA's key";
        let inner = Authority::from_pem(what, text)?;
        let identity = single_uri(&inner.certificate)
            .and_then(|uri| uri.parse().map_err(|error: crate::SpiffeError| error.to_string()))
            .map_err(|why| Error::damaged(what, why))?;
        Ok(Self { identity, inner })
    }
}

/// SHA-256, in hexadecimal digits, of the public key of a certificate request whose signature proves that its sender
/// has the private one; the same as [`NodeKey::public_hash`](crate::NodeKey::public_hash).
///
/// # Errors
/// [`Error::Request`] when the request is damaged, not signed by its own key, or not for ECDSA P-256.
pub fn request_key_hash(request: &[u8]) -> Result<String, Error> {
    let key = check_request(request)?.subject_public_key_info();
    Ok(hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &key)))
}

/// Checks a request's signature and gives its public key; everything else in it is dropped.
fn check_request(request: &[u8]) -> Result<rcgen::PublicKey, Error> {
    if request.len() > REQUEST_LEN_MAX {
        return Err(Error::Request { why: format!("it has {} bytes", request.len()) });
    }
    let parsed = CertificateSigningRequestParams::from_der(&request.into())
        .map_err(|error| Error::Request { why: error.to_string() })?;
    if parsed.public_key.algorithm() == &PKCS_ECDSA_P256_SHA256 {
        Ok(parsed.public_key)
    } else {
        Err(Error::Request { why: "its key is not an ECDSA P-256 key".to_owned() })
    }
}

/// Parameters with a name, a SPIFFE name and a random serial number. The default serial is a hash of the key, which
/// would come again with every renewal.
fn template(name: &str, uri: &str, what: &'static str) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let uri = uri.try_into().map_err(|source| Error::Make { what, source })?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    let mut serial = [0u8; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| Error::Crypto { attempt: "draw a serial number" })?;
    // Positive and of full length, as RFC 5280 section 4.1.2.2 wants it.
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

/// Sets the times: from a little before now, for a lifetime, never outside the times of what signs it.
fn limit(
    params: &mut CertificateParams,
    backdate: Duration,
    lifetime: Duration,
    now: SystemTime,
    issuer: Option<(SystemTime, SystemTime)>,
) {
    // A short life must not lie in the past: it would be past its half from the beginning.
    let backdate = backdate.min(lifetime / 10);
    let (mut from, mut until) = (now.checked_sub(backdate).unwrap_or(UNIX_EPOCH), now + lifetime);
    if let Some((issuer_from, issuer_until)) = issuer {
        (from, until) = (from.max(issuer_from), until.min(issuer_until));
    }
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + from.duration_since(UNIX_EPOCH).unwrap_or_default();
    params.not_after = epoch + until.duration_since(UNIX_EPOCH).unwrap_or_default();
}

impl fmt::Debug for RootAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootAuthority({}, …)", self.cluster)
    }
}

impl fmt::Debug for RegionAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RegionAuthority({}, …)", self.identity)
    }
}

#[cfg(test)]
mod tests {
    use insula_env::Rng;

    use super::*;
    use crate::{NodeKey, fixture::now};

    fn root() -> RootAuthority {
        RootAuthority::create(ClusterId::new(7), &Lifetimes::default(), now()).expect("root")
    }

    fn region(name: &str) -> RegionAuthority {
        root().issue_region(&name.parse().expect("name"), &Lifetimes::default(), now()).expect("region CA")
    }

    #[test]
    fn a_key_that_is_sealed_to_a_token_opens_with_that_token_for_that_region_only() {
        let (authority, rng) = (region("nrt"), Rng::from_seed(1));
        let (secret, other) = (Secret::random(&rng), Secret::random(&rng));
        let sealed = authority.seal(&secret).expect("sealed");
        assert!(!String::from_utf8_lossy(&sealed).contains("PRIVATE KEY"));
        let opened = RegionAuthority::unseal(&sealed, &secret, authority.identity()).expect("opens");
        assert_eq!(opened.export(), authority.export());
        let open = |sealed: &[u8], secret, identity| RegionAuthority::unseal(sealed, secret, identity).is_ok();
        assert!(!open(&sealed, &other, authority.identity()), "another token");
        let elsewhere = RegionCaIdentity { region: "was".parse().expect("name"), ..authority.identity().clone() };
        assert!(!open(&sealed, &secret, &elsewhere), "another region");
        let foreign = RegionCaIdentity { cluster: ClusterId::new(8), ..authority.identity().clone() };
        assert!(!open(&sealed, &secret, &foreign), "another cluster");
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert!(!open(&damaged, &secret, authority.identity()), "byte {at}");
        }
    }

    #[test]
    fn names_and_times_come_from_the_authority() {
        let ca = region("fra");
        let key = NodeKey::generate(&Rng::from_seed(1)).expect("key");
        let other = NodeId::new(99);
        let addresses = ["192.0.2.7".parse().expect("address"), "0.0.0.0".parse().expect("address")];
        let chain = ca
            .issue_node(&key.request().expect("request"), other, &addresses, &Lifetimes::default(), now())
            .expect("issue");
        let uri = single_uri(&chain[0]).expect("one URI");
        assert!(uri.ends_with(&format!("/region/fra/node/{other}")), "{uri}: not the id that the request names");
        assert!(key.key().is_of(&chain[0]));
        let (from, until) = validity(&chain[0]).expect("times");
        assert_eq!(from, now() - Duration::from_secs(300));
        assert_eq!(until, now() + Duration::from_secs(72 * 3600));
        let leaf = webpki::EndEntityCert::try_from(&chain[0]).expect("leaf");
        for name in ["127.0.0.1", "::1", "localhost", "192.0.2.7"] {
            leaf.verify_is_valid_for_subject_name(&name.try_into().expect("name")).expect(name);
        }
        assert!(leaf.verify_is_valid_for_subject_name(&"0.0.0.0".try_into().expect("name")).is_err());
        let again = ca
            .issue_node(&key.request().expect("request"), other, &[], &Lifetimes::default(), now())
            .expect("issue again");
        let again = webpki::EndEntityCert::try_from(&again[0]).expect("leaf");
        assert_ne!(leaf.serial(), again.serial());
    }

    #[test]
    fn nothing_outlives_what_signed_it() {
        let lifetimes = Lifetimes { node: DAY * 4000, region: DAY * 5000, ..Lifetimes::default() };
        let root = root();
        let ca = root.issue_region(&"fra".parse().expect("name"), &lifetimes, now()).expect("region CA");
        assert_eq!(ca.expires().expect("time"), validity(root.certificate()).expect("times").1);
        let key = NodeKey::generate(&Rng::from_seed(1)).expect("key");
        let chain = ca.issue_node(&key.request().expect("request"), key.id(), &[], &lifetimes, now()).expect("issue");
        assert_eq!(validity(&chain[0]).expect("times").1, ca.expires().expect("time"));
    }

    #[test]
    fn what_a_region_signed_stays_good_under_a_new_root_for_the_same_key() {
        use crate::verify::{Side, check_chain};
        let (old, new, key) = (root(), root(), NodeKey::generate(&Rng::from_seed(1)).expect("key"));
        let ca = old.issue_region(&"fra".parse().expect("name"), &Lifetimes::default(), now()).expect("region CA");
        let request = key.request().expect("request");
        let leaf = ca.issue_node(&request, key.id(), &[], &Lifetimes::default(), now()).expect("issue").swap_remove(0);
        let next = new.certify_region(&ca, &Lifetimes::default(), now()).expect("certify");
        let anchor = |root: &RootAuthority| crate::material::anchor(root.certificate()).expect("anchor");
        let is_good = |chain: &[&CertificateDer<'static>], root: &RootAuthority| {
            let chain: Vec<_> = chain.iter().map(|certificate| (*certificate).clone()).collect();
            check_chain(&chain, &[anchor(root)], Side::Server, now()).is_ok()
        };
        assert!(is_good(&[&leaf, ca.certificate()], &old) && is_good(&[&leaf, &next], &new));
        assert!(!is_good(&[&leaf, ca.certificate()], &new) && !is_good(&[&leaf, &next], &old));
        // Shown together they are good for those who trust either.
        assert!([&old, &new].into_iter().all(|root| is_good(&[&leaf, &next, ca.certificate()], root)));
        let moved = ca.with_certificate(next.clone()).expect("the same key");
        assert_eq!(moved.certificate(), &next);
        assert!(matches!(region("fra").with_certificate(next), Err(Error::Mismatch { .. })), "another key");
        let foreign = RootAuthority::create(ClusterId::new(8), &Lifetimes::default(), now()).expect("root");
        assert!(matches!(foreign.certify_region(&ca, &Lifetimes::default(), now()), Err(Error::Mismatch { .. })));
    }

    #[test]
    fn bad_requests_are_refused() {
        let ca = region("fra");
        let key = NodeKey::generate(&Rng::from_seed(1)).expect("key");
        let request = key.request().expect("request");
        assert_eq!(request_key_hash(&request).expect("good"), key.public_hash());
        let issue = |request: &[u8]| ca.issue_node(request, NodeId::new(1), &[], &Lifetimes::default(), now());
        // The last byte belongs to the signature, one near the middle to the public key.
        for at in [request.len() - 1, request.len() / 2] {
            let mut damaged = request.clone();
            damaged[at] ^= 1;
            assert!(matches!(issue(&damaged), Err(Error::Request { .. })), "byte {at}");
        }
        assert!(matches!(issue(b""), Err(Error::Request { .. })));
        assert!(matches!(issue(&vec![0x30; REQUEST_LEN_MAX + 1]), Err(Error::Request { .. })));
        let foreign = KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("key");
        assert_ne!(foreign.algorithm(), &PKCS_ECDSA_P256_SHA256);
        let other = CertificateParams::default().serialize_request(&foreign).expect("request");
        assert!(matches!(issue(other.der()), Err(Error::Request { .. })));
    }

    #[test]
    fn authorities_survive_files_and_the_root_only_with_its_recovery_key() {
        let root = root();
        let rng = Rng::from_seed(1);
        let recovery = RecoveryKey::random(&rng);
        let sealed = root.seal(&recovery).expect("seal");
        let again = RootAuthority::unseal(&sealed, &recovery).expect("unseal");
        assert_eq!((again.cluster(), again.hash()), (root.cluster(), root.hash()));
        assert!(RootAuthority::unseal(&sealed, &RecoveryKey::random(&rng)).is_err());

        let ca = root.issue_region(&"fra".parse().expect("name"), &Lifetimes::default(), now()).expect("region CA");
        let text = ca.export();
        let again = RegionAuthority::import(text.as_bytes()).expect("import");
        assert_eq!(again.identity(), ca.identity());
        assert!(RegionAuthority::import(&text.as_bytes()[..text.len() / 2]).is_err());
        let mixed = [
            pem::write_key(region("was").inner.key.pkcs8()).as_str(),
            &pem::write_certificates(&[ca.certificate().clone()]),
        ]
        .concat();
        assert!(matches!(RegionAuthority::import(mixed.as_bytes()), Err(Error::Damaged { .. })));
        assert!(!format!("{root:?}{ca:?}").contains("PRIVATE"));
    }
}
