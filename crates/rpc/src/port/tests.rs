//! Helpers shared by the port's tests.

/// The first message of a TLS client that offers one protocol.
pub(super) fn client_hello(alpn: &[u8]) -> Vec<u8> {
    let root = insula_identity::RootHash([0; 32]);
    let config =
        insula_identity::join_client_config(root, insula_types::ClusterId::new(1), &[alpn], insula_env::Clock::real())
            .expect("configuration");
    let mut client = rustls::ClientConnection::new(config, insula_identity::server_name()).expect("client");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("memory");
    bytes
}
