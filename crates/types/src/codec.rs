//! The one binary form of what Insula replicates, sends between nodes and keeps on disk: MessagePack with named
//! fields (<https://github.com/msgpack/msgpack/blob/master/spec.md>). Fields can be added with `#[serde(default)]` and
//! ignored by older readers, which is what rule R5 asks for. Deterministic for the types in use: structs in field
//! order, ordered maps only.

use serde::{Serialize, de::DeserializeOwned};

/// Bytes that do not decode as the expected type.
#[derive(Debug, thiserror::Error)]
#[error("decode {type_name} from {len} bytes of MessagePack")]
pub struct DecodeError {
    type_name: &'static str,
    len: usize,
    #[source]
    source: rmp_serde::decode::Error,
}

/// Encodes a value of ours. Our types have no failing serializer, so this cannot fail.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    rmp_serde::to_vec_named(value).expect("types of Insula serialize into memory without error")
}

/// Decodes bytes from disk or from a peer.
///
/// # Errors
/// [`DecodeError`] when the bytes are cut, damaged, or of a shape that this version does not know.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    rmp_serde::from_slice(bytes).map_err(|source| DecodeError {
        type_name: std::any::type_name::<T>(),
        len: bytes.len(),
        source,
    })
}
