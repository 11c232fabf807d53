//! Snapshots: the rows of the state at one moment, sent in chunks and collected aside until they are complete.

use std::sync::Arc;

use bytes::Bytes;
use insula_types::codec;
use redb::{Durability, ReadTransaction, TableDefinition};
use sha2::{Digest, Sha256};

use super::file::{File, failed, off_thread};
use crate::{config::SNAPSHOT_CHUNK_BYTES, error::StoreError, wire::Blob};

/// Rows of a snapshot that is being received.
pub(super) const STAGED: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("staged");
/// Rows of the state.
pub(super) const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");

/// Where the rows of a snapshot are.
#[derive(Clone, Debug)]
pub struct SnapshotData(pub(super) Source);

#[derive(Clone, Debug)]
pub(super) enum Source {
    /// The rows of this node's own state, held still.
    View(View),
    /// The rows collected in this node's [`Stage`].
    Staged,
}

/// This node's own rows, held still.
#[derive(Clone)]
pub(super) struct View {
    pub(super) transaction: Arc<ReadTransaction>,
    pub(super) file: File,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "View of {:?}", self.file)
    }
}

/// A part of a snapshot, in the order of the keys.
pub(crate) type Rows = Vec<(Blob, Blob)>;

impl SnapshotData {
    /// The next rows after the key `after`; none when there are no more.
    pub(crate) async fn rows_after(&self, after: Option<Bytes>) -> Result<Rows, StoreError> {
        let Source::View(view) = &self.0 else {
            return Ok(Vec::new());
        };
        let transaction = Arc::clone(&view.transaction);
        off_thread(view.file.disk().as_ref(), move || chunk(&transaction, after.as_deref()))
            .await
            .and_then(|rows| rows)
            .map_err(|source| failed("read a snapshot of", view.file.path(), source))
    }
}

fn chunk(transaction: &ReadTransaction, after: Option<&[u8]>) -> Result<Rows, redb::Error> {
    use std::ops::Bound::{Excluded, Unbounded};
    let table = transaction.open_table(ROWS)?;
    let (mut rows, mut bytes) = (Vec::new(), 0);
    for row in table.range::<&[u8]>((after.map_or(Unbounded, Excluded), Unbounded))? {
        let (key, value) = row?;
        let blob = |bytes: &[u8]| Blob(Bytes::copy_from_slice(bytes));
        rows.push((blob(key.value()), blob(value.value())));
        bytes += key.value().len() + value.value().len();
        if bytes >= SNAPSHOT_CHUNK_BYTES {
            break;
        }
    }
    Ok(rows)
}

/// The check of a snapshot up to and with `rows`, from the check before them.
pub(crate) fn chain(before: &[u8], rows: &Rows) -> Bytes {
    let mut digest = Sha256::new();
    digest.update(before);
    digest.update(codec::encode(rows));
    digest.finalize().to_vec().into()
}

/// Where the rows of a snapshot are collected, in `state.redb` beside the state. What is collected is not lost by
/// order: a transfer that a crash cuts short begins again.
#[derive(Clone, Debug)]
pub(crate) struct Stage(pub(super) File);

impl Stage {
    /// Forgets what is there.
    pub(crate) async fn clear(&self) -> Result<(), StoreError> {
        self.0
            .write("clear the received snapshot in", Durability::None, |transaction| {
                transaction.delete_table(STAGED)?;
                transaction.open_table(STAGED)?;
                Ok(())
            })
            .await
    }

    /// Adds rows.
    pub(crate) async fn add(&self, rows: Rows) -> Result<(), StoreError> {
        self.0
            .write("keep a received snapshot in", Durability::None, move |transaction| {
                let mut table = transaction.open_table(STAGED)?;
                for (key, value) in &rows {
                    table.insert(&*key.0, &*value.0)?;
                }
                Ok(())
            })
            .await
    }

    pub(crate) fn file(&self) -> &File {
        &self.0
    }

    /// How all rows are taken together.
    pub(crate) fn complete(&self) -> SnapshotData {
        SnapshotData(Source::Staged)
    }
}
