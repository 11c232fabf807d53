//! What a state has stored or sent by any version so far must be read by all later ones. `region.txt` and `global.txt` have
//! one line for each shape: what it is, its variant, and its bytes in hexadecimal digits. Lines are added, never changed:
//! the first of a kind are often those that a program of level 1 wrote.

// A build that stands for a later version writes one more field, which is not in the file.
#[cfg(not(feature = "upgrade-probe"))]
mod global;
mod region;

use std::fmt::{Debug, Write as _};

use insula_types::{RequestId, Revision, codec};
use serde::{Serialize, de::DeserializeOwned};
use serde_bytes::ByteBuf;

use crate::{Conflict, Domain, Machine, Outcome, Rejection, Replica, Row, seal};

/// Names the variant of a value, and lists all there are: a new variant does not compile until it is listed here, and
/// what is listed must be in the file.
macro_rules! variants {
    ($name:ident, $all:ident, $type:ty: $($variant:ident),+ $(,)?) => {
        const $all: &[&str] = &[$(stringify!($variant)),+];
        fn $name(value: &$type) -> &'static str {
            use $type as Type;
            match value { $(Type::$variant { .. } => stringify!($variant)),+ }
        }
    };
}
pub(crate) use variants;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("two hexadecimal digits");
    (0..hex.len()).step_by(2).map(digit).collect()
}

/// One golden file.
struct File(&'static str);

impl File {
    /// The variants and bytes of the lines of one kind.
    fn lines(&self, kind: &str) -> Vec<(&'static str, Vec<u8>)> {
        let lines = self.0.lines().filter_map(|line| line.strip_prefix(kind)?.strip_prefix(' ')?.split_once(' '));
        lines.map(|(variant, hex)| (variant, bytes(hex))).collect()
    }

    /// Every line of the kind is read as its variant; each sample is written as some line, and read back; each variant
    /// of `all` is there.
    fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(
        &self,
        kind: &str,
        samples: &[T],
        all: &[&str],
        name: impl Fn(&T) -> &'static str,
    ) {
        let lines = self.lines(kind);
        for (variant, bytes) in &lines {
            let read: T = codec::decode(bytes).expect("an old shape is read");
            assert_eq!(name(&read), *variant);
        }
        let mut new = String::new();
        for sample in samples {
            let (variant, bytes) = (name(sample), codec::encode(sample));
            assert_eq!(&codec::decode::<T>(&bytes).expect("its own bytes"), sample, "read as something else");
            if !lines.contains(&(variant, bytes.clone())) {
                writeln!(new, "{kind} {variant} {}", hex(&bytes)).expect("a string takes everything");
            }
        }
        assert!(new.is_empty(), "new shapes, which older programs may not read: add these lines\n{new}");
        let missing: Vec<_> = all.iter().filter(|variant| !lines.iter().any(|(there, _)| there == *variant)).collect();
        assert!(missing.is_empty(), "add samples of {kind} {missing:?}");
    }

    /// What one command leaves on the disk is as ever, and can be loaded.
    fn check_stored<D: Domain>(&self, first: &D::Command) {
        let sealed = seal(RequestId(5, 6), 7, codec::encode(first));
        let applied = Machine::<D>::new(Replica::new()).apply(&sealed).expect("decodes");
        let row = |row: Row| -> Option<Stored> { Some((row.key.into(), row.value?.into())) };
        let rows: Vec<_> = applied.rows.into_iter().filter_map(row).collect();
        self.check("stored", &rows, &["Row"], |_| "Row");
        let sealed = ByteBuf::from(sealed);
        self.check("sealed", std::slice::from_ref(&sealed), &["Sealed"], |_| "Sealed");
        for (_, line) in self.lines("sealed") {
            let sealed: ByteBuf = codec::decode(&line).expect("bytes");
            let mut machine = Machine::<D>::new(Replica::new());
            machine.apply(&sealed).expect("an old command is applied");
            assert_eq!(machine.revision(), Revision(1));
        }
        let lines = self.lines("stored").into_iter();
        let rows = lines.map(|(_, line)| codec::decode::<Stored>(&line).expect("a row"));
        let mut machine = Machine::<D>::new(Replica::new());
        machine.load(rows.map(|(key, value)| (key.into_vec(), value.into_vec()))).expect("old rows are loaded");
        assert_eq!(machine.revision(), Revision(1));
    }

    /// Answers as they are remembered.
    fn check_outcomes<R: Serialize + DeserializeOwned + PartialEq + Debug + Clone>(&self, replies: &[R]) {
        let why = "why";
        let refused = [
            Rejection::not_found(why),
            Rejection::conflict(Conflict::RouteTaken, why),
            Rejection { conflict: None, ..Rejection::conflict(Conflict::Ours, why) },
            Rejection::invalid(why),
            Rejection::forbidden(why),
            Rejection::reused(why),
        ]
        .map(Err);
        let results = replies.iter().cloned().map(Ok).chain(refused);
        let outcomes: Vec<_> = results.map(|result| Outcome { revision: Revision(9), result }).collect();
        self.check("outcome", &outcomes, &["Done", "Refused"], |outcome: &Outcome<R>| match outcome.result {
            Ok(_) => "Done",
            Err(_) => "Refused",
        });
    }
}

/// The key and the value of a stored row.
type Stored = (ByteBuf, ByteBuf);
