//! Measures a running Insula from outside: steady HTTP load with a record of every request, and what follows from it.

pub mod budgets;
pub mod load;
pub mod page;
pub mod report;

pub use load::{Connections, Load};
pub use report::{Outcome, Record, Summary};
