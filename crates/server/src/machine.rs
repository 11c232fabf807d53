//! Joins the state machines of `state` to the Raft groups of `raft`, which know nothing of each other.

use bytes::Bytes;
use insula_raft::{Applied, LoadError, Row, StateMachine, UnknownCommand};
use insula_state::{Domain, Machine};
use insula_telemetry::chain;

/// A state machine of `state`, as `raft` wants it.
#[derive(Debug)]
pub struct Replicated<D: Domain>(pub Machine<D>);

impl<D: Domain> StateMachine for Replicated<D> {
    fn apply(&mut self, commands: &[Bytes]) -> Result<Applied, UnknownCommand> {
        let commands = commands.iter().map(AsRef::as_ref);
        let applied = self.0.apply_all(commands).map_err(|error| UnknownCommand { why: chain(&error) })?;
        let rows = applied.rows.into_iter().map(|row| Row { key: row.key, value: row.value }).collect();
        Ok(Applied { replies: applied.replies, rows })
    }

    fn load(&mut self, rows: &mut dyn Iterator<Item = Row>) -> Result<(), LoadError> {
        let rows = rows.filter_map(|row| Some((row.key, row.value?)));
        self.0.load(rows).map_err(|error| LoadError { why: chain(&error) })
    }
}
