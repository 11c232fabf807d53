//! Hides what tenants wrote from those who would choose the bytes on the disk. No secrecy: the key lies in the same file.

use insula_env::Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A key, drawn when the file is made. Each row gets a stream of its own from it.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Mask([u8; 32]);

impl Mask {
    /// A new one.
    pub(crate) fn draw(rng: &Rng) -> Self {
        let mut key = [0; 32];
        rng.fill(&mut key);
        Self(key)
    }

    /// Masks the bytes of a row; a second time, gives them back.
    pub(crate) fn apply(&self, row: u64, bytes: &mut [u8]) {
        let key = Sha256::new().chain_update(self.0).chain_update(row.to_be_bytes()).finalize();
        let mut stream = vec![0; bytes.len()];
        Rng::from_key(key.into()).fill(&mut stream);
        bytes.iter_mut().zip(stream).for_each(|(byte, mask)| *byte ^= mask);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_comes_back_and_no_two_look_alike() {
        let mask = Mask::draw(&Rng::from_seed(1));
        let masked = |mask: &Mask, row| {
            let mut bytes = vec![7; 100];
            mask.apply(row, &mut bytes);
            bytes
        };
        assert_ne!(masked(&mask, 1), masked(&mask, 2));
        assert_ne!(masked(&mask, 1), masked(&Mask::draw(&Rng::from_seed(2)), 1));
        let mut bytes = masked(&mask, 1);
        assert_ne!(bytes, vec![7; 100]);
        mask.apply(1, &mut bytes);
        assert_eq!(bytes, vec![7; 100]);
    }
}
