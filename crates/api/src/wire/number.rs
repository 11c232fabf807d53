//! Whole numbers as JSON has them: `752.0` and `1e3` are some, to its schema as to many programs.

use std::{fmt, marker::PhantomData};

use insula_types::{ByteSize, ReleaseNumber};
use serde::{
    Deserializer,
    de::{Error, Visitor},
};

/// Beyond it a floating-point number stands for several whole ones.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// Reads a whole number, however it is written.
pub(super) fn whole<'de, T: TryFrom<u64>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_any(Whole(PhantomData))
}

/// The same of bytes.
pub(super) fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ByteSize, D::Error> {
    whole(deserializer).map(ByteSize)
}

/// The same of a release, where none may be said.
pub(super) fn release<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ReleaseNumber>, D::Error> {
    struct Maybe;
    impl<'de> Visitor<'de> for Maybe {
        type Value = Option<ReleaseNumber>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the number of a release, or null")
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
            whole(deserializer).map(ReleaseNumber).map(Some)
        }
    }
    deserializer.deserialize_option(Maybe)
}

struct Whole<T>(PhantomData<T>);

impl<T: TryFrom<u64>> Visitor<'_> for Whole<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number from 0")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        T::try_from(number).map_err(|_| E::custom(format!("{number} is too large")))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<T, E> {
        if number.fract() != 0.0 || !(0.0..=EXACT_MAX).contains(&number) {
            return Err(E::invalid_value(serde::de::Unexpected::Float(number), &self));
        }
        self.visit_u64(number as u64)
    }
}

#[cfg(test)]
mod tests {
    use crate::wire::{JoinTokenBody, RollbackBody};

    #[test]
    fn whole_numbers_are_taken_however_they_are_written() {
        let read = |ttl: &str| serde_json::from_str::<JoinTokenBody>(&format!("{{\"ttl_ms\": {ttl}, \"uses\": 1.0}}"));
        for (text, number) in
            [("752", 752), ("752.0", 752), ("1e3", 1000), ("0", 0), ("18446744073709551615", u64::MAX)]
        {
            let body = read(text).expect("a whole number");
            assert_eq!((body.ttl_ms, body.uses), (number, 1), "{text}");
        }
        for text in ["0.5", "-1", "-1.0", "1e300", "18446744073709551616", "null", "\"1\"", "[1]"] {
            assert!(read(text).is_err(), "{text}");
        }
        let to =
            |text: &str| serde_json::from_str::<RollbackBody>(text).map(|body| body.to.map(|to| to.0)).map_err(drop);
        assert_eq!([to("{}"), to("{\"to\": null}"), to("{\"to\": 2.0}")], [Ok(None), Ok(None), Ok(Some(2))]);
        assert_eq!(to("{\"to\": 2.5}"), Err(()));
    }
}
