//! Handshakes in memory: who is accepted, who is refused, and that both sides say so.

use std::{
    collections::BTreeSet,
    time::{Duration, UNIX_EPOCH},
};

use rustls::{CertificateError, ClientConnection, ServerConnection};

use super::*;
use crate::{
    AllowAll, Credentials, JoinToken, Lifetimes, NodeKey, RootAuthority, Tombstones,
    fixture::{World, credentials, now},
};

const ALPN: &[&[u8]] = &[b"test/1"];

/// A clock that shows the tests' time, moved by so many seconds.
fn clock(offset_s: i64) -> Clock {
    let clock = Clock::real();
    let target = now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64 + offset_s * 1000;
    clock.shift_wall(target - clock.wall_ms() as i64);
    clock
}

fn material(credentials: &Credentials, offset_s: i64) -> Material {
    Material::new(credentials, clock(offset_s), Arc::new(AllowAll)).expect("material")
}

/// Runs a handshake; what each side thought of the other.
fn shake(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let mut client = ClientConnection::new(client, server_name())?;
    let mut server = ServerConnection::new(server)?;
    let mut wire = Vec::new();
    while client.is_handshaking() || server.is_handshaking() {
        wire.clear();
        client.write_tls(&mut wire).expect("memory");
        server.read_tls(&mut wire.as_slice()).expect("memory");
        server.process_new_packets()?;
        wire.clear();
        server.write_tls(&mut wire).expect("memory");
        client.read_tls(&mut wire.as_slice()).expect("memory");
        client.process_new_packets()?;
    }
    Ok((client, server))
}

fn mutual(client: &Material, server: &Material, expected: Option<NodeId>) -> Result<(), rustls::Error> {
    mutual_with(client, server, expected, Lapse::Refuse)
}

fn mutual_with(
    client: &Material,
    server: &Material,
    expected: Option<NodeId>,
    lapse: Lapse,
) -> Result<(), rustls::Error> {
    let (to_server, to_client) = shake(
        mutual_client_config(client, ALPN, expected, lapse).expect("client"),
        mutual_server_config(server, ALPN, lapse).expect("server"),
    )?;
    assert_eq!(peer_identity(to_server.peer_certificates()).expect("server's name"), server.identity());
    assert_eq!(peer_identity(to_client.peer_certificates()).expect("client's name"), client.identity());
    assert_eq!(to_server.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    Ok(())
}

/// The text of a refusal with its sources.
fn refusal(outcome: Result<(), rustls::Error>) -> String {
    let error = outcome.expect_err("must be refused");
    match &error {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
            other.0.downcast_ref::<PeerError>().map_or_else(|| error.to_string(), chain_text)
        }
        _ => error.to_string(),
    }
}

#[test]
fn nodes_of_a_cluster_accept_each_other_across_regions() {
    let world = World::new(1);
    let (fra, was) = (material(&world.node("fra"), 0), material(&world.node("was"), 0));
    mutual(&fra, &was, Some(was.identity().node)).expect("accepted");
    mutual(&was, &fra, None).expect("accepted");
    mutual(&fra, &fra, None).expect("a node can call itself");
}

#[test]
fn another_cluster_is_refused_by_both_sides() {
    let (one, two) = (World::new(1), World::new(2));
    let (ours, theirs) = (material(&one.node("fra"), 0), material(&two.node("fra"), 0));
    assert!(refusal(mutual(&ours, &theirs, None)).contains("UnknownIssuer"));
    // A server's view: a client that trusts both roots, so that only the server can refuse.
    let mut both = two.node("fra");
    both.roots = vec![two.root.certificate().clone()];
    let client = material(&both, 0);
    let lenient =
        pinned_client_config(Trust::Pinned { roots: vec![one.root.hash()], cluster: None, clock: clock(0) }, ALPN)
            .expect("client");
    let mut config = ClientConfig::clone(&lenient);
    config.client_auth_cert_resolver = Arc::new(Shown { material: client, with_roots: false });
    config.dangerous().set_certificate_verifier(Arc::new(TrustsAll));
    let server = mutual_server_config(&ours, ALPN, Lapse::Refuse).expect("server");
    let error = shake(Arc::new(config), server).expect_err("refused by the server");
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
}

#[test]
fn a_client_without_certificate_is_refused() {
    let world = World::new(1);
    let server = material(&world.node("fra"), 0);
    let client = join_client_config(world.root.hash(), ClusterId::new(1), ALPN, clock(0)).expect("client");
    let mut config = ClientConfig::clone(&client);
    config.dangerous().set_certificate_verifier(Arc::new(TrustsAll));
    let server = mutual_server_config(&server, ALPN, Lapse::Refuse).expect("server");
    let error = shake(Arc::new(config), server).expect_err("refused");
    assert!(error.to_string().contains("no certificates"), "{error}");
}

#[test]
fn a_region_ca_cannot_speak_for_another_region() {
    use rcgen::{CertificateParams, Issuer, SanType};
    let world = World::new(1);
    let key = NodeKey::generate(&world.rng).expect("key");
    // Was's CA, in wrong hands, signs a node of fra.
    let stolen = world.region("was");
    let pem = stolen.export();
    let der = crate::pem::read_key("test", pem.as_bytes()).expect("key");
    let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256).expect("pair");
    let issuer = Issuer::from_ca_cert_der(stolen.certificate(), pair).expect("issuer");
    let mut params = CertificateParams::default();
    let name = NodeIdentity { cluster: ClusterId::new(1), region: "fra".parse().expect("name"), node: key.id() };
    params.subject_alt_names = vec![SanType::URI(name.to_string().try_into().expect("URI"))];
    let leaf = params.signed_by(key.key().pair(), &issuer).expect("sign").der().clone();
    let chain = [leaf, stolen.certificate().clone()];
    let anchors = [material::anchor(world.root.certificate()).expect("anchor")];
    let error = check_chain(&chain, &anchors, Side::Client, now()).expect_err("refused");
    assert_eq!(error.to_string(), "the peer claims region fra, but the CA of region was signed its certificate");
}

#[test]
fn a_ca_is_no_node_and_a_node_is_no_ca() {
    let world = World::new(1);
    let anchors = [material::anchor(world.root.certificate()).expect("anchor")];
    let ca = world.region("fra");
    let error = check_chain(&[ca.certificate().clone()], &anchors, Side::Client, now()).expect_err("a CA");
    assert!(matches!(error, PeerError::Chain(webpki::Error::CaUsedAsEndEntity)), "{error:?}");

    // A node's certificate used as an issuer.
    let node = world.node("fra");
    let key = NodeKey::generate(&world.rng).expect("key");
    let issuer = rcgen::Issuer::from_ca_cert_der(&node.chain[0], node.key.key().pair()).expect("issuer");
    let mut params = rcgen::CertificateParams::default();
    let name = NodeIdentity { cluster: ClusterId::new(1), region: "fra".parse().expect("name"), node: key.id() };
    params.subject_alt_names = vec![rcgen::SanType::URI(name.to_string().try_into().expect("URI"))];
    let leaf = params.signed_by(key.key().pair(), &issuer).expect("sign").der().clone();
    let chain = [leaf, node.chain[0].clone(), node.chain[1].clone()];
    assert!(check_chain(&chain, &anchors, Side::Client, now()).is_err());
    assert!(check_chain(&[], &anchors, Side::Client, now()).is_err());
}

#[test]
fn the_root_does_not_sign_nodes() {
    let world = World::new(1);
    let key = NodeKey::generate(&world.rng).expect("key");
    let recovery = crate::RecoveryKey::random(&world.rng);
    let sealed = world.root.seal(&recovery).expect("seal");
    let pem = recovery.unseal(&sealed).expect("unseal");
    let der = crate::pem::read_key("test", &pem).expect("key");
    let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ECDSA_P256_SHA256).expect("pair");
    let issuer = rcgen::Issuer::from_ca_cert_der(world.root.certificate(), pair).expect("issuer");
    let mut params = rcgen::CertificateParams::default();
    let name = NodeIdentity { cluster: ClusterId::new(1), region: "fra".parse().expect("name"), node: key.id() };
    params.subject_alt_names = vec![rcgen::SanType::URI(name.to_string().try_into().expect("URI"))];
    let leaf = params.signed_by(key.key().pair(), &issuer).expect("sign").der().clone();
    let anchors = [material::anchor(world.root.certificate()).expect("anchor")];
    let error = check_chain(&[leaf], &anchors, Side::Client, now()).expect_err("refused");
    assert!(matches!(error, PeerError::Depth(0)), "{error:?}");
}

#[test]
fn expired_and_future_certificates_are_refused() {
    let world = World::new(1);
    let (client, server) = (world.node("fra"), world.node("fra"));
    let hour = 3600;
    for (offset, expected) in [(73 * hour, "expired"), (-hour, "not valid yet")] {
        let text = refusal(mutual(&material(&client, offset), &material(&server, offset), None));
        assert!(text.contains(expected), "{text}");
        // Only the server's clock is right, or only the client's.
        refusal(mutual(&material(&client, 0), &material(&server, offset), None));
        refusal(mutual(&material(&client, offset), &material(&server, 0), None));
    }
    mutual(&material(&client, 71 * hour), &material(&server, 71 * hour), None).expect("in its last hour");
    mutual(&material(&client, -240), &material(&server, -240), None).expect("four minutes behind");
}

#[test]
fn mesh_takes_a_certificate_a_week_after_its_end_but_only_in_the_region() {
    let world = World::new(1);
    let (client, server, far) = (world.node("fra"), world.node("fra"), world.node("was"));
    let lapse = |client: &Credentials, server: &Credentials, offset| {
        mutual_with(&material(client, offset), &material(server, offset), None, Lapse::WithinRegion)
    };
    let hour = 3600;
    lapse(&client, &server, (72 + 6 * 24) * hour).expect("six days after its end");
    refusal(lapse(&client, &server, (72 + 8 * 24) * hour));
    refusal(lapse(&client, &far, 73 * hour));
    refusal(lapse(&client, &server, -hour));
}

#[test]
fn another_node_than_the_called_one_is_refused() {
    let world = World::new(1);
    let (client, server) = (material(&world.node("fra"), 0), material(&world.node("fra"), 0));
    let other = NodeId::new(5);
    let text = refusal(mutual(&client, &server, Some(other)));
    assert_eq!(
        text,
        format!("the peer is node {}, not {other}: did its address change hands?", server.identity().node)
    );
}

#[test]
fn a_removed_node_is_refused_from_the_next_handshake_on() {
    let world = World::new(1);
    let client = material(&world.node("fra"), 0);
    let tombstones = Tombstones::default();
    let server = Material::new(&world.node("fra"), clock(0), Arc::new(tombstones.clone())).expect("material");
    // The same configurations throughout, as a long-lived process has them: no session may be resumed.
    let client_config = mutual_client_config(&client, ALPN, None, Lapse::Refuse).expect("client");
    let server_config = mutual_server_config(&server, ALPN, Lapse::Refuse).expect("server");
    shake(Arc::clone(&client_config), Arc::clone(&server_config)).expect("accepted");
    tombstones.set(BTreeSet::from([client.identity().node]));
    let error = shake(Arc::clone(&client_config), Arc::clone(&server_config)).expect_err("refused");
    assert!(error.to_string().contains("Revoked"), "{error}");
    refusal(mutual(&server, &client, None));
    tombstones.set(BTreeSet::new());
    let (connection, _) = shake(client_config, server_config).expect("accepted again");
    assert_eq!(connection.handshake_kind(), Some(rustls::HandshakeKind::Full));
}

#[test]
fn two_roots_overlap() {
    let old = World::new(1);
    let new =
        World { root: RootAuthority::create(ClusterId::new(1), &old.lifetimes, now()).expect("root"), ..World::new(1) };
    let both = vec![old.root.certificate().clone(), new.root.certificate().clone()];
    let mut before = old.node("fra");
    let mut after = new.node("fra");
    after.key = NodeKey::generate(&insula_env::Rng::from_seed(77)).expect("key");
    after = credentials(&new, "fra", after.key);
    refusal(mutual(&material(&before, 0), &material(&after, 0), None));
    before.roots.clone_from(&both);
    after.roots = both;
    let (before, after) = (material(&before, 0), material(&after, 0));
    mutual(&before, &after, Some(after.identity().node)).expect("accepted");
    mutual(&after, &before, Some(before.identity().node)).expect("accepted");
    // Whoever pins either root reaches either node.
    for root in [old.root.hash(), new.root.hash()] {
        let client = api_client_config(vec![root], clock(0)).expect("client");
        let server = if root == old.root.hash() { &before } else { &after };
        shake(client, api_server_config(server).expect("server")).expect("accepted");
    }
}

#[test]
fn a_renewed_certificate_is_used_without_new_configurations() {
    let world = World::new(1);
    let first = world.node("fra");
    let key = first.key.copy().expect("copy");
    let later = credentials(
        &World {
            lifetimes: Lifetimes { node: Duration::from_secs(200 * 3600), ..world.lifetimes },
            root: world.root,
            rng: world.rng,
        },
        "fra",
        key,
    );
    let material = material(&first, 100 * 3600);
    let client = mutual_client_config(&material, ALPN, None, Lapse::Refuse).expect("client");
    let server = mutual_server_config(&material, ALPN, Lapse::Refuse).expect("server");
    shake(Arc::clone(&client), Arc::clone(&server)).expect_err("expired");
    material.replace(&later).expect("replace");
    shake(client, server).expect("renewed");
    assert!(material.renew_at() > now() + Duration::from_secs(99 * 3600));
    assert!(material.expires() > material.renew_at());
    let stranger = World::new(2).node("fra");
    assert!(matches!(material.replace(&stranger), Err(Error::Mismatch { .. })));
}

#[test]
fn credentials_that_do_not_belong_together_are_refused() {
    let world = World::new(1);
    let check =
        |credentials: &Credentials| Material::new(credentials, clock(0), Arc::new(AllowAll)).expect_err("refused");
    let mut other_key = world.node("fra");
    other_key.key = NodeKey::generate(&world.rng).expect("key");
    assert!(matches!(check(&other_key), Error::Mismatch { .. }));
    let mut other_root = world.node("fra");
    other_root.roots = vec![World::new(2).root.certificate().clone()];
    assert!(matches!(check(&other_root), Error::Damaged { .. }));
    let mut too_many = world.node("fra");
    too_many.roots.push(World::new(2).root.certificate().clone());
    assert!(matches!(check(&too_many), Error::Mismatch { .. }));
    let mut short = world.node("fra");
    short.chain.truncate(1);
    assert!(matches!(check(&short), Error::Damaged { .. }));
}

#[test]
fn a_joining_node_knows_the_cluster_by_the_hash_of_its_root() {
    let world = World::new(1);
    let server = material(&world.node("fra"), 0);
    let address = "127.0.0.1:7443".parse().expect("address");
    let token =
        JoinToken::new("fra".parse().expect("name"), ClusterId::new(1), world.root.hash(), vec![address], &world.rng)
            .expect("token");
    let client = |root, cluster| join_client_config(root, cluster, ALPN, clock(0)).expect("client");
    let shown = || join_server_config(&server, ALPN).expect("server");
    shake(client(token.root, token.cluster.clone()), shown()).expect("accepted");
    let error = shake(client(World::new(2).root.hash(), token.cluster), shown()).expect_err("another root");
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
    let error = shake(client(token.root, ClusterId::new(2)), shown()).expect_err("another cluster");
    assert!(error.to_string().contains("ertificate"), "{error}");
    // An impostor shows the right root, which is public, behind a chain of its own.
    let impostor = material(&World::new(1).node("fra"), 0);
    let mut config = ServerConfig::clone(&join_server_config(&impostor, ALPN).expect("server"));
    let mut certificates = impostor.current().member.cert.clone();
    certificates.push(world.root.certificate().clone());
    let key = Arc::clone(&impostor.current().member.key);
    config.cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(CertifiedKey::new(certificates, key)));
    shake(client(token.root, ClusterId::new(1)), Arc::new(config)).expect_err("impostor");
}

/// A client that takes any server, to see what the server does.
#[derive(Debug)]
struct TrustsAll;

impl ServerCertVerifier for TrustsAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
