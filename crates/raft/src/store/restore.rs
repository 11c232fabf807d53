//! Files of a group that begins anew with a given state, and a look at files that nobody uses.

use std::{path::Path, sync::Arc};

use insula_env::{Clock, Disk, Rng};
use insula_types::Incarnation;
use redb::Durability;
use tokio::sync::watch;

use super::{
    ahead::Ahead,
    log::LogStore,
    rows::{all_rows, open_state, put_position},
    snapshot::ROWS,
};
use crate::{
    config::Config,
    error::{OpenError, StoreError},
    machine::Row,
    wire::{self, Position},
};

/// Where the log of a restored group begins: what comes before it is only in the rows, so whoever joins gets those.
const BEGIN: Position = Position { term: 1, index: 1 };

/// Makes the files of a group in `config.directory`, which must have none: a new life of the group with these rows as its
/// state and `config.node` as its only voter. All is on the disk when this returns; files that a crash left half made
/// cannot be opened as a group's, and must be removed before the next attempt.
///
/// # Errors
/// [`OpenError`]; what was made so far stays.
pub async fn restore(config: &Config, disk: &Arc<dyn Disk>, rng: &Rng, rows: Vec<Row>) -> Result<(), OpenError> {
    let file = open_state(disk, &config.directory).await?;
    let membership = wire::StoredMembership::only(BEGIN, config.node.get());
    file.write("restore", Durability::Immediate, move |transaction| {
        let mut table = transaction.open_table(ROWS)?;
        for row in &rows {
            if let Some(value) = &row.value {
                table.insert(row.key.as_slice(), value.as_slice())?;
            }
        }
        put_position(transaction, Some(BEGIN), &membership, true)
    })
    .await?;
    // The log makes a group of it, so it comes last.
    let (_, durable) = watch::channel(None);
    let config = Config { must_exist: false, ..config.clone() };
    LogStore::open(disk, &config, durable, Ahead::new(Clock::real()), rng)
        .await?
        .begin_after(BEGIN, config.node.get())
        .await?;
    Ok(())
}

/// What the files of a group hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The life of the group; none when it never began.
    pub incarnation: Option<Incarnation>,
    /// The rows of the state, in the order of their keys. The log may hold changes beyond them.
    pub rows: Vec<Row>,
}

/// Looks at the files of a group in a directory. They must be there: what is missing is made, empty.
///
/// # Errors
/// [`StoreError`], among others when a running process has them open.
pub async fn look(disk: &Arc<dyn Disk>, directory: &Path) -> Result<Found, StoreError> {
    let incarnation = LogStore::incarnation(disk, directory).await?;
    let rows = open_state(disk, directory).await?.read("look at", all_rows).await?;
    Ok(Found { incarnation, rows })
}
